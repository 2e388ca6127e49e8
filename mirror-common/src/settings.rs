//! What user space decides before the kernel programs are loaded.
//!
//! The programs see it as constants, so that the verifier drops what is not asked for.

/// Read-only data of the kernel programs.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Rings in use: 1 to [`RINGS_MAX`](crate::record::RINGS_MAX).
    pub rings: u32,
    /// Longest frame that the output takes, in bytes; longer ones are counted as too big.
    pub frame_max: u32,
    /// The sensor's UDP port in host order; 0 where nothing is sent.
    pub sensor_port: u32,
    /// 1: every record carries the time of its capture.
    pub time_stamps: u32,
}
