//! What goes in front of a frame on its way to a sensor.
//!
//! [`tunnel`] is what was asked for, [`encapsulation`] makes the headers from UDP on, [`outer`] those below where the agent
//! writes them itself, [`fragment`] cuts what is too long for the path, and [`template`] is all of it as the kernel
//! programs of redirect mode have it.

pub mod encapsulation;
pub mod fragment;
pub mod outer;
pub mod template;
pub mod tunnel;
