//! What a package brings beside the program: pages of the manual, completions, and systemd's units.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    fs,
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use mirror_tests::{agent, agent::Agent, command, host::Host, link, scratch::Scratch};

/// At most this exposed, of ten, as systemd-analyze counts it.
const EXPOSURE: &str = "24";

/// How long the agent may take to say something.
const PATIENCE: Duration = Duration::from_secs(20);

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd")
}

#[test]
fn pages_of_the_manual_are_well_formed() {
    let scratch = Scratch::new();
    let folder = scratch.path("man");
    command::run(Command::new(agent::binary()).arg("man").arg("--dir").arg(&folder));
    let pages: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(pages.len() >= 5, "{pages:?}");
    for page in &pages {
        let lint = command::finish(Command::new("mandoc").args(["-Tlint", "-Wwarning"]).arg(page));
        assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
    }
    // mandoc finds what there is to find.
    let broken = scratch.path("broken.8");
    fs::write(&broken, fs::read_to_string(&pages[0]).unwrap().replacen(".SH NAME", ".SHNAME", 1)).unwrap();
    let lint = command::finish(Command::new("mandoc").args(["-Tlint", "-Wwarning"]).arg(&broken));
    assert!(!lint.status.success(), "mandoc takes everything");

    let page = command::run(
        Command::new("mandoc").args(["-Tascii", "-Owidth=79"]).arg(folder.join("mirror-agent.8")),
    );
    // Bold is a letter twice, in teletype's way.
    let mut text = String::new();
    for c in page.chars() {
        match c {
            '\u{8}' => {
                text.pop();
            }
            c => text.push(c),
        }
    }
    for words in [
        "EXIT STATUS",
        "ENVIRONMENT",
        "FILES",
        "SIGNALS",
        "EXAMPLES",
        "SEE ALSO",
        "--ring-size",
        "tcpdump(8)",
    ] {
        assert!(text.contains(words), "no {words} in\n{text}");
    }
    let one = command::run(Command::new(agent::binary()).args(["man", "sink"]));
    assert_eq!(one, fs::read_to_string(folder.join("mirror-agent-sink.8")).unwrap());
    let none = command::finish(Command::new(agent::binary()).args(["man", "snik"]));
    assert_eq!(none.status.code(), Some(2));
}

