//! `-drive`, `-blockdev` and the short forms: a disk that the guest can write becomes a raw image at the replica's place; what it
//! can only read stays where it is.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{Need, Standby};
use crate::vm::{
    escape,
    finding::{Finding, Unfit},
    fitness::Word,
    syntax::Options,
};

/// Keys of `-drive` that say how a disk is attached and used, rather than what its image is.
const OF_THE_DRIVE: [&str; 22] = [
    "if",
    "bus",
    "unit",
    "index",
    "media",
    "id",
    "node-name",
    "readonly",
    "read-only",
    "cache",
    "cache.direct",
    "cache.writeback",
    "cache.no-flush",
    "aio",
    "discard",
    "detect-zeroes",
    "werror",
    "rerror",
    "serial",
    "group",
    "copy-on-read",
    "auto-read-only",
];

/// Prefixes of further such keys.
const LIMITS: [&str; 4] = ["throttling", "iops", "bps", "stats-"];

/// Nodes of `-blockdev`, and what stands in their place on the standby.
pub(crate) struct Disks {
    nodes: BTreeMap<String, Options>,
    plan: BTreeMap<String, Plan>,
    /// Nodes of disks that the guest can only read.
    kept: BTreeSet<String>,
}

/// What becomes of a node.
#[derive(Debug, Clone, PartialEq)]
enum Plan {
    /// A disk's uppermost node. Its lowest one, if that has a name of its own.
    Root {
        lowest: Option<String>,
        protocol: Box<Options>,
        path: String,
    },
    /// A disk's lowest node, under this root.
    Lowest { root: String },
    /// Between the two, or a backing image: not needed for a raw image.
    Inner,
}

impl Disks {
    pub(super) fn of(words: &[Word]) -> Self {
        let nodes = words.iter().filter(|w| w.name == "blockdev");
        let nodes: BTreeMap<_, _> = nodes
            .filter_map(|w| Some((w.options.get("node-name")?, w.options.clone())))
            .collect();
        let mut disks = Self {
            plan: BTreeMap::new(),
            kept: BTreeSet::new(),
            nodes,
        };
        for root in disks.roots(words) {
            if disks.nodes.get(&root).is_some_and(|o| o.is_on("read-only")) {
                disks.kept.extend(disks.chain(root));
            } else {
                disks.plan_root(&root);
            }
        }
        disks
    }

    /// Nodes that devices use.
    fn roots(&self, words: &[Word]) -> BTreeSet<String> {
        let used = words.iter().flat_map(|w| match w.name.as_str() {
            "device" => w.options.get("drive").into_iter().collect::<Vec<_>>(),
            "machine" | "M" => ["pflash0", "pflash1"]
                .iter()
                .filter_map(|k| w.options.get(k))
                .collect(),
            _ => Vec::new(),
        });
        used.filter(|n| self.nodes.contains_key(n)).collect()
    }

    fn plan_root(&mut self, root: &str) {
        let mut inner = BTreeSet::new();
        let mut name = Some(root.to_string());
        let Some(mut options) = self.nodes.get(root).cloned() else {
            return;
        };
        // A chain is no longer than there are nodes, plus those written inside one another.
        for _ in 0..64 {
            for key in ["backing", "data-file"] {
                inner.extend(options.get(key).into_iter().flat_map(|n| self.chain(n)));
            }
            let Some((next, below)) = self.child(&options) else {
                break;
            };
            inner.extend(next.clone());
            (name, options) = (next, below);
        }
        let lowest = name.filter(|n| n != root);
        for node in inner {
            self.plan.entry(node).or_insert(Plan::Inner);
        }
        if let Some(lowest) = &lowest {
            self.plan
                .insert(lowest.clone(), Plan::Lowest { root: root.into() });
        }
        let path = image(&options);
        self.plan.insert(
            root.into(),
            Plan::Root {
                lowest,
                protocol: Box::new(options),
                path,
            },
        );
    }

    /// The node under a node, and its name if it has one.
    fn child(&self, options: &Options) -> Option<(Option<String>, Options)> {
        if let Some(name) = options.get("file") {
            let below = self.nodes.get(&name)?;
            return Some((Some(name), below.clone()));
        }
        if let Some(map) = options.object("file") {
            let below = Options::Json(map.clone());
            return Some((below.get("node-name"), below));
        }
        let nested: Vec<_> = options
            .values()
            .into_iter()
            .filter_map(|(k, v)| Some((k.strip_prefix("file.")?.to_string(), v)))
            .collect();
        if nested.is_empty() {
            return None;
        }
        let mut below = Options::empty();
        nested.into_iter().for_each(|(k, v)| below.set(&k, v));
        Some((below.get("node-name"), below))
    }

    /// A node's name, and those of all nodes under it.
    fn chain(&self, root: String) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut waiting = vec![root];
        while let Some(name) = waiting.pop() {
            if let Some(node) = self.nodes.get(&name)
                && names.insert(name)
            {
                waiting.extend(
                    ["backing", "data-file", "file"]
                        .iter()
                        .filter_map(|k| node.get(k)),
                );
            }
        }
        names
    }
}

