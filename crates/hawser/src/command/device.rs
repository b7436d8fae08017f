//! `hawser device enrol`, `listen`, `fetch`, `ack`, `profile`: this machine as a user's device. None of them needs a
//! configuration file or a running process.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hawser_device::{Arrived, Cost, Device, Enrolment, Handled, Home, Message, Receiver, enrol};
use hawser_proto::broker::{ItemId, api::Profile, envelope::Content};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

use crate::{
    cli::{
        Output,
        device::{DeviceHome, OwnCommand, ProfileArgs},
    },
    terminal, when,
};

/// How long a command may take for one message.
const EXEC: Duration = Duration::from_secs(300);

pub(super) async fn run(command: OwnCommand) -> anyhow::Result<()> {
    match command {
        OwnCommand::Enrol { name, profile, home } => enrolment(name, profile, &home).await,
        OwnCommand::Listen {
            json,
            exec,
            count,
            home,
        } => {
            let mut device = open(&home)?;
            let mut show = Show {
                json,
                exec,
                left: count,
                failed: None,
            };
            device.listen(&mut show).await?;
            show.failed.map_or(Ok(()), Err)
        }
        OwnCommand::Fetch {
            item,
            accept,
            output,
            home,
        } => fetch(item, &accept, output.as_deref(), &home).await,
        OwnCommand::Ack { sequence, home } => {
            open(&home)?.seen(sequence).await?;
            eprintln!("Done: the publisher can see that message {sequence} was seen.");
            Ok(())
        }
        OwnCommand::Profile {
            profile,
            output,
            home,
        } => change_profile(&profile, &output, &home).await,
    }
}

fn directory(home: &DeviceHome) -> anyhow::Result<Home> {
    if let Some(home) = &home.home {
        return Ok(Home::new(home));
    }
    let data = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|p| p.is_absolute());
    let data = match (data, std::env::var_os("HOME")) {
        (Some(data), _) => data,
        (None, Some(home)) => Path::new(&home).join(".local/share"),
        (None, None) => bail!("where the device is kept is not known: give --home DIR"),
    };
    Ok(Home::new(data.join("hawser/device")))
}

fn open(home: &DeviceHome) -> anyhow::Result<Device> {
    let at = directory(home)?;
    // Before anybody is asked for a passphrase.
    at.identity()?;
    let passphrase = terminal::passphrase(home.passphrase_file.as_deref(), false)?;
    Ok(Device::open(at, &passphrase)?)
}

fn changed(mut profile: Profile, args: &ProfileArgs) -> Profile {
    if let Some(accept) = &args.accept {
        profile.accept.clone_from(accept);
    }
    if let Some(most) = args.max_bytes {
        profile.max_bytes = most;
    }
    if let Some(language) = &args.language {
        profile.languages.clone_from(language);
    }
    profile.screen = args.screen.or(profile.screen);
    profile
}

async fn enrolment(name: Option<String>, profile: ProfileArgs, home: &DeviceHome) -> anyhow::Result<()> {
    let at = directory(home)?;
    if at.identity().is_ok() {
        return Err(hawser_device::DeviceError::Enrolled(at.path().into()).into());
    }
    let link = terminal::read_link()?;
    let passphrase = terminal::passphrase(home.passphrase_file.as_deref(), true)?;
    let machine = || {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        match name.trim() {
            "" => "command line".into(),
            name => name.to_owned(),
        }
    };
    let enrolment = Enrolment {
        link: link.to_string(),
        name: name.unwrap_or_else(machine),
        profile: changed(Profile::default(), &profile),
        cost: Cost::default(),
    };
    let check = |number: &str| eprintln!("Check number, the same in the administrator's list: {number}");
    let identity = enrol(&at, &enrolment, &passphrase, check).await?;
    eprintln!(
        "Done: this is {}'s device {} ({}) in the domain {}, kept in {}.\nNow: hawser device listen",
        identity.user,
        identity.name,
        identity.device,
        identity.domain,
        at.path().display()
    );
    Ok(())
}

async fn fetch(item: ItemId, accept: &str, output: Option<&Path>, home: &DeviceHome) -> anyhow::Result<()> {
    let content = open(home)?.fetch(item, accept).await?.content;
    if let Some(path) = output {
        std::fs::write(path, &content.body)
            .with_context(|| format!("{} cannot be written", path.display()))?;
        eprintln!(
            "Done: {} bytes of {} in {}.",
            content.body.len(),
            clean(&content.content_type),
            path.display()
        );
        return Ok(());
    }
    if !std::io::stdout().is_terminal() {
        return terminal::write(&content.body);
    }
    match text(&content) {
        Some(text) => terminal::print(&format!("{text}\n")),
        None => bail!(
            "it is {} of {} bytes, and not for a terminal: give --output FILE",
            clean(&content.content_type),
            content.body.len()
        ),
    }
}

