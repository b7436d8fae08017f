//! The device page's own tests, which run under Node: the same modules that browsers load, against the specification's vectors
//! and against tampering.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{path::Path, process::Command};

/// What the modules need of Node's Web Crypto and abort signals.
const NODE_AT_LEAST: u32 = 20;

fn node() -> Option<u32> {
    let out = Command::new("node").arg("--version").output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    text.strip_prefix('v')?.split('.').next()?.parse().ok()
}

#[test]
fn the_pages_modules_pass_their_tests_under_node() {
    if node().is_none_or(|major| major < NODE_AT_LEAST) {
        let line = format!(
            "skipped: the device page's modules (opening, enrolment, replay, the stream): needs node {NODE_AT_LEAST} or later (run scripts/deps)"
        );
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{line}");
        eprintln!("{line}");
        return;
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
    let run = Command::new("node")
        .args(["--test", "test/"])
        .current_dir(&page)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&run.stderr)
    );
}
