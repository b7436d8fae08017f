//! What is known of a machine and of the two hosts before protection begins: gathered from QMP, `/proc` and the file systems,
//! judged by [`super::preflight`], and sent from host to host.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::command_line::CommandLine;

/// Everything that preflight judges.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// How the active's QEMU was started.
    pub command_line: CommandLine,
    /// What it says of itself.
    pub qemu: QemuFacts,
    /// What the kernel says of its process.
    pub process: ProcessFacts,
    /// The host that it runs on.
    pub host: HostFacts,
    /// The other side, once it is known.
    pub standby: Option<StandbyFacts>,
}

/// The standby's side.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyFacts {
    /// The host.
    pub host: HostFacts,
    /// Its QEMU, once that is started and waits for a state.
    pub qemu: Option<QemuFacts>,
    /// Replicas of the disks.
    pub replicas: Vec<ReplicaFacts>,
}

/// What a QEMU says of itself by QMP.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QemuFacts {
    /// Major, minor, micro.
    pub version: [u64; 3],
    /// Whether KVM runs its guest.
    pub kvm: bool,
    /// The machine's type, as in `pc-q35-7.2`.
    pub machine: String,
    /// Its state, as in `running` (QEMU's `RunState`).
    pub status: String,
    /// Why it could not be migrated (`blocked-reasons` of `query-migrate`).
    pub blocked: Vec<String>,
    /// Its processors as the guest sees them, all alike.
    pub cpu: CpuFacts,
    /// How many processors.
    pub cpus: usize,
    /// Whether the guest runs guests of its own now.
    pub nested: bool,
    /// Devices that were added to the machine, at its start or later.
    pub devices: Vec<DeviceFacts>,
    /// RAM blocks.
    pub blocks: Vec<BlockFacts>,
    /// Memory backends.
    pub memory: Vec<MemoryFacts>,
    /// Disks with a medium.
    pub disks: Vec<DiskFacts>,
    /// Ways out of the machine that are not held: consoles, displays, channels. For people.
    pub outputs: Vec<String>,
}

/// A processor as its guest sees it: what must be equal on both hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuFacts {
    /// QEMU's model.
    pub model: String,
    /// Vendor, family, stepping and the like, by QEMU's names.
    pub properties: BTreeMap<String, String>,
    /// Bits of CPUID that are not zero, by leaf, subleaf and register, as in `1.0.ECX`.
    pub features: BTreeMap<String, u64>,
}

/// A device of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// Its id, if it has one.
    pub id: Option<String>,
    /// Its driver, as in `virtio-net-pci`.
    pub driver: String,
}

/// A RAM block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockFacts {
    /// Its name.
    pub name: String,
    /// Bytes in a page of the host's that backs it.
    pub page: u64,
    /// Bytes in use.
    pub size: u64,
}

/// A memory backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryFacts {
    /// Its id.
    pub id: String,
    /// Its type, as in `memory-backend-memfd`.
    pub kind: String,
    /// Whether another process can map it.
    pub shared: bool,
    /// Bytes.
    pub size: u64,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFacts {
    /// Its drive or node name.
    pub name: String,
    /// Its image.
    pub file: String,
    /// Bytes that the guest sees.
    pub size: u64,
    /// Whether the guest can only read it.
    pub read_only: bool,
}

/// What the kernel says of a QEMU process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// Open files under `/dev` that let the kernel or a device write the guest's memory: vhost, VFIO.
    pub bypasses: Vec<String>,
    /// Images on storage that several hosts share: the image and the file system.
    pub shared: Vec<(String, String)>,
    /// The user that it runs as, by number.
    #[serde(default)]
    pub user: u32,
}

/// What a host offers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// The kernel's release, as in `6.12.3-amd64`.
    pub kernel: String,
    /// Whether it has `userfaultfd`.
    pub userfaultfd: bool,
    /// Whether this process may trace others (`CAP_SYS_PTRACE`).
    pub may_trace: bool,
    /// Yama's `ptrace_scope`; 3 forbids tracing to everybody.
    pub ptrace_scope: u8,
    /// Directory for sockets and states.
    pub runtime: PathBuf,
    /// Whether that directory is in memory.
    pub runtime_in_memory: bool,
}

