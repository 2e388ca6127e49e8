//! Who mirrors. A further system, or a mode of the agent, is a row of [`SYSTEMS`].

use std::env;

use serde::{Serialize, Serializer};

use super::place::Place;
use crate::{agent::Agent, geneve, lab::RUN, mirred, report::Report, vxlan};

/// The processor that programs mirror on.
pub const PROCESSOR: &str = "1";
/// The name of the one that the others are compared to.
pub const MIRRED: &str = "mirred";

/// All that can be measured, in the order of the table.
pub static SYSTEMS: [System; 10] = [
    // What the generator does alone.
    System { name: "nothing", color: "#999999", mirror: Mirror::Nothing },
    System { name: "agent-packet", color: "#0072b2", mirror: Mirror::Agent("--cpu 1 --transmit packet") },
    System { name: "agent-udp", color: "#56b4e9", mirror: Mirror::Agent("--cpu 1 --transmit udp") },
    // The generator hands frames to the interface behind its driver, where native XDP does not see them.
    System {
        name: "agent-xdp",
        color: "#f0e442",
        mirror: Mirror::Agent("--cpu 1 --transmit packet --hook xdp --xdp-attach generic"),
    },
    // In the kernel, on whatever processor a frame comes by.
    System { name: "agent-redirect", color: "#d55e00", mirror: Mirror::Agent("--mode redirect") },
    System { name: MIRRED, color: "#e69f00", mirror: Mirror::Tc },
    System { name: "daemonlogger", color: "#009e73", mirror: Mirror::Program("daemonlogger -i eth0 -o vx0") },
    // Without a size it chooses one by the link's speed, which may be more than the kernel gives.
    System {
        name: "netsniff-ng",
        color: "#cc79a7",
        mirror: Mirror::Program("netsniff-ng --in eth0 --out vx0 --silent --ring-size 16MiB"),
    },
    // Measured where they are named: what GENEVE's option costs.
    System {
        name: "agent-geneve",
        color: "#004c79",
        mirror: Mirror::Agent("--cpu 1 --transmit packet --encap geneve"),
    },
    System {
        name: "agent-geneve-redirect",
        color: "#8c3d00",
        mirror: Mirror::Agent("--mode redirect --encap geneve"),
    },
];

/// A way to mirror.
#[derive(Debug)]
pub struct System {
    /// Its name on the command line, in the table, in the results.
    pub name: &'static str,
    /// Its bars in the chart.
    pub color: &'static str,
    mirror: Mirror,
}

#[derive(Debug)]
enum Mirror {
    Nothing,
    /// The agent, with these arguments.
    Agent(&'static str),
    /// u32 and mirred into the VXLAN device, in the kernel.
    Tc,
    /// A program into the VXLAN device; Debian's package has its name.
    Program(&'static str),
}

/// A system at work. Ended by [`Active::stop`], else with its host.
#[derive(Debug)]
pub struct Active<'a> {
    place: &'a Place,
    system: &'static System,
    /// The agent, or another program: one guard serves for both.
    program: Option<Agent>,
}

impl PartialEq for System {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Serialize for System {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl System {
    /// Whether it is the generator alone.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        matches!(self.mirror, Mirror::Nothing)
    }

    /// Whether it is measured only where it is named.
    #[must_use]
    pub fn is_by_name(&self) -> bool {
        self.is_geneve()
    }

    /// Bytes between UDP and a mirrored frame.
    #[must_use]
    pub fn tunnel_len(&self) -> u64 {
        let len = if self.is_geneve() { geneve::HEADERS_LEN } else { vxlan::HEADER_LEN };
        len as u64
    }

    fn is_geneve(&self) -> bool {
        matches!(self.mirror, Mirror::Agent(arguments) if arguments.contains("geneve"))
    }

    /// Why it cannot be measured at `place`, if so: its program is not there, or does not mirror.
    #[must_use]
    pub fn missing(&'static self, place: &Place) -> Option<String> {
        let missing = match self.mirror {
            Mirror::Program(_) => missing(self.name, self.name),
            Mirror::Tc => missing("tc", "iproute2"),
            Mirror::Nothing | Mirror::Agent(_) => None,
        };
        missing.or_else(|| {
            let (active, result) = self.try_start(place);
            let _ = active.stop();
            result.err()
        })
    }

    /// Starts it on the router, and waits until it mirrors.
    ///
    /// # Panics
    /// Where it does not.
    #[must_use]
    pub fn start<'a>(&'static self, place: &'a Place) -> Active<'a> {
        let (active, result) = self.try_start(place);
        result.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        active
    }

    fn try_start<'a>(&'static self, place: &'a Place) -> (Active<'a>, Result<(), String>) {
        let router = &place.lab.router;
        let program = match self.mirror {
            Mirror::Nothing => None,
            Mirror::Agent(arguments) => Some(Agent::start(router, &format!("{RUN} {arguments}"))),
            Mirror::Tc => {
                mirred::start(router);
                None
            }
            Mirror::Program(line) => {
                mirred::add_device(router);
                let mut command = router.command("taskset");
                Some(Agent::spawn(command.args(["-c", PROCESSOR]).args(line.split(' '))))
            }
        };
        let active = Active { place, system: self, program };
        let result = if self.is_nothing() || place.is_mirrored() { Ok(()) } else { Err(active.complaint()) };
        (active, result)
    }
}

impl Active<'_> {
    /// Ends it and removes what it left. Of the agent: its report, after it has sent what it had.
    ///
    /// # Panics
    /// Where the agent fails, or its report is not right in itself.
    #[must_use = "the report says what became of each frame"]
    pub fn stop(self) -> Option<Report> {
        let router = &self.place.lab.router;
        match self.system.mirror {
            Mirror::Nothing => None,
            Mirror::Agent(_) => self.program.map(Agent::stop_and_report),
            Mirror::Tc => {
                mirred::stop(router);
                None
            }
            Mirror::Program(_) => {
                drop(self.program);
                mirred::remove_device(router);
                None
            }
        }
    }

    /// That it does not mirror, with the last that it said.
    fn complaint(&self) -> String {
        let said = self.program.as_ref().map(Agent::stderr).unwrap_or_default();
        let last = said.lines().rfind(|line| !line.trim().is_empty());
        format!(
            "it does not mirror here{}",
            last.map(|line| format!(": {}", line.trim())).unwrap_or_default()
        )
    }
}

/// A message where there is no `program` of Debian's `package` on the `PATH`.
#[must_use]
pub fn missing(program: &str, package: &str) -> Option<String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).any(|folder| folder.join(program).is_file());
    (!found).then(|| format!("there is no {program} here (Debian's package is {package})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lab::MIRRORED, mirred::DEVICE};

    #[test]
    fn rows_have_names_of_their_own_and_name_the_interfaces() {
        for (index, system) in SYSTEMS.iter().enumerate() {
            assert!(!SYSTEMS[..index].contains(system), "{system:?}");
            assert_eq!(serde_json::to_value(system).expect("JSON"), system.name);
            if let Mirror::Program(line) = system.mirror {
                assert!(line.starts_with(system.name) && line.contains(MIRRORED) && line.contains(DEVICE));
            }
        }
    }

    #[test]
    fn missing_program_is_named_with_its_package() {
        assert_eq!(missing("sh", "dash"), None);
        let message = missing("no-such-mirror", "its-package").unwrap_or_default();
        assert!(message.contains("no-such-mirror") && message.contains("its-package"), "{message}");
    }
}
