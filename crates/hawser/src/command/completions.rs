//! `hawser completions`: a script for the shell.

use clap::CommandFactory as _;

use crate::{cli::Cli, terminal};

pub(super) fn run(shell: clap_complete::Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hawser", &mut script);
    terminal::print(&String::from_utf8_lossy(&script))
}
