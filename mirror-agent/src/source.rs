//! Where frames come from.

pub mod ring;
