//! The static program where there is nothing else: no library, no /proc, no /etc.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use mirror_tests::{
    agent::Agent,
    check::Check,
    command,
    confined::{self, THREE, names, set},
    generator::Generator,
    lab::{Lab, MIRRORED, RUN},
    lock,
    scratch::Scratch,
    sensor::Sensor,
};

const FRAMES: u64 = 500;
const SOON: Duration = Duration::from_secs(10);
/// The one file that is read: per-processor counters are as many as it says.
const PROCESSORS: &str = "sys/devices/system/cpu/possible";

/// The program, or a word why there is none.
fn static_agent() -> Option<PathBuf> {
    let path = std::env::var_os("MIRROR_STATIC_AGENT").map(PathBuf::from);
    if path.is_none() {
        println!(
            "skipped: MIRROR_STATIC_AGENT names no static program; `cargo xtask test` builds it where it can"
        );
    }
    path
}

/// A root with the program in it, and nothing else but what `with_processors` says.
fn empty_root(scratch: &Scratch, program: &Path, with_processors: bool) -> PathBuf {
    let root = scratch.path("root");
    fs::create_dir_all(&root).unwrap();
    fs::copy(program, root.join("mirror-agent")).unwrap();
    if with_processors {
        let file = root.join(PROCESSORS);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::copy(Path::new("/").join(PROCESSORS), file).unwrap();
    }
    root
}

#[test]
fn nothing_is_linked_to_it() {
    let Some(program) = static_agent() else { return };
    let ldd = command::finish(Command::new("ldd").arg(&program));
    let said = format!("{}{}", String::from_utf8_lossy(&ldd.stdout), String::from_utf8_lossy(&ldd.stderr));
    println!("ldd: {}", said.trim());
    assert!(said.contains("statically linked") || said.contains("not a dynamic executable"), "{said}");
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o111, 0o111);
}

#[test]
fn it_mirrors_from_an_otherwise_empty_root_with_three_capabilities() {
    let Some(program) = static_agent() else { return };
    let _turn = lock::shared();
    let scratch = Scratch::new();
    let root = empty_root(&scratch, &program, true);
    for way in ["", "--mode redirect", "--hook xdp", "--attach clsact", "--transmit udp not port 9"] {
        let lab = Lab::new();
        let sees_egress = !way.contains("xdp");
        let total = if sees_egress { 2 * FRAMES } else { FRAMES };
        let sensor = Sensor::start(&lab.sensor, Check::new(0..total), |check, datagram| check.look(datagram));
        let arguments = format!("{RUN} -v {way}");
        let agent =
            Agent::spawn(&mut confined::in_root(&lab.router, &root, &THREE, "/mirror-agent", &arguments));
        let deadline = Instant::now() + SOON;
        let mut before = 0;
        let after = loop {
            let threads = confined::threads(agent.pid());
            let first = threads.iter().find(|thread| thread.is_first).unwrap();
            if first.name == "mirror-agent" {
                before |= first.sets.permitted;
            }
            if first.sets.no_new_privs
                && agent.stderr().contains("\nmirroring ")
                && first.sets.permitted == set(&["net_admin"])
            {
                break threads;
            }
            assert!(Instant::now() < deadline, "{threads:x?}\n{}", agent.stderr());
            thread::sleep(Duration::from_millis(1));
        };
        println!("{way}: before: {}", names(before));
        for thread in &after {
            println!(
                "  after: {}: {}, bounding {:x}",
                thread.name,
                names(thread.sets.permitted),
                thread.sets.bounding
            );
            assert!(thread.is_first || thread.sets.permitted == 0);
        }
        assert_eq!(before, set(&THREE), "what it began with");
        Generator::new("eth0").rate(10_000).send(&lab.client, 0..FRAMES);
        if sees_egress {
            Generator::new(MIRRORED).rate(10_000).through_hooks().send(&lab.router, FRAMES..total);
        }
        sensor.wait_for(total, SOON);
        let report = agent.stop_and_report();
        sensor.finish().0.assert_complete();
        assert_eq!(report.frames.sent, total, "{way}");
        assert!(!lab.router.run("bpftool net show").contains("mirror"));
    }
}

#[test]
fn what_is_missing_in_an_empty_root_is_named() {
    let Some(program) = static_agent() else { return };
    let _turn = lock::shared();
    let (lab, scratch) = (Lab::new(), Scratch::new());
    let root = empty_root(&scratch, &program, false);
    let run = |arguments: &str| {
        let mut command = confined::in_root(&lab.router, &root, &THREE, "/mirror-agent", arguments);
        Agent::spawn(&mut command).wait(SOON)
    };
    run(RUN).assert_failed(1, &["/sys/devices/system/cpu/possible"]);
    run("--iface eth0 -d sensor.invalid").assert_failed(1, &["sensor.invalid"]);
    assert_eq!(run("--version").code(), 0);
}
