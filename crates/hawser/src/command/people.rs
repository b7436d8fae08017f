//! `hawser user`, `group`, `application`, `enrol`, `device list`, `device revoke`, `audit`: the broker's administration. All
//! of it is written to the gateway's store; a running gateway takes changes up within a second.

use std::{collections::HashMap, io::IsTerminal as _, path::Path};

use anyhow::{Context as _, bail};
use hawser_broker::Directory;
use hawser_identity::Credentials;
use hawser_proto::{
    UnixTime,
    broker::{DeviceHandle, UserName, enrolment::Fragment},
};
use hawser_store::Store;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::json;
use zeroize::Zeroizing;

use super::{domain, state};
use crate::{
    cli::{
        GatewayState, Output,
        people::{ApplicationCommand, AuditArgs, DeviceCommand, EnrolArgs, GroupCommand, UserCommand},
    },
    table::Table,
    terminal, when,
};

fn directory(config: &Path, at: &GatewayState) -> anyhow::Result<Directory> {
    let directory = domain::existing(config, at)?;
    let store = Store::open(&directory)
        .with_context(|| format!("the state in {} cannot be opened", directory.display()))?;
    Ok(Directory::new(&store))
}

pub(super) async fn user(config: &Path, command: UserCommand) -> anyhow::Result<()> {
    match command {
        UserCommand::Add { names, state } => {
            let directory = directory(config, &state)?;
            for name in &names {
                directory.add_user(name).await?;
                eprintln!("Done: there is a user {name}; `hawser enrol {name}` makes a link for a device.");
            }
            Ok(())
        }
        UserCommand::Remove { name, state } => {
            let revoked = directory(config, &state)?.remove_user(&name).await?;
            eprintln!(
                "Done: the user {name} is removed, and {} with it.",
                count(revoked.len(), "device")
            );
            Ok(())
        }
        UserCommand::List { state, output } => {
            let users = directory(config, &state)?.users().await?;
            if output.json {
                return terminal::print_json(&users);
            }
            let mut table = Table::new(["USER", "DEVICES", "GROUPS", "SINCE"]);
            for user in users {
                table.row([
                    user.name.to_string(),
                    user.devices.to_string(),
                    names(&user.groups),
                    when::date(user.created),
                ]);
            }
            show(&table, "There are no users yet; `hawser user add USER` adds one.")
        }
    }
}

pub(super) async fn group(config: &Path, command: GroupCommand) -> anyhow::Result<()> {
    match command {
        GroupCommand::Add { name, state } => {
            directory(config, &state)?.add_group(&name).await?;
            eprintln!("Done: there is a group {name}; `hawser group join {name} USER` puts users into it.");
            Ok(())
        }
        GroupCommand::Remove { name, state } => {
            directory(config, &state)?.remove_group(&name).await?;
            eprintln!("Done: the group {name} is removed.");
            Ok(())
        }
        GroupCommand::Join { group, users, state } => {
            let directory = directory(config, &state)?;
            for user in &users {
                directory.join_group(&group, user).await?;
                eprintln!("Done: {user} is in the group {group}.");
            }
            Ok(())
        }
        GroupCommand::Leave { group, users, state } => {
            let directory = directory(config, &state)?;
            for user in &users {
                directory.leave_group(&group, user).await?;
                eprintln!("Done: {user} is not in the group {group}.");
            }
            Ok(())
        }
        GroupCommand::List { state, output } => {
            let groups = directory(config, &state)?.groups().await?;
            if output.json {
                return terminal::print_json(&groups);
            }
            let mut table = Table::new(["GROUP", "MEMBERS"]);
            for group in groups {
                table.row([group.name.to_string(), names(&group.members)]);
            }
            show(
                &table,
                "There are no groups yet; `hawser group add GROUP` adds one.",
            )
        }
    }
}

pub(super) async fn application(config: &Path, command: ApplicationCommand) -> anyhow::Result<()> {
    match command {
        ApplicationCommand::Add {
            name,
            certificate,
            state,
        } => {
            let certificate = certificate.as_deref().map(certificate_hash).transpose()?;
            let token = directory(config, &state)?
                .add_application(&name, certificate)
                .await?;
            eprintln!(
                "The application {name} may publish with this token, which is kept nowhere else:\n\
                 Authorization: Bearer TOKEN"
            );
            terminal::print(&format!("{}\n", *token))
        }
        ApplicationCommand::Remove { name, state } => {
            directory(config, &state)?.remove_application(&name).await?;
            eprintln!("Done: the application {name} cannot publish any more.");
            Ok(())
        }
        ApplicationCommand::List { state, output } => {
            let applications = directory(config, &state)?.applications().await?;
            if output.json {
                return terminal::print_json(&applications);
            }
            let mut table = Table::new(["APPLICATION", "SINCE", "CERTIFICATE (SHA-256)"]);
            for application in applications {
                table.row([
                    application.name.to_string(),
                    when::date(application.created),
                    application.certificate.unwrap_or_default(),
                ]);
            }
            show(
                &table,
                "There are no applications yet; `hawser application add NAME` lets one publish.",
            )
        }
    }
}

