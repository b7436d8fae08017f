//! A guest's network cards, and two stock filters at each that take its output away and put it back. The filter added last sees
//! a frame of the guest first: `release`, where frames come back, is added before `hold`, which takes them. While `hold` is
//! there and nobody reads, the guest is mute; that is what a dead agent leaves.

use std::{
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    thread,
    time::{Duration, Instant},
};

use rustix::net::sockopt;
use serde_json::{Value, json};

use super::{
    error::GuestError,
    leftovers::{HOLD, RELEASE},
    qemu::Qemu,
};

/// Room in the socket that QEMU writes captured frames to. When it is full, QEMU's main loop waits, and QMP with it.
const ROOM: usize = 8 << 20;
/// How often the end of a wait in QEMU is looked for.
const LOOK: Duration = Duration::from_millis(1);

/// A network card and what it is connected to.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Nic {
    /// Id of the card, or QEMU's name for it.
    pub device: String,
    /// Model, as in `virtio-net-pci`.
    pub model: String,
    /// Hardware address.
    pub mac: String,
    /// Id of the back-end, which filters are attached to. Empty: not connected.
    pub netdev: String,
    /// Kind of the back-end: `tap`, `user`, `socket` and so on.
    pub kind: String,
    /// The host's interface, if it is a tap.
    pub ifname: Option<String>,
    /// Whether captured frames begin with a virtio-net header (12 bytes), as they do from virtio to a tap.
    pub vnet_header: bool,
    /// Queues. Filters take one only.
    pub queues: u32,
}

/// A guest's output in our hands. Each frame is a big-endian `u32` of its length, then its bytes, in both directions alike.
#[derive(Debug)]
pub struct Held {
    /// Frames come from the guest here. Somebody must always read: after [`ROOM`] QEMU stands still.
    pub capture: UnixStream,
    /// Frames written here go out. While the VM is suspended, QEMU queues them until it goes on.
    pub release: UnixStream,
}

/// What was added for a card.
#[derive(Debug)]
pub(super) struct Added {
    netdev: String,
    number: u32,
    /// Another handle on the release socket: shut down, QEMU says when it has read everything.
    release: UnixStream,
}

impl Qemu {
    /// The guest's network cards.
    pub fn nics(&mut self) -> Result<Vec<Nic>, GuestError> {
        Ok(parse(&self.qmp.hmp("info network")?))
    }

    /// Takes the card's output. From the return on no frame of the guest goes out but by [`Held::release`]. Filters that an
    /// earlier agent left at this card are replaced, and no frame escapes meanwhile.
    pub fn hold_output(&mut self, nic: &Nic) -> Result<Held, GuestError> {
        let old = self.filters_at(&nic.netdev)?;
        let number = self.free_number()?;
        match self.add_filters(nic, number) {
            Ok(held) => {
                let failed = |e| GuestError::system("copying a socket", e);
                let release = held.release.try_clone().map_err(failed)?;
                self.remove_filters(&old)?;
                self.outputs.retain(|o| o.netdev != nic.netdev);
                self.outputs.push(Added {
                    netdev: nic.netdev.clone(),
                    number,
                    release,
                });
                Ok(held)
            }
            Err(e) => {
                self.remove_filters(&[format!("{HOLD}{number}"), format!("{RELEASE}{number}")])?;
                Err(e)
            }
        }
    }

    /// Lets the card's output go its own way again. Frames that were written to [`Held::release`] go first; no more can be
    /// written. Best while suspended with everything captured and released: then no frame is lost, or overtakes another.
    pub fn free_output(&mut self, nic: &Nic) -> Result<(), GuestError> {
        let deadline = Instant::now() + self.qmp.timeouts().command;
        if let Some(at) = self.outputs.iter().position(|o| o.netdev == nic.netdev) {
            let added = self.outputs.swap_remove(at);
            // A socket that is closed already is read to its end, too.
            let _ = added.release.shutdown(Shutdown::Write);
            let label = format!("{RELEASE}{}", added.number);
            while self.is_connected(&label)? && Instant::now() < deadline {
                thread::sleep(LOOK);
            }
        }
        let filters = self.filters_at(&nic.netdev)?;
        self.remove_filters(&filters)
    }

    /// Ids of our filters at this back-end, those that capture first.
    fn filters_at(&mut self, netdev: &str) -> Result<Vec<String>, GuestError> {
        let mut found = Vec::new();
        for id in self.filters()? {
            let at = self.qmp.execute(
                "qom-get",
                json!({ "path": format!("/objects/{id}"), "property": "netdev" }),
            )?;
            if at == netdev {
                found.push(id);
            }
        }
        Ok(found)
    }

