//! The judgement before anything is changed: what keeps a machine from being protected, and what protection will not cover.

#[cfg(test)]
mod tests;

use super::{
    derive::is_versioned,
    facts::{CpuFacts, Facts, HostFacts, QemuFacts, StandbyFacts},
    finding::Finding,
    fitness::{self, Word},
};

/// The largest guest that is protected by comparing hashes of its pages, in bytes: hashing takes about 80 ms per 256 MiB, in
/// every pause.
pub const LARGEST_HASHED: u64 = 1 << 30;

/// Judges everything that is known. Without a standby, what concerns it is left out.
pub fn preflight(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    let words = match fitness::words(&facts.command_line) {
        Ok(words) => words,
        Err(unfit) => {
            found.extend(unfit.reasons);
            Vec::new()
        }
    };
    found.extend(fitness::findings(&words));
    found.extend(running(&facts.qemu));
    found.extend(plugged(&facts.qemu, &words));
    found.extend(memory(&facts.qemu));
    found.extend(process(facts));
    found.extend(user(facts, &words));
    found.extend(host(&facts.host, "this host", facts.qemu.bytes()));
    found.extend(unheld(&facts.qemu, &words));
    if let Some(standby) = &facts.standby {
        found.extend(host(&standby.host, "the standby's host", facts.qemu.bytes()));
        found.extend(replicas(&facts.qemu, standby));
        if let Some(other) = &standby.qemu {
            found.extend(pair(&facts.qemu, other));
        }
    }
    // The same device may be seen on the command line and in the machine.
    let mut unique: Vec<Finding> = Vec::new();
    for finding in found {
        if !unique.contains(&finding) {
            unique.push(finding);
        }
    }
    unique
}

/// The machine as it is now.
fn running(qemu: &QemuFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    if !is_versioned(&qemu.machine) {
        found.push(Finding::refuse(
            format!(
                "machine type {} has no version, so that another QEMU may build another machine from it",
                qemu.machine
            ),
            "start the machine with a versioned type, as in -machine pc-q35-7.2",
        ));
    }
    const STATES: [&str; 5] = ["running", "paused", "suspended", "io-error", "watchdog"];
    if !STATES.contains(&qemu.status.as_str()) {
        found.push(Finding::refuse(
            format!("the machine is in state {}, expected a running one", qemu.status),
            "wait until it runs, or start it again",
        ));
    }
    for reason in &qemu.blocked {
        found.push(Finding::refuse(
            format!("QEMU says that the machine's state cannot be saved: {reason}"),
            "take away the device or option that QEMU names",
        ));
    }
    if qemu.nested {
        found.push(Finding::refuse(
            "the guest runs guests of its own (nested virtualisation is in use)",
            "end them, or start the machine with -cpu MODEL,vmx=off,svm=off",
        ));
    }
    found
}

/// Devices that came or went after the start: the standby is built from the command line and would lack them.
fn plugged(qemu: &QemuFacts, words: &[Word]) -> Vec<Finding> {
    let mut found: Vec<_> = qemu
        .devices
        .iter()
        .filter_map(|d| fitness::device(&d.driver))
        .collect();
    let given = || {
        words
            .iter()
            .filter(|w| w.name == "device")
            .filter_map(|w| w.options.get("id"))
    };
    for device in &qemu.devices {
        if let Some(id) = &device.id
            && !given().any(|g| g == *id)
        {
            found.push(Finding::refuse(
                format!(
                    "device {id} ({}) was plugged in after the start, and the standby would lack it",
                    device.driver
                ),
                "unplug it, or start the machine with it",
            ));
        }
    }
    for id in given() {
        if !qemu.devices.iter().any(|d| d.id.as_ref() == Some(&id)) {
            found.push(Finding::refuse(
                format!("device {id} was unplugged after the start, and the standby would have it"),
                "plug it in again, or start the machine without it",
            ));
        }
    }
    found
}

fn memory(qemu: &QemuFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(block) = qemu.blocks.iter().find(|b| b.page > 4096) {
        found.push(Finding::refuse(
            format!(
                "memory {} is in pages of {} KiB (hugetlbfs), of which single small pages cannot be tracked",
                block.name,
                block.page >> 10
            ),
            "use -object memory-backend-memfd,share=on without hugetlb",
        ));
    }
    let slow: Vec<_> = qemu
        .memory
        .iter()
        .filter(|m| !m.shared || m.kind == "memory-backend-ram")
        .map(|m| m.id.as_str())
        .collect();
    if !slow.is_empty() || qemu.memory.is_empty() {
        let what = if slow.is_empty() {
            "the machine's memory".into()
        } else {
            format!("memory {}", slow.join(", "))
        };
        found.push(Finding::warn(
            format!("{what} cannot be mapped by the agent, so that each pause takes longer"),
            "when it is convenient, start the machine with -object memory-backend-memfd,id=ram0,size=SIZE,share=on \
             -machine TYPE,memory-backend=ram0",
        ));
    }
    found
}

