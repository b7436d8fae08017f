//! Where a machine's frames come from: a capture on the ports of a switch, which shows who speaks with its address, and when.

use std::{collections::BTreeMap, fs, path::Path, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{Host, Process, wait};

/// A capture that goes on, of frames that come in at some ports of a switch from one address.
pub struct Watch {
    ports: Vec<(String, PathBuf)>,
    _captures: Vec<Process>,
}

/// A frame that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sighting {
    /// When, since 1970.
    pub at: Duration,
    /// Number of the port in the order given to [`Watch::start`].
    pub port: usize,
    /// Its EtherType: 0x0806 ARP, 0x0800 IPv4, 0x8035 RARP, with which QEMU tells switches where a machine is now.
    pub ethertype: u16,
}

/// Frames of one port, one after the other, with none of another port between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// The port's name.
    pub port: String,
    /// When the first came, since 1970.
    pub first: Duration,
    /// When the last came, since 1970.
    pub last: Duration,
    /// How many.
    pub frames: usize,
}

impl Watch {
    /// Starts; returns when it sees. Its files are kept in `dir`.
    pub fn start(switch: &Host, ports: &[&str], mac: &str, dir: &Path) -> Result<Self> {
        let mut own = Self {
            ports: Vec::new(),
            _captures: Vec::new(),
        };
        for port in ports {
            let file = dir.join(format!("{port}.pcap"));
            let path = file.to_str().context("the capture's path is no text")?;
            let filter = format!("ether src {mac}");
            // Each frame is in the file as soon as it came; the first bytes are enough.
            let args = [
                "-i",
                port,
                "-Q",
                "in",
                "-s",
                "64",
                "-U",
                "--immediate-mode",
                "-Z",
                "root",
                "-w",
                path,
                &filter,
            ];
            let mut capture =
                Process::start(switch, "tcpdump", &args, &dir.join(format!("{port}.tcpdump.log")))?;
            capture.wait_for_log(wait::SOON, "listening on")?;
            own.ports.push(((*port).to_owned(), file));
            own._captures.push(capture);
        }
        Ok(own)
    }

    /// All frames so far, in the order in which they came.
    pub fn sightings(&self) -> Result<Vec<Sighting>> {
        let mut all = Vec::new();
        for (port, (_, file)) in self.ports.iter().enumerate() {
            all.extend(
                frames(&fs::read(file)?)?
                    .into_iter()
                    .map(|(at, ethertype)| Sighting { at, port, ethertype }),
            );
        }
        all.sort();
        Ok(all)
    }

    /// The frames so far as stretches: a machine that lived on one port and went on at another gives exactly two.
    pub fn stretches(&self) -> Result<Vec<Stretch>> {
        let mut stretches: Vec<Stretch> = Vec::new();
        for one in self.sightings()? {
            let port = &self.ports[one.port].0;
            match stretches.last_mut() {
                Some(last) if last.port == *port => {
                    last.last = one.at;
                    last.frames += 1;
                }
                _ => stretches.push(Stretch {
                    port: port.clone(),
                    first: one.at,
                    last: one.at,
                    frames: 1,
                }),
            }
        }
        Ok(stretches)
    }

    /// How many frames came in at each port so far.
    pub fn counts(&self) -> Result<BTreeMap<String, usize>> {
        let mut counts: BTreeMap<_, _> = self.ports.iter().map(|(port, _)| (port.clone(), 0)).collect();
        for stretch in self.stretches()? {
            *counts.entry(stretch.port).or_default() += stretch.frames;
        }
        Ok(counts)
    }

    /// That the machine spoke at these ports, one after the other, and never at two at once.
    pub fn moved(&self, ports: &[&str]) -> Result<()> {
        let stretches = self.stretches()?;
        ensure!(
            stretches
                .iter()
                .map(|s| s.port.as_str())
                .eq(ports.iter().copied()),
            "expected frames at {ports:?}, one after the other; there were {stretches:#?}"
        );
        Ok(())
    }
}

/// Times and EtherTypes of the whole frames of a file in the classic pcap format.
fn frames(raw: &[u8]) -> Result<Vec<(Duration, u16)>> {
    const HEADER: usize = 24;
    const RECORD: usize = 16;
    let word = |at: usize| {
        raw.get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .map(u32::from_le_bytes)
    };
    if raw.len() < HEADER {
        return Ok(Vec::new());
    }
    ensure!(
        word(0) == Some(0xa1b2_c3d4) && word(20) == Some(1),
        "not a little-endian Ethernet capture"
    );
    let (mut found, mut at) = (Vec::new(), HEADER);
    while let (Some(seconds), Some(micros), Some(len)) = (word(at), word(at + 4), word(at + 8)) {
        let Some(frame) = raw.get(at + RECORD..at + RECORD + len as usize) else {
            break;
        };
        let time = Duration::new(seconds.into(), 0) + Duration::from_micros(micros.into());
        if let Some(&[high, low]) = frame.get(12..14) {
            found.push((time, u16::from_be_bytes([high, low])));
        }
        at += RECORD + len as usize;
    }
    Ok(found)
}
