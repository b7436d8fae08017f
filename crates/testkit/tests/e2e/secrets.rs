//! Tokens and keys are where they belong, and nowhere else.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use hawser_testkit::{gate, hawser};

use crate::calls;

#[test]
fn tokens_are_in_no_command_line_log_or_error() {
    if !gate::networks("tokens") {
        return;
    }
    let (mut world, _origins) = calls::web_world(|s| s);
    let tokens = [
        world
            .hub()
            .unwrap()
            .command(&["token", "hub", "acme"], "")
            .unwrap(),
        world.gateways[0][0].command(&["token", "gateway"], "").unwrap(),
    ];
    let secrets: Vec<String> = tokens
        .iter()
        .map(|t| t.trim().rsplit(':').next().unwrap().to_owned())
        .collect();
    assert!(
        secrets.iter().all(|s| s.len() > 60),
        "these are no tokens: {}",
        secrets.len()
    );

    // Somebody on the machine reads every process's arguments and environment of arguments while the tokens are used.
    let done = AtomicBool::new(false);
    let seen = Mutex::new(String::new());
    let outputs: Vec<String> = thread::scope(|s| {
        s.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                seen.lock().unwrap().push_str(&command_lines());
            }
        });
        let gateway = &world.gateways[0][0];
        let mut outputs = Vec::new();
        let mut join = |args: &[&str], text: &str| {
            let (out, err, ok) = hawser::try_run(&gateway.host, &gateway.config, args, text).unwrap();
            outputs.push(out + &err);
            ok
        };
        let other = world.dir().join("gw9");
        let other = other.to_str().unwrap();
        assert!(join(&["join"], &tokens[0]));
        assert!(!join(&["join"], &tokens[0]), "a token is good once");
        assert!(join(&["join", "gw9", "--state", other], &tokens[1]));
        assert!(
            !join(&["join", "gw8", "--state", &format!("{other}8")], &tokens[1]),
            "a token is good once"
        );
        // Damaged ones: the error must not quote them.
        for token in &tokens {
            assert!(!join(&["join"], &token.trim()[..token.len() - 5]));
            assert!(!join(&["join"], &format!("{}x", token.trim())));
        }
        done.store(true, Ordering::Relaxed);
        outputs
    });
    let seen = seen.into_inner().unwrap();
    let logs = world.logs();
    assert!(seen.contains("hawser"), "control: command lines could be read");
    for secret in &secrets {
        // Any good part of it counts.
        for part in secret
            .as_bytes()
            .chunks(24)
            .map(|c| String::from_utf8_lossy(c).into_owned())
        {
            if part.len() < 24 {
                continue;
            }
            assert!(!seen.contains(&part), "part of a token is in a command line");
            assert!(!logs.contains(&part), "part of a token is in a log");
            assert!(
                outputs.iter().all(|o| !o.contains(&part)),
                "part of a token is in an output"
            );
        }
    }
    assert!(!logs.contains("PRIVATE KEY"), "a key is in a log");
}

#[test]
fn keys_are_for_their_owner_only() {
    if !gate::networks("file modes") {
        return;
    }
    let (world, _origins) = calls::web_world(|s| s);
    let states = world.gateways.iter().flatten().map(|g| g.state.clone());
    for state in states.chain([world.hub.as_ref().unwrap().state().to_owned()]) {
        assert_eq!(mode(&state), 0o700, "{}", state.display());
        for file in fs::read_dir(&state).unwrap() {
            let path = file.unwrap().path();
            assert_eq!(mode(&path) & 0o077, 0, "{} is open to others", path.display());
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn command_lines() -> String {
    let mut text = String::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        if let Ok(line) = fs::read(entry.path().join("cmdline"))
            && line.windows(6).any(|w| w == b"hawser")
        {
            text += &String::from_utf8_lossy(&line);
            text.push('\n');
        }
    }
    text
}