    /// Ids of all our filters, those that capture first: without them, the others do nothing.
    pub(super) fn filters(&mut self) -> Result<Vec<String>, GuestError> {
        let objects = self.qmp.execute("qom-list", json!({ "path": "/objects" }))?;
        let names = objects
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|o| o["name"].as_str());
        let mut ours: Vec<String> = names
            .filter(|n| n.starts_with(HOLD) || n.starts_with(RELEASE))
            .map(str::to_owned)
            .collect();
        ours.sort();
        Ok(ours)
    }

    /// Our character devices, which stand behind filters.
    pub(super) fn chardevs(&mut self) -> Result<Vec<String>, GuestError> {
        let all = self.qmp.execute("query-chardev", Value::Null)?;
        let labels = all
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|c| c["label"].as_str());
        Ok(labels
            .filter(|l| l.starts_with(HOLD) || l.starts_with(RELEASE))
            .map(str::to_owned)
            .collect())
    }

    /// Removes filters and what stands behind them; what is not there is no error.
    pub(super) fn remove_filters(&mut self, ids: &[String]) -> Result<(), GuestError> {
        let (filters, chardevs) = (self.filters()?, self.chardevs()?);
        for id in ids.iter().filter(|id| filters.contains(id)) {
            self.qmp.execute("object-del", json!({ "id": id }))?;
        }
        for id in ids.iter().filter(|id| chardevs.contains(id)) {
            self.qmp.execute("chardev-remove", json!({ "id": id }))?;
        }
        Ok(())
    }

    fn add_filters(&mut self, nic: &Nic, number: u32) -> Result<Held, GuestError> {
        let (hold, release) = (format!("{HOLD}{number}"), format!("{RELEASE}{number}"));
        let held = Held {
            capture: self.add_socket(&hold)?,
            release: self.add_socket(&release)?,
        };
        for (id, end) in [(&release, "indev"), (&hold, "outdev")] {
            let filter = json!({ "qom-type": "filter-redirector", "id": id, "netdev": nic.netdev, "queue": "rx", end: id });
            self.qmp.execute("object-add", filter)?;
        }
        Ok(held)
    }

    /// A socket whose other end is QEMU's: no path, so no permission and nothing to tidy up.
    fn add_socket(&mut self, id: &str) -> Result<UnixStream, GuestError> {
        let (ours, theirs) = UnixStream::pair().map_err(|e| GuestError::system("making a socket pair", e))?;
        for end in [&ours, &theirs] {
            // Without the right to more than the system's limit, that limit.
            if sockopt::set_socket_send_buffer_size_force(end, ROOM).is_err() {
                let set = sockopt::set_socket_send_buffer_size(end, ROOM);
                set.map_err(|e| GuestError::system("making room in a socket", e))?;
            }
        }
        self.qmp
            .execute_with_fd("getfd", json!({ "fdname": id }), theirs.as_fd())?;
        let address = json!({ "type": "fd", "data": { "str": id } });
        let backend = json!({ "type": "socket", "data": { "addr": address, "server": false } });
        self.qmp
            .execute("chardev-add", json!({ "id": id, "backend": backend }))?;
        Ok(ours)
    }

    fn is_connected(&mut self, label: &str) -> Result<bool, GuestError> {
        let all = self.qmp.execute("query-chardev", Value::Null)?;
        let mut all = all.as_array().into_iter().flatten();
        Ok(all.any(|c| {
            c["label"] == label
                && !c["filename"]
                    .as_str()
                    .unwrap_or_default()
                    .starts_with("disconnected")
        }))
    }

    fn free_number(&mut self) -> Result<u32, GuestError> {
        let mut taken = self.filters()?;
        taken.extend(self.chardevs()?);
        let free = |n: &u32| {
            !taken
                .iter()
                .any(|t| *t == format!("{HOLD}{n}") || *t == format!("{RELEASE}{n}"))
        };
        Ok((0..).find(free).unwrap_or_default())
    }
}

/// Reads `info network`: a card, then indented its back-end; back-ends without a card, and filters, stand alone.
fn parse(table: &str) -> Vec<Nic> {
    let mut nics: Vec<Nic> = Vec::new();
    let mut last = None;
    for line in table.lines() {
        let (connected, line) = match line.trim_start().strip_prefix('\\') {
            Some(rest) => (true, rest.trim()),
            None => (false, line.trim()),
        };
        let Some((id, words)) = line.split_once(": ").filter(|(_, w)| w.contains("type=")) else {
            continue;
        };
        let word = |key: &str| {
            words
                .split(',')
                .find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
                .map(str::to_owned)
        };
        let kind = word("type").unwrap_or_default();
        if connected {
            let Some(nic) = last.and_then(|at: usize| nics.get_mut(at)) else {
                continue;
            };
            nic.vnet_header = kind == "tap" && nic.model.starts_with("virtio-net");
            nic.ifname = word("ifname");
            (nic.netdev, nic.kind) = (id.to_owned(), kind);
        } else if kind == "nic" {
            if let Some(at) = nics.iter().position(|n| n.device == id) {
                if let Some(nic) = nics.get_mut(at) {
                    nic.queues += 1;
                }
                last = Some(at);
                continue;
            }
            nics.push(Nic {
                device: id.to_owned(),
                model: word("model").unwrap_or_default(),
                mac: word("macaddr").unwrap_or_default(),
                netdev: String::new(),
                kind: String::new(),
                ifname: None,
                vnet_header: false,
                queues: 1,
            });
            last = Some(nics.len() - 1);
        } else {
            last = None;
        }
    }
    nics
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:56\r\n \\ #net046: index=0,type=socket,\r\nnic0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:57\r\n \\ n0: index=0,type=tap,ifname=tap3,script=no,downscript=no\r\nnic0: index=1,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:57\r\n \\ n0: index=1,type=tap,ifname=tap3\r\nfilters:\r\n  - hawser-hold-0: type=filter-redirector,outdev=hawser-hold-0,netdev=n0,queue=rx\r\nalone: index=0,type=user,net=10.0.2.0,restrict=off\r\n";

    #[test]
    fn cards_are_found_with_their_back_ends() {
        let nics = parse(TABLE);
        assert_eq!(nics.len(), 2, "{nics:?}");
        assert_eq!(
            (
                nics[0].netdev.as_str(),
                nics[0].kind.as_str(),
                nics[0].vnet_header
            ),
            ("#net046", "socket", false)
        );
        assert_eq!(
            (nics[1].ifname.as_deref(), nics[1].vnet_header, nics[1].queues),
            (Some("tap3"), true, 2)
        );
        assert_eq!(nics[1].mac, "52:54:00:12:34:57");
        assert!(parse("unknown command").is_empty());
    }
}
