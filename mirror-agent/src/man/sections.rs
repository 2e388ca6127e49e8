//! What the manual says beside options.

/// A part of a page.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    pub title: &'static str,
    pub blocks: &'static [Block],
}

/// What a part is made of.
#[derive(Clone, Copy, Debug)]
pub enum Block {
    /// A paragraph.
    Text(&'static str),
    /// Something, and what it is.
    Term(&'static str, &'static str),
    /// What it shows, and the lines as they are typed.
    Example(&'static str, &'static str),
}

use Block::{Example, Term, Text};

const EXIT: &str = "EXIT STATUS";
const EXAMPLES: &str = "EXAMPLES";

/// Of the program, and of subcommands that say nothing else.
const EXIT_STATUS: Section = Section {
    title: EXIT,
    blocks: &[
        Term("0", "Done, or stopped by a signal."),
        Term("1", "It failed at run time, or a part of a capture could not be played."),
        Term("2", "The command line, a variable or the configuration file is wrong. Nothing was attached."),
        Text("Every failure is one line on standard error: what was wrong, with the value, and what to do."),
    ],
};

const PROGRAM: &[Section] = &[
    EXIT_STATUS,
    Section {
        title: "SIGNALS",
        blocks: &[
            Term("SIGINT, SIGTERM", "Detach, send what was captured, report, and exit with status 0."),
            Term(
                "SIGHUP",
                "Read the file of --config, the MIRROR_ variables and the file of --filter-file anew. The interfaces and \
                 the filter take effect at once; other options that have changed are named and need a restart. A file \
                 with a mistake changes nothing. Where there is no such file, SIGHUP ends the program.",
            ),
        ],
    },
    Section {
        title: "ENVIRONMENT",
        blocks: &[
            Term(
                "MIRROR_OPTION",
                "Every long option, in capitals and with _ for -: MIRROR_RING_SIZE is --ring-size. A flag goes before a \
                 variable, and that before the file. Repeatable options take commas, options without a value true or \
                 false. An empty variable is none.",
            ),
            Term("MIRROR_CONFIG", "The file of --config."),
            Term(
                "NOTIFY_SOCKET, WATCHDOG_USEC",
                "Set by systemd: the program says there when it is ready, reads its configuration anew, and stops, and \
                 that its control plane is alive.",
            ),
        ],
    },
    Section {
        title: "FILES",
        blocks: &[
            Term(
                "/etc/mirror-agent/config.toml",
                "Where the Debian package and the systemd unit have the configuration file. The program itself reads \
                 no file that it is not told of.",
            ),
            Term(
                "/run/mirror-agent",
                "What running programs are asked through, in a folder that only their user may enter.",
            ),
            Term(
                "/sys/kernel/btf/vmlinux",
                "The kernel's types, where frames' offload fields are looked up.",
            ),
        ],
    },
    Section {
        title: EXAMPLES,
        blocks: &[
            Example(
                "Mirror web traffic of one interface to a sensor:",
                "mirror-agent -i eth0 -d 10.0.0.2 tcp port 443",
            ),
            Example(
                "Share the connections of all containers out among two sensors, in GENEVE:",
                "mirror-agent -i 'veth*' -d 10.0.0.2 -d 10.0.0.3 --encap geneve",
            ),
            Example(
                "Replay a capture with its own timing, and one as fast as it goes:",
                "mirror-agent -r trace.pcapng -d 10.0.0.2\nmirror-agent -r trace.pcap.gz --topspeed -d 10.0.0.2",
            ),
            Example(
                "Look at what would be mirrored, on a terminal:",
                "mirror-agent -i eth0 -w - not port 22 | tcpdump -nr -",
            ),
            Example(
                "A configuration file, checked, used, and read anew:",
                "mirror-agent validate --config /etc/mirror-agent/config.toml\n\
                 systemctl enable --now mirror-agent\nsystemctl reload mirror-agent",
            ),
        ],
    },
];

const SINK: &[Section] = &[
    EXIT_STATUS,
    Section {
        title: EXAMPLES,
        blocks: &[
            Example("Look at a mirror:", "mirror-agent sink -w - | tcpdump -nr -"),
            Example(
                "Count for a minute, as JSON:",
                "mirror-agent sink --listen 10.0.0.2:4789 --duration 1m --report json",
            ),
        ],
    },
];

const VALIDATE: &[Section] = &[
    Section {
        title: EXIT,
        blocks: &[
            Term("0", "A start with this file would be taken."),
            Term("2", "It has mistakes, one line each."),
        ],
    },
    Section {
        title: EXAMPLES,
        blocks: &[Example(
            "Before a reload:",
            "mirror-agent validate --config /etc/mirror-agent/config.toml &&\nsystemctl reload mirror-agent",
        )],
    },
];

const COMPLETIONS: &[Section] = &[
    EXIT_STATUS,
    Section {
        title: EXAMPLES,
        blocks: &[
            Example("In this bash:", "source <(mirror-agent completions bash)"),
            Example(
                "For everybody:",
                "mirror-agent completions bash >/usr/share/bash-completion/completions/mirror-agent\n\
                 mirror-agent completions zsh >/usr/share/zsh/vendor-completions/_mirror-agent\n\
                 mirror-agent completions fish >/usr/share/fish/vendor_completions.d/mirror-agent.fish",
            ),
        ],
    },
];

const MAN: &[Section] = &[
    EXIT_STATUS,
    Section {
        title: EXAMPLES,
        blocks: &[
            Example("Read a page without installing it:", "mirror-agent man sink | man -l -"),
            Example("Install all of them:", "mirror-agent man --dir /usr/local/share/man/man8"),
        ],
    },
];

const DOCTOR: &[Section] = &[
    Section {
        title: EXIT,
        blocks: &[
            Term("0", "Nothing that keeps a mirror from working was found."),
            Term("1", "Something was, or a check could not be made."),
            Term("2", "The command line is wrong."),
        ],
    },
    Section {
        title: EXAMPLES,
        blocks: &[
            Example("Check this host for a mirror of eth0:", "mirror-agent doctor -i eth0 -d 10.0.0.2"),
            Example("For a program:", "mirror-agent doctor --json"),
        ],
    },
];

const TOP: &[Section] = &[
    EXIT_STATUS,
    Section {
        title: EXAMPLES,
        blocks: &[Example("Watch the agent that runs on this host:", "mirror-agent top")],
    },
];

/// The parts of a subcommand's page, or of the program's.
#[must_use]
pub fn of(subcommand: Option<&str>) -> Vec<Section> {
    let sections = match subcommand {
        None => PROGRAM,
        Some("sink") => SINK,
        Some("validate") => VALIDATE,
        Some("completions") => COMPLETIONS,
        Some("man") => MAN,
        Some("doctor") => DOCTOR,
        Some("top") => TOP,
        Some(_) => &[EXIT_STATUS],
    };
    sections.to_vec()
}

/// Other programs' pages, and their parts of the manual.
#[must_use]
pub fn see_also(subcommand: Option<&str>) -> &'static [(&'static str, &'static str)] {
    match subcommand {
        None => &[
            ("tcpdump", "8"),
            ("tc", "8"),
            ("pcap-filter", "7"),
            ("bpf", "2"),
            ("capabilities", "7"),
            ("systemctl", "1"),
        ],
        Some("sink") => &[("tcpdump", "8")],
        Some("man") => &[("man", "1")],
        Some("completions") => &[("bash", "1")],
        _ => &[],
    }
}
