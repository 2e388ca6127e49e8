//! What goes in front of a frame on its way to a sensor.

pub mod fragment;
pub mod outer;
pub mod template;
pub mod vxlan;
