//! `mirror-agent top`, in a terminal: tmux says what is on the screen.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

use std::{
    fs,
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use mirror_tests::{
    agent::{Agent, binary},
    captures, command,
    generator::{Generator, Running},
    host::Host,
    lab::{Lab, SENSOR, UPLINK},
    lock,
    scratch::Scratch,
    sensor::Sensor,
    tmux::Tmux,
};

/// Frames a second.
const RATE: f64 = 5_000.0;

/// Longer than a look and the next one take.
const LOOKS: Duration = Duration::from_millis(800);

/// A line of the screen by its first words, as words. Those of a second column may be in the middle of a line.
fn words(screen: &str, starts: &[&str]) -> Vec<String> {
    let find = |is_first: bool| {
        screen.lines().find_map(|line| {
            let all: Vec<&str> = line.split_whitespace().collect();
            let at = all.windows(starts.len()).position(|window| window == starts)?;
            (at == 0 || !is_first).then(|| all[at..].iter().map(|word| (*word).to_owned()).collect())
        })
    };
    find(true)
        .or_else(|| find(false))
        .unwrap_or_else(|| panic!("no line with {starts:?} on the screen:\n{screen}"))
}

/// Whether a screen's codes set a colour (ECMA-48 section 8.3.117, and the bright ones).
fn has_colour(screen: &str) -> bool {
    screen.split("\u{1b}[").skip(1).any(|rest| {
        let codes = rest.split('m').next().unwrap_or("");
        codes.split(';').any(|code| matches!(code.parse(), Ok(30..=38 | 40..=48 | 90..=107)))
    })
}

/// A figure such as `1.23k`.
fn figure(text: &str) -> f64 {
    let unit = text.find(|character: char| !character.is_ascii_digit() && character != '.');
    let (number, unit) = text.split_at(unit.unwrap_or(text.len()));
    let factor = match unit {
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        _ => panic!("`{text}` is no figure"),
    };
    number.parse::<f64>().unwrap_or_else(|error| panic!("`{text}`: {error}")) * factor
}

fn assert_near(figure: f64, expected: f64, what: &str, screen: &str) {
    assert!((0.7..1.3).contains(&(figure / expected)), "{what}: {figure}, sent are {expected}\n{screen}");
}

/// The lab under load: of ten frames six of 1000 bytes in one flow, three of 300 bytes in another, and one that is too
/// long for the path.
struct Load {
    lab: Lab,
    scratch: Scratch,
    sensor: Sensor<()>,
}

const BITS: f64 = RATE * 8.0 * (6.0 * 1000.0 + 3.0 * 300.0 + 1400.0) / 10.0;

impl Load {
    fn new() -> Self {
        let lab = Lab::new();
        lab.router.mtu(UPLINK, 1300);
        let sensor = Sensor::start(&lab.sensor, (), |(), _| {});
        Self { lab, scratch: Scratch::new(), sensor }
    }

    fn agent(&self) -> Agent {
        let socket = self.scratch.path("agent.sock");
        Agent::start(
            &self.lab.router,
            &format!(
                "--iface eth0 --dest {SENSOR} --mode ring --oversize drop --control {} udp or arp",
                socket.display()
            ),
        )
    }

    fn running(&self) -> Running {
        let frames = [(1, 1000, 6), (2, 300, 3), (3, 1400, 1)]
            .iter()
            .flat_map(|&(flow, len, count)| std::iter::repeat_n(captures::udp_frame(flow, len), count))
            .collect();
        Generator::new("eth0").rate(RATE as u64).cycle(&self.lab.client, frames)
    }

    /// Waits until the agent says that it is ready: the sensor has answered.
    fn wait_until_ready(&self) {
        let ask = format!(
            "until curl -sf --unix-socket {} http://agent/readyz; do sleep 0.1; done",
            self.scratch.path("agent.sock").display()
        );
        command::run(Command::new("timeout").args(["20", "sh", "-c", &ask]));
    }

    fn end(self) {
        let _ = self.sensor.finish();
    }

    /// The command line that looks at the agent.
    fn top(&self) -> String {
        format!("{} top --interval 500ms {}", binary().display(), self.scratch.path("agent.sock").display())
    }
}

#[test]
fn top_shows_what_is_sent_and_lost() {
    let _turn = lock::shared();
    let load = Load::new();
    let agent = load.agent();
    let running = load.running();
    let tmux = Tmux::start(80, 24, &[]);
    let settings = tmux.settings(&load.scratch.path("before"));
    tmux.line(&load.top());
    // Two looks, and flows.
    let is_ready = |screen: &str| screen.lines().any(|line| line.ends_with(" ready"));
    let shown = |screen: &str| is_ready(screen) && screen.contains("10.77.0.1");
    tmux.wait_for("flow", shown);
    assert!(tmux.is_alternate());
    sleep(LOOKS);
    let small = tmux.wait_for("flow", shown);
    assert_figures(&small, 24);
    let coloured = tmux.coloured_screen();
    let loss = coloured.lines().find(|line| line.contains("too_big")).expect("the ledger");
    assert!(loss.contains("[38;5;1mtoo_big"), "red: {loss:?}");

    tmux.resize(30, 6);
    tmux.wait_for("note", |screen| screen.contains("too small: 30x6"));
    tmux.resize(160, 50);
    sleep(LOOKS);
    let large = tmux.wait_for("wide view", |screen| shown(screen) && screen.contains("which are"));
    assert_figures(&large, 50);
    for (name, screen) in [("80x24", &small), ("160x50", &large)] {
        println!("{name}\n{screen}");
    }

    tmux.key("p");
    tmux.wait_for("pause", |screen| screen.contains("PAUSED"));
    let stands = tmux.screen();
    sleep(LOOKS);
    assert_eq!(tmux.screen(), stands);
    tmux.key("p");
    tmux.wait_for("going on", |screen| !screen.contains("PAUSED"));
    tmux.key("h");
    tmux.wait_for("help", |screen| screen.contains("order of interfaces"));
    tmux.key("Escape");
    tmux.wait_for("figures", shown);

    // Killed while it looks, and another one in its place.
    drop(agent);
    let ended = tmux.wait_for("end", |screen| screen.contains("ENDED") && screen.contains("last figures"));
    assert!(ended.contains("10.77.0.1"), "{ended}");
    let again = load.agent();
    tmux.wait_for("new agent", shown);

    tmux.key("q");
    tmux.wait_for("prompt", |screen| screen.contains("shell>"));
    assert!(!tmux.is_alternate());
    assert_eq!(
        tmux.settings(&load.scratch.path("after")),
        settings.replace("rows 24; columns 80", "rows 50; columns 160")
    );
    running.stop();
    drop(again.stop());
    load.end();
}

fn assert_figures(screen: &str, height: usize) {
    assert_eq!(screen.lines().count(), height, "{screen}");
    let head = words(screen, &["mirror-agent"]);
    assert!(head.contains(&"ready".to_owned()), "{screen}");
    assert_eq!(words(screen, &["filter"])[..4], ["filter", "udp", "or", "arp"], "{screen}");
    // Frames in, bits in, frames out, bits out.
    let interface = words(screen, &["eth0"]);
    assert_near(figure(&interface[1]), RATE, "frames a second", screen);
    assert_near(figure(&interface[2]), BITS, "bits a second", screen);
    assert!(figure(&interface[3]) < 50.0, "the router sends next to nothing\n{screen}");
    let sensor = words(screen, &["10.20.0.2:4789"]);
    assert_near(figure(&sensor[2]), RATE * 0.9, "datagrams a second", screen);
    assert!(sensor.contains(&"up".to_owned()), "{screen}");
    // Total, and a second.
    for (name, rate) in [("seen", RATE), ("sent", RATE * 0.9), ("too_big", RATE * 0.1)] {
        let row = words(screen, &[name]);
        assert_near(figure(&row[2]), rate, name, screen);
        assert!(figure(&row[1]) > rate, "{screen}");
    }
    assert_eq!(words(screen, &["ring_full"])[1..3], ["0", "0"], "{screen}");
    assert!(screen.contains("ring 0 "), "{screen}");
    let flows: Vec<Vec<String>> = screen
        .lines()
        .filter(|line| line.starts_with("udp "))
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect();
    let busiest: Vec<_> = flows.iter().map(|flow| flow[1].as_str()).collect();
    assert_eq!(busiest[..2], ["10.77.0.1:20001", "10.77.0.3:20003"], "{screen}");
    assert_eq!(flows[0][3], "10.78.1.0:9000", "{screen}");
    assert_near(figure(&flows[0][4]), RATE * 0.6, "frames a second of the busiest flow", screen);
    assert_near(figure(&flows[0][5]), RATE * 0.6 * 8000.0, "bits a second of the busiest flow", screen);
}

/// However it ends, and after a stop.
#[test]
fn the_terminal_is_given_back() {
    let _turn = lock::shared();
    let load = Load::new();
    let agent = load.agent();
    let tmux = Tmux::start(80, 24, &[("NO_COLOR", "1"), ("LANG", "C")]);
    let settings = tmux.settings(&load.scratch.path("before"));
    let shown = |screen: &str| screen.contains("LEDGER");
    let pid = load.scratch.path("pid");
    let start = format!("sh -c 'echo $$ > {}; exec {}'", pid.display(), load.top());
    for end in ["TERM", "HUP", "INT", "stop", "ABRT"] {
        tmux.line("clear");
        tmux.line(&start);
        tmux.wait_for("view", shown);
        assert!(tmux.is_alternate());
        let screen = tmux.coloured_screen();
        assert!(!has_colour(&screen), "{screen:?}");
        assert!(screen.is_ascii(), "{screen}");
        let kill = |signal: &str| {
            let pid = fs::read_to_string(&pid).unwrap();
            command::run(Command::new("kill").args([&format!("-{signal}"), pid.trim()]));
        };
        match end {
            "stop" => {
                tmux.key("C-z");
                tmux.wait_for("shell", |screen| screen.contains("Stopped") && !shown(screen));
                assert!(!tmux.is_alternate());
                tmux.line("fg");
                tmux.wait_for("view", shown);
                kill("TSTP");
                tmux.wait_for("shell", |screen| screen.contains("Stopped") && !shown(screen));
                tmux.line("fg");
                tmux.wait_for("view", shown);
                tmux.key("C-c");
            }
            // Nobody can catch all: this one is only to show that the test would notice.
            "ABRT" => {
                kill("KILL");
                tmux.wait_for("end", |screen| screen.contains("Killed"));
                assert!(tmux.is_alternate(), "killed, it cannot have given the terminal back");
                continue;
            }
            signal => kill(signal),
        }
        tmux.wait_for("prompt", |screen| !shown(screen) && screen.contains("shell>"));
        assert!(!tmux.is_alternate(), "{end}");
        assert_eq!(tmux.settings(&load.scratch.path("after")), settings, "{end}");
    }
    drop(agent.stop());
    load.end();
}

/// What a script gets, and what it is told where there is nothing.
#[test]
fn once_prints_a_table_and_errors_are_one_line() {
    let _turn = lock::shared();
    let load = Load::new();
    let agent = load.agent();
    let running = load.running();
    load.wait_until_ready();
    // The totals are to be those of more than a second.
    sleep(Duration::from_secs(1));
    let run = |arguments: &str| {
        let mut command = Command::new(binary());
        command.arg("top").args(arguments.split_whitespace()).stdin(Stdio::null());
        Agent::spawn(&mut command).wait(Duration::from_secs(10))
    };
    let socket = load.scratch.path("agent.sock");
    let table = run(&format!("{} --once --interval 500ms", socket.display()));
    assert_eq!(table.code(), 0, "{table}");
    let text = String::from_utf8(table.stdout.clone()).unwrap();
    assert!(text.is_ascii() && !text.contains('\u{1b}'), "{text}");
    assert_figures(&text, text.lines().count());
    run(&format!("{} --once", load.scratch.path("nobody.sock").display())).assert_failed(1, &["nobody.sock"]);
    run(&socket.display().to_string()).assert_failed(1, &["no terminal", "--once"]);
    run("--interval 1ms --once").assert_failed(2, &["100ms"]);
    run("somewhere").assert_failed(2, &["somewhere"]);
    running.stop();
    drop(agent.stop());
    load.end();
}

/// The agents of this terminal: none, one, two.
#[test]
fn agents_are_found_and_chosen() {
    let _turn = lock::shared();
    let lab = Lab::new();
    let tmux = Tmux::start(100, 24, &[]);
    let top = format!("{} top", binary().display());
    tmux.line(&top);
    tmux.wait_for("error", |screen| screen.contains("no agent runs here: start one"));
    tmux.line("echo status $?");
    tmux.wait_for("status", |screen| screen.contains("status 1"));
    let start = |host: &Host, iface: &str| {
        tmux.line("clear");
        tmux.line(&format!(
            "ip netns exec {} {} --iface {iface} --dest {SENSOR} 2> /dev/null &",
            host.name(),
            binary().display()
        ));
    };
    start(&lab.router, "eth0");
    tmux.line(&format!("until {top} --once --interval 100ms; do sleep 0.1; done 2> /dev/null"));
    tmux.wait_for("table", |screen| screen.contains("LEDGER") && screen.contains("BUSIEST"));
    start(&lab.client, "eth0");
    tmux.line(&format!("while {top} --once --interval 100ms > /dev/null; do sleep 0.1; done"));
    tmux.wait_for("error", |screen| screen.contains("several agents run here, name one"));
    tmux.line(&top);
    let list = tmux.wait_for("list", |screen| screen.contains("Several agents run here"));
    assert_eq!(list.matches("(eth0 to 10.20.0.2:4789)").count(), 2, "{list}");
    tmux.key("Down");
    let list = tmux.wait_for("mark", |screen| {
        screen
            .lines()
            .filter(|line| line.contains("eth0 to"))
            .nth(1)
            .is_some_and(|line| line.starts_with('>'))
    });
    let chosen = list.lines().find(|line| line.starts_with('>')).unwrap().split_whitespace().nth(1).unwrap();
    tmux.key("Enter");
    let view = tmux.wait_for("view", |screen| screen.contains("LEDGER"));
    assert!(view.contains(&format!("pid {chosen} ")), "{chosen} was chosen:\n{view}");
    tmux.key("q");
    tmux.wait_for("prompt", |screen| screen.contains("shell>") && !screen.contains("LEDGER"));
    tmux.line("kill %1 %2; wait");
    tmux.wait_for("end", |screen| screen.contains("Done"));
}
