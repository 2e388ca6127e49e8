//! What was found, for people and for programs.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use serde::{Serialize, Serializer};

use super::{
    check::Check,
    finding::{Finding, Status},
    fix::Done,
    host::Host,
};

/// What all checks found.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: u32,
    /// The worst of all.
    pub status: Status,
    kernel: String,
    interfaces: Vec<String>,
    destinations: Vec<String>,
    encap: &'static str,
    mode: &'static str,
    hook: &'static str,
    /// Processes of running agents.
    agents: Vec<u32>,
    /// In the checks' usual order.
    pub checks: Vec<Checked>,
    /// What `--fix` ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed: Option<Vec<Done>>,
}

/// What one check found.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// Which.
    #[serde(flatten, serialize_with = "id_and_title")]
    pub check: &'static Check,
    /// The worst of its findings.
    pub status: Status,
    /// Empty where there was nothing to look at.
    pub findings: Vec<Finding>,
}

fn id_and_title<S: Serializer>(check: &Check, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map([("id", check.id), ("title", check.title)])
}

impl Report {
    /// Has all checks look.
    pub fn new(host: &Host, checks: &[&'static Check]) -> Self {
        let checks: Vec<Checked> = checks.iter().map(|check| look(host, check)).collect();
        Self {
            schema: 1,
            status: checks.iter().map(|checked| checked.status).max().unwrap_or(Status::Ok),
            kernel: super::sysctl::read("kernel.osrelease").unwrap_or_default(),
            interfaces: host.mirrored.iter().map(|link| link.name.clone()).collect(),
            destinations: host.destinations.iter().map(|destination| destination.text.clone()).collect(),
            encap: host.encap.name(),
            mode: match host.mode {
                crate::cli::Mode::Ring => "ring",
                crate::cli::Mode::Redirect => "redirect",
            },
            hook: match host.hook {
                crate::cli::Hook::Tc => "tc",
                crate::cli::Hook::Xdp => "xdp",
            },
            agents: host.agents.iter().map(|agent| agent.pid).collect(),
            checks,
            fixed: None,
        }
    }

    /// Says it on standard output.
    ///
    /// # Errors
    ///
    /// Standard output takes no more, unless it was closed: who closes it has seen enough.
    pub fn print(&self, as_json: bool) -> io::Result<()> {
        let result = if as_json {
            let mut out = io::stdout().lock();
            serde_json::to_writer(&mut out, self).map_err(io::Error::from).and_then(|()| writeln!(out))
        } else {
            // Without colours where it is no terminal, or NO_COLOR is set.
            self.text(&mut anstream::stdout().lock())
        };
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }

    /// The worst comes last, next to the prompt.
    fn text(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "Linux {}; {} to {}, {}, {} mode, {} hook; {}\n",
            self.kernel,
            or_none(&self.interfaces, "no interface"),
            or_none(&self.destinations, "nowhere"),
            self.encap,
            self.mode,
            self.hook,
            agents(&self.agents),
        )?;
        let mut all: Vec<(&Check, Finding)> = Vec::new();
        for Checked { check, findings, .. } in &self.checks {
            all.extend(in_one_line(findings).map(|finding| (*check, finding)));
            all.extend(
                findings
                    .iter()
                    .filter(|one| one.status > Status::Ok)
                    .map(|finding| (*check, finding.clone())),
            );
        }
        all.sort_by_key(|(_, finding)| finding.status);
        for (check, finding) in &all {
            line(out, check, finding)?;
        }
        for Done { commands, undo, error, .. } in self.fixed.iter().flatten() {
            writeln!(out)?;
            for command in commands {
                writeln!(out, "ran   {command}")?;
            }
            if let Some(error) = error {
                writeln!(out, "      failed: {error}")?;
            }
            for undo in undo {
                writeln!(out, "undo  {undo}")?;
            }
        }
        if self.fixed.as_ref().is_some_and(Vec::is_empty) {
            writeln!(out, "\nnothing that --fix may mend by itself")?;
        }
        let count = |status| all.iter().filter(|(_, finding)| finding.status == status).count();
        writeln!(
            out,
            "\n{} failed, {} warnings, {} notes, {} ok",
            count(Status::Fail),
            count(Status::Warn),
            count(Status::Note),
            count(Status::Ok)
        )
    }
}

fn look(host: &Host, check: &'static Check) -> Checked {
    let findings = (check.look)(host)
        .unwrap_or_else(|error| vec![Finding::note(format!("could not be looked at: {error:#}"), "")]);
    let status = findings.iter().map(|finding| finding.status).max().unwrap_or(Status::Ok);
    Checked { check, status, findings }
}

/// What is as it should be, of one check.
fn in_one_line(findings: &[Finding]) -> Option<Finding> {
    /// More than this is no help to anybody.
    const MANY: usize = 6;
    let text = |finding: &Finding| {
        let about = finding.about.as_ref().map(|about| format!("{about}: ")).unwrap_or_default();
        about + &finding.found
    };
    let all: Vec<String> = findings.iter().filter(|one| one.status == Status::Ok).map(text).collect();
    if all.is_empty() {
        return None;
    }
    let mut line = all[..all.len().min(MANY)].join("; ");
    if all.len() > MANY {
        line += &format!("; and {} more", all.len() - MANY);
    }
    Some(Finding::ok(line))
}

fn line(out: &mut impl Write, check: &Check, finding: &Finding) -> io::Result<()> {
    let (name, style) = match finding.status {
        Status::Ok => ("ok", AnsiColor::Green.on_default()),
        Status::Note => ("note", AnsiColor::Cyan.on_default()),
        Status::Warn => ("warn", AnsiColor::Yellow.on_default()),
        Status::Fail => ("FAIL", Style::new().bold().fg_color(Some(AnsiColor::Red.into()))),
    };
    let about = finding.about.as_ref().map(|about| format!("{about}: ")).unwrap_or_default();
    writeln!(out, "{style}{name:<4}{style:#}  {:<18} {about}{}", check.id, finding.found)?;
    if !finding.why.is_empty() && finding.status > Status::Ok {
        writeln!(out, "      why   {}", finding.why)?;
    }
    let bold = Style::new().bold();
    for command in &finding.fix {
        writeln!(out, "      mend  {bold}{command}{bold:#}")?;
    }
    for command in &finding.undo {
        writeln!(out, "      undo  {command}")?;
    }
    Ok(())
}

fn or_none(list: &[String], none: &str) -> String {
    if list.is_empty() { none.into() } else { list.join(", ") }
}

fn agents(pids: &[u32]) -> String {
    if pids.is_empty() {
        return "no agent runs here".into();
    }
    let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
    format!("running agent: pid {}", pids.join(", "))
}
