//! `hawser reference`: the pages in docs/reference, made from the code so that they cannot be wrong about it.

use std::fmt::Write as _;

use clap::{Command, CommandFactory as _};

use crate::{
    cli::{Cli, ReferencePage},
    config, terminal,
};

pub(super) fn run(page: ReferencePage) -> anyhow::Result<()> {
    match page {
        ReferencePage::Cli => terminal::print(&command_line()?),
        ReferencePage::Config => terminal::print(&config::reference::page()),
    }
}

fn command_line() -> anyhow::Result<String> {
    let mut hawser = Cli::command().term_width(100).disable_help_subcommand(true);
    hawser.build();
    let mut page = String::from(
        "# Commands\n\nMade from the code by `make reference`. Every command takes `--help`; `hawser man DIRECTORY` writes the \
         same as manual pages.\n",
    );
    section(&mut hawser, "hawser", &mut page)?;
    Ok(page)
}

fn section(command: &mut Command, name: &str, page: &mut String) -> anyhow::Result<()> {
    let help = command.clone().bin_name(name).render_long_help().to_string();
    let help: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
    writeln!(page, "\n## {name}\n\n```text\n{}\n```", help.join("\n"))?;
    for below in command.get_subcommands_mut().filter(|c| !c.is_hide_set()) {
        let name = format!("{name} {}", below.get_name());
        section(below, &name, page)?;
    }
    Ok(())
}