/// The link alone goes to standard output; a code for a camera and what it is for go to standard error.
pub(super) async fn enrol(config: &Path, args: EnrolArgs) -> anyhow::Result<()> {
    let directory = directory(config, &args.state)?;
    let Some(broker) = state::read(config)?
        .and_then(|c| c.gateway)
        .and_then(|g| g.broker)
    else {
        bail!(
            "{} has no [gateway.broker] table, whose `name` devices reach the gateway by: set it there",
            config.display()
        );
    };
    let own = Credentials::load(&domain::existing(config, &args.state)?)?;
    let link = directory.make_link(&args.user, args.life).await?;
    let fragment = Fragment {
        enrolment: link.enrolment,
        secret: *link.secret,
        domain: own.id().domain.clone(),
        root: own.root().0,
    };
    let control = crate::broker::origin(&broker.name, broker.port);
    let text = Zeroizing::new(format!("{control}/enrol#{}", fragment.to_text()));
    if std::io::stderr().is_terminal() && !args.no_qr {
        let code = qrcode::QrCode::new(text.as_bytes()).context("the link does not fit into a code")?;
        eprintln!("{}", code.render::<qrcode::render::unicode::Dense1x2>().build());
    }
    eprintln!(
        "This link makes one device {}'s, once, until {}.\n\
         Bring it to the user over a channel that you trust. In a browser it is opened; elsewhere: hawser device enrol < LINK",
        args.user,
        when::date(link.expires)
    );
    terminal::print(&format!("{}\n", *text))
}

pub(super) async fn device(config: &Path, command: DeviceCommand) -> anyhow::Result<()> {
    match command {
        DeviceCommand::Own(command) => super::device::run(command).await,
        DeviceCommand::Revoke { device, state } => {
            let directory = directory(config, &state)?;
            let known = directory.device(&device).await?.with_context(|| {
                format!("there is no device {device}; `hawser device list` shows those there are")
            })?;
            directory
                .revoke(
                    &device,
                    hawser_broker::directory::ADMINISTRATOR,
                    "by the command line",
                )
                .await?;
            eprintln!("Done: {}'s device {} is revoked.", known.user, known.name);
            Ok(())
        }
        DeviceCommand::List {
            user,
            all,
            state,
            output,
        } => devices(&directory(config, &state)?, user.as_ref(), all, output).await,
    }
}

async fn devices(
    directory: &Directory,
    of: Option<&UserName>,
    all: bool,
    output: Output,
) -> anyhow::Result<()> {
    let mut devices = directory.devices().await?;
    devices.retain(|d| of.is_none_or(|user| d.user == *user) && (all || d.revoked.is_none()));
    let contacts: HashMap<DeviceHandle, (UnixTime, bool)> = directory
        .contacts()
        .await?
        .into_iter()
        .map(|(device, at, connected)| (device, (at, connected)))
        .collect();
    if output.json {
        let views: Vec<_> = devices
            .iter()
            .map(|d| {
                let contact = contacts.get(&d.handle);
                json!({
                    "device": d.handle, "user": d.user, "name": d.name, "enrolled": d.enrolled, "check": d.check, "epoch": d.epoch,
                    "profile": d.profile, "revoked": d.revoked,
                    "last_contact": contact.map(|c| c.0), "connected": contact.is_some_and(|c| c.1),
                })
            })
            .collect();
        return terminal::print_json(&views);
    }
    let mut table = Table::new(["DEVICE", "USER", "NAME", "SINCE", "CHECK", "LAST CONTACT"]);
    for device in devices {
        let contact = match (&device.revoked, contacts.get(&device.handle)) {
            (Some(revoked), _) => format!("revoked {} by {}", when::relative(revoked.at), revoked.by),
            (None, Some((_, true))) => "connected".into(),
            (None, Some((at, false))) => when::relative(*at),
            (None, None) => "never".into(),
        };
        table.row([
            device.handle.to_string(),
            device.user.to_string(),
            device.name,
            when::date(device.enrolled),
            device.check.unwrap_or_default(),
            contact,
        ]);
    }
    show(
        &table,
        "There are no devices; `hawser enrol USER` makes a link for one.",
    )
}

pub(super) async fn audit(config: &Path, args: AuditArgs) -> anyhow::Result<()> {
    let (entries, head) = directory(config, &args.state)?.audit().verify().await?;
    if let Some(since) = &args.since {
        let kept = entries.iter().any(|e| {
            *since
                == hawser_broker::directory::Head {
                    number: e.number,
                    hash: e.hash(),
                }
                .to_string()
        });
        if !kept {
            bail!("the log does not contain {since}: it was rewritten, or that is another gateway's");
        }
    }
    let skip = args.last.map_or(0, |last| entries.len().saturating_sub(last));
    if args.output.json {
        return terminal::print_json(&json!({ "head": head, "entries": &entries[skip..] }));
    }
    let mut table = Table::new(["NUMBER", "WHEN", "WHO", "WHAT", "WHOM", "MORE"]);
    for entry in entries.into_iter().skip(skip) {
        table.row([
            entry.number.to_string(),
            when::date(entry.at),
            entry.actor,
            entry.action,
            entry.subject,
            entry.detail,
        ]);
    }
    show(&table, "Nothing has been changed yet.")?;
    eprintln!("The log is whole. Its head, to keep elsewhere: {head}");
    Ok(())
}

/// SHA-256 of the first certificate in a PEM file.
fn certificate_hash(path: &Path) -> anyhow::Result<[u8; 32]> {
    let certificate = CertificateDer::from_pem_file(path)
        .map_err(|e| anyhow::anyhow!("{} holds no certificate in PEM: {e}", path.display()))?;
    Ok(hawser_seal::sha256(&certificate))
}

fn show<const N: usize>(table: &Table<N>, nothing: &str) -> anyhow::Result<()> {
    if table.is_empty() {
        eprintln!("{nothing}");
        return Ok(());
    }
    terminal::print(&table.to_string())
}

fn names(of: &[UserName]) -> String {
    of.iter().map(UserName::as_str).collect::<Vec<_>>().join(" ")
}

fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}