impl Standby<'_> {
    /// `-hda` and its like, and an image without an option.
    pub(super) fn image(&mut self, word: &Word) -> Result<(), Unfit> {
        let place = match word.name.as_str() {
            "" | "hda" => "index=0,media=disk",
            "hdb" => "index=1,media=disk",
            "hdc" => "index=2,media=disk",
            "hdd" => "index=3,media=disk",
            "cdrom" => return self.medium(word),
            "fda" => "if=floppy,index=0",
            "fdb" => "if=floppy,index=1",
            "sd" => "if=sd",
            "mtdblock" => "if=mtd",
            _ => "if=pflash",
        };
        let path = self.replica(&[&word.value])?;
        let to = format!("file={},format=raw,{place}", escape(&path));
        self.push("drive", &to);
        self.changed(word, format!("-drive {to}"));
        Ok(())
    }

    fn medium(&mut self, word: &Word) -> Result<(), Unfit> {
        let path = self.active.absolute(&word.value);
        self.replace(word, path.display().to_string());
        self.needs.push(Need::SameFile(path));
        Ok(())
    }

    pub(super) fn drive(&mut self, word: &Word) -> Result<(), Unfit> {
        let mut options = word.options.clone();
        let file = drive_file(&options);
        if file.is_empty() {
            self.keep(word);
            return Ok(());
        }
        let names = [options.get("id"), options.get("node-name"), Some(file.clone())];
        let names: Vec<_> = names.iter().flatten().map(String::as_str).collect();
        if is_read_only(&options) {
            if options.get("file").as_ref() == Some(&file) && !file.contains(':') {
                let path = self.active.absolute(&file);
                options.set("file", path.display().to_string());
                self.needs.push(Need::SameFile(path));
            }
            self.replace(word, options.to_string());
            return Ok(());
        }
        let path = self.replica(&names)?;
        let of_the_drive = |k: &str| OF_THE_DRIVE.contains(&k) || LIMITS.iter().any(|p| k.starts_with(p));
        let mut to = Options::empty();
        to.set("file", path);
        to.set("format", "raw");
        for (key, value) in options.values().into_iter().filter(|(k, _)| of_the_drive(k)) {
            to.set(&key, value);
        }
        // aio of an image inside of another one is written file.aio.
        if let Some(aio) = options.get("file.aio") {
            to.set("aio", aio);
        }
        self.replace(word, to.to_string());
        Ok(())
    }

    pub(super) fn blockdev(&mut self, word: &Word, disks: &Disks) -> Result<(), Unfit> {
        let name = word.options.get("node-name").unwrap_or_default();
        let to = match disks.plan.get(&name) {
            Some(Plan::Root {
                lowest,
                protocol,
                path,
            }) => {
                let file = self.replica(&[&name, lowest.as_deref().unwrap_or_default(), path])?;
                let separate = lowest.as_ref().is_some_and(|l| disks.nodes.contains_key(l));
                root_node(&word.options, lowest.as_deref(), separate, protocol, &file)
            }
            Some(Plan::Lowest { root }) => {
                let Some(Plan::Root { path, .. }) = disks.plan.get(root) else {
                    return Ok(());
                };
                let found = self.substitute(&[root, &name, path]).unwrap_or_default();
                protocol_node(Some(&name), &word.options, &found)
            }
            Some(Plan::Inner) => {
                self.drop(word);
                return Ok(());
            }
            None if disks.kept.contains(&name) => {
                self.readable(word);
                return Ok(());
            }
            None => {
                self.drop(word);
                return Ok(());
            }
        };
        self.replace(word, Value::Object(to).to_string());
        Ok(())
    }

    /// A node that no device writes.
    fn readable(&mut self, word: &Word) {
        let file = image(&word.options);
        if file.starts_with('/') {
            self.needs.push(Need::SameFile(file.into()));
        }
        self.keep(word);
    }

    /// The replica of a disk with these names.
    fn replica(&mut self, names: &[&str]) -> Result<String, Unfit> {
        let Some(path) = self.substitute(names) else {
            let name = names
                .iter()
                .rev()
                .find(|n| !n.is_empty())
                .unwrap_or(&"without a name");
            return Err(Unfit::new(
                format!("disk {name} can be written by the guest and has no replica on the standby"),
                "name an image file or block device there for it",
            ));
        };
        let need = Need::Replica(path.clone().into());
        if !self.needs.contains(&need) {
            self.needs.push(need);
        }
        Ok(path)
    }

    fn substitute(&self, names: &[&str]) -> Option<String> {
        let mut names = names.iter().filter(|n| !n.is_empty());
        names.find_map(|name| {
            let absolute = self.active.absolute(name);
            let fits = |disk: &str| disk == *name || self.active.absolute(disk) == absolute;
            let replica = self.substitutions.disks.iter().find(|r| fits(&r.disk))?;
            Some(replica.path.display().to_string())
        })
    }
}

