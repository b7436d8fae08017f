use std::collections::BTreeMap;

use super::*;
use crate::vm::{
    BlockFacts, CommandLine, CpuFacts, DeviceFacts, DiskFacts, MemoryFacts, ProcessFacts, ReplicaFacts,
    Severity,
};

/// A pair of hosts and a machine that has nothing wrong with it.
fn good() -> Facts {
    let args = "-machine pc-q35-7.2 -device virtio-blk-pci,drive=d,id=vd0 -blockdev raw,node-name=d,file.driver=file,file.filename=/a";
    let host = HostFacts {
        kernel: "6.12.3-amd64".into(),
        userfaultfd: true,
        may_trace: true,
        ptrace_scope: 1,
        runtime: "/run/hawser".into(),
        runtime_in_memory: true,
    };
    let qemu = QemuFacts {
        version: [7, 2, 22],
        machine: "pc-q35-7.2".into(),
        status: "running".into(),
        cpu: CpuFacts {
            model: "qemu64".into(),
            properties: BTreeMap::from([("family".into(), "15".into())]),
            features: BTreeMap::from([("1.0.ECX".into(), 3)]),
        },
        cpus: 1,
        devices: vec![DeviceFacts {
            id: Some("vd0".into()),
            driver: "virtio-blk-pci".into(),
        }],
        blocks: vec![BlockFacts {
            name: "ram0".into(),
            page: 4096,
            size: 2 << 30,
        }],
        memory: vec![MemoryFacts {
            id: "ram0".into(),
            kind: "memory-backend-memfd".into(),
            shared: true,
            size: 2 << 30,
        }],
        disks: vec![DiskFacts {
            name: "d".into(),
            file: "/a".into(),
            size: 1 << 20,
            read_only: false,
        }],
        ..QemuFacts::default()
    };
    let replica = ReplicaFacts {
        disk: "d".into(),
        path: "/r".into(),
        size: Some(1 << 20),
        shared: None,
    };
    Facts {
        command_line: CommandLine {
            program: "qemu".into(),
            directory: "/".into(),
            args: args.split(' ').map(Into::into).collect(),
        },
        process: ProcessFacts::default(),
        standby: Some(StandbyFacts {
            host: host.clone(),
            qemu: Some(qemu.clone()),
            replicas: vec![replica],
        }),
        host,
        qemu,
    }
}

fn after(change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
    let mut facts = good();
    change(&mut facts);
    preflight(&facts)
}

#[track_caller]
fn finds(severity: Severity, part: &str, change: impl FnOnce(&mut Facts)) {
    let found = after(change);
    let fits = |f: &&Finding| f.severity == severity && f.what.contains(part) && !f.advice.is_empty();
    assert!(
        found.iter().any(|f| fits(&f)),
        "no {severity:?} with {part:?} in {found:#?}"
    );
}

#[track_caller]
fn refuses(part: &str, change: impl FnOnce(&mut Facts)) {
    finds(Severity::Refuse, part, change);
}

#[track_caller]
fn warns(part: &str, change: impl FnOnce(&mut Facts)) {
    finds(Severity::Warn, part, change);
}

fn other(facts: &mut Facts) -> &mut QemuFacts {
    facts.standby.as_mut().unwrap().qemu.as_mut().unwrap()
}

fn replica(facts: &mut Facts) -> &mut ReplicaFacts {
    &mut facts.standby.as_mut().unwrap().replicas[0]
}

fn plug(facts: &mut Facts, id: Option<&str>, driver: &str) {
    facts.qemu.devices.push(DeviceFacts {
        id: id.map(Into::into),
        driver: driver.into(),
    });
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    assert_eq!(after(|_| {}), []);
    assert_eq!(after(|f| f.standby = None), []);
}

#[test]
fn the_machine() {
    refuses("q35 has no version", |f| f.qemu.machine = "q35".into());
    refuses("state inmigrate", |f| f.qemu.status = "inmigrate".into());
    refuses("cannot be saved: ivshmem", |f| {
        f.qemu.blocked = vec!["ivshmem".into()]
    });
    refuses("guests of its own", |f| f.qemu.nested = true);
    refuses("-snapshot", |f| f.command_line.args.push("-snapshot".into()));
    refuses("without the value", |f| f.command_line.args.push("-m".into()));
}

