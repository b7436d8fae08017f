//! The `hawser` command: reads the command line and the configuration, and wires together what the other crates do.

mod admin;
mod beside;
mod broker;
mod cli;
mod command;
mod config;
mod daemon;
mod failure;
mod host;
mod logs;
mod register;
mod show;
mod table;
mod terminal;
mod when;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match command::run(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
