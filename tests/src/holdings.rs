//! What a process holds: descriptors, memory, and programs, maps and links of the kernel's, as /proc and bpftool say.

use std::{
    collections::BTreeSet,
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::command;

/// Of one process, at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    pub descriptors: usize,
    pub programs: BTreeSet<u32>,
    pub maps: BTreeSet<u32>,
    pub links: BTreeSet<u32>,
    /// Resident memory in KiB.
    pub memory_kib: u64,
}

impl Holdings {
    /// Looks now.
    ///
    /// # Panics
    /// Where there is no such process.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("no such process");
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let mut holdings = Self {
            descriptors: 0,
            programs: BTreeSet::new(),
            maps: BTreeSet::new(),
            links: BTreeSet::new(),
            memory_kib: memory.trim().trim_end_matches(" kB").parse().expect("a number"),
        };
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("fdinfo") {
            holdings.descriptors += 1;
            // Closed meanwhile, perhaps.
            let info = fs::read_to_string(entry.expect("entry").path()).unwrap_or_default();
            let number = |key: &str| {
                info.lines().find_map(|line| line.strip_prefix(key)).and_then(|text| text.trim().parse().ok())
            };
            if let Some(link) = number("link_id:") {
                holdings.links.insert(link);
            } else if let Some(program) = number("prog_id:") {
                holdings.programs.insert(program);
            }
            holdings.maps.extend(number("map_id:"));
        }
        holdings
    }

    /// Interfaces and directions that are counted: entries of the agent's two maps of counters.
    ///
    /// # Panics
    /// Where the process has no such maps.
    #[must_use]
    pub fn counted(&self) -> usize {
        // A place in the array begins with a number, which is 0 where it is nobody's.
        let is_taken = |entry: &serde_json::Value| {
            let bytes = entry["values"][0]["value"].as_array().expect("bytes");
            bytes[..4].iter().any(|byte| byte != "0x00")
        };
        let near = self.entries("NEAR_COUNTERS").iter().filter(|entry| is_taken(entry)).count();
        near + self.entries("COUNTERS").len()
    }

    /// Entries of the map with this name.
    fn entries(&self, name: &str) -> Vec<serde_json::Value> {
        let map = self.maps.iter().find(|id| {
            let map: serde_json::Value =
                serde_json::from_str(&bpftool("map show", **id)).expect("bpftool -j");
            map["name"] == name
        });
        let id = map.unwrap_or_else(|| panic!("no map {name} among {:?}", self.maps));
        let entries: serde_json::Value = serde_json::from_str(&bpftool("map dump", *id)).expect("bpftool -j");
        entries.as_array().expect("a list").clone()
    }

    /// Checks that the kernel has none of the programs, maps and links any more, or soon has not.
    ///
    /// # Panics
    /// Where it still has one after two seconds.
    pub fn assert_gone(&self) {
        let deadline = Instant::now() + Duration::from_secs(2);
        for (kind, ids) in [("prog", &self.programs), ("map", &self.maps), ("link", &self.links)] {
            for id in ids {
                while Command::new("bpftool")
                    .args([kind, "show", "id", &id.to_string()])
                    .output()
                    .expect("bpftool")
                    .status
                    .success()
                {
                    assert!(Instant::now() < deadline, "{kind} {id} is still there");
                    thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }
}

fn bpftool(what: &str, id: u32) -> String {
    command::run(Command::new("bpftool").arg("-j").args(what.split(' ')).args(["id", &id.to_string()]))
}
