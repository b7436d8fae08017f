//! Sets and removes the TXT record that the certificate authority asks for: by a program, or by dynamic update.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    str,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use hawser_identity::{IdentityError, read_private};
use hawser_proto::UnixTime;
use hickory_proto::{
    op::{Message, ResponseCode, update_message},
    rr::{Name, RData, Record, RecordSet, TSigner, rdata::TXT, rdata::tsig},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, copy, sink},
    process::Command,
    time::timeout,
};
use zeroize::Zeroizing;

use super::dns::{self, DnsError, Place};
use crate::config::{DnsPlan, TsigAlgorithm};

/// Life of the record in caches, in seconds.
const TTL: u32 = 60;
/// How far the clocks of the two may be apart, in seconds (RFC 8945 recommends this).
const FUDGE: u16 = 300;
/// Bytes of a program's output that are told.
const MAX_OUTPUT: usize = 2048;

/// What is to become of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is set beside others of its name.
    Add,
    /// It goes; others of its name stay.
    Remove,
}

/// Why it did not.
#[derive(Debug, thiserror::Error)]
pub(super) enum SolveError {
    /// The program.
    #[error("{} {change} {name}: {detail}", program.display())]
    Program {
        /// Which one.
        program: PathBuf,
        /// What it was to do.
        change: Change,
        /// For which record.
        name: String,
        /// What happened.
        detail: String,
    },
    /// The zone's server.
    #[error("the DNS server {server} refuses to update the zone {zone}: {code}{advice}")]
    Refused {
        /// Which one.
        server: SocketAddr,
        /// The zone.
        zone: String,
        /// Its response code.
        code: ResponseCode,
        /// What to do.
        advice: String,
    },
    /// Its answer is not signed by the key.
    #[error("the answer of the DNS server {server} is not signed by the TSIG key: {detail}")]
    Unsigned {
        /// Which one.
        server: SocketAddr,
        /// What is wrong.
        detail: String,
    },
    /// The TSIG key's file.
    #[error("gateway.acme.dns.key_file: {0}")]
    Key(String),
    /// The TSIG key's file cannot be read.
    #[error(transparent)]
    File(#[from] IdentityError),
    /// The DNS.
    #[error(transparent)]
    Dns(#[from] DnsError),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Change::Add => "add",
            Change::Remove => "remove",
        })
    }
}

/// Changes the record with this value. Cancel safe, in that the change may have happened or not.
pub(super) async fn change(
    plan: &DnsPlan,
    change: Change,
    place: &Place,
    value: &str,
) -> Result<(), SolveError> {
    match plan {
        DnsPlan::Command { program, timeout } => run(program, *timeout, change, place, value).await,
        DnsPlan::Update {
            server,
            key_name,
            key_file,
            algorithm,
        } => {
            let signer = signer(key_name, key_file, *algorithm)?;
            update(*server, &signer, change, place, value).await
        }
    }
}

async fn run(
    program: &Path,
    within: Duration,
    change: Change,
    place: &Place,
    value: &str,
) -> Result<(), SolveError> {
    let mut name = place.record.clone();
    name.set_fqdn(false);
    let name = name.to_ascii();
    let failed = |detail: String| SolveError::Program {
        program: program.into(),
        change,
        name: name.clone(),
        detail,
    };
    let mut child = Command::new(program)
        .args([&change.to_string(), &name, value])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(format!("cannot be run: {e}")))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let all = async { tokio::join!(beginning(out), beginning(err), child.wait()) };
    let (out, err, status) = timeout(within, all)
        .await
        .map_err(|_| failed(format!("still ran after {within:?}, and was ended")))?;
    let status = status.map_err(|e| failed(e.to_string()))?;
    if status.success() {
        return Ok(());
    }
    let said = [err, out].concat();
    Err(failed(format!(
        "{status}: {}",
        String::from_utf8_lossy(&said).trim()
    )))
}

/// The beginning of what a program says; the rest is read, so that it does not get stuck, and thrown away.
async fn beginning(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut text = Vec::new();
    if let Some(mut from) = from {
        // What there was is told, whatever comes then.
        let _ = (&mut from).take(MAX_OUTPUT as u64).read_to_end(&mut text).await;
        let _ = copy(&mut from, &mut sink()).await;
    }
    text
}

fn signer(name: &Name, file: &Path, algorithm: TsigAlgorithm) -> Result<TSigner, SolveError> {
    let text = read_private(file, "a TSIG key in base64")?;
    let bad = || SolveError::Key(format!("{}: expected a TSIG key in base64", file.display()));
    let text = str::from_utf8(&text).map_err(|_| bad())?.trim();
    let key = Zeroizing::new(BASE64_STANDARD.decode(text).map_err(|_| bad())?);
    if key.is_empty() {
        return Err(bad());
    }
    let algorithm = match algorithm {
        TsigAlgorithm::HmacSha256 => tsig::TsigAlgorithm::HmacSha256,
        TsigAlgorithm::HmacSha512 => tsig::TsigAlgorithm::HmacSha512,
    };
    TSigner::new(key.to_vec(), algorithm, name.clone(), FUDGE).map_err(|e| SolveError::Key(e.to_string()))
}

