//! A machine described in a small file, and the command line of a QEMU that can be protected.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    accelerator::Accelerator,
    command_line::CommandLine,
    derive::{is_versioned, unversioned},
    escape,
    finding::Unfit,
    fitness,
};

/// A virtual machine, as its owner writes it (TOML). What comes of it always has a versioned machine type, memory that another
/// process can map, taps without vhost, and a QMP socket.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// Its name: letters, digits, `-`, `_` and `.`, at most 63. No default.
    pub name: String,
    /// Its identity, a UUID. Default: made from the name, so that it is the same on every host.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub uuid: Option<uuid::Uuid>,
    /// Its memory, as in "512M" or "2G". No default.
    pub memory: String,
    /// Its processors. Default: 1.
    #[serde(default = "one")]
    pub cpus: u32,
    /// The processor's model, as in "qemu64". Default: "host" without nested virtualisation under KVM, "qemu64" under TCG.
    #[serde(default)]
    pub cpu: Option<String>,
    /// QEMU's machine type, with its version. Default: "pc-q35-7.2".
    #[serde(default = "machine")]
    pub machine: String,
    /// "kvm", "tcg", or "auto": KVM where a short trial shows that guests make progress under it. Default: "auto".
    #[serde(default)]
    pub accel: Accel,
    /// A Linux kernel to start. Default: none, the machine starts from its first disk.
    #[serde(default)]
    pub kernel: Option<PathBuf>,
    /// The kernel's first file system. Default: none.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line. Default: "".
    #[serde(default)]
    pub append: String,
    /// `[[disk]]`: its disks, in order. Default: none.
    #[serde(default)]
    pub disk: Vec<DiskDescription>,
    /// `[[nic]]`: its network cards, in order. Default: none.
    #[serde(default)]
    pub nic: Vec<NicDescription>,
    /// Where its serial line goes: "stdio", "file:PATH", "unix:PATH" or "none". Default: serial.log in its directory.
    #[serde(default)]
    pub serial: Option<String>,
    /// Its QMP socket. Default: qmp.sock in its directory.
    #[serde(default)]
    pub qmp: Option<PathBuf>,
    /// Directory for its sockets and logs. Default: "/run/hawser/vm/NAME".
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// The QEMU program. Default: "qemu-system-x86_64".
    #[serde(default = "program")]
    pub qemu: PathBuf,
    /// Further arguments of QEMU, put first. Default: none.
    #[serde(default)]
    pub arguments: Vec<String>,
}

/// What the description says of the accelerator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// By a trial.
    #[default]
    Auto,
    /// KVM always.
    Kvm,
    /// TCG always.
    Tcg,
}

/// `[[disk]]`: a virtio disk.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskDescription {
    /// The image, or a block device. No default.
    pub file: PathBuf,
    /// The image's format. Default: "raw".
    #[serde(default)]
    pub format: ImageFormat,
    /// How QEMU does its transfers, always past the host's page cache: "native", "io_uring" or "threads". Default: "native".
    #[serde(default)]
    pub aio: Aio,
    /// Whether the guest can only read it. Default: false.
    #[serde(default)]
    pub read_only: bool,
}

/// Format of an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// Bytes as the guest sees them.
    #[default]
    Raw,
    /// QEMU's own.
    Qcow2,
}

/// How QEMU does transfers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Aio {
    /// Linux AIO.
    #[default]
    #[serde(rename = "native")]
    Native,
    /// io_uring.
    #[serde(rename = "io_uring")]
    IoUring,
    /// A pool of threads.
    #[serde(rename = "threads")]
    Threads,
}