async fn change_profile(args: &ProfileArgs, output: &Output, home: &DeviceHome) -> anyhow::Result<()> {
    let mut device = open(home)?;
    let before = device.view().await?.profile;
    let profile = changed(before.clone(), args);
    if profile != before {
        device.set_profile(profile.clone()).await?;
    }
    if output.json {
        return terminal::print_json(&profile);
    }
    let screen = profile
        .screen
        .map_or("not known".into(), |(w, h)| format!("{w}x{h}"));
    terminal::print(&format!(
        "accept     {}\nmax bytes  {}\nscreen     {screen}\nlanguages  {}\n",
        profile.accept, profile.max_bytes, profile.languages
    ))
}

/// Shows what comes.
struct Show {
    json: bool,
    exec: Option<String>,
    /// How many messages are still wanted.
    left: Option<u64>,
    /// Why no more can be shown.
    failed: Option<anyhow::Error>,
}

impl Receiver for Show {
    async fn receive(&mut self, arrived: Arrived) -> Handled {
        if self.left == Some(0) {
            return Handled::Enough;
        }
        let shown = match self.json {
            true => terminal::hand_over(format!("{}\n", as_json(&arrived)).as_bytes()),
            false => as_text(&arrived),
        };
        match shown {
            Ok(true) => {}
            // Nobody reads, or can: it must come again, and nothing is acknowledged from here on.
            other => {
                self.failed = other.err();
                return Handled::Abandon;
            }
        }
        let Arrived::Message(message) = arrived else {
            return Handled::Delivered;
        };
        if let Some(command) = &self.exec
            && let Err(e) = execute(command, &message).await
        {
            eprintln!("hawser: message {}: {e:#}", message.header.sequence);
            return Handled::NotDelivered;
        }
        self.left = self.left.map(|left| left.saturating_sub(1));
        match self.left {
            Some(0) => Handled::Enough,
            _ => Handled::Delivered,
        }
    }
}

/// Text that moves no cursor and forges no line.
fn clean(text: &str) -> String {
    let visible = |c: char| match c.is_control() {
        true => ' ',
        false => c,
    };
    text.chars().map(visible).collect()
}

/// A body for a terminal; `None`: it is no text.
fn text(content: &Content) -> Option<String> {
    let text = std::str::from_utf8(&content.body).ok()?;
    let is_text = content.content_type.starts_with("text/") || content.content_type.contains("json");
    let visible = |c: char| match c.is_control() && !matches!(c, '\n' | '\t') {
        true => ' ',
        false => c,
    };
    is_text.then(|| text.trim_end().chars().map(visible).collect())
}

/// False, if nobody reads any more.
fn as_text(arrived: &Arrived) -> anyhow::Result<bool> {
    match arrived {
        Arrived::Message(message) => return terminal::hand_over(message_text(message).as_bytes()),
        Arrived::Connected => eprintln!("Listening."),
        Arrived::Refused { sequence, error } => {
            let number = sequence.map_or("A message".into(), |n| format!("Message {n}"));
            eprintln!("{number} is not shown: {error}.");
        }
        Arrived::Withheld(gap) => eprintln!(
            "Withheld: messages {} to {} did not come, and nothing explains that yet.",
            gap.from, gap.to
        ),
        Arrived::Disconnected { error, retry } => {
            eprintln!(
                "Not connected: {error}; trying again in {} s.",
                retry.as_secs().max(1)
            );
        }
        _ => {}
    }
    Ok(true)
}

fn message_text(message: &Message) -> String {
    let content = &message.content;
    let mut out = format!(
        "{}  {}  {}  {}\n",
        message.header.sequence,
        when::date(content.created),
        clean(&content.event_type),
        clean(content.subject.as_deref().unwrap_or("")),
    );
    match text(content) {
        Some(text) if text.is_empty() => {}
        Some(text) => out.push_str(&format!("{text}\n")),
        None => out.push_str(&format!(
            "({}, {} bytes: use --json or --exec)\n",
            clean(&content.content_type),
            content.body.len()
        )),
    }
    if let Some(item) = content.item {
        let size = content.size.map_or(String::new(), |n| format!(" ({n} bytes)"));
        out.push_str(&format!("More{size}: hawser device fetch {item}\n"));
    }
    out.push('\n');
    out
}

