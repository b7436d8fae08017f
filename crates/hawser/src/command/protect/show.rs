//! Plans, progress and machines as text for people.

use std::{fmt::Write as _, time::Duration};

use hawser_protect::host::{
    Planned, Progress, Spread,
    status::{HostStatus, MachineStatus, Role},
};

use crate::table::printable;

/// Columns of a bar.
const BAR: usize = 24;

/// What would be done, for consent.
pub(super) fn plan(plan: &Planned) -> String {
    let mut text = format!(
        "{} ({}) would be protected on {}.\n",
        plan.machine, plan.uuid, plan.host
    );
    let _ = writeln!(text, "Its command line there differs in this:");
    for change in &plan.changes {
        let (from, to) = (printable(change.from.clone()), printable(change.to.clone()));
        let _ = match (from.is_empty(), to.is_empty()) {
            (true, _) => writeln!(text, "  {:<12} added    {to}", change.what),
            (_, true) => writeln!(text, "  {:<12} left out {from}", change.what),
            _ => writeln!(text, "  {:<12} {from}\n  {:<12} -> {to}", change.what, ""),
        };
    }
    if !plan.warnings.is_empty() {
        let _ = writeln!(text, "Know that:");
        for warning in &plan.warnings {
            let _ = writeln!(text, "  {}", printable(warning.clone()));
        }
    }
    text
}

/// One line that tells how far it is.
pub(super) fn progress(m: &MachineStatus) -> String {
    let bar_of = match m.phase.as_str() {
        "memory" => m.memory_sync.as_ref(),
        "disks" => m.disk_sync.as_ref(),
        _ => None,
    };
    let rest = bar_of.map_or_else(|| m.message.clone(), bar);
    format!("{:<18} {rest}", m.phase).trim_end().to_owned()
}

/// How it ended, in a sentence.
pub(super) fn outcome(m: &MachineStatus) -> String {
    match m.outage {
        Some(outage) => format!("{} runs here now; it stood still for {}", m.name, time(outage)),
        None => format!("{}: {} ({})", m.name, m.message, m.phase),
    }
}

/// A host and all its machines.
pub(super) fn host(status: &HostStatus) -> String {
    let mut text = format!("host {} listens on {}\n", status.host, status.listen);
    if status.machines.is_empty() {
        text.push_str("no machines; protect one with `hawser protect start NAME --to HOST`\n");
    }
    for m in &status.machines {
        machine(m, &mut text);
    }
    text
}

fn machine(m: &MachineStatus, text: &mut String) {
    let peer = match (&m.peer, m.role) {
        (Some(peer), Role::Active) => format!(", standby {peer}"),
        (Some(peer), Role::Standby) => format!(", active {peer}"),
        _ => String::new(),
    };
    let _ = writeln!(
        text,
        "\n{} ({})\n  {}{peer}: {}",
        m.name, m.machine, m.role, m.phase
    );
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<16}{value}");
    };
    if !m.message.is_empty() {
        line("", printable(m.message.clone()));
    }
    if let Some(p) = &m.memory_sync {
        line("memory", bar(p));
    }
    if let Some(p) = &m.disk_sync {
        line("disks", bar(p));
    }
    if m.committed > 0 || m.epoch > 0 {
        line(
            "epoch",
            format!("{} taken, {} committed, term {}", m.epoch, m.committed, m.term),
        );
    }
    if let Some(s) = &m.pause {
        line("pause", spread(s));
    }
    if let Some(s) = &m.dirty_pages {
        line(
            "dirty pages",
            format!("p50 {}, p99 {}, last {}", s.p50, s.p99, s.last),
        );
    }
    if let Some(s) = &m.commit_latency {
        line("commit", spread(s));
    }
    if m.role == Role::Active && m.pause.is_some() {
        line("lag", m.lag.map_or("nothing committed yet".into(), time));
        let dropped = if m.dropped > 0 {
            format!(", {} dropped", m.dropped)
        } else {
            String::new()
        };
        line(
            "output held",
            format!("{} frames, {}{dropped}", m.held.frames, bytes(m.held.bytes)),
        );
        line(
            "ring",
            format!("{} waits, {}", m.ring_waits.count, time(m.ring_waits.time)),
        );
        line("clock loss", format!("{:.2} %", m.clock_loss * 100.0));
    }
    if m.role == Role::Standby || m.disk_buffer > 0 {
        line("disk buffer", bytes(m.disk_buffer));
    }
    if let Some(outage) = m.outage {
        line("outage", time(outage));
    }
    if let Some(qmp) = &m.qmp {
        line("QMP socket", qmp.display().to_string());
    }
}

fn spread(s: &Spread) -> String {
    format!("p50 {}, p99 {}, last {}", time(s.p50), time(s.p99), time(s.last))
}

/// A bar with what is done, how fast, and what is left.
fn bar(p: &Progress) -> String {
    let share = if p.total == 0 {
        1.0
    } else {
        (p.done as f64 / p.total as f64).min(1.0)
    };
    let filled = (share * BAR as f64).round() as usize;
    let left = match p.left() {
        Some(left) if share < 1.0 => format!(", {} left", time(left.as_micros() as u64)),
        _ => String::new(),
    };
    format!(
        "[{}{}] {:>3.0} %  {} of {}, {}/s{left}",
        "#".repeat(filled),
        ".".repeat(BAR - filled),
        share * 100.0,
        bytes(p.done),
        bytes(p.total),
        bytes(p.rate)
    )
}

/// Microseconds in a unit that suits them.
fn time(us: u64) -> String {
    let d = Duration::from_micros(us);
    match us {
        0..1_000 => format!("{us} us"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        1_000_000..120_000_000 => format!("{:.1} s", d.as_secs_f64()),
        _ => format!("{} min", d.as_secs() / 60),
    }
}

fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{n} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_suit_their_numbers() {
        assert_eq!(
            (time(12), time(4_200), time(3_000_000), time(600_000_000)),
            ("12 us".into(), "4.2 ms".into(), "3.0 s".into(), "10 min".into())
        );
        assert_eq!(
            (bytes(7), bytes(1536), bytes(3 << 30)),
            ("7 B".into(), "1.5 KiB".into(), "3.0 GiB".into())
        );
    }

    #[test]
    fn a_bar_tells_share_rate_and_time_left() {
        let half = Progress {
            done: 512,
            total: 1024,
            rate: 256,
        };
        assert_eq!(
            bar(&half),
            "[############............]  50 %  512 B of 1.0 KiB, 256 B/s, 2.0 s left"
        );
        assert!(bar(&Progress::default()).contains("100 %"));
    }
}