/// The image that a `-drive` uses; empty for a drive without a medium.
fn drive_file(options: &Options) -> String {
    let file = options
        .get("file")
        .or_else(|| options.get("file.filename"))
        .or_else(|| options.get("filename"));
    file.unwrap_or_else(|| image(options))
}

fn is_read_only(options: &Options) -> bool {
    options.is_on("readonly")
        || options.is_on("read-only")
        || options.get("media").as_deref() == Some("cdrom")
}

/// Where a node's image is, for messages and to find its replica by.
fn image(options: &Options) -> String {
    let keys = ["filename", "file.filename", "path", "image", "url", "export"];
    keys.iter().find_map(|k| options.get(k)).unwrap_or_default()
}

/// A disk's uppermost node. `separate` says that the lowest one has an option of its own.
fn root_node(
    own: &Options,
    lowest: Option<&str>,
    separate: bool,
    protocol: &Options,
    path: &str,
) -> Map<String, Value> {
    let name = own.get("node-name");
    if !own.has("file") {
        return protocol_node(name.as_deref(), own, path);
    }
    let mut node = attributes(own);
    node.insert("driver".into(), "raw".into());
    node.insert("node-name".into(), name.into());
    let file = match lowest {
        Some(lowest) if separate => Value::String(lowest.into()),
        named => Value::Object(protocol_node(named, protocol, path)),
    };
    node.insert("file".into(), file);
    node
}

fn protocol_node(name: Option<&str>, own: &Options, path: &str) -> Map<String, Value> {
    let mut node = attributes(own);
    node.insert("driver".into(), driver_of(path).into());
    node.insert("filename".into(), path.into());
    if let Some(name) = name {
        node.insert("node-name".into(), name.into());
    }
    let local = matches!(own.get("driver").as_deref(), Some("file" | "host_device"));
    if let Some(aio) = own.get("aio").filter(|_| local) {
        node.insert("aio".into(), aio.into());
    }
    node
}

/// Block devices want another driver than files.
fn driver_of(path: &str) -> &'static str {
    if path.starts_with("/dev/") && !path.starts_with("/dev/shm/") {
        "host_device"
    } else {
        "file"
    }
}

/// What every node may say, whatever its driver.
fn attributes(own: &Options) -> Map<String, Value> {
    let mut node = Map::new();
    for key in ["read-only", "auto-read-only", "force-share"] {
        if own.has(key) {
            node.insert(key.into(), own.is_on(key).into());
        }
    }
    for key in ["discard", "detect-zeroes"] {
        if let Some(value) = own.get(key) {
            node.insert(key.into(), value.into());
        }
    }
    let caches = ["direct", "no-flush"]
        .into_iter()
        .filter(|k| own.has(&format!("cache.{k}")));
    let caches: Map<String, Value> = caches
        .map(|k| (k.into(), own.is_on(&format!("cache.{k}")).into()))
        .collect();
    if !caches.is_empty() {
        node.insert("cache".into(), caches.into());
    }
    node
}

/// Disks that cannot be protected.
pub(crate) fn findings(words: &[Word]) -> Vec<Finding> {
    let mut found = Vec::new();
    for word in words
        .iter()
        .filter(|w| matches!(w.name.as_str(), "drive" | "blockdev"))
    {
        let values = word.options.values();
        let uses = |names: &[&str]| {
            values
                .iter()
                .any(|(k, v)| k.rsplit('.').next() == Some("driver") && names.contains(&v.as_str()))
        };
        let begins = |prefix: &str| {
            values
                .iter()
                .any(|(k, v)| k.ends_with("file") && v.starts_with(prefix))
        };
        let name = word
            .options
            .get("id")
            .or_else(|| word.options.get("node-name"))
            .unwrap_or_else(|| drive_file(&word.options));
        let mut refuse =
            |what: &str, advice: &str| found.push(Finding::refuse(format!("disk {name} {what}"), advice));
        if uses(&[
            "nvme",
            "nvme-io_uring",
            "io_uring",
            "virtio-blk-vfio-pci",
            "virtio-blk-vhost-user",
            "virtio-blk-vhost-vdpa",
        ]) || begins("nvme://")
        {
            refuse(
                "reads into the guest's memory past the kernel (nvme://, blkio), where no page is seen to change",
                "use the host's block device, as in file=/dev/nvme0n1",
            );
        }
        if word.name == "drive" && word.options.is_on("snapshot") {
            refuse(
                "keeps its changes in a temporary file (snapshot=on)",
                "start the machine without snapshot=on",
            );
        }
        if is_read_only(&word.options) {
            continue;
        }
        const SHARED: [&str; 10] = [
            "rbd", "iscsi", "gluster", "nfs", "ssh", "nbd", "http", "https", "ftp", "ftps",
        ];
        if uses(&SHARED)
            || SHARED
                .iter()
                .any(|s| begins(&format!("{s}:")) || begins(&format!("{s}+")))
        {
            refuse(
                "is on storage that other hosts share, which the replica does not need and fencing does not cover",
                "use an image or block device of this host",
            );
        }
    }
    found
}
