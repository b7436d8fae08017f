//! What a machine is made of, and the words that say so to QEMU.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{Image, KV_PORT, Version};

/// A machine type that both versions of QEMU know.
pub const MACHINE: &str = "pc-q35-7.2";

/// Spares a guest's kernel what takes long when every instruction is emulated, and shows nothing here.
const QUICK: &str = "mitigations=off nokaslr cryptomgr.notests no_timer_check 8250.nr_uarts=1";

/// What backs the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ram {
    /// A memfd that others may map.
    Shared,
    /// Private memory of the process.
    Anonymous,
    /// Huge pages, which need not be there as long as the guest does not start.
    Huge,
}

/// How QEMU does the transfers of a disk. The host's page cache is never used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aio {
    /// `threads`: a pool of threads.
    Threads,
    /// `native`: Linux AIO.
    Native,
    /// `io_uring`.
    IoUring,
}

impl Aio {
    /// As on QEMU's command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Native => "native",
            Self::IoUring => "io_uring",
        }
    }
}

/// A disk: a raw image, seen as `/dev/vda` and so on.
#[derive(Debug, Clone)]
pub struct Drive {
    /// The image's file.
    pub file: PathBuf,
    /// How it is accessed.
    pub aio: Aio,
}

impl Drive {
    /// Makes a raw image of zeros, of this many MiB, and takes it as a disk.
    pub fn create(file: &Path, mib: u64, aio: Aio) -> Result<Self> {
        let made = File::create(file).with_context(|| format!("cannot make {}", file.display()))?;
        made.set_len(mib << 20)?;
        Ok(Self {
            file: file.into(),
            aio,
        })
    }
}

/// The guest's network card, a `virtio-net-pci`. Netdev ids are `net0` and so on.
#[derive(Debug, Clone)]
pub enum Nic {
    /// A tap interface, made on the machine's host and put on that host's bridge.
    Tap {
        /// Name of the tap.
        tap: String,
        /// Name of a bridge that is there.
        bridge: String,
        /// The card's address.
        mac: String,
    },
    /// QEMU's own user network: needs no right, and reaches the guest's server from this host's loopback.
    User {
        /// The card's address.
        mac: String,
    },
    /// A netdev in QEMU's own words without its id, as in `socket,listen=127.0.0.1:1234`.
    Netdev {
        /// The words.
        words: String,
        /// The card's address.
        mac: String,
    },
}

/// All of it. Change the fields that matter.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The QEMU to run.
    pub version: Version,
    /// Its `-name`, also of its files.
    pub name: String,
    /// Its `-uuid`.
    pub uuid: String,
    /// A versioned machine type.
    pub machine: String,
    /// `tcg`, or `kvm` where it works.
    pub accel: String,
    /// Memory in MiB.
    pub memory: u32,
    /// What backs the memory.
    pub ram: Ram,
    /// Disks, in order.
    pub drives: Vec<Drive>,
    /// Network cards, in order. The guest uses the first.
    pub nics: Vec<Nic>,
    /// The guest's address, as in `10.77.0.2/24`; none: it has no network, or the one of [`Nic::User`].
    pub ip: Option<String>,
    /// More words for the guest's kernel, as in `hawser.flush` (the log is also flushed before each acknowledgement).
    pub append: String,
    /// More arguments of QEMU.
    pub extra: Vec<String>,
}

impl Spec {
    /// 256 MiB of shared memory, no disk, no network, emulated: what takes little time everywhere. `HAWSER_TEST_ACCEL=kvm` in
    /// the environment takes hardware where it works.
    pub fn new(version: &Version) -> Self {
        Self {
            version: version.clone(),
            name: "vm1".into(),
            uuid: "6b0c8f5e-4d1f-4a43-9a55-0d7a3d0f7a01".into(),
            machine: MACHINE.into(),
            accel: std::env::var("HAWSER_TEST_ACCEL").unwrap_or_else(|_| "tcg".into()),
            memory: 256,
            ram: Ram::Shared,
            drives: Vec::new(),
            nics: Vec::new(),
            ip: None,
            append: String::new(),
            extra: Vec::new(),
        }
    }

