//! A guest's disks, and mirrors of them to an NBD server of ours, which each write of the guest reaches before the guest hears
//! that it is done.

use std::{
    os::unix::fs::{MetadataExt, chown},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Guest,
    error::GuestError,
    leftovers::{FILTER, JOB, PREFIX, TARGET},
    qemu::Qemu,
};

/// How often the end of a job is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// A disk that the guest has.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Disk {
    /// QEMU's name for the topmost block node.
    pub node: String,
    /// The guest's device, by id or QOM path; of an old-style drive its name.
    pub device: String,
    /// Bytes that the guest sees.
    pub size: u64,
    /// Format: `raw`, `qcow2` and so on.
    pub driver: String,
    /// The image.
    pub file: String,
    /// The guest cannot write to it.
    pub read_only: bool,
}

/// How far a mirror is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Bytes copied.
    pub offset: u64,
    /// Bytes to copy in all, which grow with what the guest writes meanwhile.
    pub len: u64,
    /// Everything is copied, and each write reaches the target with the guest.
    pub ready: bool,
    /// QEMU's word for it, as in `running`.
    pub status: String,
}

impl Qemu {
    /// The guest's disks. Drives without a medium are none.
    pub fn disks(&mut self) -> Result<Vec<Disk>, GuestError> {
        let all = self.qmp.execute("query-block", Value::Null)?;
        let mut disks = Vec::new();
        for block in all
            .as_array()
            .into_iter()
            .flatten()
            .filter(|b| b["inserted"].is_object())
        {
            let inserted = &block["inserted"];
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            let mut disk = Disk {
                node: text(&inserted["node-name"]),
                device: text(&block["qdev"]),
                size: inserted["image"]["virtual-size"].as_u64().unwrap_or_default(),
                driver: text(&inserted["drv"]),
                file: text(&inserted["file"]),
                read_only: inserted["ro"].as_bool().unwrap_or(false),
            };
            disk.device = device_name(&disk.device, block["device"].as_str().unwrap_or_default());
            if disk.node.starts_with(PREFIX) {
                self.look_under_mirror(&mut disk)?;
            }
            disks.push(disk);
        }
        Ok(disks)
    }

    /// Begins to mirror a disk to an export of the NBD server at a unix socket, of the same size. Returns the job's id, which
    /// [`super::GuestEvent::MirrorReady`] and [`super::GuestEvent::MirrorFailed`] name.
    pub fn start_mirror(&mut self, disk: &Disk, socket: &Path, export: &str) -> Result<String, GuestError> {
        self.let_in(socket)?;
        let number = self.free_mirror()?;
        let (job, target) = (format!("{JOB}{number}"), format!("{TARGET}{number}"));
        let server = json!({ "type": "unix", "path": socket });
        let node = json!({ "driver": "nbd", "node-name": target, "server": server, "export": export, "discard": "unmap" });
        self.qmp.execute("blockdev-add", node)?;
        self.mirrors.push((job.clone(), target.clone()));
        let mirror = json!({
            "job-id": job, "device": disk.node, "target": target, "filter-node-name": format!("{FILTER}{number}"),
            "sync": "full", "copy-mode": "write-blocking", "on-target-error": "report", "on-source-error": "report",
        });
        if let Err(e) = self.qmp.execute("blockdev-mirror", mirror) {
            self.stop_mirror(&job)?;
            return Err(e);
        }
        Ok(job)
    }

    /// How far a mirror is. `None`: it has ended.
    pub fn mirror_progress(&mut self, job: &str) -> Result<Option<Progress>, GuestError> {
        let jobs = self.qmp.execute("query-block-jobs", Value::Null)?;
        let found = jobs.as_array().into_iter().flatten().find(|j| j["device"] == job);
        Ok(found.map(|j| Progress {
            offset: j["offset"].as_u64().unwrap_or_default(),
            len: j["len"].as_u64().unwrap_or_default(),
            ready: j["ready"].as_bool().unwrap_or(false),
            status: j["status"].as_str().unwrap_or_default().to_owned(),
        }))
    }

    /// Ends a mirror and removes its target; one that has ended, too. The guest's disk goes on alone.
    pub fn stop_mirror(&mut self, job: &str) -> Result<(), GuestError> {
        let target = job.replacen(JOB, TARGET, 1);
        self.end_job(job, &target)?;
        let nodes = self.nodes()?;
        if nodes.contains(&target) {
            self.qmp.execute("blockdev-del", json!({ "node-name": target }))?;
        }
        self.mirrors.retain(|(j, _)| j != job);
        Ok(())
    }

