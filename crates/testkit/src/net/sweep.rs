//! Namespaces and directories of machines carry the process that owns them in their names; those of dead owners are removed by
//! the next run.

use std::{fs, process::Command, sync::Once};

use rustix::process::{Pid, Signal, kill_process};

use crate::small::unmount_below;

const MARK: &str = "hawsertest";

/// First part of the names of what this process makes: its id and start time, so that a reused id is no owner.
pub(crate) fn owner() -> String {
    let pid = std::process::id();
    format!("{MARK}-{pid}-{}", started(pid).unwrap_or(0))
}

/// Sweeps, at most once in a process.
pub(crate) fn once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        for name in names.map(|e| e.file_name().to_string_lossy().into_owned()) {
            if is_stale(&name) {
                remove(&name);
            }
        }
        for place in [std::env::temp_dir(), "/run".into()] {
            for entry in fs::read_dir(place).into_iter().flatten().flatten() {
                if is_stale(&entry.file_name().to_string_lossy()) {
                    unmount_below(&entry.path());
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
    });
}

/// Kills what runs in a namespace and deletes it.
pub(super) fn remove(name: &str) {
    let pids = Command::new("ip").args(["netns", "pids", name]).output();
    let pids = pids
        .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        .unwrap_or_default();
    // A thread of our own may be inside; we are then listed too.
    for pid in pids.lines().filter_map(|l| l.trim().parse::<i32>().ok()) {
        if let Some(pid) =
            Pid::from_raw(pid).filter(|p| p.as_raw_nonzero().get() != std::process::id() as i32)
        {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let _ = Command::new("ip").args(["netns", "del", name]).output();
    let _ = std::fs::remove_dir_all(super::host::files(name));
}

fn is_stale(name: &str) -> bool {
    let mut parts = name.split('-');
    if parts.next() != Some(MARK) {
        return false;
    }
    let pid = parts.next().and_then(|p| p.parse::<u32>().ok());
    let start = parts.next().and_then(|p| p.parse::<u64>().ok());
    match (pid, start) {
        (Some(pid), Some(start)) => started(pid) != Some(start),
        _ => false,
    }
}

/// Field 22 of `/proc/PID/stat`: when the process started, in clock ticks.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namespaces_of_dead_owners_are_stale() {
        assert!(!is_stale(&format!("{}-0-hub", owner())));
        assert!(is_stale(&format!("{MARK}-{}-1-0-hub", std::process::id())));
        assert!(!is_stale("someone-elses"));
    }
}
