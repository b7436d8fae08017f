//! The standby's command line, derived from the running machine's: the same machine, with its disks, taps, sockets and logs at
//! other places, waiting for a state instead of booting.

mod characters;
pub(super) mod disks;
mod networks;
#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    command_line::CommandLine,
    finding::Unfit,
    fitness::{self, Word},
};

/// What is different on the standby.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Substitutions {
    /// The QEMU program there; the same as the active's if it is `None`.
    pub program: Option<PathBuf>,
    /// The machine type that the active really has, as QMP says, in place of an alias such as `q35`.
    pub machine: Option<String>,
    /// A replica for each disk that the guest can write.
    pub disks: Vec<Replica>,
    /// Taps by other names; one that is not listed keeps its name.
    pub taps: Vec<TapSubstitution>,
    /// Directory for the sockets, logs and the process id of the standby. Must exist and be this machine's own.
    pub directory: PathBuf,
    /// Where its QMP socket shall be.
    pub qmp: PathBuf,
}

/// The place of a disk's replica: always a raw image or a block device, of the size that the guest sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// The disk: its `-drive` id, its node name, or its file as the active's command line has it or as an absolute path.
    pub disk: String,
    /// The replica.
    pub path: PathBuf,
}

/// A tap's name on the standby.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapSubstitution {
    /// The active's tap, or the id of its `-netdev`.
    pub network: String,
    /// The standby's tap.
    pub ifname: String,
}

/// A command line for the standby.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Derived {
    /// The command line.
    pub command_line: CommandLine,
    /// What is different from the active's.
    pub changes: Vec<Change>,
    /// What must be there before it is started.
    pub needs: Vec<Need>,
}

/// One difference between the active's and the standby's command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The option that is different.
    pub what: String,
    /// What it is on the active; empty if it is not there.
    pub from: String,
    /// What it is on the standby; empty if it is left out.
    pub to: String,
}

/// Something that the standby's host must have.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// A file, with the same content as on the active's host.
    SameFile(PathBuf),
    /// The replica of a disk, of the same size as the disk.
    Replica(PathBuf),
    /// A tap interface, joined to the same network.
    Tap(String),
    /// A bridge, joined to the same network.
    Bridge(String),
    /// A socket on which a TPM emulator listens.
    TpmSocket(PathBuf),
    /// A user who may write in the standby's directory.
    User(String),
}

/// Derives the standby's command line. Says everything at once that keeps it from being derived.
pub fn derive(active: &CommandLine, substitutions: &Substitutions) -> Result<Derived, Unfit> {
    let words = fitness::words(active)?;
    let mut reasons = fitness::findings(&words);
    let mut standby = Standby {
        active,
        words: &words,
        substitutions,
        args: Vec::new(),
        changes: Vec::new(),
        needs: Vec::new(),
        names: 0,
    };
    let disks = disks::Disks::of(&words);
    for word in &words {
        if let Err(reason) = standby.word(word, &disks) {
            reasons.extend(reason.reasons);
        }
    }
    Unfit::unless_fit(reasons)?;
    standby.finish()
}

/// A command line in the making.
struct Standby<'a> {
    active: &'a CommandLine,
    words: &'a [Word],
    substitutions: &'a Substitutions,
    args: Vec<String>,
    changes: Vec<Change>,
    needs: Vec<Need>,
    /// Files in the directory that were named so far.
    names: usize,
}

