//! The options of `mirror-agent doctor`.

use std::time::Duration;

use clap::Args;

use super::{check::Check, checks};
use crate::cli::{Encap, Hook, Mode, Oversize, positive_duration};

/// What `mirror-agent doctor` is to look at, and what to do about it.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// Interface that is or will be mirrored; repeatable; patterns as the main job's [default: those of running
    /// agents, else all that are up, but lo]
    #[arg(short, long = "iface", value_name = "NAME")]
    pub ifaces: Vec<String>,

    /// Sensor, as the main job's --dest; repeatable [default: those of running agents, else 127.0.0.1]
    #[arg(short, long, value_name = "HOST[:PORT]")]
    pub dest: Vec<String>,

    /// What frames are sent in [default: as a running agent does, else vxlan]
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    pub encap: Option<Encap>,

    /// With --encap geneve: without the option that tells each frame's time
    #[arg(long)]
    pub no_metadata: bool,

    /// Where frames are encapsulated [default: as a running agent does, else ring]
    #[arg(long, value_enum, value_name = "PLACE")]
    pub mode: Option<Mode>,

    /// Where the kernel program sits [default: as a running agent does, else tc]
    #[arg(long, value_enum, value_name = "PLACE")]
    pub hook: Option<Hook>,

    /// What is done with a frame whose datagram is longer than the path's MTU [default: as a running agent does, else
    /// fragment]
    #[arg(long, value_enum, value_name = "WAY")]
    pub oversize: Option<Oversize>,

    /// Print one JSON object on standard output; with --watch, one a line for each counter that grew
    #[arg(long)]
    pub json: bool,

    /// Run those of the commands that are safe, and print each with the one that undoes it. Nothing below /etc is
    /// touched: what was set is gone with the next start of the host
    #[arg(long, conflicts_with = "watch")]
    pub fix: bool,

    /// Instead of a report show counters that grow, each INTERVAL, until a signal [default INTERVAL: 1s]
    #[arg(long, value_name = "INTERVAL", value_parser = positive_duration, num_args = 0..=1, default_missing_value = "1s")]
    pub watch: Option<Duration>,

    /// Only this check; repeatable
    #[arg(long, value_name = "ID", value_parser = checks::by_id, value_delimiter = ',')]
    pub only: Vec<&'static Check>,

    /// List the checks, and look at nothing
    #[arg(long)]
    pub list: bool,
}

impl DoctorArgs {
    /// The checks that are asked for, in their usual order.
    #[must_use]
    pub fn checks(&self) -> Vec<&'static Check> {
        let is_meant =
            |check: &Check| self.only.is_empty() || self.only.iter().any(|only| only.id == check.id);
        checks::ALL.iter().copied().filter(|check| is_meant(check)).collect()
    }
}