/// A replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaFacts {
    /// The disk, by its name in [`DiskFacts`].
    pub disk: String,
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes; none if it is not there.
    pub size: Option<u64>,
    /// The file system, if several hosts share it.
    pub shared: Option<String>,
}

impl QemuFacts {
    /// Asks a QEMU; `ask` runs a QMP command with its arguments. Changes nothing.
    pub fn gather<E>(mut ask: impl FnMut(&str, Value) -> Result<Value, E>) -> Result<Self, E> {
        let none = || json!({});
        let version = ask("query-version", none())?;
        let number = |key: &str| version["qemu"][key].as_u64().unwrap_or_default();
        let machine = ask("qom-get", json!({ "path": "/machine", "property": "type" }))?;
        let machine = string(&machine);
        let cpus = ask("query-cpus-fast", none())?;
        let cpus = cpus.as_array().cloned().unwrap_or_default();
        let cpu = match cpus.first() {
            Some(first) => cpu(&string(&first["qom-path"]), &mut ask)?,
            None => CpuFacts::default(),
        };
        let registers = ask(
            "human-monitor-command",
            json!({ "command-line": "info registers -a" }),
        )?;
        let blocks = ask(
            "human-monitor-command",
            json!({ "command-line": "info ramblock" }),
        )?;
        let migration = ask("query-migrate", none())?;
        Ok(Self {
            version: [number("major"), number("minor"), number("micro")],
            kvm: ask("query-kvm", none())?["enabled"] == true,
            machine: machine.strip_suffix("-machine").unwrap_or(&machine).into(),
            status: string(&ask("query-status", none())?["status"]),
            blocked: list(&migration["blocked-reasons"]).map(string).collect(),
            cpu,
            cpus: cpus.len(),
            nested: nested(&string(&registers)),
            devices: devices(&mut ask)?,
            blocks: ram_blocks(&string(&blocks)),
            memory: memory(&mut ask)?,
            disks: disks(&ask("query-block", none())?),
            outputs: outputs(&mut ask)?,
        })
    }

    /// Bytes of RAM in all blocks.
    pub fn bytes(&self) -> u64 {
        self.blocks.iter().map(|b| b.size).sum()
    }
}

impl ProcessFacts {
    /// Looks at a QEMU process and at the file systems of its images.
    pub fn gather(pid: u32, disks: &[DiskFacts]) -> Self {
        let open = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        let mut bypasses: Vec<_> = open
            .filter_map(|entry| fs::read_link(entry.path()).ok()?.to_str().map(str::to_owned))
            .filter(|path| path.starts_with("/dev/vhost") || path.starts_with("/dev/vfio"))
            .collect();
        bypasses.sort();
        bypasses.dedup();
        let root = PathBuf::from(format!("/proc/{pid}/cwd"));
        let writable = disks.iter().filter(|d| !d.read_only);
        let shared = writable.filter_map(|d| Some((d.file.clone(), shared_storage(&root.join(&d.file))?)));
        Self {
            shared: shared.collect(),
            bypasses,
            user: fs::metadata(format!("/proc/{pid}")).map_or(0, |m| m.uid()),
        }
    }
}

impl HostFacts {
    /// Looks at this host. `runtime` is the directory for sockets and states; it must exist.
    pub fn gather(runtime: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let status = read("/proc/self/status");
        let capabilities = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
        let capabilities = capabilities
            .and_then(|c| u64::from_str_radix(c.trim(), 16).ok())
            .unwrap_or_default();
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().into(),
            userfaultfd: Path::new("/proc/sys/vm/unprivileged_userfaultfd").exists(),
            may_trace: capabilities & (1 << CAP_SYS_PTRACE) != 0,
            ptrace_scope: read("/proc/sys/kernel/yama/ptrace_scope")
                .trim()
                .parse()
                .unwrap_or_default(),
            runtime: runtime.into(),
            runtime_in_memory: magic(runtime).is_some_and(|m| IN_MEMORY.contains(&m)),
        }
    }
}

impl ReplicaFacts {
    /// Looks at the replica of a disk on this host.
    pub fn gather(disk: &str, path: &Path) -> Self {
        use std::io::{Seek as _, SeekFrom};
        // The end of a block device is found by seeking only.
        let size = fs::File::open(path)
            .and_then(|mut f| f.seek(SeekFrom::End(0)))
            .ok();
        Self {
            disk: disk.into(),
            path: path.into(),
            size,
            shared: shared_storage(path),
        }
    }
}