impl Standby<'_> {
    fn word(&mut self, word: &Word, disks: &disks::Disks) -> Result<(), Unfit> {
        match word.name.as_str() {
            "" | "hda" | "hdb" | "hdc" | "hdd" | "fda" | "fdb" | "cdrom" | "sd" | "mtdblock" | "pflash" => {
                self.image(word)
            }
            "drive" => self.drive(word),
            "blockdev" => self.blockdev(word, disks),
            "netdev" | "nic" => self.network(word),
            "chardev" => {
                self.chardev(word);
                Ok(())
            }
            "serial" | "parallel" | "debugcon" => {
                self.character(word);
                Ok(())
            }
            "machine" | "M" => self.machine(word),
            _ => {
                self.other(word);
                Ok(())
            }
        }
    }

    /// Options without a rule of more than a line.
    fn other(&mut self, word: &Word) {
        match word.name.as_str() {
            // How the active is controlled, or what it did when it started. The standby has its own.
            "qmp" | "qmp-pretty" | "monitor" | "mon" | "daemonize" | "S" | "incoming" | "loadvm"
            | "chroot" | "gdb" | "s" | "preconfig" | "plugin" | "trace" | "writeconfig" | "dump-vmstate"
            | "perfmap" | "jitdump" | "full-screen" | "curses" | "sdl" => self.drop(word),
            "display" => self.display(word),
            "vnc" => self.vnc(word),
            "spice" => self.spice(word),
            "pidfile" => self.file(word, "qemu.pid"),
            "D" => self.file(word, "qemu.log"),
            "audiodev" | "audio" => {
                let mut options = word.options.clone();
                options.retain(|key| matches!(key, "driver" | "id" | "model"));
                options.set("driver", "none");
                self.replace(word, options.to_string());
            }
            // Memory in a file of the active's host becomes memory; blocks keep their names by their ids.
            "mem-path" => self.drop(word),
            "object" => self.object(word),
            "kernel" | "initrd" | "dtb" | "option-rom" | "shim" => self.same_file(word),
            "bios" if word.value.contains('/') => self.same_file(word),
            "acpitable" | "smbios" | "fw_cfg" => {
                let files = ["file", "data"].iter().filter_map(|key| word.options.get(key));
                let files: Vec<_> = files
                    .filter(|f| word.name != "fw_cfg" || word.options.get("file").as_ref() == Some(f))
                    .collect();
                self.needs
                    .extend(files.iter().map(|f| Need::SameFile(self.active.absolute(f))));
                self.keep(word);
            }
            "runas" => {
                self.needs.push(Need::User(word.value.clone()));
                self.keep(word);
            }
            "run-with" => {
                let mut options = word.options.clone();
                options.remove("chroot");
                self.needs.extend(options.get("user").map(Need::User));
                self.replace(word, options.to_string());
            }
            _ => self.keep(word),
        }
    }

    fn machine(&mut self, word: &Word) -> Result<(), Unfit> {
        let mut options = word.options.clone();
        if let Some(real) = &self.substitutions.machine {
            options.set("type", real.as_str());
        }
        match options.get("type") {
            Some(kind) if is_versioned(&kind) => self.replace(word, options.to_string()),
            // Another -machine may name the type; without any the default would be meant.
            None if self.words.iter().any(|w| is_machine(w) && w.options.has("type")) => self.keep(word),
            other => return Err(unversioned(&other.unwrap_or_default())),
        }
        Ok(())
    }

    fn object(&mut self, word: &Word) {
        let kind = word.options.get("qom-type").unwrap_or_default();
        let mut options = word.options.clone();
        match kind.as_str() {
            "memory-backend-file" | "memory-backend-shm" => {
                for key in [
                    "mem-path",
                    "align",
                    "discard-data",
                    "readonly",
                    "rom",
                    "offset",
                    "pmem",
                ] {
                    options.remove(key);
                }
                options.set("qom-type", "memory-backend-memfd");
                options.switch("share", true);
                self.replace(word, options.to_string());
            }
            "filter-dump" => {
                options.set("file", self.name("dump", ""));
                self.replace(word, options.to_string());
            }
            "secret" | "rng-random" => {
                let file = options
                    .get("file")
                    .map(|f| Need::SameFile(self.active.absolute(f)));
                self.needs.extend(file);
                self.keep(word);
            }
            _ => self.keep(word),
        }
    }

    /// The same file at the same place, by its absolute path.
    fn same_file(&mut self, word: &Word) {
        // Kernels for `-initrd` may be a list, each with arguments of its own; such a value stays as it is.
        if word.value.contains(',') {
            return self.keep(word);
        }
        let path = self.active.absolute(&word.value);
        self.replace(word, path.display().to_string());
        self.needs.push(Need::SameFile(path));
    }

    /// A file of this kind in the standby's directory.
    fn file(&mut self, word: &Word, name: &str) {
        self.replace(
            word,
            self.substitutions.directory.join(name).display().to_string(),
        );
    }

    /// A path in the standby's directory that no other option has.
    fn name(&mut self, kind: &str, extension: &str) -> String {
        self.names += 1;
        let name = format!("{kind}{}{extension}", self.names);
        self.substitutions.directory.join(name).display().to_string()
    }

    fn keep(&mut self, word: &Word) {
        self.push(&word.name, &word.value);
    }

    fn drop(&mut self, word: &Word) {
        self.changed(word, String::new());
    }

    fn replace(&mut self, word: &Word, to: String) {
        if to.is_empty() && !word.value.is_empty() {
            return self.drop(word);
        }
        self.push(&word.name, &to);
        if to != word.value {
            self.changed(word, to);
        }
    }

    fn changed(&mut self, word: &Word, to: String) {
        self.changes.push(Change {
            what: format!("-{}", word.name),
            from: if word.value.is_empty() {
                "on".into()
            } else {
                word.value.clone()
            },
            to,
        });
    }

    fn push(&mut self, name: &str, value: &str) {
        self.args.push(format!("-{name}"));
        if !value.is_empty() {
            self.args.push(value.into());
        }
    }

    fn add(&mut self, name: &str, value: &str) {
        self.push(name, value);
        self.changes.push(Change {
            what: format!("-{name}"),
            from: String::new(),
            to: if value.is_empty() {
                "on".into()
            } else {
                value.into()
            },
        });
    }

    fn finish(mut self) -> Result<Derived, Unfit> {
        if !self.words.iter().any(is_machine) {
            match &self.substitutions.machine {
                Some(real) if is_versioned(real) => self.add("machine", &real.clone()),
                other => return Err(unversioned(other.as_deref().unwrap_or_default())),
            }
        }
        self.defaults();
        let qmp = super::escape(&self.substitutions.qmp.display().to_string());
        self.add("qmp", &format!("unix:{qmp},server=on,wait=off"));
        self.add("incoming", "defer");
        self.add("S", "");
        let program = self
            .substitutions
            .program
            .clone()
            .unwrap_or_else(|| self.active.program.clone());
        if program != self.active.program {
            self.changes.push(Change {
                what: "program".into(),
                from: self.active.program.display().to_string(),
                to: program.display().to_string(),
            });
        }
        Ok(Derived {
            command_line: CommandLine {
                program,
                directory: self.substitutions.directory.clone(),
                args: self.args,
            },
            changes: self.changes,
            needs: self.needs,
        })
    }
}

