//! What Hawser added to a QEMU and is still there, perhaps by an agent that died. Everything of ours has an id that begins
//! with `hawser-`.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Guest, RunState, error::GuestError, qemu::Qemu, statefile};

/// Begins every id that we give.
pub(super) const PREFIX: &str = "hawser-";
/// Begins the ids of filters that take frames. Sorts before [`RELEASE`], which must go last.
pub(super) const HOLD: &str = "hawser-hold-";
/// Begins the ids of filters that put frames back.
pub(super) const RELEASE: &str = "hawser-release-";
/// Begins the ids of mirror jobs.
pub(super) const JOB: &str = "hawser-mirror-";
/// Begins the names of the nodes by which mirrors see the guest's writes.
pub(super) const FILTER: &str = "hawser-filter-";
/// Begins the names of mirrors' targets.
pub(super) const TARGET: &str = "hawser-target-";

/// What is there of ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Filters: with one that holds, and nobody behind it, the guest is mute.
    pub filters: Vec<String>,
    /// Character devices behind filters.
    pub chardevs: Vec<String>,
    /// Mirror jobs.
    pub jobs: Vec<String>,
    /// Targets of mirrors, and the jobs' own nodes.
    pub nodes: Vec<String>,
    /// Sets of files for device states, except the one in use.
    pub state_files: Vec<i64>,
    /// The VM stands because an agent died within a checkpoint, rather than by its owner's wish.
    pub suspended: bool,
}

impl Leftovers {
    /// Nothing is there.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of the guest's output when things are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Filters stay: what is held stays held, what is mute stays mute.
    Kept,
    /// Filters go, and frames flow at once. Only for who the register says runs alone.
    Freed,
}

impl Qemu {
    /// What is there of ours, whoever added it.
    pub fn leftovers(&mut self) -> Result<Leftovers, GuestError> {
        let (state_files, marked) = self.state_files()?;
        Ok(Leftovers {
            filters: self.filters()?,
            chardevs: self.chardevs()?,
            jobs: self.jobs()?,
            nodes: self.nodes()?,
            state_files,
            suspended: marked && self.run_state()? == RunState::Paused,
        })
    }

    /// Removes everything of ours but the file of this connection. To be repeated freely. A suspension that a dead agent left
    /// becomes our own: [`super::Guest::resume`] ends it.
    pub fn clean_up(&mut self, output: Output) -> Result<(), GuestError> {
        let left = self.leftovers()?;
        if left.suspended {
            self.adopt()?;
        }
        for job in &left.jobs {
            self.stop_mirror(job)?;
        }
        for target in self.nodes()?.into_iter().filter(|n| n.starts_with(TARGET)) {
            self.qmp.execute("blockdev-del", json!({ "node-name": target }))?;
        }
        self.mirrors.clear();
        if output == Output::Freed {
            for nic in self.nics()? {
                self.free_output(&nic)?;
            }
            // Of cards that are gone.
            let rest = [self.filters()?, self.chardevs()?].concat();
            self.remove_filters(&rest)?;
        }
        for set in left.state_files {
            self.qmp.execute("remove-fd", json!({ "fdset-id": set }))?;
        }
        Ok(())
    }

    /// Sets of files of earlier agents, and whether one of these died while it held the VM.
    fn state_files(&mut self) -> Result<(Vec<i64>, bool), GuestError> {
        let own = self.state.as_ref().map(statefile::StateFile::set);
        let sets = self.qmp.execute("query-fdsets", Value::Null)?;
        let (mut found, mut marked) = (Vec::new(), false);
        for set in sets.as_array().into_iter().flatten() {
            let Some(id) = set["fdset-id"].as_i64().filter(|id| Some(*id) != own) else {
                continue;
            };
            let files = set["fds"].as_array().into_iter().flatten();
            for file in files.filter(|f| f["opaque"].as_str().is_some_and(|o| o.starts_with(PREFIX))) {
                let pid = self.process().pid();
                let number = file["fd"].as_i64().unwrap_or(-1);
                marked |= statefile::is_marked(&PathBuf::from(format!("/proc/{pid}/fd/{number}")));
                found.push(id);
            }
        }
        found.dedup();
        Ok((found, marked))
    }
}