/// Number of the capability (`linux/capability.h`).
const CAP_SYS_PTRACE: u32 = 19;

/// tmpfs and ramfs (`linux/magic.h`).
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// File systems that several hosts write (`linux/magic.h`).
const SHARED: [(u32, &str); 8] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x00c3_6400, "CephFS"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x0102_1997, "9p"),
    (0x6b41_4653, "AFS"),
];

fn magic(path: &Path) -> Option<u32> {
    rustix::fs::statfs(path).ok().map(|s| s.f_type as u32)
}

/// The file system of a file, or of the directory that it would be in, if several hosts share it.
fn shared_storage(path: &Path) -> Option<String> {
    let magic = magic(path).or_else(|| magic(path.parent()?))?;
    SHARED
        .iter()
        .find(|(m, _)| *m == magic)
        .map(|(_, name)| (*name).into())
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().into()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn cpu<E>(path: &str, ask: &mut impl FnMut(&str, Value) -> Result<Value, E>) -> Result<CpuFacts, E> {
    let mut get = |property: &str| ask("qom-get", json!({ "path": path, "property": property }));
    let words = get("feature-words")?;
    let features = list(&words).filter_map(|w| {
        let (leaf, subleaf) = (
            w["cpuid-input-eax"].as_u64()?,
            w["cpuid-input-ecx"].as_u64().unwrap_or_default(),
        );
        let bits = w["features"].as_u64().filter(|b| *b != 0)?;
        Some((
            format!("{leaf:x}.{subleaf:x}.{}", w["cpuid-register"].as_str()?),
            bits,
        ))
    });
    let features = features.collect();
    let mut properties = BTreeMap::new();
    for key in [
        "vendor",
        "family",
        "model",
        "stepping",
        "phys-bits",
        "model-id",
        "level",
        "xlevel",
    ] {
        // A property that this version does not have is none of the processor's.
        if let Ok(value) = get(key) {
            properties.insert(
                key.into(),
                value.as_str().map_or_else(|| value.to_string(), Into::into),
            );
        }
    }
    let model = string(&get("type")?);
    Ok(CpuFacts {
        model: model.strip_suffix("-x86_64-cpu").unwrap_or(&model).into(),
        properties,
        features,
    })
}

/// Whether a processor is in VMX operation (CR4.VMXE) or has SVM enabled (EFER.SVME).
fn nested(registers: &str) -> bool {
    let bits = |name: &str, bit: u32| {
        registers.split_whitespace().any(|word| {
            let value = word
                .strip_prefix(name)
                .and_then(|v| u64::from_str_radix(v, 16).ok());
            value.is_some_and(|v| v & (1 << bit) != 0)
        })
    };
    bits("CR4=", 13) || bits("EFER=", 12)
}

fn devices<E>(ask: &mut impl FnMut(&str, Value) -> Result<Value, E>) -> Result<Vec<DeviceFacts>, E> {
    let mut devices = Vec::new();
    for (path, named) in [("/machine/peripheral", true), ("/machine/peripheral-anon", false)] {
        let listed = ask("qom-list", json!({ "path": path }))?;
        for entry in list(&listed) {
            let kind = string(&entry["type"]);
            if let Some(driver) = kind.strip_prefix("child<").and_then(|k| k.strip_suffix('>')) {
                devices.push(DeviceFacts {
                    id: named.then(|| string(&entry["name"])),
                    driver: driver.into(),
                });
            }
        }
    }
    Ok(devices)
}

/// Lines such as `ram0    4 KiB  0x0000000000000000 0x0000000004000000 0x0000000004000000 ...`; names may hold blanks.
fn ram_blocks(text: &str) -> Vec<BlockFacts> {
    let line = |line: &str| {
        let (head, tail) = line.split_at(line.find(" 0x")?);
        let mut words = head.split_whitespace().rev();
        let unit = match words.next()? {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        let page: u64 = words.next()?.parse().ok()?;
        let name: Vec<_> = words.collect();
        let used = tail.split_whitespace().nth(1)?.strip_prefix("0x")?;
        Some(BlockFacts {
            name: name.into_iter().rev().collect::<Vec<_>>().join(" "),
            page: page * unit,
            size: u64::from_str_radix(used, 16).ok()?,
        })
    };
    text.lines().filter_map(line).collect()
}

fn memory<E>(ask: &mut impl FnMut(&str, Value) -> Result<Value, E>) -> Result<Vec<MemoryFacts>, E> {
    let backends = ask("query-memdev", json!({}))?;
    let mut memory = Vec::new();
    for backend in list(&backends) {
        let id = string(&backend["id"]);
        let kind = ask(
            "qom-get",
            json!({ "path": format!("/objects/{id}"), "property": "type" }),
        );
        memory.push(MemoryFacts {
            // The backend that QEMU makes by itself is not among the objects.
            kind: kind
                .map(|k| string(&k))
                .unwrap_or_else(|_| "memory-backend-ram".into()),
            shared: backend["share"] == true,
            size: backend["size"].as_u64().unwrap_or_default(),
            id,
        });
    }
    Ok(memory)
}

fn disks(blocks: &Value) -> Vec<DiskFacts> {
    let disk = |block: &Value| {
        let medium = block.get("inserted")?;
        let names = [&block["device"], &medium["node-name"]].map(string);
        Some(DiskFacts {
            name: names.into_iter().find(|n| !n.is_empty())?,
            file: string(&medium["image"]["filename"]),
            size: medium["image"]["virtual-size"].as_u64()?,
            read_only: medium["ro"] == true,
        })
    };
    list(blocks).filter_map(disk).collect()
}

/// Ways out that are not network cards.
fn outputs<E>(ask: &mut impl FnMut(&str, Value) -> Result<Value, E>) -> Result<Vec<String>, E> {
    let mut outputs = Vec::new();
    let characters = ask("query-chardev", json!({}))?;
    for device in list(&characters) {
        let (label, far) = (string(&device["label"]), string(&device["filename"]));
        let ours =
            label.starts_with("hawser-") || label.starts_with("compat_monitor") || label.starts_with("gdb");
        if !ours && far != "null" {
            outputs.push(format!("character device {label} ({far})"));
        }
    }
    // A QEMU may be built without these.
    for (command, name) in [("query-vnc", "VNC display"), ("query-spice", "SPICE display")] {
        if ask(command, json!({})).is_ok_and(|answer| answer["enabled"] == true) {
            outputs.push(name.into());
        }
    }
    if let Ok(tpms) = ask("query-tpm", json!({})) {
        outputs.extend(list(&tpms).map(|t| format!("TPM {}", string(&t["id"]))));
    }
    Ok(outputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_both_versions_are_read() {
        let text = "              Block Name    PSize              Offset               Used              Total\n\
                    \x20                   ram0    4 KiB  0x0000000000000000 0x0000000004000000 0x0000000004000000\n\
                    \x20   a b/rom    2 MiB  0x00000000040c0000 0x0000000000020000 0x0000000000200000 0x00007fb257fff000  rw\n";
        let seen: Vec<_> = ram_blocks(text)
            .into_iter()
            .map(|b| (b.name, b.page, b.size))
            .collect();
        assert_eq!(
            seen,
            [
                ("ram0".into(), 4096, 64 << 20),
                ("a b/rom".into(), 2 << 20, 128 << 10)
            ]
        );
    }

    #[test]
    fn nested_virtualisation_is_seen_in_the_registers() {
        assert!(!nested(
            "CR0=00000011 CR2=00000000 CR3=00000000 CR4=00000000\nEFER=0000000000000500"
        ));
        assert!(nested("CR3=0 CR4=00002020"));
        assert!(nested("EFER=0000000000001d01"));
    }

    #[test]
    fn this_host_says_what_it_offers() {
        let dir = tempfile::tempdir().unwrap();
        let host = HostFacts::gather(dir.path());
        assert!(!host.kernel.is_empty());
        assert!(HostFacts::gather(Path::new("/dev/shm")).runtime_in_memory);
        let image = dir.path().join("image");
        assert_eq!(ReplicaFacts::gather("d", &image).size, None);
        fs::write(&image, [0; 512]).unwrap();
        assert_eq!(ReplicaFacts::gather("d", &image).size, Some(512));
        let own = ProcessFacts {
            user: rustix::process::getuid().as_raw(),
            ..ProcessFacts::default()
        };
        assert_eq!(ProcessFacts::gather(std::process::id(), &[]), own);
    }
}
