//! Command lines, facts and the accelerator's trial against real QEMUs of every version there is. They need neither root nor
//! KVM, except for taps: without root those machines have no network card.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use hawser_protect::{
    guest::{Qmp, Timeouts},
    vm::{
        CommandLine, Facts, Finding, HostFacts, LONGEST_TRIAL, ProcessFacts, QemuFacts, Replica,
        ReplicaFacts, Severity, StandbyFacts, Substitutions, TapSubstitution, choose_accelerator, derive,
        preflight,
    },
};
use hawser_testkit::{
    Process,
    vm::{Aio, Drive, Machine, Nic, Ram, Spec, Version, here},
    wait,
};
use serde_json::{Value, json};

fn connect(path: &Path) -> Qmp {
    let open = || Ok(Qmp::connect(path, Timeouts::default()).ok());
    wait::until(wait::SOON, "a QMP connection", open).unwrap()
}

fn facts(qmp: &mut Qmp) -> QemuFacts {
    QemuFacts::gather(|command, arguments| qmp.execute(command, arguments)).unwrap()
}

/// What both machines must have in common about their disks.
fn disks(qmp: &mut Qmp) -> Vec<Value> {
    let blocks = qmp.execute("query-block", json!({})).unwrap();
    let shape = |block: &Value| {
        let medium = &block["inserted"];
        // QEMU makes up names that begin so.
        let node = medium["node-name"].as_str().filter(|n| !n.starts_with('#'));
        json!([
            block["device"],
            block["qdev"],
            block["removable"],
            node,
            medium["ro"],
            medium["cache"],
            medium["detect_zeroes"],
            medium["image"]["virtual-size"],
        ])
    };
    blocks.as_array().unwrap().iter().map(shape).collect()
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

/// Waits at its start, with a disk, a network card if there may be one, a console and an odd name.
fn machine(version: &Version, dir: &Path, tap: &str) -> Machine {
    let mut spec = Spec::new(version);
    spec.memory = 64;
    spec.drives
        .push(Drive::create(&dir.join("a.raw"), 16, Aio::Threads).unwrap());
    if is_root() {
        spec.nics.push(Nic::Netdev {
            words: format!("tap,ifname={tap},script=no,downscript=no,vhost=off"),
            mac: "52:54:00:00:00:07".into(),
        });
    }
    let odd = dir.join("a,b.qcow2").display().to_string();
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", &odd, "8M"])
        .status()
        .unwrap();
    assert!(made.success());
    let drive = format!("file={},format=qcow2,if=virtio,id=odd", odd.replace(',', ",,"));
    spec.extra = [
        "-S",
        "-vga",
        "std",
        "-device",
        "qemu-xhci,id=xhci",
        "-drive",
        &drive,
        "-parallel",
        "none",
    ]
    .map(Into::into)
    .into();
    Machine::start(&here(), &spec).unwrap()
}

fn substitutions(dir: &Path, taps: [&str; 2]) -> Substitutions {
    for (name, mib) in [("r1.raw", 16), ("r,2.raw", 8)] {
        std::fs::File::create(dir.join(name))
            .unwrap()
            .set_len(mib << 20)
            .unwrap();
    }
    let replica = |disk: &str, name: &str| Replica {
        disk: disk.into(),
        path: dir.join(name),
    };
    Substitutions {
        disks: vec![
            replica(&dir.join("a.raw").display().to_string(), "r1.raw"),
            replica("odd", "r,2.raw"),
        ],
        taps: vec![TapSubstitution {
            network: taps[0].into(),
            ifname: taps[1].into(),
        }],
        directory: dir.join("standby"),
        qmp: dir.join("standby/qmp,1.sock"),
        ..Substitutions::default()
    }
}

#[test]
fn a_derived_machine_has_the_same_memory_and_disks_and_passes_preflight() {
    for version in Version::all().unwrap() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("standby")).unwrap();
        let taps =
            ["a", "b"].map(|side| format!("hwv{}{side}{}", std::process::id(), version.number().len()));
        let taps = [taps[0].as_str(), taps[1].as_str()];
        let active = machine(&version, dir.path(), taps[0]);
        let command_line = CommandLine::of_process(active.pid()).unwrap();
        assert_eq!(command_line.args, active.args());

        let substitutions = substitutions(dir.path(), taps);
        let derived = derive(&command_line, &substitutions).unwrap();
        let words: Vec<_> = derived.command_line.args.iter().map(String::as_str).collect();
        let log = dir.path().join("standby.log");
        let program = derived.command_line.program.to_str().unwrap();
        let mut standby = Process::start(&here(), program, &words, &log).unwrap();
        standby
            .wait_until(wait::SOON, "its QMP socket", |_| substitutions.qmp.exists())
            .unwrap();

        let (mut a, mut b) = (connect(&active.qmp()), connect(&substitutions.qmp));
        let (here, there) = (facts(&mut a), facts(&mut b));
        assert_eq!(there.status, "inmigrate");
        let shape = |q: &QemuFacts| {
            q.blocks
                .iter()
                .map(|b| (b.name.clone(), b.size, b.page))
                .collect::<Vec<_>>()
        };
        assert_eq!(shape(&here), shape(&there));
        assert!(
            here.blocks.iter().any(|b| b.name == "ram0" && b.size == 64 << 20),
            "{:?}",
            here.blocks
        );
        assert!(
            here.blocks.iter().any(|b| b.name.ends_with("vga.vram")),
            "{:?}",
            here.blocks
        );
        assert_eq!(disks(&mut a), disks(&mut b));
        assert_eq!(disks(&mut a).len(), 2);

        let replicas = [("disk0", "r1.raw"), ("odd", "r,2.raw")];
        let replicas = replicas.map(|(disk, file)| ReplicaFacts::gather(disk, &dir.path().join(file)));
        let mut all = Facts {
            command_line,
            process: ProcessFacts::gather(active.pid(), &here.disks),
            qemu: here,
            host: HostFacts::gather(Path::new("/dev/shm")),
            standby: Some(StandbyFacts {
                host: HostFacts::gather(Path::new("/dev/shm")),
                qemu: Some(there),
                replicas: replicas.into(),
            }),
        };
        let refused = |all: &Facts| {
            let mut found = preflight(all);
            found.retain(|f| f.severity == Severity::Refuse);
            // What this machine may or may not do is another matter.
            found.retain(|f| {
                !f.what.contains("CAP_SYS_PTRACE")
                    && !f.what.contains("Linux")
                    && !f.what.contains("prelaunch")
            });
            found
        };
        assert_eq!(refused(&all), [], "{version}");
        let warned = preflight(&all);
        assert!(
            warned
                .iter()
                .any(|f| f.what.contains("character device serial0 (file)")),
            "{warned:#?}"
        );

        // Something is plugged in: the standby would lack it.
        let tablet = json!({ "driver": "usb-tablet", "id": "later", "bus": "xhci.0" });
        a.execute("device_add", tablet).unwrap();
        all.qemu = facts(&mut a);
        let found = refused(&all);
        let plugged = "device later (usb-tablet) was plugged in";
        assert!(
            found.iter().any(|f| f.what.contains(plugged)),
            "{version}: {found:#?}"
        );
    }
}