async fn update(
    server: SocketAddr,
    signer: &TSigner,
    change: Change,
    place: &Place,
    value: &str,
) -> Result<(), SolveError> {
    let data = RData::TXT(TXT::new(vec![value.to_owned()]));
    let records = RecordSet::from(Record::from_rdata(place.record.clone(), TTL, data));
    let zone = place.zone.clone();
    let mut message = match change {
        Change::Add => update_message::append(records, zone, false, false),
        Change::Remove => update_message::delete_by_rdata(records, zone, false),
    };
    let UnixTime(now) = UnixTime::now();
    let verifier = message.finalize(signer, now).map_err(DnsError::from)?;
    let sent = message.to_vec().map_err(DnsError::from)?;
    let bytes = dns::exchange(server, &sent).await?;
    let unsigned = |detail: String| SolveError::Unsigned { server, detail };
    let answer = Message::from_vec(&bytes).map_err(|e| unsigned(e.to_string()))?;
    if answer.response_code != ResponseCode::NoError {
        return Err(SolveError::Refused {
            server,
            zone: place.zone.to_string(),
            code: answer.response_code,
            advice: advice(&answer),
        });
    }
    let mut verifier = verifier.ok_or_else(|| unsigned("nothing to check it by".into()))?;
    verifier
        .verify(&bytes)
        .map(drop)
        .map_err(|e| unsigned(e.to_string()))
}

/// What a refusal says of the key.
fn advice(answer: &Message) -> String {
    let said = answer.signature().and_then(|r| r.data.error.as_ref());
    match (said, answer.response_code) {
        (Some(tsig::TsigError::BadSig), _) => {
            " (BADSIG): the key in gateway.acme.dns.key_file is not the one that the server knows by this name".into()
        }
        (Some(tsig::TsigError::BadKey), _) => {
            " (BADKEY): the server knows no key by gateway.acme.dns.key_name and algorithm".into()
        }
        (Some(tsig::TsigError::BadTime), _) => {
            " (BADTIME): the clocks of this host and of the server are too far apart".into()
        }
        (None, ResponseCode::NotAuth) => ": is it the primary server of this zone, and does it know the TSIG key?".into(),
        _ => ": let the TSIG key change TXT records there".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::PermissionsExt};

    fn place() -> Place {
        Place {
            record: Name::from_ascii("_acme-challenge.devices.acme.example.").unwrap(),
            zone: Name::from_ascii("acme.example.").unwrap(),
            servers: Vec::new(),
        }
    }

    fn program(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("hook");
        // Written by another process: one that this forks at the same time would else hold it open, and make it busy.
        let written = std::process::Command::new("sh")
            .args([
                "-c",
                "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 700 \"$1\"",
                "sh",
            ])
            .arg(&path)
            .arg(text)
            .status();
        assert!(written.unwrap().success());
        path
    }

    #[tokio::test]
    async fn a_program_gets_its_words_and_is_believed_by_its_exit_code() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let plan = DnsPlan::Command {
            program: program(dir.path(), &format!("echo \"$@\" > {}", out.display())),
            timeout: Duration::from_secs(60),
        };
        change(&plan, Change::Add, &place(), "abc").await.unwrap();
        let said = fs::read_to_string(&out).unwrap();
        assert_eq!(said, "add _acme-challenge.devices.acme.example abc\n");

        program(
            dir.path(),
            "echo no such zone >&2; head -c 1000000 /dev/zero; exit 3",
        );
        let error = change(&plan, Change::Remove, &place(), "abc").await;
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("no such zone"),
            "{error}"
        );
        assert!(error.len() < 3 * MAX_OUTPUT);
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_ended() {
        let dir = tempfile::tempdir().unwrap();
        let plan = DnsPlan::Command {
            program: program(dir.path(), "exec sleep 1000"),
            timeout: Duration::from_millis(100),
        };
        let error = change(&plan, Change::Add, &place(), "abc").await.unwrap_err();
        assert!(error.to_string().contains("still ran"), "{error}");
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_and_so_is_what_is_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        let name = Name::from_ascii("hawser.").unwrap();
        for (text, mode, good) in [
            ("c2VjcmV0\n", 0o600, true),
            ("c2VjcmV0", 0o644, false),
            ("?", 0o600, false),
        ] {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let signer = signer(&name, &file, TsigAlgorithm::HmacSha256);
            assert_eq!(signer.is_ok(), good, "{text:?} {mode:o}");
        }
    }
}