/// What bash offers for the last of these words.
fn bash_offers(script: &Path, words: &[&str]) -> Vec<String> {
    const ASK: &str = r#"source "$1"; shift
        words=$(complete -p mirror-agent) && [[ $words =~ -F\ ([^ ]+) ]] || exit 1
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        "${BASH_REMATCH[1]}" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let said = command::run(
        Command::new("bash").args(["-c", ASK, "bash"]).arg(script).arg("mirror-agent").args(words),
    );
    said.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn shells_complete_the_command_line() {
    let scratch = Scratch::new();
    let script = |shell: &str| {
        let path = scratch.path(shell);
        fs::write(&path, command::run(Command::new(agent::binary()).args(["completions", shell]))).unwrap();
        path
    };
    let bash = script("bash");
    assert_eq!(bash_offers(&bash, &["--direction", "e"]), ["egress"]);
    assert_eq!(bash_offers(&bash, &["--mode", ""]), ["ring", "redirect"]);
    assert_eq!(bash_offers(&bash, &["si"]), ["sink"]);
    assert_eq!(bash_offers(&bash, &["sink", "--enc"]), ["--encap"]);
    assert_eq!(bash_offers(&bash, &["sink", "--encap", ""]), ["vxlan", "geneve"]);
    assert_eq!(bash_offers(&bash, &["completions", "z"]), ["zsh"]);
    assert!(bash_offers(&bash, &["--xdp-at"]).is_empty(), "what --help hides");
    for (shell, option) in [("zsh", "-n"), ("fish", "--no-execute")] {
        let path = script(shell);
        match Command::new(shell).arg(option).arg(&path).output() {
            Ok(output) => {
                assert!(output.status.success(), "{shell}: {}", String::from_utf8_lossy(&output.stderr))
            }
            Err(error) => println!("not checked: {shell}: {error}"),
        }
    }
}

/// The units as they are installed, but with the program where it is.
fn installed(scratch: &Scratch) -> Vec<PathBuf> {
    ["mirror-agent.service", "mirror-agent@.service"]
        .map(|name| {
            let unit = fs::read_to_string(units().join(name)).unwrap();
            let path = scratch.path(name);
            fs::write(&path, unit.replace("/usr/bin/mirror-agent", agent::binary().to_str().unwrap()))
                .unwrap();
            path
        })
        .to_vec()
}

#[test]
fn units_are_what_systemd_understands_and_narrow() {
    let scratch = Scratch::new();
    let verify = |unit: &Path| {
        let output = command::finish(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(unit));
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for unit in installed(&scratch) {
        assert_eq!(verify(&unit), (true, String::new()), "{}", unit.display());
        let security = |threshold: &str| {
            let mut analyze = Command::new("systemd-analyze");
            analyze.args(["security", "--offline=yes", "--no-pager", &format!("--threshold={threshold}")]);
            command::finish(analyze.arg(&unit))
        };
        let output = security(EXPOSURE);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}");
        println!("{}", said.lines().last().unwrap().trim_start_matches(['→', ' ']));
        assert!(!security("5").status.success(), "systemd-analyze takes everything");
    }
    let broken = scratch.path("broken.service");
    let unit = fs::read_to_string(scratch.path("mirror-agent.service")).unwrap();
    fs::write(&broken, unit.replace("Type=notify", "Tipe=notify")).unwrap();
    assert!(verify(&broken).1.contains("Tipe"));
}

/// The template has the same rights as the unit, line by line.
#[test]
fn both_units_say_the_same() {
    let [unit, template] = ["mirror-agent.service", "mirror-agent@.service"].map(|name| {
        let text = fs::read_to_string(units().join(name)).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
    });
    let of_an_instance = |line: &String| {
        line.replace("/config.toml", "/%i.toml")
            .replace("/etc/default/mirror-agent", "/etc/default/mirror-agent-%i")
            .replace("to sensors", "to sensors (%i)")
    };
    assert_eq!(unit.iter().map(of_an_instance).collect::<Vec<_>>(), template);
    assert!(
        unit.iter().any(|line| line == "CapabilityBoundingSet=CAP_BPF CAP_PERFMON CAP_NET_ADMIN CAP_NET_RAW")
    );
}

/// The words of systemd's protocol, until one of them comes.
fn hear(manager: &UnixDatagram, until: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut datagram = [0; 4096];
    while !words.iter().any(|word| word == until) {
        let len = match manager.recv(&mut datagram) {
            Ok(len) => len,
            // A socket with a time limit is not asked again by itself.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => panic!("no {until} after {words:?}: {error}"),
        };
        words.extend(String::from_utf8_lossy(&datagram[..len]).lines().map(str::to_owned));
    }
    words
}

#[test]
fn systemd_hears_of_start_reload_life_and_end() {
    let (host, scratch) = (Host::new("host"), Scratch::new());
    link::veth(&host, "eth0", &host, "eth1");
    let config = scratch.path("config.toml");
    let write =
        |iface: &str| fs::write(&config, format!("iface = [\"{iface}\"]\ndest = \"127.0.0.1\"\n")).unwrap();
    write("eth0");
    let socket = scratch.path("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = agent::command(&host, &format!("--config {}", config.display()));
    // Half a second of patience: four words a second.
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "500000").env_remove("WATCHDOG_PID");
    let agent = Agent::spawn(&mut command);
    let words = hear(&manager, "READY=1");
    assert_eq!(
        words[0], "STATUS=mirroring eth0 (ingress+egress) to 127.0.0.1:4789, vxlan vni 4242",
        "{words:?}"
    );
    // It does not say that before it does so.
    agent.wait_for_line("mirroring ");
    for _ in 0..3 {
        hear(&manager, "WATCHDOG=1");
    }

    write("eth1");
    agent.signal(libc::SIGHUP);
    let words = hear(&manager, "READY=1");
    let place = |word: &str| words.iter().position(|said| said.starts_with(word)).expect(word);
    assert!(place("RELOADING=1") < place("STATUS=mirroring eth1"), "{words:?}");
    assert!(place("MONOTONIC_USEC=") < place("READY=1"), "{words:?}");

    write("eth1\"]\nnonsense = [\"");
    agent.signal(libc::SIGHUP);
    let words = hear(&manager, "READY=1");
    assert!(
        words.iter().any(|word| word.starts_with("STATUS=the configuration stays as it was")),
        "{words:?}"
    );

    agent.signal(libc::SIGTERM);
    hear(&manager, "STOPPING=1");
    assert!(agent.wait(PATIENCE).status.success());
}

/// The file that the package brings mirrors nothing, and all that it proposes is taken.
#[test]
fn the_default_configuration_mirrors_nothing_and_proposes_what_exists() {
    let scratch = Scratch::new();
    let file = units().join("../config.toml");
    let validate =
        |path: &Path| command::finish(Command::new(agent::binary()).args(["validate", "--config"]).arg(path));
    let unchanged = validate(&file);
    assert_eq!(unchanged.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unchanged.stderr).contains("nothing to mirror"));
    let text = fs::read_to_string(&file).unwrap();
    let proposals: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| line.starts_with(char::is_alphabetic))
        .collect();
    assert!(proposals.len() > 10, "{proposals:?}");
    let all = scratch.path("all.toml");
    fs::write(&all, proposals.join("\n")).unwrap();
    let taken = validate(&all);
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
}
