//! What `/flows` answers.

use serde::{Deserialize, Serialize};

/// Flows that an answer names.
pub const SHOWN: usize = 50;

/// The busiest flows over a time.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Answer {
    /// One frame in so many was looked at, on the average. The counts are those of all frames, estimated.
    pub sampled_one_in: u64,
    /// How long that was; 0 in the first of a row of answers.
    pub seconds: f64,
    /// Samples that were lost: more than some say that the counts are too low.
    pub missed: u64,
    /// By bytes, at most [`SHOWN`].
    pub flows: Vec<Flow>,
}

/// A flow, both directions together.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// `tcp`, `udp` and so on; what is not IP: `arp`, or the type as a number.
    pub protocol: String,
    /// One end: an address and, if there is one, a port. MAC addresses where there is no IP.
    pub a: String,
    /// The other end.
    pub b: String,
    /// Frames, as the ledger counts them: a super-frame is one.
    pub frames: u64,
    /// Bytes of those on the mirrored wire.
    pub bytes: u64,
}
