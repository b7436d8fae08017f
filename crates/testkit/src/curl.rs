//! curl, as a person would call it, on a host.

use std::{
    io::Read,
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{Host, pattern};

/// A call that can be run.
pub struct Curl {
    host: Host,
    args: Vec<String>,
    limit: Duration,
}

/// What came of a call.
#[derive(Debug, Clone)]
pub struct Answer {
    /// curl's exit code: 0 only if the whole answer came.
    pub exit: i32,
    /// HTTP status; 0 if none came.
    pub status: u16,
    /// Version of HTTP: "1.1", "2".
    pub version: String,
    /// Head of the last response, in lower case.
    pub head: String,
    /// Body.
    pub body: Vec<u8>,
    /// What curl complained of.
    pub error: String,
}

impl Curl {
    /// A call from a host.
    pub fn new(host: &Host, url: impl Into<String>) -> Self {
        Self {
            host: host.clone(),
            args: vec![url.into()],
            limit: Duration::from_secs(60),
        }
    }

    /// Adds arguments.
    pub fn args<S: AsRef<str>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Adds a header.
    pub fn header(self, line: &str) -> Self {
        self.args(["-H", line])
    }

    /// Believes the authorities in this file (PEM), and no others.
    pub fn trusting(self, authorities: &Path) -> Self {
        self.args(["--cacert", &authorities.display().to_string()])
    }

    /// Looks for this name at an address.
    pub fn resolve(self, name: &str, at: SocketAddr) -> Self {
        self.args(["--resolve", &format!("{name}:{}:{}", at.port(), at.ip())])
    }

    /// Goes through a web proxy (absolute-form).
    pub fn proxy(self, proxy: impl std::fmt::Display) -> Self {
        self.args(["--proxy", &format!("http://{proxy}")])
    }

    /// Speaks HTTP/2 without asking first.
    pub fn http2(self) -> Self {
        self.args(["--http2-prior-knowledge"])
    }

    /// Sends a body by POST.
    pub fn post(self, body: &str) -> Self {
        self.args(["--data-binary", body])
    }

    /// Gives up after this long (60 s if not said).
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Calls, and waits for the end.
    pub fn call(self) -> Result<Answer> {
        let out = self
            .command(&[
                "-D",
                "/dev/stderr",
                "-w",
                "%{stderr}\n%{http_version} %{http_code}\n",
            ])
            .output()?;
        let text = String::from_utf8_lossy(&out.stderr).into_owned();
        let last = text
            .lines()
            .rev()
            .find(|l| !l.trim().is_empty())
            .unwrap_or_default()
            .to_owned();
        let (version, status) = last.split_once(' ').unwrap_or(("", "0"));
        let heads: Vec<_> = text.split("\r\n\r\n").filter(|h| h.contains("HTTP/")).collect();
        let error = text
            .lines()
            .filter(|l| l.starts_with("curl:"))
            .collect::<Vec<_>>()
            .join("; ");
        Ok(Answer {
            exit: out.status.code().unwrap_or(-1),
            status: status.trim().parse().unwrap_or(0),
            version: version.into(),
            head: heads.last().map(|h| h.to_lowercase()).unwrap_or_default(),
            body: out.stdout,
            error,
        })
    }

    /// Calls, and requires a status.
    pub fn expect(self, status: u16) -> Result<Answer> {
        let what = self.args.join(" ");
        let answer = self.call()?;
        ensure!(
            answer.exit == 0 && answer.status == status,
            "curl {what}: expected {status}, came {} (exit {}) {}\n{}\n{}",
            answer.status,
            answer.exit,
            answer.error,
            answer.head,
            answer.text()
        );
        Ok(answer)
    }

    /// Downloads, and returns the length and SHA-256 of what came.
    pub fn download(self) -> Result<(u64, String)> {
        let mut child = self
            .command(&["--fail"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut out = child.stdout.take().context("curl has no output")?;
        let mut hash = pattern::Hash::new();
        let (mut len, mut buf) = (0, vec![0; 1 << 20]);
        loop {
            let n = out.read(&mut buf)?;
            if n == 0 {
                break;
            }
            hash.update(&buf[..n]);
            len += n as u64;
        }
        let end = child.wait_with_output()?;
        ensure!(
            end.status.success(),
            "curl after {len} bytes: {}",
            String::from_utf8_lossy(&end.stderr)
        );
        Ok((len, hash.finish()))
    }

    /// Uploads the first `len` bytes of the pattern, and returns the answer's body.
    pub fn upload(self, len: u64) -> Result<String> {
        self.upload_from(&mut pattern::Reader::new(len))
    }

    /// Uploads what is read, without saying its length before, and returns the answer's body. An error says what a refusal said.
    pub fn upload_from(self, body: &mut dyn Read) -> Result<String> {
        let mut child = self
            .command(&["--fail-with-body", "-T", "-", "-H", "Expect:"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut input: ChildStdin = child.stdin.take().context("curl has no input")?;
        let sent = std::io::copy(body, &mut input);
        drop(input);
        let end = child.wait_with_output()?;
        let (out, err) = (
            String::from_utf8_lossy(&end.stdout),
            String::from_utf8_lossy(&end.stderr),
        );
        ensure!(end.status.success(), "curl: {err} {out}");
        sent?;
        Ok(out.into_owned())
    }

    /// Calls, and gives the body as it comes. The call ends when the value is dropped; what a test does meanwhile may take long.
    pub fn stream(mut self) -> Result<Stream> {
        const AT_LEAST: Duration = Duration::from_secs(300);
        self.limit = self.limit.max(AT_LEAST);
        let mut child = self
            .command(&["-N"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let out = child.stdout.take().context("curl has no output")?;
        Ok(Stream { child, out })
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut c = self.host.command("curl");
        let limit = self.limit.as_secs().max(1).to_string();
        // No user's own settings, no proxy from the environment.
        c.args(["-q", "-sS", "--noproxy", "", "--max-time", &limit])
            .args(more)
            .args(&self.args);
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            c.env_remove(name).env_remove(name.to_uppercase());
        }
        c.stdin(Stdio::null());
        c
    }
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {}", self.text()))
    }

    /// A header's value; names in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|l| {
            l.split_once(':')
                .filter(|(n, _)| *n == name)
                .map(|(_, v)| v.trim())
        })
    }
}

/// A call whose body is still coming.
pub struct Stream {
    child: Child,
    /// The body.
    pub out: ChildStdout,
}

impl Stream {
    /// Waits for the call's end; curl's exit code and complaint.
    pub fn end(mut self) -> Result<(i32, String)> {
        let status = self.child.wait()?;
        let mut text = String::new();
        if let Some(mut err) = self.child.stderr.take() {
            err.read_to_string(&mut text)?;
        }
        Ok((status.code().unwrap_or(-1), text))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
