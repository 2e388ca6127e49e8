//! The project's own commands: `cargo xtask --help` lists them.

mod agent;
mod apt;
mod bench;
mod command;
mod deb;
mod kernels;
mod kubernetes;
mod libpcap;
mod linker;
mod lint;
mod packages;
mod privilege;
mod project;
mod prometheus;
mod run;
mod rustc;
mod setup;
mod static_agent;
mod suricata;
mod test;

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Build, run and test mirror-agent")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Get what the build needs beside rustup: rust-src, a bpf-linker that matches rustc, and libpcap
    ///
    /// Does nothing when all is there. The other commands call it themselves.
    Setup,
    /// Build target/release/mirror-agent
    Build {
        /// Build target/static/mirror-agent instead, which needs nothing where it runs: musl is its C library
        #[arg(long = "static")]
        is_static: bool,
    },
    /// Make a package for Debian in target/deb, with cargo-deb, which is built at the first time
    Deb,
    /// Build mirror-agent and run it, through sudo when not root
    Run {
        /// Arguments for mirror-agent, passed on as typed
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run all tests: unit, property, end to end, and end to end on other kernels
    ///
    /// The end-to-end tests need root (sudo is used when not root) and some Debian packages, which
    /// are installed when they are missing. With the name of a test, other kernels are left out unless
    /// --kernels asks for them.
    Test {
        /// Only the tests on other kernels: Debian's 5.10, 6.1, 6.12 and newest, in emulated machines
        #[arg(long)]
        kernels: bool,
        /// Arguments for the test binaries, such as a part of a test's name
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Measure mirror-agent beside other mirrors: `cargo xtask bench --help` has the options
    ///
    /// Takes about 12 minutes, with --quick about one. Needs root (sudo is used when not root). Not part of CI.
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments for the benchmark, passed on as typed
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Check the formatting, and run clippy on every crate with warnings denied
    Lint,
    /// All that CI checks: lint, then test
    Ci,
}

fn main() -> ExitCode {
    match perform(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Setup => setup::setup(),
        Task::Build { is_static: false } => agent::build(),
        Task::Build { is_static: true } => static_agent::build(),
        Task::Deb => deb::build(),
        Task::Run { args } => run::run(&args),
        Task::Test { kernels: true, args } => test::on_kernels(&args),
        Task::Test { kernels: false, args } => test::test(&args),
        Task::Bench { args } => bench::bench(&args),
        Task::Lint => lint::lint(),
        Task::Ci => {
            lint::lint()?;
            test::test(&[])
        }
    }
}
