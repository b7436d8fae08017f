//! Held output on a real tap: frames carry a virtio-net header, and are large, as the guest leaves their cutting to its host.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    thread,
};

use anyhow::{Context, Result, ensure};
use hawser_protect::guest::{Held, Output};
use hawser_testkit::{
    net::{BRIDGE, Hypervisors},
    vm::{Machine, Nic, Spec},
    wait,
};

use super::{attach, on_each};

/// Passes everything on, and returns the length of the largest frame.
fn relay(mut held: Held) -> Result<u32> {
    let mut largest = 0;
    let mut head = [0; 4];
    while held.capture.read_exact(&mut head).is_ok() {
        let length = u32::from_be_bytes(head);
        let mut frame = vec![0; length as usize];
        held.capture.read_exact(&mut frame)?;
        if held.release.write_all(&[&head[..], &frame].concat()).is_err() {
            break;
        }
        largest = largest.max(length);
    }
    Ok(largest)
}

#[test]
fn a_taps_frames_are_passed_on_as_they_are() {
    on_each(|version| {
        let net = Hypervisors::build()?;
        let mut spec = Spec::new(version);
        spec.nics.push(Nic::Tap {
            tap: "vm0".into(),
            bridge: BRIDGE.into(),
            mac: "52:54:00:12:34:56".into(),
        });
        spec.ip = Some(Hypervisors::guest_ip());
        let machine = Machine::start(&net.a.host, &spec)?;
        machine.wait_up()?;
        let mut qemu = attach(&machine)?;
        let nic = qemu.nics()?.remove(0);
        ensure!(
            nic.kind == "tap" && nic.ifname.as_deref() == Some("vm0") && nic.vnet_header,
            "{nic:?}"
        );
        let held = qemu.hold_output(&nic)?;
        let relay = thread::spawn(move || relay(held));
        net.client.enter(|| {
            let mut stream = TcpStream::connect_timeout(&Hypervisors::guest_kv(), wait::SOON)?;
            let value = "v".repeat(200);
            let mut answers = BufReader::new(stream.try_clone()?).lines();
            for key in 0..200 {
                writeln!(stream, "SET key{key} {value}")?;
                let answer = answers.next().context("no answer")??;
                ensure!(answer.starts_with("OK") && answer.ends_with(&value), "{answer}");
            }
            writeln!(stream, "DUMP")?;
            let mut dumped = 0;
            for line in answers {
                let line = line?;
                if line == "END" {
                    break;
                }
                ensure!(line.ends_with(&value), "{line}");
                dumped += 1;
            }
            ensure!(dumped == 200, "{dumped}");
            Ok(())
        })??;
        qemu.clean_up(Output::Freed)?;
        let largest = relay.join().ok().context("the relay failed")??;
        ensure!(
            largest > 1514 + 12,
            "no frame was larger than the wire takes: {largest}"
        );
        Ok(())
    });
}
