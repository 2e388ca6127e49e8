//! The kernel's side: loading the programs, attaching and detaching them, reading their maps.

pub mod accounts;
pub mod btf;
pub mod claim;
pub mod clsact;
pub mod counters;
pub mod doorbell;
pub mod filtered;
pub mod hooks;
pub mod load;
pub mod own_paths;
pub mod redirect;
pub mod segmenter;
pub mod skb_layout;
pub mod support;
pub mod tc_link;
pub mod transmit;
pub mod vnis;
pub mod xdp;
pub mod xdp_layout;