fn is_machine(word: &Word) -> bool {
    matches!(word.name.as_str(), "machine" | "M")
}

/// Whether a machine type means the same in every version of QEMU, as `pc-q35-7.2` does and `q35` does not.
pub(super) fn is_versioned(kind: &str) -> bool {
    let version = kind
        .rsplit('-')
        .next()
        .unwrap_or_default()
        .trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let mut numbers = version.split('.');
    let numeric = |n: Option<&str>| n.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    kind.contains('-') && numeric(numbers.next()) && numeric(numbers.next())
}

pub(super) fn unversioned(kind: &str) -> Unfit {
    let what = if kind.is_empty() {
        "the default machine type".into()
    } else {
        format!("machine type {kind}")
    };
    Unfit::new(
        format!("{what} has no version, so that another QEMU may build another machine from it"),
        "name one with a version, as in -machine pc-q35-7.2 (see qemu-system-x86_64 -machine help)",
    )
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.from.as_str(), self.to.as_str()) {
            ("", to) => write!(f, "{}: added {to}", self.what),
            (from, "") => write!(f, "{}: left out {from}", self.what),
            (from, to) => write!(f, "{}: {to} instead of {from}", self.what),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameFile(path) => write!(f, "{} with the same content", path.display()),
            Self::Replica(path) => write!(f, "{} as a replica, of the disk's size", path.display()),
            Self::Tap(name) => write!(f, "tap {name} in the same network"),
            Self::Bridge(name) => write!(f, "bridge {name} in the same network"),
            Self::TpmSocket(path) => write!(f, "a TPM emulator that listens at {}", path.display()),
            Self::User(name) => write!(f, "user {name}, who may write in the standby's directory"),
        }
    }
}
