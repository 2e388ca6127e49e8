//! What the agent was told to do, validated: nothing past start-up reads the command line.

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    time::Duration,
};

use mirror_common::{record::Direction, vxlan};

use crate::{
    cli::{self, Attach, MirrorArgs, ReportForm},
    output::pcapng,
};

/// The main job.
#[derive(Debug)]
pub struct Config {
    /// Interfaces by name, each once.
    pub ifaces: Vec<String>,
    /// One or both.
    pub directions: Vec<Direction>,
    /// Where frames go.
    pub output: Output,
    /// Frames after which to stop.
    pub limit: Option<u64>,
    /// Time after which to stop.
    pub duration: Option<Duration>,
    /// Time between lines of counts.
    pub stats_interval: Option<Duration>,
    /// Form of the final report.
    pub report: ReportForm,
    /// Whether standard output is taken by a capture, so that nothing else may go there.
    pub stdout_is_capture: bool,
    /// Bytes of each ring: a power of two.
    pub ring_size: u32,
    /// Processors of the sending threads. As many rings as processors; never empty.
    pub cpus: Vec<usize>,
    /// How to attach.
    pub attach: Attach,
}

/// Where frames go.
#[derive(Clone, Debug)]
pub enum Output {
    /// To a sensor, in VXLAN.
    Sensor {
        /// Address or name.
        host: String,
        /// UDP port, not 0.
        port: u16,
        /// VXLAN network identifier, 24 bits.
        vni: u32,
    },
    /// Into a capture; `-` is standard output.
    File(PathBuf),
}

impl Config {
    /// Checks what the user typed against itself and against this machine's processors.
    ///
    /// # Errors
    ///
    /// One line: the option, its value, and what it should be.
    pub fn new(args: MirrorArgs) -> Result<Self, String> {
        let mut ifaces: Vec<String> = Vec::new();
        for name in args.ifaces {
            if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['/', '\0']) {
                return Err(format!("--iface {name:?} cannot be an interface's name: 1 to 15 bytes"));
            }
            if !ifaces.contains(&name) {
                ifaces.push(name);
            }
        }
        let output = match args.write {
            Some(path) => Output::File(path),
            None => {
                let (host, port) = cli::host_and_port(&args.dest, vxlan::PORT)
                    .map_err(|error| format!("--dest {:?}: {error}", args.dest))?;
                Output::Sensor { host, port, vni: args.vni }
            }
        };
        let stdout_is_capture = matches!(&output, Output::File(path) if path.as_os_str() == pcapng::STDOUT);
        if stdout_is_capture && io::stdout().is_terminal() {
            return Err("--write - would write to the terminal: pipe it on, or name a file".into());
        }
        let allowed = crate::affinity::allowed()
            .map_err(|error| format!("cannot find out which processors this process may use: {error}"))?;
        let mut cpus = match &args.cpu {
            None => default_cpus(&allowed),
            Some(list) => {
                if let Some(cpu) = list.iter().find(|cpu| !allowed.contains(cpu)) {
                    let allowed: Vec<_> = allowed.iter().map(usize::to_string).collect();
                    return Err(format!("--cpu {cpu}: this process may use {}", allowed.join(",")));
                }
                list.to_vec()
            }
        };
        if matches!(output, Output::File(_)) {
            // One thread writes one file: its order is the kernel's order over all flows.
            cpus.truncate(1);
        }
        Ok(Self {
            ifaces,
            directions: match args.direction {
                cli::Direction::Both => Direction::ALL.to_vec(),
                cli::Direction::Ingress => vec![Direction::Ingress],
                cli::Direction::Egress => vec![Direction::Egress],
            },
            output,
            limit: args.run.limit,
            duration: args.run.duration,
            stats_interval: args.run.stats_interval,
            report: args.report,
            stdout_is_capture,
            ring_size: args.ring_size,
            cpus,
            attach: args.attach,
        })
    }
}

/// Half of the processors, so that the other half serves the host, and at most 4; from the last, because
/// interrupts tend to be served by the first.
fn default_cpus(allowed: &[usize]) -> Vec<usize> {
    let threads = (allowed.len() / 2).clamp(1, 4);
    allowed.iter().rev().take(threads).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_leave_processors_to_the_host() {
        assert_eq!(default_cpus(&[0]), [0]);
        assert_eq!(default_cpus(&[0, 1]), [1]);
        assert_eq!(default_cpus(&[2, 3, 6, 7]), [7, 6]);
        assert_eq!(default_cpus(&(0..64).collect::<Vec<_>>()), [63, 62, 61, 60]);
    }
}
