//! What a command line alone says about whether its machine can be protected.

use super::{
    command_line::{Argument, CommandLine, CommandLineError},
    derive::disks,
    finding::{Finding, Unfit},
    syntax::{Options, SyntaxError},
};

/// One option with its value taken apart.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Word {
    /// The option's name, without dashes; empty for an image without an option.
    pub(super) name: String,
    /// Its value as it was written; empty for an option without one.
    pub(super) value: String,
    /// The same, as keys with values.
    pub(super) options: Options,
}

/// Takes a command line apart; a line that QEMU could not read either is unfit.
pub(super) fn words(line: &CommandLine) -> Result<Vec<Word>, Unfit> {
    let unread = |e: CommandLineError| Unfit::new(e.to_string(), "check how the machine is started");
    let word = |argument| {
        let (name, value) = match argument {
            Argument::Option { name, value } => (name, value.unwrap_or_default()),
            Argument::Image(path) => (String::new(), path),
        };
        let options = Options::parse(&value, implied(&name));
        let unread = |e: SyntaxError| Unfit::new(format!("-{name}: {e}"), "check how the machine is started");
        Ok(Word {
            options: options.map_err(unread)?,
            name,
            value,
        })
    };
    line.arguments().map_err(unread)?.into_iter().map(word).collect()
}

/// The key of a first value that is written without one (`implied_opt_name` in QEMU).
fn implied(option: &str) -> Option<&'static str> {
    Some(match option {
        "device" | "blockdev" | "audiodev" | "audio" => "driver",
        "netdev" | "nic" | "net" | "machine" | "M" | "tpmdev" | "display" => "type",
        "object" => "qom-type",
        "chardev" => "backend",
        "mon" => "chardev",
        "accel" => "accel",
        "fsdev" | "virtfs" => "fsdriver",
        "vnc" => "vnc",
        "name" => "guest",
        "m" => "size",
        "smp" => "cpus",
        "cpu" => "model",
        "fw_cfg" => "name",
        "sandbox" => "enable",
        "trace" => "enable",
        _ => return None,
    })
}

/// Everything in a command line that keeps its machine from being protected.
pub(super) fn findings(words: &[Word]) -> Vec<Finding> {
    let mut found: Vec<Finding> = words.iter().filter_map(option).collect();
    found.extend(words.iter().filter_map(descriptor));
    found.extend(words.iter().filter(|w| w.name == "device").filter_map(|w| {
        let driver = w.options.get("driver")?;
        device(&driver).or_else(|| multiqueue(&w.options))
    }));
    found.extend(words.iter().filter_map(network));
    found.extend(words.iter().filter_map(object));
    found.extend(disks::findings(words));
    found
}

/// Options that say more than their values.
fn option(word: &Word) -> Option<Finding> {
    let refuse = |what: &str, advice: &str| Some(Finding::refuse(what, advice));
    match word.name.as_str() {
        "snapshot" => refuse(
            "-snapshot keeps the disks' changes in temporary files",
            "start the machine without -snapshot",
        ),
        "readconfig" => refuse(
            "-readconfig keeps a part of the command line in a file, where it may have changed since",
            "write those options on the command line",
        ),
        "preconfig" => refuse(
            "--preconfig lets a machine be built by commands that the command line does not tell",
            "start the machine without --preconfig",
        ),
        "net" if word.value != "none" => refuse(
            "-net joins network cards by a hub, where their output cannot be held",
            "use -nic, or -netdev with -device",
        ),
        "fsdev" | "virtfs" => refuse(
            "a directory of this host is shared with the guest (9p), and the standby has no replica of it",
            "share it over the network, or give the guest a disk",
        ),
        "mem-path" if word.value.contains("huge") => refuse(
            "the memory is in huge pages (hugetlbfs), of which single small pages cannot be tracked",
            "take -mem-path away, or use -object memory-backend-memfd,share=on without hugetlb",
        ),
        "tpmdev" if word.options.get("type").as_deref() == Some("passthrough") => refuse(
            "the host's TPM is passed through to the guest",
            "use -tpmdev emulator",
        ),
        "usbdevice" if word.value.starts_with("host:") => device("usb-host"),
        "initrd" | "kernel" | "dtb" | "bios" if word.value.starts_with("/dev/fdset/") => {
            Some(inherited(&word.name))
        }
        name if name.starts_with("xen-") => refuse("the machine is one of Xen's", "use QEMU with KVM"),
        _ => None,
    }
}

/// Files that only the process which started this QEMU could open again.
fn descriptor(word: &Word) -> Option<Finding> {
    // Taps and character devices are replaced on the standby, so theirs do not matter.
    let replaced = matches!(
        word.name.as_str(),
        "netdev"
            | "nic"
            | "chardev"
            | "qmp"
            | "qmp-pretty"
            | "monitor"
            | "mon"
            | "serial"
            | "parallel"
            | "incoming"
            | "vnc"
            | "append"
            | "fw_cfg"
            | "smbios"
            | "name"
    );
    if word.name == "add-fd" {
        return Some(inherited("add-fd"));
    }
    if replaced {
        return None;
    }
    let values = word.options.values();
    let given = values.iter().any(|(key, value)| {
        let last = key.rsplit('.').next().unwrap_or(key);
        last == "fd" || value.starts_with("/dev/fdset/")
    });
    given.then(|| inherited(&word.name))
}