/// `[[nic]]`: a virtio network card.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum NicDescription {
    /// On a tap interface, which is made if it is not there.
    Tap {
        /// The tap's name, at most 15 bytes. No default.
        ifname: String,
        /// The bridge that it becomes a port of. Default: none; something else looks after the tap.
        #[serde(default)]
        bridge: Option<String>,
        /// The card's address. Default: made from the machine's UUID.
        #[serde(default)]
        mac: Option<String>,
    },
    /// QEMU's own network, which reaches out through this host's. Its connections do not survive a fail-over.
    User {
        /// Ports of this host that lead to the guest's, as in "tcp:127.0.0.1:2222-:22". Default: none.
        #[serde(default)]
        forward: Vec<String>,
        /// The card's address. Default: made from the machine's UUID.
        #[serde(default)]
        mac: Option<String>,
    },
}

/// What is wrong with a description: everything at once.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// It is no TOML, or has keys that are not known.
    #[error("the description of the machine cannot be read: {0}")]
    Syntax(#[from] toml::de::Error),
    /// Values that cannot be.
    #[error("the description of the machine is wrong:\n  {}", .0.join("\n  "))]
    Values(Vec<String>),
    /// What comes of it could not be protected.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// A checked description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    description: Description,
    uuid: uuid::Uuid,
    memory: u64,
    directory: PathBuf,
}

impl Description {
    /// Reads a description.
    pub fn parse(text: &str) -> Result<Self, DescriptionError> {
        Ok(toml::from_str(text)?)
    }

    /// Checks everything that can be checked without running.
    pub fn check(&self) -> Result<Plan, DescriptionError> {
        let mut wrong = Vec::new();
        let mut check = |good: bool, message: String| {
            if !good {
                wrong.push(message);
            }
        };
        check(
            is_name(&self.name),
            format!(
                "name: expected letters, digits, -, _ and . (1 to 63), got {:?}",
                self.name
            ),
        );
        let memory = bytes(&self.memory);
        check(
            memory.is_some_and(|m| m >= 1 << 20 && m % (1 << 20) == 0),
            format!(
                "memory: expected whole MiB, as in \"512M\" or \"2G\", got {:?}",
                self.memory
            ),
        );
        check(
            (1..=255).contains(&self.cpus),
            format!("cpus: expected 1 to 255, got {}", self.cpus),
        );
        check(
            self.initrd.is_none() || self.kernel.is_some(),
            "initrd: is used with kernel only; name a kernel, or leave it out".into(),
        );
        check(
            self.append.is_empty() || self.kernel.is_some(),
            "append: is used with kernel only; name a kernel, or leave it out".into(),
        );
        check(
            self.serial.as_deref().is_none_or(is_serial),
            "serial: expected \"stdio\", \"file:PATH\", \"unix:PATH\" or \"none\"".into(),
        );
        for nic in &self.nic {
            let (NicDescription::Tap { mac, .. } | NicDescription::User { mac, .. }) = nic;
            check(
                mac.as_deref().is_none_or(is_mac),
                format!("nic.mac: expected six bytes of one station, as in 52:54:00:12:34:56, got {mac:?}"),
            );
            if let NicDescription::Tap { ifname, bridge, .. } = nic {
                for name in [Some(ifname), bridge.as_ref()].into_iter().flatten() {
                    check(
                        is_interface(name),
                        format!("nic: expected an interface's name (1 to 15 bytes), got {name:?}"),
                    );
                }
            }
        }
        if !wrong.is_empty() {
            return Err(DescriptionError::Values(wrong));
        }
        if !is_versioned(&self.machine) {
            return Err(unversioned(&self.machine).into());
        }
        let plan = Plan {
            uuid: self.uuid.unwrap_or_else(|| uuid_of(&self.name)),
            memory: memory.unwrap_or_default(),
            directory: self
                .directory
                .clone()
                .unwrap_or_else(|| Path::new("/run/hawser/vm").join(&self.name)),
            description: self.clone(),
        };
        let line = plan.command_line(Accelerator::Tcg, Path::new("/"));
        Unfit::unless_fit(fitness::findings(&fitness::words(&line)?))?;
        Ok(plan)
    }
}

