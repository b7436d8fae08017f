//! The versions of QEMU on which everything is tested, side by side on one machine.

use std::{fmt, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};

use super::image::{provide, store};

/// A QEMU that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    number: &'static str,
    program: PathBuf,
    data: Vec<PathBuf>,
}

/// The versions that tests want, as in the names of Debian's suites.
const WANTED: [&str; 2] = ["7.2", "10.0"];

impl Version {
    /// Every version that this machine has, the oldest first. One that is missing is told as a skip; under `CI=true` that is an
    /// error, unless this Debian cannot have it.
    pub fn all() -> Result<Vec<Self>> {
        provide()?;
        let mut found = Vec::new();
        for number in WANTED {
            match find(number)? {
                Some(version) => found.push(version),
                None => eprintln!("skipped: QEMU {number}: {}", why_not(number)),
            }
        }
        ensure!(!found.is_empty(), "no QEMU at all: run scripts/deps test");
        Ok(found)
    }

    /// The oldest one there is.
    pub fn oldest() -> Result<Self> {
        Self::all()?.into_iter().next().context("no QEMU")
    }

    /// The newest one there is.
    pub fn newest() -> Result<Self> {
        Self::all()?.into_iter().next_back().context("no QEMU")
    }

    /// As in `7.2`.
    pub fn number(&self) -> &str {
        self.number
    }

    /// The program.
    pub fn program(&self) -> &PathBuf {
        &self.program
    }

    /// Its first arguments: where it finds its firmware, if that is not where it looks by itself.
    pub fn args(&self) -> Vec<String> {
        let dirs = self.data.iter();
        dirs.flat_map(|d| ["-L".into(), d.display().to_string()])
            .collect()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QEMU {}", self.number)
    }
}

fn find(number: &'static str) -> Result<Option<Version>> {
    let unpacked = store().join(format!("qemu-{number}"));
    let program = unpacked.join("usr/bin/qemu-system-x86_64");
    if program.exists() {
        // Firmware comes from packages that both versions share.
        let data = [
            unpacked.join("usr/share/qemu"),
            "/usr/share/seabios".into(),
            "/usr/lib/ipxe/qemu".into(),
        ];
        return Ok(Some(Version {
            number,
            program,
            data: data.into(),
        }));
    }
    let program = PathBuf::from("/usr/bin/qemu-system-x86_64");
    let out = Command::new(&program).arg("--version").output();
    let out =
        out.context("QEMU is not installed (Debian: qemu-system-x86); scripts/deps test installs it")?;
    let here = String::from_utf8_lossy(&out.stdout).contains(&format!("version {number}."));
    Ok(here.then(|| Version {
        number,
        program,
        data: Vec::new(),
    }))
}

fn why_not(number: &str) -> String {
    let file = store().join(format!("qemu-{number}.absent"));
    std::fs::read_to_string(file).map_or_else(|_| "not provided".into(), |why| why.trim().into())
}
