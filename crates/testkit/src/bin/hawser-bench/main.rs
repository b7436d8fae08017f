//! `make bench-…`: speed and memory of the real binary, each figure by medians of rounds that take turns, in one run. Prints a table
//! and writes `bench/results/NAME.json`.

mod figures;
mod tunnel;

use std::process::ExitCode;

use anyhow::{Result, bail};

fn main() -> ExitCode {
    let what = std::env::args().nth(1).unwrap_or_default();
    match run(&what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("the benchmark failed: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(what: &str) -> Result<()> {
    let figures = match what {
        "tunnel" => tunnel::measure()?,
        other => bail!("no benchmark {other:?}: there is tunnel"),
    };
    figures.write(what)
}
