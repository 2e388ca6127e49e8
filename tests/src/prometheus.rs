//! What the agent's metrics are looked at with: curl, Debian's Prometheus and its promtool.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{command, host::Host, scratch::Scratch};

/// Where agents are asked in these tests, each in a host of its own.
pub const METRICS: &str = "127.0.0.1:9464";

/// Where Prometheus is asked.
const API: &str = "http://127.0.0.1:9090/api/v1/query";

/// How long it may take until something is so, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The answer to a GET: the status, 0 where there was none, and the text.
#[must_use]
pub fn get(host: &Host, path: &str) -> (u16, String) {
    let mut curl = host.command("curl");
    curl.args(["-s", "-m", "5", "-w", "\n%{http_code}"]).arg(format!("http://{METRICS}{path}"));
    let text = String::from_utf8_lossy(&command::finish(&mut curl).stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').unwrap_or(("", &text));
    (code.parse().unwrap_or(0), body.to_owned())
}

/// Waits until a GET is answered with this status.
///
/// # Panics
/// Where it is not.
pub fn wait_for_status(host: &Host, path: &str, status: u16) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (found, text) = get(host, path);
        if found == status {
            return text;
        }
        assert!(Instant::now() < deadline, "{path} is answered with {found}, not {status}: {text}");
        thread::sleep(Duration::from_millis(100));
    }
}

/// The samples of an exposition, by name and labels as they are written.
///
/// # Panics
/// Where a line is none.
#[must_use]
pub fn samples(exposition: &str) -> BTreeMap<String, f64> {
    let lines = exposition.lines().filter(|line| !line.starts_with('#'));
    let mut samples = BTreeMap::new();
    for line in lines {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        let value = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(samples.insert(name.to_owned(), value).is_none(), "{name} is there twice");
    }
    samples
}

/// The samples of an agent in `host`, now.
///
/// # Panics
/// Where it does not answer.
#[must_use]
pub fn scrape(host: &Host) -> BTreeMap<String, f64> {
    samples(&wait_for_status(host, "/metrics", 200))
}

/// Of these, the sum of those of a metric, whatever their labels.
#[must_use]
pub fn sum(samples: &BTreeMap<String, f64>, metric: &str) -> f64 {
    let is_its =
        |name: &str| name.strip_prefix(metric).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
    samples.iter().filter(|(name, _)| is_its(name)).map(|(_, value)| value).sum()
}

fn tool(name: &str) -> Option<PathBuf> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/prometheus/usr/bin").join(name);
    let installed = ["/usr/bin", "/usr/local/bin"].map(|folder| Path::new(folder).join(name));
    installed.into_iter().chain([ours]).find(|path| path.exists())
}

/// A value, by its labels.
pub type Sample = (BTreeMap<String, String>, f64);

/// Prometheus's own tool; `None`, and a line that says so, where it is not to be had.
#[must_use]
pub fn promtool(arguments: &[&str], input: &str) -> Option<Output> {
    let Some(promtool) = tool("promtool") else {
        println!("SKIPPED: no promtool (cargo xtask test gets Debian's)");
        return None;
    };
    let mut child = Command::new(promtool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cannot run promtool");
    // It may end before it has read all.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    Some(child.wait_with_output().expect("cannot wait for promtool"))
}

/// Checks that promtool ends well.
///
/// # Panics
/// Where it does not.
pub fn assert_well(output: &Output) {
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "promtool: {}\n{said}", output.status);
}

/// Checks what promtool says of an exposition: nothing.
///
/// # Panics
/// Where it has something to say.
pub fn assert_clean(exposition: &str) {
    let Some(output) = promtool(&["check", "metrics"], exposition) else { return };
    assert_well(&output);
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A Prometheus that scrapes the agent in its host five times a second. Ended with its guard.
#[derive(Debug)]
pub struct Prometheus<'a> {
    host: &'a Host,
    child: Child,
    scratch: Scratch,
}

impl<'a> Prometheus<'a> {
    /// Starts it with alerting rules; `None`, and a line that says so, where it is not to be had.
    ///
    /// # Panics
    /// Where it cannot be started.
    #[must_use]
    pub fn start(host: &'a Host, rules: &Path) -> Option<Self> {
        let Some(prometheus) = tool("prometheus") else {
            println!("SKIPPED: no prometheus (cargo xtask test gets Debian's)");
            return None;
        };
        let scratch = Scratch::new();
        let config = format!(
            "global: {{ scrape_interval: 200ms, evaluation_interval: 1s }}\n\
             rule_files: ['{}']\n\
             scrape_configs:\n  - job_name: mirror-agent\n    static_configs: [{{ targets: ['{METRICS}'] }}]\n",
            rules.display()
        );
        fs::write(scratch.path("prometheus.yml"), config).unwrap();
        let log = fs::File::create(scratch.path("log")).unwrap();
        let child = host
            .command(prometheus)
            .arg(format!("--config.file={}", scratch.path("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", scratch.path("data").display()))
            .arg("--web.listen-address=127.0.0.1:9090")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("cannot run prometheus");
        Some(Self { host, child, scratch })
    }

    /// The values of an expression, by their labels.
    ///
    /// # Errors
    /// What Prometheus says against the expression, or that it does not answer yet.
    pub fn query(&self, expression: &str) -> Result<Vec<Sample>, String> {
        let mut curl = self.host.command("curl");
        curl.args(["-s", "-m", "5", "--data-urlencode", &format!("query={expression}"), API]);
        let answer = command::finish(&mut curl).stdout;
        let answer: Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
        let result = match answer["status"].as_str() {
            Some("success") => answer["data"]["result"].as_array().ok_or("no vector")?,
            _ => return Err(answer["error"].to_string()),
        };
        let sample = |sample: &Value| {
            let labels = sample["metric"].as_object()?.iter();
            let labels = labels.map(|(name, value)| (name.clone(), value.as_str().unwrap_or("").to_owned()));
            Some((labels.collect(), sample["value"][1].as_str()?.parse().ok()?))
        };
        result.iter().map(|value| sample(value).ok_or_else(|| format!("no sample: {value}"))).collect()
    }

    /// The value of an expression that has one, or 0.
    ///
    /// # Panics
    /// Where Prometheus does not take it.
    #[must_use]
    pub fn value(&self, expression: &str) -> f64 {
        let values =
            self.query(expression).unwrap_or_else(|error| panic!("{expression}: {error}\n{}", self.log()));
        values.iter().map(|(_, value)| value).sum()
    }

    /// Waits until an expression has this value.
    ///
    /// # Panics
    /// Where it does not come.
    pub fn wait_for(&self, expression: &str, value: f64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.query(expression).map(|found| found.iter().map(|(_, value)| value).sum::<f64>());
            if found == Ok(value) {
                return;
            }
            assert!(Instant::now() < deadline, "{expression} is {found:?}, not {value}\n{}", self.log());
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.path("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