    /// Cuts the connections of all mirrors, past QEMU's main loop. Their jobs end with an error, and the guest goes on.
    pub fn yank_mirrors(&mut self, within: Duration) -> Result<(), GuestError> {
        let targets: Vec<String> = self.mirrors.iter().map(|(_, target)| target.clone()).collect();
        for target in targets {
            self.yank(&target, within)?;
        }
        Ok(())
    }

    fn yank(&mut self, target: &str, within: Duration) -> Result<(), GuestError> {
        let instances = json!({ "instances": [{ "type": "block-node", "node-name": target }] });
        match self.qmp.out_of_band("yank", instances, within) {
            // Not connected any more.
            Ok(_) | Err(GuestError::Refused { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn end_job(&mut self, job: &str, target: &str) -> Result<(), GuestError> {
        let within = self.qmp.timeouts().checkpoint;
        for attempt in 0..2 {
            if self.mirror_progress(job)?.is_none() {
                return Ok(());
            }
            match self
                .qmp
                .execute("block-job-cancel", json!({ "device": job, "force": true }))
            {
                Ok(_) | Err(GuestError::Refused { .. }) => {}
                Err(e) => return Err(e),
            }
            let deadline = Instant::now() + within;
            while Instant::now() < deadline {
                if self.mirror_progress(job)?.is_none() {
                    return Ok(());
                }
                thread::sleep(LOOK);
            }
            if attempt == 0 {
                self.yank(target, within)?;
            }
        }
        Err(GuestError::Hung {
            what: format!("the end of {job}"),
            within,
        })
    }

    /// Ids of our jobs that are there.
    pub(super) fn jobs(&mut self) -> Result<Vec<String>, GuestError> {
        let jobs = self.qmp.execute("query-block-jobs", Value::Null)?;
        let ids = jobs
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|j| j["device"].as_str());
        Ok(ids.filter(|id| id.starts_with(JOB)).map(str::to_owned).collect())
    }

    /// Names of our block nodes that are there: targets, and the filters of running mirrors.
    pub(super) fn nodes(&mut self) -> Result<Vec<String>, GuestError> {
        let nodes = self
            .qmp
            .execute("query-named-block-nodes", json!({ "flat": true }))?;
        let names = nodes
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|n| n["node-name"].as_str());
        Ok(names
            .filter(|n| n.starts_with(PREFIX))
            .map(str::to_owned)
            .collect())
    }

    fn free_mirror(&mut self) -> Result<u32, GuestError> {
        let (jobs, nodes) = (self.jobs()?, self.nodes()?);
        // A job that fails while QEMU writes back its caches can leave its filter behind, out of use but with its name.
        let taken = |n: u32| {
            jobs.contains(&format!("{JOB}{n}"))
                || [TARGET, FILTER]
                    .iter()
                    .any(|kind| nodes.contains(&format!("{kind}{n}")))
        };
        Ok((0..).find(|n| !taken(*n)).unwrap_or_default())
    }

    /// What is under the filter of a mirror that runs: the node of the same image with a format, or the image itself.
    fn look_under_mirror(&mut self, disk: &mut Disk) -> Result<(), GuestError> {
        let nodes = self
            .qmp
            .execute("query-named-block-nodes", json!({ "flat": true }))?;
        let same = |n: &&Value| {
            n["file"] == disk.file.as_str()
                && !n["node-name"].as_str().unwrap_or_default().starts_with(PREFIX)
        };
        let is_protocol = |n: &&Value| matches!(n["drv"].as_str(), Some("file" | "host_device"));
        let candidates: Vec<&Value> = nodes.as_array().into_iter().flatten().filter(same).collect();
        let format = candidates.iter().find(|n| !is_protocol(n)).or(candidates.first());
        if let Some(node) = format {
            disk.node = node["node-name"].as_str().unwrap_or_default().to_owned();
            disk.driver = node["drv"].as_str().unwrap_or_default().to_owned();
        }
        Ok(())
    }

    /// Lets a QEMU that runs as another user connect to our socket.
    fn let_in(&self, socket: &Path) -> Result<(), GuestError> {
        let failed = |e| GuestError::system("giving QEMU access to the NBD socket", e);
        let user = std::fs::metadata(format!("/proc/{}", self.process().pid()))
            .map_err(failed)?
            .uid();
        if std::fs::metadata(socket).map_err(failed)?.uid() == user {
            return Ok(());
        }
        chown(socket, Some(user), None).map_err(failed)
    }
}

/// `/machine/peripheral/vd0/virtio-backend` is `vd0`; without an id, the whole path; of old-style drives, their name.
fn device_name(path: &str, drive: &str) -> String {
    if !drive.is_empty() && !path.starts_with("/machine/peripheral/") {
        return drive.to_owned();
    }
    let path = path.strip_suffix("/virtio-backend").unwrap_or(path);
    path.strip_prefix("/machine/peripheral/")
        .unwrap_or(path)
        .to_owned()
}
