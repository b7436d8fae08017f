//! `hawser login`: the users with passwords of the published names of a gateway.

use std::path::Path;

use anyhow::Context as _;
use hawser_gateway::public::login::users::Users;

use super::domain;
use crate::{
    cli::{GatewayState, login::LoginCommand},
    table::Table,
    terminal, when,
};

pub(super) async fn run(config: &Path, command: LoginCommand) -> anyhow::Result<()> {
    match command {
        LoginCommand::Set {
            name,
            password_file,
            state,
        } => {
            let users = users(config, &state)?;
            let password = terminal::password(password_file.as_deref(), &format!("Password for {name}: "))?;
            users.set(&name, &password).await?;
            eprintln!("Done: {name} may log in with this password.");
            Ok(())
        }
        LoginCommand::Remove { name, state } => {
            users(config, &state)?.remove(&name).await?;
            eprintln!("Done: {name} may not log in any more.");
            Ok(())
        }
        LoginCommand::List { state, output } => {
            let all = users(config, &state)?.list().await?;
            if output.json {
                return terminal::print_json(&all);
            }
            let mut table = Table::new(["USER", "PASSWORD SINCE"]);
            for user in all {
                table.row([user.name, when::date(user.since)]);
            }
            if table.is_empty() {
                eprintln!("There are no users yet; `hawser login set USER` adds one.");
                return Ok(());
            }
            terminal::print(&table.to_string())
        }
    }
}

fn users(config: &Path, at: &GatewayState) -> anyhow::Result<Users> {
    let directory = domain::existing(config, at)?;
    Users::open(&directory).with_context(|| format!("the state in {} cannot be opened", directory.display()))
}
