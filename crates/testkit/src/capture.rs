//! What crosses a host's interfaces: `tcpdump` in its namespace, read back and searched.

use std::{
    collections::HashMap,
    fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::{Host, Process, memory, wait};

/// A capture that is going on.
pub struct Capture {
    process: Process,
    host: Host,
    file: PathBuf,
}

impl Capture {
    /// Starts to capture on an interface (`any`: all of them); returns when it listens.
    pub fn start(host: &Host, interface: &str, dir: &Path) -> Result<Self> {
        let file = dir.join(format!("{}-{interface}.pcap", host.name()));
        let log = dir.join(format!("{}-{interface}.tcpdump.log", host.name()));
        let path = file.to_str().context("the capture's path is no text")?;
        // -U: each packet is written as it comes; -Z: tcpdump would otherwise change user and lose the directory.
        let args = [
            "-i", interface, "-s", "0", "-U", "-B", "65536", "-Z", "root", "-w", path,
        ];
        let mut process = Process::start(host, "tcpdump", &args, &log)?;
        process.wait_for_log(wait::SOON, "listening on")?;
        Ok(Self {
            process,
            host: host.clone(),
            file,
        })
    }

    /// Ends it and reads it back. An error if packets were lost, since a search would prove nothing.
    pub fn stop(mut self) -> Result<Packets> {
        self.flush()?;
        self.process.signal(Signal::INT)?;
        self.process.wait_end(Duration::from_secs(30))?;
        let log = self.process.log();
        ensure!(
            log.contains("\n0 packets dropped by kernel"),
            "the capture is incomplete: {}",
            log.lines().last().unwrap_or_default()
        );
        Packets::read(&self.file)
    }
}

impl Capture {
    /// Sends last packets until one is in the file: then all that went before is.
    fn flush(&self) -> Result<()> {
        // A documentation address that is nowhere: the packets leave by the default route and are dropped.
        const NOWHERE: &str = "192.0.2.200:9";
        // The kernel hands packets over in blocks of some 256 KiB, and an idle machine may leave one unfinished for long.
        const AT_ONCE: usize = 100;
        const LEN: usize = 1400;
        let mut last = format!("last packet of {}", self.file.display()).into_bytes();
        let mark = last.clone();
        last.resize(LEN, 0);
        self.host.enter(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            wait::until(wait::SOON, "the capture to be written", || {
                for _ in 0..AT_ONCE {
                    socket.send_to(&last, NOWHERE)?;
                }
                Ok((memory::count(&fs::read(&self.file)?, &mark) > 0).then_some(()))
            })
        })?
    }
}

/// A finished capture.
pub struct Packets {
    raw: Vec<u8>,
    flows: HashMap<Flow, Vec<u8>>,
    /// Number of packets.
    pub count: usize,
}

type Flow = (Vec<u8>, u16, u16);

impl Packets {
    /// Reads a file in the classic pcap format.
    pub fn read(file: &Path) -> Result<Self> {
        const HEADER: usize = 24;
        const RECORD: usize = 16;
        let raw = fs::read(file)?;
        let header = raw.get(..HEADER).context("no pcap header")?;
        ensure!(
            header[..4] == [0xd4, 0xc3, 0xb2, 0xa1],
            "not a little-endian pcap file"
        );
        let skip = match u32_at(header, 20) {
            1 => 14,   // Ethernet
            113 => 16, // Linux "any", version 1
            276 => 20, // Linux "any", version 2
            other => bail!("unknown link type {other} in the capture"),
        };
        let mut own = Self {
            flows: HashMap::new(),
            count: 0,
            raw: Vec::new(),
        };
        let mut at = HEADER;
        while let Some(record) = raw.get(at..at + RECORD) {
            let len = u32_at(record, 8) as usize;
            let Some(packet) = raw.get(at + RECORD..at + RECORD + len) else {
                break;
            };
            if let Some((flow, payload)) = packet.get(skip..).and_then(tcp_payload) {
                own.flows.entry(flow).or_default().extend_from_slice(payload);
            }
            own.count += 1;
            at += RECORD + len;
        }
        own.raw = raw;
        Ok(own)
    }

    /// How often a marker is in any packet, or across packets of one direction of a connection.
    pub fn hits(&self, marker: &[u8]) -> usize {
        let inside = memory::count(&self.raw, marker);
        let across: usize = self.flows.values().map(|f| memory::count(f, marker)).sum();
        inside.max(across)
    }

    /// Bytes carried by TCP, both directions.
    pub fn tcp_bytes(&self) -> usize {
        self.flows.values().map(Vec::len).sum()
    }
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

fn tcp_payload(ip: &[u8]) -> Option<(Flow, &[u8])> {
    let header = usize::from(ip.first()? & 15) * 4;
    if ip[0] >> 4 != 4 || *ip.get(9)? != 6 {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    // Zero where the kernel left segmentation to the (virtual) hardware.
    let end = if total == 0 { ip.len() } else { total.min(ip.len()) };
    let tcp = ip.get(header..end)?;
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    let data = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
    Some(((ip.get(12..20)?.to_vec(), port(0)?, port(2)?), data))
}