impl Plan {
    /// The description that it was made from.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The machine's identity.
    pub fn uuid(&self) -> uuid::Uuid {
        self.uuid
    }

    /// The directory of its sockets and logs.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The QMP socket by which it is protected.
    pub fn qmp(&self) -> PathBuf {
        self.description
            .qmp
            .clone()
            .unwrap_or_else(|| self.directory.join("qmp.sock"))
    }

    /// A second QMP socket, by which its starter ends it; QEMU serves one client at each.
    pub fn control(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// The file with its process id.
    pub fn pid_file(&self) -> PathBuf {
        self.directory.join("qemu.pid")
    }

    /// How QEMU is started; `directory` is where the description's relative paths start from.
    pub fn command_line(&self, accelerator: Accelerator, directory: &Path) -> CommandLine {
        let it = &self.description;
        let mut args = Args(it.arguments.clone());
        let path = |p: &Path| directory.join(p).display().to_string();
        let socket = |p: &Path| format!("unix:{},server=on,wait=off", escape(&path(p)));
        args.add("name", &it.name);
        args.add("uuid", &self.uuid.to_string());
        args.add("machine", &format!("{},memory-backend=ram0", escape(&it.machine)));
        args.add("accel", &accelerator.to_string());
        let cpu = match (it.cpu.as_deref(), accelerator) {
            (Some(model), _) => model,
            (None, Accelerator::Kvm) => "host,vmx=off,svm=off",
            (None, Accelerator::Tcg) => "qemu64",
        };
        args.add("cpu", cpu);
        args.add("smp", &it.cpus.to_string());
        let mib = self.memory >> 20;
        args.add("m", &mib.to_string());
        args.add(
            "object",
            &format!("memory-backend-memfd,id=ram0,size={mib}M,share=on"),
        );
        args.0.extend(["-nodefaults", "-no-user-config"].map(Into::into));
        args.add("display", "none");
        args.add("qmp", &socket(&self.qmp()));
        args.add("qmp", &socket(&self.control()));
        args.add("pidfile", &path(&self.pid_file()));
        self.serial(&mut args, &path);
        for (option, value) in [("kernel", &it.kernel), ("initrd", &it.initrd)] {
            if let Some(file) = value {
                args.add(option, &path(file));
            }
        }
        if !it.append.is_empty() {
            args.add("append", &it.append);
        }
        it.disk
            .iter()
            .enumerate()
            .for_each(|(i, disk)| disk.add(i, &mut args, &path));
        it.nic
            .iter()
            .enumerate()
            .for_each(|(i, nic)| nic.add(i, self.uuid, &mut args));
        CommandLine {
            program: it.qemu.clone(),
            directory: directory.into(),
            args: args.0,
        }
    }

    fn serial(&self, args: &mut Args, path: &dyn Fn(&Path) -> String) {
        let serial = self.description.serial.as_deref().unwrap_or_default();
        match (serial, serial.split_once(':')) {
            ("stdio", _) => {
                // Ctrl-C is for the guest, as on a real line.
                args.add("chardev", "stdio,id=serial0,signal=off");
                args.add("serial", "chardev:serial0");
            }
            ("none", _) => args.add("serial", "none"),
            (_, Some(("file", file))) => args.add("serial", &format!("file:{}", path(Path::new(file)))),
            (_, Some(("unix", file))) => {
                args.add(
                    "serial",
                    &format!("unix:{},server=on,wait=off", escape(&path(Path::new(file)))),
                );
            }
            _ => args.add(
                "serial",
                &format!("file:{}", path(&self.directory.join("serial.log"))),
            ),
        }
    }
}

impl DiskDescription {
    fn add(&self, i: usize, args: &mut Args, path: &dyn Fn(&Path) -> String) {
        let format = match self.format {
            ImageFormat::Raw => "raw",
            ImageFormat::Qcow2 => "qcow2",
        };
        let aio = match self.aio {
            Aio::Native => "native",
            Aio::IoUring => "io_uring",
            Aio::Threads => "threads",
        };
        let file = path(&self.file);
        let driver = if file.starts_with("/dev/") && !file.starts_with("/dev/shm/") {
            "host_device"
        } else {
            "file"
        };
        let node = serde_json::json!({
            "driver": format, "node-name": format!("disk{i}"), "read-only": self.read_only, "discard": "unmap",
            "cache": { "direct": true },
            "file": {
                "driver": driver, "filename": file, "aio": aio, "cache": { "direct": true }, "discard": "unmap",
                "read-only": self.read_only,
            },
        });
        args.add("blockdev", &node.to_string());
        args.add("device", &format!("virtio-blk-pci,drive=disk{i},id=vd{i}"));
    }
}

impl NicDescription {
    fn add(&self, i: usize, uuid: uuid::Uuid, args: &mut Args) {
        let netdev = match self {
            Self::Tap { ifname, .. } => {
                format!(
                    "tap,id=net{i},ifname={},script=no,downscript=no,vhost=off",
                    escape(ifname)
                )
            }
            Self::User { forward, .. } => {
                let forward = forward.iter().map(|f| format!(",hostfwd={}", escape(f)));
                format!("user,id=net{i}{}", forward.collect::<String>())
            }
        };
        let (Self::Tap { mac, .. } | Self::User { mac, .. }) = self;
        let mac = mac.clone().unwrap_or_else(|| mac_of(uuid, i));
        args.add("netdev", &netdev);
        args.add(
            "device",
            &format!("virtio-net-pci,netdev=net{i},id=nic{i},mac={mac},romfile="),
        );
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

struct Args(Vec<String>);

impl Args {
    fn add(&mut self, option: &str, value: &str) {
        self.0.push(format!("-{option}"));
        self.0.push(value.into());
    }
}

fn one() -> u32 {
    1
}

fn machine() -> String {
    "pc-q35-7.2".into()
}

fn program() -> PathBuf {
    "qemu-system-x86_64".into()
}

/// A size as in `512M`; without a letter it is in MiB, as for QEMU's `-m`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "K" | "KIB" => 10,
        "" | "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << unit)
}

fn is_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=63).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with('.')
}

