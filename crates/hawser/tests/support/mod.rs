//! A directory of its own in which the binary runs, and what it said.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test program uses a part of it"
)]

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hawser_testkit::net::free_port;

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A machine's worth of files.
pub struct Machine(tempfile::TempDir);

/// How a run ended.
#[derive(Debug)]
pub struct Ran {
    pub out: String,
    pub err: String,
    pub code: i32,
}

impl Machine {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_hawser"));
        c.args(args)
            .current_dir(self.0.path())
            .env_remove("HAWSER_TOKEN")
            .env_remove("HAWSER_CONFIG");
        c.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        c
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, "")
    }

    /// With this on standard input, and no terminal to ask on.
    pub fn run_with(&self, args: &[&str], input: &str) -> Ran {
        let mut setsid = Command::new("setsid");
        setsid.arg("--wait").arg(env!("CARGO_BIN_EXE_hawser"));
        setsid
            .args(args)
            .current_dir(self.0.path())
            .env_remove("HAWSER_TOKEN")
            .env_remove("HAWSER_CONFIG");
        finish(setsid, input)
    }

    /// On a terminal of its own, on which somebody types this. What it prints there is all in `out`.
    pub fn run_on_terminal(&self, args: &[&str], typed: &str) -> Ran {
        let line = [&[env!("CARGO_BIN_EXE_hawser")], args].concat().join(" ");
        let mut script = Command::new("script");
        script
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .current_dir(self.0.path());
        finish(script, typed)
    }

    pub fn run_env(&self, args: &[&str], name: &str, value: &str) -> Ran {
        let mut c = self.command(args);
        c.env(name, value);
        finish(c, "")
    }

    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.run(args).ok()).unwrap()
    }

    /// A process that runs until it is dropped; its log goes to a file.
    pub fn daemon(&self, args: &[&str], log: &str) -> Daemon {
        let log = fs::File::create(self.path(log)).unwrap();
        let mut c = self.command(args);
        c.stdout(Stdio::null()).stderr(log);
        Daemon(c.spawn().unwrap())
    }
}

impl Ran {
    /// Standard output of a run that must have succeeded.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }
}

/// A running hub or gateway.
pub struct Daemon(Child);

impl Daemon {
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, name: &str) {
        let id = self.id().to_string();
        assert!(
            Command::new("kill")
                .args([&format!("-{name}"), &id])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Its exit code, once it has ended.
    pub fn wait(&mut self) -> i32 {
        eventually("the process to end", || self.0.try_wait().unwrap())
            .code()
            .unwrap_or(-1)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asks again until there is an answer.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn finish(mut command: Command, input: &str) -> Ran {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that reads nothing may be gone by now.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let end = child.wait_with_output().unwrap();
    Ran {
        out: String::from_utf8(end.stdout).unwrap(),
        err: String::from_utf8(end.stderr).unwrap(),
        code: end.status.code().unwrap_or(-1),
    }
}

/// Ports for one hub and one gateway.
pub struct Ports {
    pub hub: u16,
    pub admin: u16,
}

impl Ports {
    pub fn free() -> Self {
        Self {
            hub: free_port(),
            admin: free_port(),
        }
    }
}

/// A configuration of hub and gateway in one file, and the domain acme made and admitted; nothing runs afterwards.
pub fn tunnel(m: &Machine, ports: &Ports) -> String {
    let Ports { hub, admin } = ports;
    m.write(
        "hawser.toml",
        &format!(
            "[log]\nlevel = \"info\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n[hub]\nstate = \"hub\"\nlisten = \
             [\"127.0.0.1:{hub}\"]\npublic = \"127.0.0.1:{hub}\"\n[gateway]\nstate = \"gateway\"\nsuffix = \"hawser\"\n"
        ),
    );
    m.run(&["-c", "hawser.toml", "domain", "init", "acme", "gw1"])
        .ok();
    let token = m.run(&["-c", "hawser.toml", "token", "hub", "acme"]).ok();
    let mut process = m.daemon(&["-c", "hawser.toml", "hub"], "join.log");
    eventually("the hub to admit the domain", || {
        (m.run_with(&["-c", "hawser.toml", "join"], &token).code == 0).then_some(())
    });
    process.signal("TERM");
    process.wait();
    "hawser.toml".into()
}
