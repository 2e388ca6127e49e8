//! The benchmark that `cargo xtask bench` builds and runs as root.

use std::{
    fs, io,
    panic::{self, AssertUnwindSafe},
    path::Path,
    process::ExitCode,
};

use clap::Parser as _;
use mirror_tests::{
    agent,
    bench::{chart, interrupt, options::Options, results::Results, run::run, table},
};

fn main() -> ExitCode {
    let options = Options::parse();
    interrupt::arm();
    // A failure is one line, and all of it that a user needs.
    agent::be_quiet();
    panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("it failed");
        eprintln!("error: {}", message.split_whitespace().collect::<Vec<_>>().join(" "));
    }));
    let Ok(results) = panic::catch_unwind(AssertUnwindSafe(|| run(&options))) else {
        // Whatever failed has said so, and the hosts are gone.
        return if interrupt::came() { ExitCode::from(130) } else { ExitCode::FAILURE };
    };
    println!("{}", table::draw(&results));
    match save(&options, &results) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn save(options: &Options, results: &Results) -> io::Result<()> {
    let json = serde_json::to_string_pretty(results)?;
    for (path, text) in [(options.json(), json + "\n"), (options.chart(), chart::draw(results))] {
        write(&path, &text).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
        })?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)
}
