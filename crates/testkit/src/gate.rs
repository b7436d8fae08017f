//! Whether this machine can do what a test needs. A skip says what is skipped; where `CI=true` it is a failure.

use std::process::Command;

/// True if this process may make network namespaces. If not: under `CI=true` a panic, else a line that says what is skipped.
pub fn networks(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    need(root, what, "root, to make network namespaces")
}

/// True if this process is root.
pub fn root(what: &str) -> bool {
    need(rustix::process::geteuid().is_root(), what, "root")
}

/// True if all of these programs are installed.
pub fn programs(what: &str, names: &[&str]) -> bool {
    let missing: Vec<_> = names.iter().filter(|n| !installed(n)).copied().collect();
    need(
        missing.is_empty(),
        what,
        &format!("{} (run scripts/deps)", missing.join(", ")),
    )
}

/// True if the shell finds this program, or finds it where Debian puts servers.
pub fn installed(name: &str) -> bool {
    Command::new("sh")
        .args([
            "-c",
            &format!("PATH=$PATH:/usr/sbin:/sbin command -v {name} >/dev/null"),
        ])
        .status()
        .is_ok_and(|s| s.success())
}

/// True if it is there; if not, a skip (a failure under `CI=true`).
#[allow(clippy::panic)]
pub(crate) fn need(there: bool, what: &str, wanted: &str) -> bool {
    if !there {
        let line = format!("skipped: {what}: needs {wanted}");
        assert!(
            std::env::var("CI").is_err_and(|_| true) || std::env::var("CI").is_ok_and(|v| v != "true"),
            "{line}"
        );
        eprintln!("{line}");
    }
    there
}