#[test]
fn devices() {
    refuses("device nic7 (virtio-net-pci) was plugged in", |f| {
        plug(f, Some("nic7"), "virtio-net-pci")
    });
    refuses("device vd0 was unplugged", |f| f.qemu.devices.clear());
    refuses("adds and takes memory", |f| plug(f, None, "virtio-mem-pci"));
    refuses("passes a device", |f| plug(f, None, "vfio-pci"));
    refuses("vhost device", |f| plug(f, None, "vhost-vsock-pci"));
    refuses("/dev/vhost-net open", |f| {
        f.process.bypasses = vec!["/dev/vhost-net".into()]
    });
}

#[test]
fn memory_and_tracking() {
    refuses("2048 KiB (hugetlbfs)", |f| f.qemu.blocks[0].page = 2 << 20);
    warns("memory ram0 cannot be mapped", |f| {
        f.qemu.memory[0].shared = false
    });
    warns("the machine's memory cannot be mapped", |f| f.qemu.memory.clear());
    let old = |f: &mut Facts| f.host.kernel = "6.1.0-18-amd64".into();
    refuses("this host has Linux 6.1.0-18-amd64", old);
    warns("compared by hashes", |f| {
        old(f);
        f.qemu.blocks[0].size = 256 << 20;
        other(f).blocks[0].size = 256 << 20;
    });
    refuses("cannot be read", |f| f.host.kernel = "?".into());
    refuses("no userfaultfd", |f| f.host.userfaultfd = false);
    refuses("the standby's host has Linux 5.10", |f| {
        f.standby.as_mut().unwrap().host.kernel = "5.10".into()
    });
    refuses("forbids tracing", |f| f.host.ptrace_scope = 3);
    refuses("CAP_SYS_PTRACE", |f| f.host.may_trace = false);
    warns("not in memory (tmpfs)", |f| f.host.runtime_in_memory = false);
}

#[test]
fn disks() {
    refuses("on storage that other hosts share (NFS)", |f| {
        f.process.shared = vec![("/a".into(), "NFS".into())]
    });
    refuses("has no replica", |f| f.standby.as_mut().unwrap().replicas.clear());
    refuses("is not there", |f| replica(f).size = None);
    refuses("1048576 bytes and its replica /r 512", |f| {
        replica(f).size = Some(512)
    });
    refuses("replica /r is on storage", |f| {
        replica(f).shared = Some("NFS".into())
    });
    let read_only = after(|f| {
        f.qemu.disks[0].read_only = true;
        f.standby.as_mut().unwrap().replicas.clear();
    });
    assert_eq!(read_only, []);
}

#[test]
fn the_other_host() {
    refuses("QEMU 7.2.22 and the standby 10.0.2", |f| {
        other(f).version = [10, 0, 2]
    });
    warns("7.2.22 and the standby 7.2.15", |f| other(f).version = [7, 2, 15]);
    refuses("under TCG here and would under KVM", |f| other(f).kvm = true);
    refuses("pc-q35-7.2 here and a pc-q35-6.2", |f| {
        other(f).machine = "pc-q35-6.2".into()
    });
    refuses("model qemu64 here, host there", |f| {
        other(f).cpu.model = "host".into()
    });
    refuses("family is 15 here, 6 there", |f| {
        other(f).cpu.properties.insert("family".into(), "6".into());
    });
    refuses("bits 0x2 here only, 0x4 there only", |f| {
        other(f).cpu.features.insert("1.0.ECX".into(), 5);
    });
    refuses("1 processors here and 2", |f| other(f).cpus = 2);
    refuses("ram0 with 2147483648 bytes", |f| {
        other(f).blocks[0].size = 1 << 20
    });
}

#[test]
fn outputs_that_are_not_held() {
    warns("character device serial0 (pty)", |f| {
        f.qemu.outputs = vec!["character device serial0 (pty)".into()]
    });
    warns("USB device usb-storage", |f| plug(f, None, "usb-storage"));
    warns("user network", |f| {
        f.command_line.args.extend(["-netdev".into(), "user,id=u".into()])
    });
    warns("guest agent", |f| {
        let words = ["-device", "virtserialport,chardev=ga,name=org.qemu.guest_agent.0"];
        f.command_line.args.extend(words.map(Into::into));
    });
}

#[test]
fn a_user_of_whom_the_command_line_says_nothing_is_told() {
    warns("runs as user 107 here", |f| f.process.user = 107);
    let mut named = good();
    named.process.user = 107;
    for words in [["-runas", "qemu"], ["-run-with", "user=qemu"]] {
        let mut named = named.clone();
        named.command_line.args.extend(words.map(Into::into));
        assert_eq!(preflight(&named), preflight(&good()));
    }
}