fn as_json(arrived: &Arrived) -> Value {
    match arrived {
        Arrived::Connected => json!({ "event": "connected" }),
        Arrived::Message(message) => message_json(message),
        Arrived::Refused { sequence, error } => {
            json!({ "event": "refused", "sequence": sequence, "error": error.to_string() })
        }
        Arrived::Withheld(gap) => json!({ "event": "withheld", "from": gap.from, "to": gap.to }),
        Arrived::Skipped(skip) => {
            json!({ "event": "skipped", "from": skip.from, "to": skip.to, "reason": skip.reason })
        }
        Arrived::Disconnected { error, retry } => {
            json!({ "event": "disconnected", "error": error.to_string(), "retry_seconds": retry.as_secs_f64() })
        }
        other => json!({ "event": "other", "text": format!("{other:?}") }),
    }
}

fn message_json(message: &Message) -> Value {
    let (header, content) = (&message.header, &message.content);
    let mut value = json!({
        "event": "message",
        "sequence": header.sequence,
        "urgency": header.urgency,
        "expires": header.expires,
        "received": message.at,
        "source": content.source,
        "id": content.id,
        "type": content.event_type,
        "subject": content.subject,
        "created": content.created,
        "mode": content.mode,
        "content_type": content.content_type,
        "variant": content.variant,
        "item": content.item,
        "size": content.size,
    });
    match std::str::from_utf8(&content.body) {
        Ok(text) => value["body"] = text.into(),
        Err(_) => value["body_base64"] = STANDARD.encode(&content.body).into(),
    }
    value
}

async fn execute(command: &str, message: &Message) -> anyhow::Result<()> {
    let content = &message.content;
    let word = |value: Value| value.as_str().unwrap_or_default().to_owned();
    // A zero byte in a variable would make the command fail to start.
    let plain = |text: &str| text.replace('\0', " ");
    let mut child = Command::new("sh")
        .args(["-c", command])
        .env("HAWSER_SOURCE", plain(&content.source))
        .env("HAWSER_ID", plain(&content.id))
        .env("HAWSER_TYPE", plain(&content.event_type))
        .env("HAWSER_SUBJECT", plain(content.subject.as_deref().unwrap_or("")))
        .env("HAWSER_SEQUENCE", message.header.sequence.to_string())
        .env("HAWSER_URGENCY", word(json!(message.header.urgency)))
        .env("HAWSER_MODE", word(json!(content.mode)))
        .env("HAWSER_CONTENT_TYPE", plain(&content.content_type))
        .env("HAWSER_VARIANT", plain(&content.variant))
        .env(
            "HAWSER_ITEM",
            content.item.map_or(String::new(), |item| item.to_string()),
        )
        .env_remove(crate::cli::device::PASSPHRASE_VARIABLE)
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("the command cannot be started")?;
    let mut stdin = child.stdin.take();
    let done = async {
        if let Some(mut stdin) = stdin.take() {
            // A command that does not read its input may still succeed.
            let _ = stdin.write_all(&content.body).await;
        }
        child.wait().await
    };
    let status = timeout(EXEC, done)
        .await
        .with_context(|| format!("the command did not end within {} s", EXEC.as_secs()))??;
    match status.success() {
        true => Ok(()),
        false => bail!("the command failed ({status})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_proto::{UnixTime, broker::envelope::Mode};

    fn content(body: &[u8], content_type: &str) -> Content {
        Content {
            source: "s".into(),
            id: "i".into(),
            event_type: "t".into(),
            subject: Some("a\u{1b}[2Jb".into()),
            created: UnixTime(0),
            mode: Mode::Inline,
            content_type: content_type.into(),
            variant: "text".into(),
            body: body.into(),
            item: None,
            size: None,
            padding: Vec::new(),
        }
    }

    #[test]
    fn nothing_that_comes_moves_the_cursor() {
        let shown = text(&content(b"one\n\x1b[2Jtwo\r\tthree\n", "text/plain")).unwrap();
        assert_eq!(shown, "one\n [2Jtwo \tthree");
        assert_eq!(text(&content(b"\xff", "text/plain")), None);
        assert_eq!(text(&content(b"abc", "image/png")), None);
        assert_eq!(clean("a\u{1b}[2Jb\n"), "a [2Jb ");
    }
}