fn is_interface(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b',' | b'%');
    (1..=15).contains(&name.len())
        && name.bytes().all(allowed)
        && !matches!(name, "." | "..")
        && !name.starts_with('-')
}

fn is_serial(serial: &str) -> bool {
    let path = serial
        .strip_prefix("file:")
        .or_else(|| serial.strip_prefix("unix:"));
    matches!(serial, "stdio" | "none") || path.is_some_and(|p| !p.is_empty())
}

fn is_mac(mac: &str) -> bool {
    let bytes: Vec<_> = mac
        .split(':')
        .filter(|b| b.len() == 2)
        .map(|b| u8::from_str_radix(b, 16))
        .collect();
    // The lowest bit of the first byte says that many stations are meant.
    mac.split(':').count() == 6
        && bytes.len() == 6
        && bytes.iter().all(Result::is_ok)
        && matches!(bytes[0], Ok(b) if b & 1 == 0)
}

/// A UUID of version 8 (RFC 9562): ours, from the name.
fn uuid_of(name: &str) -> uuid::Uuid {
    let hash = xxhash_rust::xxh3::xxh3_128(format!("hawser vm {name}").as_bytes());
    uuid::Builder::from_custom_bytes(hash.to_be_bytes()).into_uuid()
}

/// An address that its maker gave out locally, in QEMU's range.
fn mac_of(uuid: uuid::Uuid, i: usize) -> String {
    let hash = xxhash_rust::xxh3::xxh3_64_with_seed(uuid.as_bytes(), i as u64).to_be_bytes();
    format!("52:54:00:{:02x}:{:02x}:{:02x}", hash[0], hash[1], hash[2])
}
