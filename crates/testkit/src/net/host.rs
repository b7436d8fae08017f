//! A host: a place where programs run, with an address of its own.

use std::{
    fs::File,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    process::{Command, Output},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::{Builder, Runtime};

/// A handle; the [`super::Network`] that made the host owns it.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

struct Inner {
    name: String,
    address: Ipv4Addr,
    namespace: Option<String>,
}

impl Host {
    pub(super) fn new(name: &str, address: Ipv4Addr, namespace: Option<String>) -> Self {
        Self(Arc::new(Inner {
            name: name.into(),
            address,
            namespace,
        }))
    }

    /// A host that is an address of the loopback range and has no network of its own: anybody may make one.
    pub fn on_loopback(name: &str, address: Ipv4Addr) -> Self {
        Self::new(name, address, None)
    }

    /// What it is called, as in `acme-gw1`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its address on its network.
    pub fn address(&self) -> IpAddr {
        self.0.address.into()
    }

    /// A port at that address.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(), port)
    }

    /// A port that only this host itself reaches.
    pub fn local(&self, port: u16) -> SocketAddr {
        let own = if self.0.namespace.is_some() {
            Ipv4Addr::LOCALHOST
        } else {
            self.0.address
        };
        SocketAddr::new(own.into(), port)
    }

    /// The namespace's name, for `ip netns exec`; none on the loopback.
    pub fn namespace(&self) -> Option<&str> {
        self.0.namespace.as_deref()
    }

    /// A command that will run on this host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match &self.0.namespace {
            None => Command::new(program),
            Some(ns) => {
                let mut c = Command::new("ip");
                c.args(["netns", "exec", ns]).arg(program);
                c
            }
        }
    }

    /// Lets programs that are started here find these names at these addresses. Without a network of its own it cannot.
    pub fn knows(&self, names: &[(&str, IpAddr)]) -> Result<()> {
        let ns = self
            .namespace()
            .context("a host of the loopback range has no names of its own")?;
        let files = files(ns);
        std::fs::create_dir_all(&files)?;
        let lines: String = names.iter().map(|(name, at)| format!("{at} {name}\n")).collect();
        std::fs::write(files.join("hosts"), format!("127.0.0.1 localhost\n{lines}"))
            .with_context(|| format!("{} cannot be written", files.display()))
    }

    /// Runs a program to its end and returns what it said; a failure is an error with its words.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let out = self.output(program, args)?;
        ensure!(
            out.status.success(),
            "{program} {} on {}: {}: {}{}",
            args.join(" "),
            self.name(),
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Runs a program to its end, whatever that is.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<Output> {
        self.command(program)
            .args(args)
            .output()
            .with_context(|| format!("{program} cannot be run"))
    }

    /// Runs code in a thread of its own on this host: sockets that it makes are this host's.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        thread::scope(|s| {
            let inside = s.spawn(|| self.move_thread().map(|()| f()));
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Whether a connection from here is established. An expected success may wait long, an expected failure need not.
    pub fn connects(&self, to: SocketAddr, within: Duration) -> Result<bool> {
        let outcome = self.enter(|| TcpStream::connect_timeout(&to, within).map(drop))?;
        Ok(outcome.map_or_else(|e| was_established(&e), |()| true))
    }

    /// Makes it a router.
    pub(super) fn forward(&self) -> Result<()> {
        // Below /proc/sys/net each thread sees the settings of the namespace that it is in.
        Ok(self.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1"))??)
    }

    /// A listener on this host, ready for an async runtime.
    pub fn listen(&self, at: SocketAddr) -> Result<TcpListener> {
        let listener = self
            .enter(|| TcpListener::bind(at))?
            .with_context(|| format!("cannot listen on {at}"))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Moves the calling thread, and those that it makes from now on, to this host.
    pub fn move_thread(&self) -> Result<()> {
        if let Some(ns) = &self.0.namespace {
            let file =
                File::open(format!("/run/netns/{ns}")).with_context(|| format!("no namespace {ns}"))?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        Ok(())
    }

    /// An async runtime whose threads are on this host.
    pub fn runtime(&self) -> Result<Runtime> {
        // Threads inherit the namespace of the thread that makes them, so the runtime is built inside.
        let own = self.clone();
        let runtime = self.enter(move || {
            Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name(own.name().to_owned())
                .on_thread_start(move || {
                    if let Err(e) = own.move_thread() {
                        eprintln!("testkit: a thread could not enter {}: {e:#}", own.name());
                        std::process::abort();
                    }
                })
                .enable_all()
                .build()
        })??;
        Ok(runtime)
    }
}

/// Whether an attempt to connect failed only after the other side had accepted: a listener that closes at once looks so. The
/// kernel reports these only of a connection that was established; the reset of an attempt is a refusal.
fn was_established(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// Where `ip netns exec` finds the files that stand in `/etc` of a namespace.
pub(super) fn files(namespace: &str) -> std::path::PathBuf {
    std::path::Path::new("/etc/netns").join(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_reset_at_once_is_reached_and_one_that_is_refused_is_not() {
        let here = Host::new("here", Ipv4Addr::LOCALHOST, None);
        let listener = here.listen(here.at(0)).unwrap();
        let at = listener.local_addr().unwrap();
        let runtime = here.runtime().unwrap();
        let resetting = runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_zero_linger().unwrap();
            }
        });
        for _ in 0..200 {
            assert!(here.connects(at, Duration::from_secs(20)).unwrap());
        }
        resetting.abort();
        drop(runtime);
        assert!(!here.connects(at, Duration::from_secs(20)).unwrap());
    }
}