fn process(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in &facts.process.bypasses {
        found.push(Finding::refuse(
            format!("QEMU has {file} open: the kernel or a device writes the guest's memory, unseen by QEMU"),
            "start the machine without vhost and without devices passed through",
        ));
    }
    for (image, kind) in &facts.process.shared {
        found.push(Finding::refuse(
            format!("disk {image} is on storage that other hosts share ({kind}); each host must have a copy of its own"),
            "move the image to a disk of this host",
        ));
    }
    found
}

/// Who the standby's QEMU would be: its command line says that, and nothing else does.
fn user(facts: &Facts, words: &[Word]) -> Option<Finding> {
    let says = |w: &Word| w.name == "runas" || (w.name == "run-with" && w.options.has("user"));
    let user = facts.process.user;
    (user != 0 && !words.iter().any(says)).then(|| {
        Finding::warn(
            format!("QEMU runs as user {user} here, and would run as the agent's user on the standby"),
            "when it is convenient, start the machine with -run-with user=USER (before QEMU 9.1: -runas USER), which the standby does then, too",
        )
    })
}

fn host(host: &HostFacts, whose: &str, bytes: u64) -> Vec<Finding> {
    let mut found = Vec::new();
    let missing = match release(&host.kernel) {
        Some(release) if release < (6, 7) => Some(format!(
            "{whose} has Linux {}; tracking needs 6.7 or later",
            host.kernel
        )),
        None => Some(format!(
            "{whose} has Linux {:?}, whose version cannot be read",
            host.kernel
        )),
        Some(_) if !host.userfaultfd => Some(format!(
            "the kernel of {whose} has no userfaultfd (CONFIG_USERFAULTFD)"
        )),
        Some(_) => None,
    };
    if let Some(what) = missing {
        let advice = "start a kernel of 6.7 or later with CONFIG_USERFAULTFD and CONFIG_PTE_MARKER_UFFD_WP";
        found.push(if bytes > LARGEST_HASHED {
            let limit = format!(
                "; without it only machines up to {} MiB can be protected",
                LARGEST_HASHED >> 20
            );
            Finding::refuse(what + &limit, advice)
        } else {
            Finding::warn(
                what + "; pages are compared by hashes instead, and pauses take longer",
                advice,
            )
        });
    }
    if host.ptrace_scope >= 3 {
        found.push(Finding::refuse(
            format!(
                "{whose} forbids tracing to everybody (kernel.yama.ptrace_scope = {})",
                host.ptrace_scope
            ),
            "start it with kernel.yama.ptrace_scope = 2 or less; 3 cannot be taken back while it runs",
        ));
    }
    if !host.may_trace {
        found.push(Finding::refuse(
            format!("the agent on {whose} may not trace QEMU (CAP_SYS_PTRACE is missing)"),
            "run it as root, or with CAP_SYS_PTRACE",
        ));
    }
    if !host.runtime_in_memory {
        found.push(Finding::warn(
            format!(
                "{} on {whose} is not in memory (tmpfs), so that saving device states may wait for a disk",
                host.runtime.display()
            ),
            "use a directory under /run",
        ));
    }
    found
}

/// What leaves the machine before its epoch is safe.
fn unheld(qemu: &QemuFacts, words: &[Word]) -> Vec<Finding> {
    let agent = words.iter().filter(|w| w.name == "device").any(|w| {
        w.options
            .get("name")
            .is_some_and(|n| n == "org.qemu.guest_agent.0")
    });
    let mut outputs = qemu.outputs.clone();
    outputs.extend(agent.then(|| "guest agent".into()));
    const USB: [&str; 5] = ["usb-storage", "usb-uas", "usb-redir", "usb-serial", "usb-ccid"];
    let usb = qemu
        .devices
        .iter()
        .filter(|d| USB.iter().any(|u| d.driver.starts_with(u)));
    outputs.extend(usb.map(|d| format!("USB device {}", d.driver)));
    let advice = "do not rely on what it said in the last moments before a fail-over: that may be undone";
    let finding = |output: &String| {
        Finding::warn(
            format!("output of {output} is not held until its checkpoint is safe"),
            advice,
        )
    };
    let mut found: Vec<_> = outputs.iter().map(finding).collect();
    let user = words.iter().any(|w| {
        matches!(w.name.as_str(), "netdev" | "nic") && w.options.get("type").as_deref() == Some("user")
    });
    if user {
        found.push(Finding::warn(
            "a network card is on QEMU's user network, whose connections end at this host",
            "use a tap on a bridge if connections shall survive",
        ));
    }
    found
}

