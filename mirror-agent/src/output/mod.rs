//! Where frames go.

pub mod pcapng;
