//! A QEMU that waits on the standby with the command line, the devices and the memory of the machine.

use std::{
    fs::File,
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use crate::{
    guest::{GuestError, Incoming, Timeouts},
    memory::Layout,
    sys::{Memory, MemoryError, Process},
    vm::CommandLine,
};

/// Longest wait for a QEMU that starts to answer.
const START: Duration = Duration::from_secs(30);
/// Longest wait for device state to load.
const LOAD: Duration = Duration::from_secs(10);

/// Why a twin cannot wait or start.
#[derive(Debug, thiserror::Error)]
pub(super) enum TwinError {
    /// The program.
    #[error("{program} cannot be started: {source}; install the same QEMU as on the other host")]
    Start { program: PathBuf, source: io::Error },
    /// It ended before it answered.
    #[error("{program} ended at once: {words}")]
    Ended { program: PathBuf, words: String },
    #[error(transparent)]
    Guest(#[from] GuestError),
    #[error("the twin's memory: {0}")]
    Memory(#[from] MemoryError),
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
}

/// A QEMU that waits.
pub(super) struct Twin {
    pub(super) incoming: Incoming,
    pub(super) process: Process,
    pub(super) layout: Layout,
    pub(super) memory: Arc<Memory>,
}

impl Twin {
    /// Starts it and waits until it answers. What it says goes to the file `log`.
    pub(super) fn start(
        line: &CommandLine,
        qmp: &Path,
        log: &Path,
        timeouts: Timeouts,
    ) -> Result<Self, TwinError> {
        let open = |e| TwinError::Io {
            what: format!("{} cannot be written", log.display()),
            source: e,
        };
        let out = File::create(log).map_err(open)?;
        let mut child = Command::new(&line.program)
            .args(&line.args)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(out.try_clone().map_err(open)?)
            .stderr(out)
            // Not of this terminal: it outlives the agent once the machine runs in it.
            .process_group(0)
            .spawn()
            .map_err(|source| TwinError::Start {
                program: line.program.clone(),
                source,
            })?;
        let process = Process::open(child.id()).map_err(|source| TwinError::Start {
            program: line.program.clone(),
            source,
        })?;
        // Whatever becomes of it, its end is collected.
        let _ = thread::Builder::new()
            .name("reaper".into())
            .spawn(move || child.wait());
        match Self::attach(line, &process, qmp, log, timeouts) {
            Ok((incoming, layout, memory)) => Ok(Self {
                incoming,
                process,
                layout,
                memory: Arc::new(memory),
            }),
            Err(e) => {
                let _ = process.kill();
                Err(e)
            }
        }
    }

    fn attach(
        line: &CommandLine,
        process: &Process,
        qmp: &Path,
        log: &Path,
        timeouts: Timeouts,
    ) -> Result<(Incoming, Layout, Memory), TwinError> {
        let until = Instant::now() + START;
        let mut incoming = loop {
            match Incoming::attach(qmp, timeouts) {
                Ok(incoming) => break incoming,
                Err(_) if !process.is_alive() => {
                    let words = std::fs::read_to_string(log).unwrap_or_default();
                    return Err(TwinError::Ended {
                        program: line.program.clone(),
                        words: words.trim().chars().take(1000).collect(),
                    });
                }
                Err(e) if Instant::now() >= until => return Err(e.into()),
                Err(_) => thread::park_timeout(Duration::from_millis(10)),
            }
        };
        let layout = incoming.layout()?;
        let memory = Memory::open(process, &layout)?;
        Ok((incoming, layout, memory))
    }

    /// Loads device state. The machine then stands where it stood, and says nothing.
    pub(super) fn load(&mut self, devices: &[u8], machine_type: &str) -> Result<(), TwinError> {
        Ok(self.incoming.load(devices, machine_type, LOAD)?)
    }

    /// Gives another twin all memory of this one.
    pub(super) fn copy_memory_to(&self, other: &Twin) -> Result<(), TwinError> {
        const PAGES: u32 = 256;
        let mut buffer = Vec::new();
        for run in self.memory.populated()? {
            let mut rest = run;
            while rest.count > 0 {
                let part = crate::memory::PageRun {
                    count: rest.count.min(PAGES),
                    ..rest
                };
                buffer.resize(part.bytes(), 0);
                self.memory.read(part, &mut buffer)?;
                other.memory.write(part, &buffer)?;
                rest.first += part.count;
                rest.count -= part.count;
            }
        }
        Ok(())
    }

    /// Ends it.
    pub(super) fn kill(&self) {
        if let Err(error) = self.process.kill() {
            tracing::warn!(pid = self.process.pid(), %error, "a waiting QEMU cannot be ended");
        }
    }
}