fn inherited(option: &str) -> Finding {
    Finding::refuse(
        format!(
            "-{option} uses a file descriptor that was open when QEMU started, and no standby can open it again"
        ),
        "name the file by its path",
    )
}

/// Network cards without an output that could be held.
fn network(word: &Word) -> Option<Finding> {
    if !matches!(word.name.as_str(), "netdev" | "nic") {
        return None;
    }
    let options = &word.options;
    let kind = options.get("type").unwrap_or_default();
    let id = options.get("id").unwrap_or_else(|| "without id".into());
    if kind.starts_with("vhost") {
        let what =
            format!("network {id} is of kind {kind}: its frames pass QEMU by, so that they cannot be held");
        return Some(Finding::refuse(what, "use a tap with vhost=off"));
    }
    if ["vhost", "vhostforce", "vhostfd", "vhostfds"]
        .iter()
        .any(|k| options.is_on(k))
    {
        let what = format!(
            "network {id} has vhost=on: the kernel writes the guest's memory and sends its frames, unseen by QEMU"
        );
        return Some(Finding::refuse(what, "start the machine with vhost=off"));
    }
    multiqueue(options)
}

fn multiqueue(options: &Options) -> Option<Finding> {
    let queues = options
        .get("queues")
        .and_then(|q| q.parse::<u32>().ok())
        .unwrap_or(1);
    let network = options.get("driver").is_none_or(|d| d.starts_with("virtio-net"));
    let many = queues > 1 || options.has("fds") || (options.is_on("mq") && network);
    (many && network).then(|| {
        Finding::refuse(
            "a network card has more than one queue, and their frames have no common order that could be kept",
            "take queues=, fds= and mq=on away from the network card",
        )
    })
}

fn object(word: &Word) -> Option<Finding> {
    if word.name != "object" {
        return None;
    }
    let kind = word.options.get("qom-type")?;
    if kind.starts_with("memory-backend") {
        return memory(&kind, &word.options);
    }
    let (what, advice) = match kind.as_str() {
        "sev-guest" | "sev-snp-guest" | "tdx-guest" | "pef-guest" => (
            "the guest's memory is encrypted and cannot be copied",
            "start the machine without memory encryption",
        ),
        "colo-compare" => ("COLO protects the machine already", "start it without COLO"),
        "input-linux" => (
            "an input device of this host is passed through",
            "take -object input-linux away",
        ),
        "cryptodev-vhost-user" | "x-remote-object" | "x-vfio-user-server" => (
            "another process holds a part of the machine's state",
            "start the machine without it",
        ),
        _ => return None,
    };
    Some(Finding::refuse(what, advice))
}

fn memory(kind: &str, options: &Options) -> Option<Finding> {
    let path = options.get("mem-path").unwrap_or_default();
    if options.is_on("hugetlb") || path.contains("huge") {
        return Some(Finding::refuse(
            "the memory is in huge pages (hugetlbfs), of which single small pages cannot be tracked",
            "use -object memory-backend-memfd,share=on without hugetlb",
        ));
    }
    if options.is_on("pmem")
        || kind == "memory-backend-epc"
        || kind == "memory-backend-shm" && options.is_on("readonly")
    {
        return Some(Finding::refuse(
            format!("-object {kind} is memory that outlives the machine, or that cannot be read"),
            "use -object memory-backend-memfd,share=on",
        ));
    }
    None
}

/// Devices that cannot be protected, by the name of their driver, as `-device` and the machine's tree of objects have it.
pub(super) fn device(driver: &str) -> Option<Finding> {
    let starts = |list: &[&str]| list.iter().any(|prefix| driver.starts_with(prefix));
    let (what, advice) = if starts(&[
        "vfio-",
        "usb-host",
        "scsi-block",
        "scsi-generic",
        "u2f-passthru",
        "igd-",
        "xen-",
    ]) {
        (
            "passes a device of this host through",
            "give the guest an emulated device, as virtio-blk or virtio-net",
        )
    } else if driver.starts_with("vhost-") || driver.contains("-vhost") {
        (
            "is a vhost device: the kernel or another process writes the guest's memory, unseen by QEMU",
            "use the device without vhost",
        )
    } else if driver.starts_with("virtio-mem") {
        (
            "adds and takes memory while the machine runs",
            "give the machine its whole memory by -m",
        )
    } else if starts(&["nvdimm", "virtio-pmem"]) {
        ("is memory that is kept in a file of this host", "use a disk")
    } else if driver.starts_with("ivshmem") {
        ("is memory that other machines write", "take it away")
    } else if driver.starts_with("virtio-9p") {
        (
            "shares a directory of this host, of which the standby has no replica",
            "give the guest a disk",
        )
    } else if starts(&["sgx-", "cxl-"]) {
        ("has memory that cannot be copied", "take it away")
    } else {
        return None;
    };
    Some(Finding::refuse(format!("device {driver} {what}"), advice))
}
