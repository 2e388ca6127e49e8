//! Which tests run on other kernels: those that look at no time and at no more load than an emulated processor
//! carries.

/// The tests of one binary.
pub struct Selection {
    /// Its name: a file of tests/tests, or of mirror-agent/tests.
    pub binary: &'static str,
    /// Parts of the names of the tests that do not run, and why not.
    pub left_out: &'static [(&'static str, &'static str)],
}

const TSHARK: &str = "reads with tshark, which with its libraries is larger than all the rest";
const LOAD: &str = "is about a load that an emulated processor does not carry";
const COVERED: &str = "kernels.rs has it for every path, and it takes long";
const COVERED_HERE: &str = "differs from other tests by a number only";
const NO_KERNEL: &str = "no kernel has a part in it";

/// In the order in which they run. What is not here measures time (`idle`, `replay_pacing`, `replay_speed`), loads
/// the machine (`million`, `order`, `stop`), needs what is not in it (`outer_header`, `real_traffic`,
/// `segments_kinds`, `segments_tcp`, `sink`, `suricata`, `suricata_reload`, `write`: tshark, scapy, iperf3, Suricata), or has to
/// do with files that are deployed (`manifests`, `packaging`) or with
/// captures and not with the kernel (the other `replay_...`). `kernel_segments` sends what packet sockets take since
/// 6.2 only, and `packet_transmitter` takes more than half as long as all the others together.
pub const SELECTED: &[Selection] = &[
    // The first one has the paths.
    Selection { binary: "kernels", left_out: &[("ring_geneve", NO_KERNEL)] },
    Selection {
        binary: "vni",
        left_out: &[
            ("told_and_written", TSHARK),
            ("cannot_be_are_refused", NO_KERNEL),
            ("comes_back", COVERED_HERE),
        ],
    },
    Selection {
        binary: "attach",
        left_out: &[("clsact_agent_leaves", COVERED), ("ping_and_download", COVERED)],
    },
    Selection { binary: "interfaces", left_out: &[("small_ring", LOAD), ("direction_chooses", COVERED)] },
    Selection {
        binary: "bad_input",
        left_out: &[
            ("wrong_command_lines", NO_KERNEL),
            ("help_and_version", NO_KERNEL),
            ("does_not_resolve", NO_KERNEL),
            ("unknown_interface", NO_KERNEL),
            ("second_agent", NO_KERNEL),
            ("two_agents", NO_KERNEL),
            ("cannot_be_written", NO_KERNEL),
        ],
    },
    Selection { binary: "echo", left_out: &[("interface_that_carries", LOAD)] },
    Selection { binary: "address", left_out: &[] },
    // Which calls ask for which capability differs.
    Selection {
        binary: "privileges",
        left_out: &[
            ("missing_capability", NO_KERNEL),
            ("nobody_mirrors", "needs a file system that keeps capabilities"),
            ("replay_and", TSHARK),
            ("captures_of_others", NO_KERNEL),
            ("capture_is_written", TSHARK),
            ("udp_sockets", NO_KERNEL),
            ("followed_by_filters", "the oldest has no other hooks"),
            ("followed_in_redirect_mode", COVERED_HERE),
        ],
    },
    Selection {
        binary: "doctor_host",
        left_out: &[
            ("settings_of", NO_KERNEL),
            ("interfaces_and", NO_KERNEL),
            ("a_burst", LOAD),
            ("processors_and", NO_KERNEL),
            ("programs_of", "pastes commands into busybox's shell, which has a tc of its own"),
            ("command_line", NO_KERNEL),
        ],
    },
    Selection {
        binary: "offloads",
        left_out: &[("received_segments_that_were_merged", "a veth merges segments since 5.13 only")],
    },
    Selection {
        binary: "size",
        left_out: &[
            ("what_does_not_fit", TSHARK),
            ("captures_that_are_read", TSHARK),
            ("mean_nothing", NO_KERNEL),
            ("narrower_path", "takes long, and is about what routers answer"),
        ],
    },
];

/// Of [`SELECTED`], what is about the paths: enough of the oldest kernel, which differs most, where all would take too long.
pub const PATHS: &[Selection] = SELECTED.split_at(1).0;

const ELSEWHERE: &str = "the oldest kernel has it, and this machine's";

/// Whether the verifier takes the programs of each path, and whether they do their work: enough of the others, the newest of
/// which is next to this machine's, as a rule.
pub const FRAMES: &[Selection] = &[Selection {
    binary: "kernels",
    left_out: &[
        ("ring_geneve", NO_KERNEL),
        ("tcp_with_offloads", ELSEWHERE),
        ("own_datagrams", ELSEWHERE),
        ("nothing_stays", ELSEWHERE),
        ("next_start", ELSEWHERE),
        ("what_is_left_out", ELSEWHERE),
        ("flows_are_shared", ELSEWHERE),
        ("interfaces_of_a_pattern", ELSEWHERE),
    ],
}];
