//! Which accelerator a machine shall have. That `/dev/kvm` is there says little: in some nested environments guests make hardly
//! any progress under it. So a tiny boot sector is started under KVM and under TCG at once, and KVM has to keep up.

use std::{
    ffi::OsString,
    fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

/// How QEMU runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// By the processor itself.
    Kvm,
    /// Translated, many times slower. Works everywhere.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        })
    }
}

/// The accelerator that was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which one.
    pub accelerator: Accelerator,
    /// Why, for people.
    pub reason: String,
}

/// The accelerator for a QEMU on this machine. `firmware` are the arguments by which it finds its firmware (`-L`), if any. The
/// verdict is kept in the directory `runtime` until the machine restarts or the program changes. Takes at most
/// [`LONGEST`] the first time.
pub fn choose(program: &Path, firmware: &[String], runtime: &Path) -> Verdict {
    let key = Key::of(program);
    let path = runtime.join("accelerator.json");
    if let Some(known) = recall(&path, &key) {
        return known;
    }
    let verdict = decide(Path::new("/dev/kvm"), program, firmware);
    // Without the file the next start takes its time again, and that is all.
    if let Err(error) = remember(&path, &key, &verdict) {
        tracing::debug!(path = %path.display(), %error, "the accelerator's verdict is not kept");
    }
    verdict
}

/// The longest that a trial takes.
pub const LONGEST: Duration = Duration::from_secs(10);

/// KVM always has this long.
const PATIENCE: Duration = Duration::from_secs(2);

/// On a busy machine, KVM has this many times as long as TCG took in the same moments.
const FACTOR: u32 = 4;

/// Boot sector: waits for two timer interrupts, then ends QEMU by `isa-debug-exit`.
/// `sti; hlt; hlt; mov al, 0x10; out 0xf4, al; cli; hlt; jmp $-1`.
const BOOT: [u8; 11] = [0xfb, 0xf4, 0xf4, 0xb0, 0x10, 0xe6, 0xf4, 0xfa, 0xf4, 0xeb, 0xfd];

/// QEMU's exit code when the boot sector has come to its end: `0x10 << 1 | 1`.
const DONE: i32 = 0x21;

fn decide(device: &Path, program: &Path, firmware: &[String]) -> Verdict {
    let tcg = |reason: String| Verdict {
        accelerator: Accelerator::Tcg,
        reason,
    };
    if let Err(e) = fs::File::options().read(true).write(true).open(device) {
        return tcg(format!("{} cannot be opened ({e})", device.display()));
    }
    match race(program, firmware) {
        Ok(Outcome { kvm: Some(kvm), .. }) => Verdict {
            accelerator: Accelerator::Kvm,
            reason: format!("a trial guest under KVM was done in {} ms", kvm.as_millis()),
        },
        Ok(Outcome {
            tcg: Some(other),
            waited,
            ..
        }) => tcg(format!(
            "a trial guest under KVM made no progress in {} ms; under TCG it was done in {} ms",
            waited.as_millis(),
            other.as_millis()
        )),
        Ok(_) => tcg("trial guests made no progress, neither under KVM nor under TCG".into()),
        Err(e) => tcg(format!("no trial guest could be started ({e})")),
    }
}

/// How long each took, if it came to its end.
struct Outcome {
    kvm: Option<Duration>,
    tcg: Option<Duration>,
    waited: Duration,
}

fn race(program: &Path, firmware: &[String]) -> io::Result<Outcome> {
    let mut sector = [0; 512];
    sector[..BOOT.len()].copy_from_slice(&BOOT);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let start = Instant::now();
    let mut kvm = Trial::start(program, firmware, Accelerator::Kvm, &sector)?;
    let mut tcg = Trial::start(program, firmware, Accelerator::Tcg, &sector)?;
    loop {
        let waited = start.elapsed();
        kvm.look(waited)?;
        tcg.look(waited)?;
        let patience = match tcg.done {
            Some(took) => (took * FACTOR).max(PATIENCE),
            None => LONGEST,
        };
        if kvm.done.is_some() || waited >= patience.min(LONGEST) || (kvm.ended && tcg.ended) {
            return Ok(Outcome {
                kvm: kvm.done,
                tcg: tcg.done,
                waited,
            });
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// One guest; gone when dropped.
struct Trial {
    child: Child,
    _image: tempfile::NamedTempFile,
    ended: bool,
    done: Option<Duration>,
}

impl Trial {
    fn start(
        program: &Path,
        firmware: &[String],
        accelerator: Accelerator,
        sector: &[u8],
    ) -> io::Result<Self> {
        let mut image = tempfile::NamedTempFile::new()?;
        image.write_all(sector)?;
        let mut drive = OsString::from("format=raw,if=ide,file=");
        drive.push(super::escape(&image.path().display().to_string()));
        let mut command = Command::new(program);
        command.args(firmware).arg("-accel").arg(accelerator.to_string());
        command.args([
            "-machine",
            "pc",
            "-m",
            "16",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        command.args(["-device", "isa-debug-exit,iobase=0xf4"]);
        command.arg("-drive").arg(drive);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Ok(Self {
            child: command.spawn()?,
            _image: image,
            ended: false,
            done: None,
        })
    }

    fn look(&mut self, waited: Duration) -> io::Result<()> {
        if self.ended {
            return Ok(());
        }
        if let Some(status) = self.child.try_wait()? {
            self.ended = true;
            self.done = (status.code() == Some(DONE)).then_some(waited);
        }
        Ok(())
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a verdict depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    program: PathBuf,
    modified: Option<SystemTime>,
    /// The kernel's id of this start of the machine.
    boot: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    key: Key,
    verdict: Verdict,
}

impl Key {
    fn of(program: &Path) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            program: program.into(),
            modified: fs::metadata(program).and_then(|m| m.modified()).ok(),
            boot: boot.trim().into(),
        }
    }
}

fn recall(path: &Path, key: &Key) -> Option<Verdict> {
    let kept: Kept = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (kept.key == *key).then_some(kept.verdict)
}

fn remember(path: &Path, key: &Key, verdict: &Verdict) -> io::Result<()> {
    let kept = Kept {
        key: key.clone(),
        verdict: verdict.clone(),
    };
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    serde_json::to_writer(&mut file, &kept)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_kvm_there_is_no_trial() {
        let verdict = decide(Path::new("/nowhere/kvm"), Path::new("/nowhere/qemu"), &[]);
        assert_eq!(verdict.accelerator, Accelerator::Tcg);
        assert!(
            verdict.reason.contains("/nowhere/kvm cannot be opened"),
            "{}",
            verdict.reason
        );
    }

    #[test]
    fn a_verdict_is_kept_until_the_program_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (program, path) = (dir.path().join("qemu"), dir.path().join("run/accelerator.json"));
        fs::write(&program, "").unwrap();
        let key = Key::of(&program);
        assert!(recall(&path, &key).is_none());
        let verdict = Verdict {
            accelerator: Accelerator::Kvm,
            reason: "because".into(),
        };
        remember(&path, &key, &verdict).unwrap();
        assert_eq!(recall(&path, &key), Some(verdict.clone()));
        assert_eq!(choose(&program, &[], &dir.path().join("run")), verdict);
        let later = SystemTime::now() + Duration::from_secs(60);
        fs::File::open(&program).unwrap().set_modified(later).unwrap();
        assert!(recall(&path, &Key::of(&program)).is_none());
    }
}