    /// Adds the network that anybody may have; see [`super::Machine::kv`].
    pub fn with_user_network(mut self) -> Self {
        self.nics.push(Nic::User {
            mac: "52:54:00:12:34:56".into(),
        });
        self
    }

    /// Adds a disk.
    pub fn with_drive(mut self, drive: Drive) -> Self {
        self.drives.push(drive);
        self
    }

    /// QEMU's arguments, its files in this directory. A user network leads to the guest's server from `kv`.
    pub(super) fn args(&self, dir: &Path, image: &Image, kv: SocketAddr) -> Vec<String> {
        let mut args = self.version.args();
        let mut add = |words: &[&str]| args.extend(words.iter().map(|w| (*w).to_owned()));
        let (name, memory) = (&self.name, self.memory);
        let backend = match self.ram {
            Ram::Shared => format!("memory-backend-memfd,id=ram0,size={memory}M,share=on"),
            Ram::Huge => format!(
                "memory-backend-memfd,id=ram0,size={memory}M,share=on,hugetlb=on,hugetlbsize=2M,reserve=off"
            ),
            Ram::Anonymous => format!("memory-backend-ram,id=ram0,size={memory}M"),
        };
        add(&["-name", name, "-uuid", &self.uuid, "-accel", &self.accel]);
        add(&[
            "-machine",
            &format!("{},memory-backend=ram0", self.machine),
            "-cpu",
            "qemu64",
        ]);
        add(&["-smp", "1", "-m", &memory.to_string(), "-object", &backend]);
        add(&["-nodefaults", "-no-user-config", "-display", "none"]);
        add(&[
            "-serial",
            &format!("file:{}", dir.join(format!("{name}.serial")).display()),
        ]);
        add(&[
            "-qmp",
            &format!(
                "unix:{},server=on,wait=off",
                dir.join(format!("{name}.qmp")).display()
            ),
        ]);
        add(&[
            "-kernel",
            &image.kernel.display().to_string(),
            "-initrd",
            &image.initrd.display().to_string(),
        ]);
        add(&["-append", &self.kernel_words()]);
        for (i, drive) in self.drives.iter().enumerate() {
            let (file, aio) = (drive.file.display(), drive.aio.word());
            let node = format!("driver=raw,node-name=disk{i},cache.direct=on,discard=unmap");
            let node =
                format!("{node},file.driver=file,file.filename={file},file.aio={aio},file.cache.direct=on");
            add(&[
                "-blockdev",
                &node,
                "-device",
                &format!("virtio-blk-pci,drive=disk{i},id=vd{i}"),
            ]);
        }
        for (i, nic) in self.nics.iter().enumerate() {
            let (netdev, mac) = match nic {
                Nic::Tap { tap, mac, .. } => (
                    format!("tap,id=net{i},ifname={tap},script=no,downscript=no,vhost=off"),
                    mac,
                ),
                Nic::User { mac } => (format!("user,id=net{i},hostfwd=tcp:{kv}-:{KV_PORT}"), mac),
                Nic::Netdev { words, mac } => {
                    let (kind, rest) = words.split_once(',').unwrap_or((words, ""));
                    (
                        format!("{kind},id=net{i},{rest}")
                            .trim_end_matches(',')
                            .to_owned(),
                        mac,
                    )
                }
            };
            let device = format!("virtio-net-pci,netdev=net{i},id=nic{i},mac={mac},romfile=");
            add(&["-netdev", &netdev, "-device", &device]);
        }
        args.extend(self.extra.iter().cloned());
        args
    }

    /// What the guest's kernel is told (`-append`): also for machines that are started by others.
    pub fn kernel_words(&self) -> String {
        let user = self.nics.iter().any(|n| matches!(n, Nic::User { .. }));
        let ip = self
            .ip
            .clone()
            .or_else(|| user.then(|| format!("{}/24", Ipv4Addr::new(10, 0, 2, 15))));
        let ip = ip.map(|ip| format!("hawser.ip={ip}")).unwrap_or_default();
        format!("console=ttyS0 quiet panic=-1 {QUICK} {ip} {}", self.append)
    }
}
