//! One module for each command.

mod asking;
mod callbacks;
mod check;
mod completions;
mod device;
mod doctor;
mod domain;
mod hub;
mod inspect;
mod join;
mod login;
mod man;
mod people;
mod protect;
mod queue;
mod reference;
mod services;
mod state;
mod status;
mod token;
mod vm;

use std::future::Future;

use anyhow::Context as _;

use crate::{
    cli::{Cli, Command, hub::HubCommand},
    daemon::{self, Which},
};

/// Carries out what the command line says.
pub(crate) fn run(cli: Cli) -> anyhow::Result<()> {
    let config = &cli.config;
    match cli.command {
        Command::Run => daemon::run(config, Which::All),
        Command::Hub {
            command: None | Some(HubCommand::Run),
        } => daemon::run(config, Which::Hub),
        Command::Gateway => daemon::run(config, Which::Gateway),
        Command::Host => daemon::run(config, Which::Host),
        Command::Protect(command) => small(protect::run(config, command)),
        Command::Hub {
            command: Some(command),
        } => small(hub::run(config, command)),
        Command::Domain(command) => small(domain::run(config, command)),
        Command::Token(command) => small(token::run(config, command)),
        Command::Join(args) => small(join::run(config, args)),
        Command::Services(args) => small(services::run(config, args)),
        Command::Queue(command) => small(queue::run(config, command)),
        Command::Callbacks(command) => small(callbacks::run(config, command)),
        Command::Inspect(args) => small(inspect::run(config, args)),
        Command::Login(command) => small(login::run(config, command)),
        Command::Status { output } => small(status::run(config, output)),
        Command::Check { output } => check::run(config, output),
        Command::Doctor { output, timeout } => small(doctor::run(config, output, timeout)),
        Command::Vm(command) => vm::run(command),
        Command::User(command) => small(people::user(config, command)),
        Command::Group(command) => small(people::group(config, command)),
        Command::Application(command) => small(people::application(config, command)),
        Command::Enrol(args) => small(people::enrol(config, args)),
        Command::Device(command) => small(people::device(config, command)),
        Command::Audit(args) => small(people::audit(config, args)),
        Command::Completions { shell } => completions::run(shell),
        Command::Man { directory } => man::run(directory.as_deref()),
        Command::Reference { page } => reference::run(page),
    }
}

/// Runs a command that is done in a moment.
fn small<F: Future<Output = anyhow::Result<()>>>(command: F) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime could not start")?
        .block_on(command)
}