fn replicas(qemu: &QemuFacts, standby: &StandbyFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    for disk in qemu.disks.iter().filter(|d| !d.read_only) {
        let Some(replica) = standby.replicas.iter().find(|r| r.disk == disk.name) else {
            found.push(Finding::refuse(
                format!("disk {} ({}) has no replica on the standby", disk.name, disk.file),
                "name an image file or block device there for it",
            ));
            continue;
        };
        let path = replica.path.display();
        match replica.size {
            None => found.push(Finding::refuse(
                format!(
                    "replica {path} of disk {} is not there, or cannot be read",
                    disk.name
                ),
                format!("make it: truncate -s {} {path}", disk.size),
            )),
            Some(size) if size != disk.size => found.push(Finding::refuse(
                format!(
                    "disk {} has {} bytes and its replica {path} {size}",
                    disk.name, disk.size
                ),
                format!(
                    "make the replica of the same size: truncate -s {} {path}",
                    disk.size
                ),
            )),
            Some(_) => {}
        }
        if let Some(kind) = &replica.shared {
            found.push(Finding::refuse(
                format!("replica {path} is on storage that other hosts share ({kind})"),
                "put it on a disk of the standby's host",
            ));
        }
    }
    found
}

/// Whether one's state can be loaded into the other.
fn pair(active: &QemuFacts, standby: &QemuFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    let [a, b] = [active, standby].map(|q| q.version.map(|n| n.to_string()).join("."));
    if active.version[..2] != standby.version[..2] {
        found.push(Finding::refuse(
            format!("this host has QEMU {a} and the standby {b}"),
            "install the same version on both",
        ));
    } else if active.version != standby.version {
        found.push(Finding::warn(
            format!("this host has QEMU {a} and the standby {b}, of the same series"),
            "install the same version on both when it is convenient",
        ));
    }
    if active.kvm != standby.kvm {
        let name = |kvm| if kvm { "KVM" } else { "TCG" };
        found.push(Finding::refuse(
            format!(
                "the machine runs under {} here and would under {} on the standby",
                name(active.kvm),
                name(standby.kvm)
            ),
            "use the same accelerator on both hosts",
        ));
    }
    if active.machine != standby.machine {
        found.push(Finding::refuse(
            format!(
                "the machine is a {} here and a {} on the standby",
                active.machine, standby.machine
            ),
            "use the same versioned machine type on both hosts",
        ));
    }
    if let Some(difference) = processors(&active.cpu, &standby.cpu) {
        found.push(Finding::refuse(
            format!("the guest would see another processor on the standby: {difference}"),
            "name a model that both hosts have, as in -cpu Westmere or -cpu Skylake-Server, rather than host or max",
        ));
    }
    if active.cpus != standby.cpus {
        found.push(Finding::refuse(
            format!(
                "the machine has {} processors here and {} on the standby",
                active.cpus, standby.cpus
            ),
            "unplug processors that were plugged in after the start",
        ));
    }
    let shape = |q: &QemuFacts| {
        let mut blocks: Vec<_> = q.blocks.iter().map(|b| (b.name.clone(), b.size)).collect();
        blocks.sort();
        blocks
    };
    let (here, there) = (shape(active), shape(standby));
    if here != there {
        let odd = here
            .iter()
            .find(|b| !there.contains(b))
            .or_else(|| there.iter().find(|b| !here.contains(b)));
        let odd = odd
            .map(|(name, size)| format!("{name} with {size} bytes"))
            .unwrap_or_default();
        found.push(Finding::refuse(
            format!("memory differs between this host and the standby: {odd} is on one of them only"),
            "install the same firmware packages (seabios, ovmf, ipxe-qemu) on both hosts",
        ));
    }
    found
}

/// The first difference between two processors.
fn processors(a: &CpuFacts, b: &CpuFacts) -> Option<String> {
    if a.model != b.model {
        return Some(format!("model {} here, {} there", a.model, b.model));
    }
    // A key that only one side knows comes of another micro version of QEMU, and says nothing of the processor.
    for (key, here) in &a.properties {
        if let Some(there) = b.properties.get(key).filter(|v| *v != here) {
            return Some(format!("{key} is {here} here, {there} there"));
        }
    }
    let keys = a.features.keys().chain(b.features.keys());
    keys.filter_map(|key| {
        let bits = |cpu: &CpuFacts| cpu.features.get(key).copied().unwrap_or_default();
        let (here, there) = (bits(a), bits(b));
        (here != there).then(|| {
            format!(
                "CPUID {key} has bits {:#x} here only, {:#x} there only",
                here & !there,
                there & !here
            )
        })
    })
    .next()
}

/// Major and minor number of a kernel's release.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