#[test]
fn a_migration_blocker_and_another_processor_are_found() {
    for version in Version::all().unwrap() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.vdi").display().to_string();
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "vdi", &image, "1M"])
            .status()
            .unwrap();
        assert!(made.success());
        let mut spec = Spec::new(&version);
        spec.memory = 64;
        let drive = format!("file={image},format=vdi,if=virtio,id=v");
        spec.extra = ["-S", "-drive", &drive, "-cpu", "qemu64,+avx2"]
            .map(Into::into)
            .into();
        let blocked = Machine::start(&here(), &spec).unwrap();
        let found = facts(&mut connect(&blocked.qmp()));
        assert!(
            found.blocked.iter().any(|b| b.contains("vdi")),
            "{version}: {:?}",
            found.blocked
        );

        spec.extra = ["-S", "-cpu", "qemu64"].map(Into::into).into();
        let plain = Machine::start(&here(), &spec).unwrap();
        let other = facts(&mut connect(&plain.qmp()));
        assert!(!other.kvm && other.machine == "pc-q35-7.2" && other.cpus == 1 && !other.nested);
        assert_ne!(found.cpu.features, other.cpu.features);
        assert_eq!(found.cpu.model, "qemu64");
        assert!(found.memory[0].shared && found.memory[0].kind == "memory-backend-memfd");
    }
}

#[test]
fn the_accelerator_is_chosen_in_a_bounded_time_and_once() {
    for version in Version::all().unwrap() {
        let dir = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let verdict = choose_accelerator(version.program(), &version.args(), dir.path());
        assert!(
            start.elapsed() < LONGEST_TRIAL + Duration::from_secs(10),
            "{verdict:?}"
        );
        let known = ["under KVM was done", "under TCG it was done", "cannot be opened"];
        assert!(known.iter().any(|k| verdict.reason.contains(k)), "{verdict:?}");

        let again = choose_accelerator(version.program(), &version.args(), dir.path());
        assert_eq!(again, verdict);
    }
}

#[test]
fn memory_in_huge_pages_is_refused_with_what_to_do() {
    for version in Version::all().unwrap() {
        let spec = Spec {
            memory: 64,
            ram: Ram::Huge,
            extra: vec!["-S".into()],
            ..Spec::new(&version)
        };
        let machine = Machine::start(&here(), &spec).unwrap();
        let qemu = facts(&mut connect(&machine.qmp()));
        assert!(
            qemu.blocks.iter().any(|b| b.name == "ram0" && b.page == 2 << 20),
            "{:?}",
            qemu.blocks
        );
        let found = preflight(&Facts {
            command_line: CommandLine::of_process(machine.pid()).unwrap(),
            process: ProcessFacts::gather(machine.pid(), &qemu.disks),
            qemu,
            host: HostFacts::gather(Path::new("/dev/shm")),
            standby: None,
        });
        for whose in [
            "the memory is in huge pages",
            "memory ram0 is in pages of 2048 KiB",
        ] {
            let says = |f: &&Finding| f.what.starts_with(whose) && f.advice.contains("without hugetlb");
            let refused = found.iter().find(says).map(|f| f.severity);
            assert_eq!(refused, Some(Severity::Refuse), "{version}: {whose}: {found:#?}");
        }
    }
}
