//! `hawser callbacks`: what becomes of a recorded message, and the secrets that seal addresses.

use std::{io::Read as _, net::IpAddr, path::Path};

use anyhow::Context as _;
use hawser_callback::recorded::{Account, Recorded};
use hawser_gateway::{
    callbacks::{end, preview::preview, rotate},
    config::GatewayConfig,
};
use hawser_identity::Credentials;
use hawser_proto::{DomainName, ServiceId};
use hyper::header::CONTENT_LENGTH;
use serde_json::json;

use super::state;
use crate::{
    cli::{GatewayState, Output, calls::CallbacksCommand},
    terminal, when,
};

/// Largest recorded message in bytes.
const MAX_RECORDED: u64 = 64 << 20;

pub(super) async fn run(config: &Path, command: CallbacksCommand) -> anyhow::Result<()> {
    match command {
        CallbacksCommand::Rotate { state } => make_fresh(config, &state).await,
        CallbacksCommand::End { address, state } => end_one(config, &address, &state).await,
        CallbacksCommand::Test {
            file,
            service,
            client,
            raw,
            output,
        } => test(config, &file, service, client, raw, output),
    }
}

async fn end_one(config: &Path, address: &str, state: &GatewayState) -> anyhow::Result<()> {
    let directory = state::gateway(config, state)?;
    let original = end(&directory, address)
        .await
        .context("the address was not ended")?;
    terminal::print(&format!("ended: it led to {original}\n"))
}

async fn make_fresh(config: &Path, state: &GatewayState) -> anyhow::Result<()> {
    let directory = state::gateway(config, state)?;
    let (id, from) = rotate(&directory).await.context("no fresh secret was made")?;
    terminal::print(&format!(
        "secret {id:08x} seals from {} on; until then the other gateways get it\n",
        when::date(from)
    ))
}

fn test(
    config: &Path,
    file: &Path,
    service: Option<ServiceId>,
    client: Option<IpAddr>,
    raw: bool,
    output: Output,
) -> anyhow::Result<()> {
    let gateway = state::read(config)?.and_then(|c| c.gateway).unwrap_or_default();
    let plan = gateway.check()?;
    let message = Recorded::parse(&read(file)?).with_context(|| file.display().to_string())?;
    let (service, account) = preview(&plan, own(&gateway)?, service, client, &message)?;
    if raw {
        let body = account
            .body
            .as_ref()
            .map_err(|refusal| anyhow::anyhow!("the message is refused: {refusal}"))?;
        return terminal::write(&whole(&message, &account, body));
    }
    if output.json {
        let replaced: Vec<_> = account
            .report
            .replaced
            .iter()
            .map(|r| json!({ "place": r.place.to_string(), "from": r.from, "to": r.to }))
            .collect();
        let left: Vec<_> = account
            .report
            .left
            .iter()
            .map(|l| json!({ "place": l.place.as_ref().map(ToString::to_string), "why": l.why.to_string() }))
            .collect();
        let refused = account.body.as_ref().err().map(ToString::to_string);
        return terminal::print_json(
            &json!({ "service": service, "replaced": replaced, "left": left, "refused": refused }),
        );
    }
    let mut text = format!("for {service}:\n");
    for line in &account.lines {
        text += &format!("  {line}\n");
    }
    terminal::print(&text)?;
    match account.body {
        Ok(_) => Ok(()),
        Err(refusal) => anyhow::bail!("the message would be refused: {refusal}"),
    }
}

/// The domain of the gateway that the configuration is for; any, if it has joined none yet.
fn own(gateway: &GatewayConfig) -> anyhow::Result<DomainName> {
    match Credentials::load(&gateway.state) {
        Ok(credentials) => Ok(credentials.id().domain.clone()),
        Err(_) => Ok("here".parse()?),
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let source: Box<dyn std::io::Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).with_context(|| file.display().to_string())?)
    };
    source
        .take(MAX_RECORDED)
        .read_to_end(&mut bytes)
        .with_context(|| file.display().to_string())?;
    Ok(bytes)
}

/// The message as it would leave.
fn whole(message: &Recorded, account: &Account, body: &[u8]) -> Vec<u8> {
    let mut first = message.first.clone();
    if let (Some(before), Some(after)) = (&message.target, &account.target) {
        first = first.replacen(before.as_str(), after.as_str(), 1);
    }
    let mut bytes = format!("{first}\r\n").into_bytes();
    for (name, value) in &account.headers {
        if *name == CONTENT_LENGTH {
            bytes.extend_from_slice(format!("{name}: {}\r\n", body.len()).as_bytes());
            continue;
        }
        bytes.extend_from_slice(format!("{name}: ").as_bytes());
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}
