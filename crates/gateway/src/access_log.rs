//! The access log: a line of JSON for each call that has ended. Both gateways of a call write its id, so that their views can be
//! joined.
//!
//! Calls never wait for the disk: a thread writes, and what it cannot keep up with is lost and counted. The file may be moved away
//! at any time, as logrotate does: the next line goes to a new one.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    time::{Duration, Instant, UNIX_EPOCH},
};

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;

use crate::inspect::Exchange;

/// Lines that wait to be written.
const WAITING: usize = 16 * 1024;
/// How often it is looked whether the file was moved away.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes that are written at a time, while more lines wait.
const BATCH: usize = 64 * 1024;
/// At most one complaint in this time.
const COMPLAIN: Duration = Duration::from_secs(60);

/// Where ended calls are written. Dropped, it writes what waits, and ends.
#[derive(Debug)]
pub(crate) struct AccessLog {
    path: PathBuf,
    lines: SyncSender<Vec<u8>>,
    lost: Counter,
}

/// A call as it is written.
#[derive(Serialize)]
struct Line<'a> {
    /// When its request came (RFC 3339, UTC).
    time: String,
    request: &'a str,
    /// `client`: taken from a client; `export`: served to another domain; `visit`: served to a visitor of a published name.
    side: &'a str,
    /// The client's address, the gateway that calls on its behalf, or the published name.
    from: &'a str,
    /// Who logged in.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    service: &'a str,
    method: &'a str,
    /// Service and path, without the query, which may hold secrets.
    target: &'a str,
    /// None: it ended before an answer.
    status: Option<u16>,
    /// From its head to the end of its answer, in milliseconds.
    ms: u64,
    /// Of the answer's body.
    bytes: u64,
    /// `complete`, `broken` or `dropped` by whoever asked.
    outcome: &'a str,
    /// The exchange whose request was sent again, if this was no caller's.
    #[serde(skip_serializing_if = "Option::is_none")]
    replays: Option<&'a str>,
}

impl AccessLog {
    /// Begins to write to a file, behind what is in it.
    pub(crate) fn open(path: &Path, lost: Counter) -> io::Result<Self> {
        let file = append(path)?;
        let (lines, waiting) = sync_channel(WAITING);
        let own = path.to_owned();
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write(&own, file, &waiting))?;
        Ok(Self {
            path: path.to_owned(),
            lines,
            lost,
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes a call. Never waits.
    pub(crate) fn note(&self, call: &Exchange) {
        let mut line = line(call);
        line.push(b'\n');
        if self.lines.try_send(line).is_err() {
            self.lost.inc();
        }
    }
}

fn line(call: &Exchange) -> Vec<u8> {
    let line = Line {
        time: humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(call.at)).to_string(),
        request: &call.request,
        side: call.side,
        from: &call.who,
        user: call.user.as_deref(),
        service: &call.service,
        method: &call.method,
        target: &call.what,
        status: call.status,
        ms: call.ms,
        bytes: call.bytes,
        outcome: call.outcome,
        replays: call.replays.as_deref(),
    };
    serde_json::to_vec(&line).unwrap_or_default()
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

fn write(path: &Path, file: File, waiting: &Receiver<Vec<u8>>) {
    let mut file = Some(file);
    let (mut looked, mut complained) = (Instant::now(), None::<Instant>);
    loop {
        let mut batch = match waiting.recv_timeout(LOOK) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        while batch.len() < BATCH
            && let Ok(line) = waiting.try_recv()
        {
            batch.extend(line);
        }
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            file = file.filter(|open| is_at(open, path));
        }
        let open = match file.take() {
            Some(open) => Ok(open),
            None => append(path),
        };
        let written = open.and_then(|mut open| open.write_all(&batch).map(|()| open));
        match written {
            Ok(open) => file = Some(open),
            Err(error) if complained.is_none_or(|at| at.elapsed() >= COMPLAIN) => {
                complained = Some(Instant::now());
                tracing::warn!(path = %path.display(), %error, "calls are missing from the access log: it cannot be written");
            }
            Err(_) => {}
        }
    }
}

/// Whether the open file is still the one of that name.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(n: u64) -> Exchange {
        Exchange {
            at: 1_800_000_000_123,
            request: format!("{n:032x}"),
            side: "client",
            who: "10.0.0.7:4711".into(),
            user: None,
            service: "orders.beta".into(),
            method: "POST".into(),
            what: "orders.beta/a\"\n".into(),
            status: Some(202),
            ms: 7,
            bytes: 40,
            outcome: "complete",
            soap: None,
            replaced: Vec::new(),
            left: Vec::new(),
            answers: Vec::new(),
            replays: None,
            recorded: false,
            recording: None,
        }
    }

    #[test]
    fn a_call_is_one_line_of_json() {
        let text = String::from_utf8(line(&call(1))).unwrap();
        assert_eq!(text.lines().count(), 1);
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["time"], "2027-01-15T08:00:00.123Z");
        assert_eq!(read["target"], "orders.beta/a\"\n");
        assert_eq!(read["status"], 202);
    }

    /// Waits for that many lines.
    fn lines(path: &Path, wanted: usize) -> usize {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let found = text.lines().count();
            if found >= wanted || Instant::now() > end {
                assert!(text.is_empty() || text.ends_with('\n'));
                return found;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
        let log = AccessLog::open(&path, Counter::default()).unwrap();
        (0..1000).for_each(|n| log.note(&call(n)));
        assert_eq!(lines(&path, 1000), 1000);
        std::fs::rename(&path, &old).unwrap();
        let mut noted = 0;
        let end = Instant::now() + Duration::from_secs(20);
        while !path.exists() && Instant::now() < end {
            log.note(&call(noted));
            noted += 1;
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(log);
        let all = lines(&path, 1) + lines(&old, 1000);
        assert!(all >= 1000, "{all}");
        assert!(path.exists(), "the next lines go to a new file");
    }

    #[test]
    fn what_cannot_be_kept_is_counted_and_nobody_waits() {
        let (lines, _waiting) = sync_channel(1);
        let log = AccessLog {
            path: PathBuf::new(),
            lines,
            lost: Counter::default(),
        };
        (0..10).for_each(|n| log.note(&call(n)));
        assert_eq!(log.lost.get(), 9);
    }
}
