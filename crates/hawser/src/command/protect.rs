//! `hawser protect`: what a host is told to do with a machine, and what it says of its machines.

mod show;

use std::{
    io::{IsTerminal as _, Write as _},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, bail};
use hawser_protect::host::{
    Planned, Request,
    status::{HostStatus, MachineStatus, Role},
};
use serde_json::json;

use super::state;
use crate::{
    admin,
    cli::machines::{ProtectCommand, StartArgs, StatusArgs},
    failure::NothingRuns,
    terminal,
};

/// How long the agent may take to answer, the standby's plan included.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often `--watch` draws.
const DRAW: Duration = Duration::from_millis(500);

pub(super) async fn run(config: &Path, command: ProtectCommand) -> anyhow::Result<()> {
    match command {
        ProtectCommand::Start(args) => start(config, args).await,
        ProtectCommand::Status(args) => status(config, args).await,
        ProtectCommand::Stop { machine, state } => {
            let directory = state::host(config, &state)?;
            tell(
                &directory,
                config,
                "/protect/stop",
                &json!({ "machine": machine }),
            )
            .await?;
            wait(&directory, config, &machine, |m| {
                matches!(m.role, Role::Alone | Role::Gone)
            })
            .await?;
            terminal::print(&format!("{machine} runs on, unprotected\n"))
        }
        ProtectCommand::Fail { machine, yes, state } => {
            let question = format!(
                "The machine {machine} ends on the host where it runs, and goes on at the standby. Go on?"
            );
            if !yes && !terminal::ask(&question)? {
                bail!("nothing was done");
            }
            let directory = state::host(config, &state)?;
            tell(
                &directory,
                config,
                "/protect/fail",
                &json!({ "machine": machine }),
            )
            .await?;
            let ended = wait(&directory, config, &machine, |m| {
                matches!(m.role, Role::Alone | Role::Gone)
            })
            .await?;
            terminal::print(&format!("{}\n", show::outcome(&ended)))
        }
        ProtectCommand::Recover { state } => {
            let directory = state::host(config, &state)?;
            let done = tell(&directory, config, "/protect/recover", &json!({})).await?;
            let lines: Vec<String> = serde_json::from_value(done)?;
            terminal::print(&if lines.is_empty() {
                "nothing was left to recover\n".into()
            } else {
                lines.iter().map(|l| format!("{l}\n")).collect::<String>()
            })
        }
    }
}

async fn start(config: &Path, args: StartArgs) -> anyhow::Result<()> {
    let directory = state::host(config, &args.state)?;
    let request = Request {
        machine: args.machine.clone(),
        qmp: args.qmp.map(std::path::absolute).transpose()?,
        to: args.to,
        address: args.address,
    };
    let answer = tell(&directory, config, "/protect/plan", &request).await?;
    let planned: Planned = serde_json::from_value(answer).context("the plan cannot be read")?;
    if args.plan && args.json {
        return terminal::print_json(&planned);
    }
    eprint!("{}", show::plan(&planned));
    if args.plan {
        return Ok(());
    }
    let question = format!("Protect {} so?", planned.machine);
    if !args.yes && std::io::stdin().is_terminal() && !terminal::ask(&question)? {
        bail!("nothing was changed");
    }
    tell(
        &directory,
        config,
        "/protect/begin",
        &json!({ "machine": planned.uuid }),
    )
    .await?;
    if args.no_wait {
        return Ok(());
    }
    let uuid = planned.uuid.to_string();
    let protected = wait(&directory, config, &uuid, |m| {
        m.phase == "protected" || m.role != Role::Active
    })
    .await?;
    if protected.role != Role::Active {
        bail!("{}", protected.message);
    }
    if args.json {
        return terminal::print_json(&protected);
    }
    terminal::print(&format!(
        "{} is protected: {} stands by (epoch {}, term {})\n",
        protected.name, planned.host, protected.committed, protected.term
    ))
}

/// Follows a machine until something holds, drawing its progress where somebody looks.
async fn wait(
    directory: &Path,
    config: &Path,
    machine: &str,
    holds: impl Fn(&MachineStatus) -> bool,
) -> anyhow::Result<MachineStatus> {
    let draws = std::io::stderr().is_terminal();
    let mut last = String::new();
    loop {
        let status = read(directory, config).await?;
        let found = status
            .machines
            .into_iter()
            .find(|m| m.name == machine || m.machine.to_string() == machine)
            .with_context(|| format!("the agent knows {machine} no longer"))?;
        let line = show::progress(&found);
        let done = holds(&found);
        if draws {
            eprint!("\r\x1b[K{line}");
            if done {
                eprint!("\r\x1b[K");
            }
            std::io::stderr().flush()?;
        } else if found.phase != last {
            eprintln!("{line}");
            last.clone_from(&found.phase);
        }
        if done {
            return Ok(found);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn status(config: &Path, args: StatusArgs) -> anyhow::Result<()> {
    let directory = state::host(config, &args.state)?;
    loop {
        let mut status = read(&directory, config).await?;
        if let Some(name) = &args.machine {
            status
                .machines
                .retain(|m| m.name == *name || m.machine.to_string() == *name);
            if status.machines.is_empty() {
                bail!(
                    "this host has nothing to do with a machine {name}: `hawser protect status` lists those it knows"
                );
            }
        }
        if args.output.json {
            terminal::print_json(&status)?;
        } else {
            let clear = if args.watch && std::io::stdout().is_terminal() {
                "\x1b[H\x1b[2J"
            } else {
                ""
            };
            terminal::print(&format!("{clear}{}", show::host(&status)))?;
        }
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(DRAW).await;
    }
}

async fn read(directory: &Path, config: &Path) -> anyhow::Result<HostStatus> {
    let answer = admin::ask(directory, "/status").await?;
    let answer = answer.ok_or_else(|| nothing_runs(directory, config))?;
    serde_json::from_value(answer).context("the agent's status cannot be read: it is of another version")
}

async fn tell(
    directory: &Path,
    config: &Path,
    path: &str,
    body: &impl serde::Serialize,
) -> anyhow::Result<serde_json::Value> {
    let answer = admin::tell(directory, path, body, PATIENCE).await?;
    answer.ok_or_else(|| nothing_runs(directory, config))
}

fn nothing_runs(directory: &Path, config: &Path) -> anyhow::Error {
    NothingRuns(format!(
        "no agent runs on {}; start it with `hawser host -c {}`",
        directory.display(),
        config.display()
    ))
    .into()
}
