//! `hawser hub admitted`, `revoke`, `forget`: whom a hub lets in. A running hub takes changes up within a second.

use std::path::Path;

use hawser_hub::Subject;
use hawser_proto::{DomainName, arbiter::Award};
use hawser_store::Store;
use serde_json::json;

use crate::{
    cli::{Output, hub::HubCommand},
    command::state,
    table::Table,
    terminal, when,
};

/// What makes a hub's state directory.
const MADE_BY: &str = "`hawser hub` or `hawser token hub`";

pub(super) async fn run(config: &Path, command: HubCommand) -> anyhow::Result<()> {
    match command {
        // Carried out by the daemon.
        HubCommand::Run => Ok(()),
        HubCommand::Admitted { state, output } => {
            admitted(&state::store(&state::hub(config, &state)?, MADE_BY)?, output).await
        }
        HubCommand::Revoke { who, state } => {
            let store = state::store(&state::hub(config, &state)?, MADE_BY)?;
            let subject = Subject::from(who);
            hawser_hub::revoke(&store, &subject).await?;
            eprintln!(
                "Done: {} is revoked at this hub; its sessions here are cut within a second.",
                named(&subject)
            );
            Ok(())
        }
        HubCommand::Register {
            forget: Some(vm),
            domain: Some(domain),
            nobody_runs_it,
            state,
            ..
        } => {
            let store = state::store(&state::hub(config, &state)?, MADE_BY)?;
            if hawser_hub::forget_registered(&store, &domain, vm, nobody_runs_it).await? {
                eprintln!("Done: the machine {vm} of {domain} is forgotten.");
            } else {
                eprintln!("Nothing to do: {domain} has no machine {vm} in the register.");
            }
            Ok(())
        }
        HubCommand::Register {
            domain,
            state,
            output,
            ..
        } => {
            let store = state::store(&state::hub(config, &state)?, MADE_BY)?;
            register(&store, domain.as_ref(), output).await
        }
        HubCommand::Forget { who, state } => {
            let store = state::store(&state::hub(config, &state)?, MADE_BY)?;
            let subject = Subject::from(who);
            if hawser_hub::forget(&store, &subject).await? {
                eprintln!("Done: {} is forgotten.", named(&subject));
            } else {
                eprintln!("Nothing to do: {} was not known.", named(&subject));
            }
            Ok(())
        }
    }
}

/// The machines in the register, of one domain or of all.
async fn register(store: &Store, of: Option<&DomainName>, output: Output) -> anyhow::Result<()> {
    let mut machines = hawser_hub::registered(store).await?;
    machines.retain(|m| of.is_none_or(|domain| m.domain == *domain));
    if output.json {
        return terminal::print_json(&machines);
    }
    let mut table = Table::new([
        "DOMAIN", "MACHINE", "STATE", "ACTIVE", "STANDBY", "TERM", "BY", "SINCE",
    ]);
    for machine in &machines {
        let (state, active, standby) = match &machine.record.award {
            Award::Protected { active, standby, .. } => ("protected", active, standby.to_string()),
            Award::Alone { host } => ("alone", host, "-".into()),
            Award::Stopped { host } => ("stopped", host, "-".into()),
        };
        table.row([
            machine.domain.to_string(),
            machine.vm.to_string(),
            state.into(),
            active.to_string(),
            standby,
            machine.record.term.to_string(),
            machine.record.by.to_string(),
            when::date(machine.at),
        ]);
    }
    if table.is_empty() {
        eprintln!("No machine is in the register. `hawser protect start` on a host puts one there.");
        return Ok(());
    }
    terminal::print(&table.to_string())
}

async fn admitted(store: &Store, output: Output) -> anyhow::Result<()> {
    let admitted = hawser_hub::admitted(store).await?;
    let revoked = hawser_hub::revoked(store).await?;
    if output.json {
        let admitted = admitted
            .iter()
            .map(|a| json!({ "domain": a.domain, "root": a.root, "since": a.at }));
        let revoked = revoked
            .iter()
            .map(|(who, at)| json!({ "who": who.to_string(), "since": at }));
        return terminal::print_json(&json!({
            "admitted": admitted.collect::<Vec<_>>(),
            "revoked": revoked.collect::<Vec<_>>(),
        }));
    }
    let mut table = Table::new(["DOMAIN", "SINCE", "ROOT"]);
    for domain in &admitted {
        table.row([
            domain.domain.to_string(),
            when::date(domain.at),
            domain.root.to_string(),
        ]);
    }
    if table.is_empty() {
        eprintln!("No domain is admitted. `hawser token hub DOMAIN` makes a token that lets one in.");
    } else {
        terminal::print(&table.to_string())?;
    }
    let mut table = Table::new(["REVOKED", "SINCE"]);
    for (who, at) in &revoked {
        table.row([named(who), when::date(*at)]);
    }
    if table.is_empty() {
        Ok(())
    } else {
        terminal::print(&format!("\n{table}"))
    }
}

fn named(subject: &Subject) -> String {
    match subject {
        Subject::Node(id) => id.to_string(),
        Subject::Domain(domain) => format!("the domain {domain}"),
    }
}
