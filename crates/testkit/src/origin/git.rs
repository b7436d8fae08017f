//! A git server: `git http-backend` behind lighttpd, a clone and push over HTTP.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::{Host, Process, wait};

/// A running server with one empty repository, `/repo.git`, that takes pushes.
pub struct GitServer {
    _process: Process,
}

impl GitServer {
    /// Starts it on a host's port; its files are in `dir`.
    pub fn start(host: &Host, port: u16, dir: &Path) -> Result<Self> {
        let root = dir.join(format!("{}-git", host.name()));
        fs::create_dir_all(root.join("tmp"))?;
        let repo = root.join("repo.git");
        run(&["init", "--quiet", "--bare", "--initial-branch=main", text(&repo)?])?;
        run(&["-C", text(&repo)?, "config", "http.receivepack", "true"])?;
        let exec = String::from_utf8(Command::new("git").arg("--exec-path").output()?.stdout)?;
        let backend = Path::new(exec.trim()).join("git-http-backend");
        ensure!(backend.exists(), "{} is missing", backend.display());
        let at: SocketAddr = host.at(port);
        let config = root.join("lighttpd.conf");
        fs::write(
            &config,
            format!(
                r#"server.modules = ( "mod_alias", "mod_cgi", "mod_setenv" )
server.bind = "{ip}"
server.port = {port}
server.document-root = "{root}"
server.upload-dirs = ( "{root}/tmp" )
server.errorlog = "/dev/stderr"
alias.url = ( "/" => "{backend}/" )
cgi.assign = ( "" => "" )
setenv.set-environment = ( "GIT_PROJECT_ROOT" => "{root}", "GIT_HTTP_EXPORT_ALL" => "1", "GIT_CONFIG_NOSYSTEM" => "1" )
"#,
                ip = at.ip(),
                root = root.display(),
                backend = backend.display(),
            ),
        )?;
        let log = root.join("lighttpd.log");
        let mut process = Process::start(host, "lighttpd", &["-D", "-f", text(&config)?], &log)?;
        process.wait_until(wait::SOON, "lighttpd to listen", |_| listens(host, at))?;
        Ok(Self { _process: process })
    }
}

/// Runs git with no settings but ours; what it said.
pub fn run(args: &[&str]) -> Result<String> {
    let out = settings(&mut Command::new("git")).args(args).output()?;
    finish(args, &out)
}

/// The same on a host.
pub fn run_on(host: &Host, args: &[&str]) -> Result<String> {
    let out = settings(&mut host.command("git")).args(args).output()?;
    finish(args, &out)
}

/// Whether a connection to a port of this host succeeds from the host itself.
pub(crate) fn listens(host: &Host, at: SocketAddr) -> bool {
    host.enter(|| std::net::TcpStream::connect_timeout(&at, wait::SOON).is_ok())
        .unwrap_or(false)
}

fn settings(command: &mut Command) -> &mut Command {
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
        .envs([("GIT_AUTHOR_NAME", "t"), ("GIT_AUTHOR_EMAIL", "t@example.org")])
        .envs([
            ("GIT_COMMITTER_NAME", "t"),
            ("GIT_COMMITTER_EMAIL", "t@example.org"),
        ])
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .env_remove("http_proxy")
}

fn finish(args: &[&str], out: &std::process::Output) -> Result<String> {
    ensure!(
        out.status.success(),
        "git {}: {}\n{}",
        args.join(" "),
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is no text")
}
