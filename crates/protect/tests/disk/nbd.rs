//! The NBD server with qemu-img, qemu-io, nbdinfo and nbdcopy.

use std::{
    fs,
    io::Read,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use hawser_protect::disk::{
    Broken, Forward, Image, Memory, Sink,
    nbd::{Export, Server},
};
use hawser_testkit::{
    gate,
    wait::{self, SOON},
};

const TOOLS: &[&str] = &["qemu-img", "qemu-io", "nbdinfo", "nbdcopy"];
const SIZE: usize = 48 << 20;

/// What a program said, and whether it was content.
fn run(program: &str, args: &[&str]) -> (bool, String) {
    let out = Command::new(program).args(args).output().unwrap();
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[track_caller]
fn ok(program: &str, args: &[&str]) -> String {
    let (ok, said) = run(program, args);
    assert!(ok, "{program} {args:?}: {said}");
    said
}

fn uri(socket: &Path, export: &str) -> String {
    format!("nbd+unix:///{export}?socket={}", socket.display())
}

/// Bytes that differ from place to place, with a hole in the middle.
fn source(dir: &Path) -> (PathBuf, Vec<u8>) {
    let mut bytes: Vec<u8> = (0..SIZE as u64)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8)
        .collect();
    bytes[10 << 20..20 << 20].fill(0);
    let path = dir.join("source.raw");
    fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

#[test]
fn images_come_and_go_whole() {
    if !gate::programs("images_come_and_go_whole", TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, bytes) = source(dir.path());
    let (socket, target, back) = (
        dir.path().join("nbd"),
        dir.path().join("target.raw"),
        dir.path().join("back.raw"),
    );
    let image = Arc::new(Image::open(&target, SIZE as u64).unwrap());
    let memory = Arc::new(Memory::new(SIZE));
    let exports = vec![
        Export {
            name: "file".into(),
            size: SIZE as u64,
            backend: image,
        },
        Export {
            name: "memory".into(),
            size: SIZE as u64,
            backend: memory.clone(),
        },
    ];
    let server = Server::start(&socket, exports).unwrap();
    let (file, in_memory) = (uri(&socket, "file"), uri(&socket, "memory"));

    let list = ok(
        "nbdinfo",
        &["--list", &format!("nbd+unix://?socket={}", socket.display())],
    );
    assert!(
        list.contains("export=\"file\"") && list.contains("export=\"memory\""),
        "{list}"
    );
    assert_eq!(ok("nbdinfo", &["--size", &file]).trim(), SIZE.to_string());
    let info = ok("nbdinfo", &["--json", &file]);
    for wanted in [
        "\"can_flush\": true",
        "\"can_fua\": true",
        "\"can_trim\": true",
        "\"can_zero\": true",
        "\"is_read_only\": false",
        "\"block_size_minimum\": 1,",
    ] {
        assert!(info.contains(wanted), "{wanted} is not in {info}");
    }
    assert!(!run("nbdinfo", &[&uri(&socket, "other")]).0);

    let source = source.to_str().unwrap();
    ok(
        "qemu-img",
        &["convert", "-n", "-f", "raw", "-O", "raw", source, &file],
    );
    ok("qemu-img", &["compare", "-f", "raw", "-F", "raw", source, &file]);
    assert!(fs::read(&target).unwrap() == bytes);
    ok("nbdcopy", &["--destination-is-zero", source, &in_memory]);
    assert!(memory.contents() == bytes);
    ok("nbdcopy", &[&in_memory, back.to_str().unwrap()]);
    assert!(fs::read(&back).unwrap() == bytes);

    wait::for_condition(SOON, "the clients' end", || !server.in_use("file")).unwrap();
    let begun = Instant::now();
    drop(server);
    assert!(begun.elapsed() < SOON && !socket.exists());
}

#[test]
fn every_command_of_qemu_is_understood() {
    if !gate::programs("every_command_of_qemu_is_understood", TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nbd");
    let memory = Arc::new(Memory::new(SIZE));
    let export = Export {
        name: "d0".into(),
        size: SIZE as u64,
        backend: memory.clone(),
    };
    let _server = Server::start(&socket, vec![export]).unwrap();
    let commands = [
        "write -P 1 0 1M",
        "write -P 2 513 1000",
        "write -f -P 3 2M 33M",
        "write -z 3M 1M",
        "write -z -u 5M 12345",
        "discard 6M 1M",
        "flush",
        "read -P 1 0 513",
        "read -P 2 513 1000",
        "read -P 0 3M 1M",
        "read -P 0 6M 1M",
        "read -P 3 7M 28M",
        "aio_write -P 4 40M 1M",
        "aio_write -P 5 42M 1M",
        "aio_flush",
    ];
    let mut args = vec!["-f", "raw", "-d", "unmap"];
    commands.iter().for_each(|c| args.extend(["-c", c]));
    let uri = uri(&socket, "d0");
    args.push(&uri);
    let said = ok("qemu-io", &args);
    assert!(!said.contains("failed") && !said.contains("rror"), "{said}");

    let mut model = vec![0; SIZE];
    for (from, to, fill) in [
        (0, 1 << 20, 1),
        (513, 1513, 2),
        (2 << 20, 35 << 20, 3),
        (3 << 20, 4 << 20, 0),
        (5 << 20, (5 << 20) + 12345, 0),
        (6 << 20, 7 << 20, 0),
        (40 << 20, 41 << 20, 4),
        (42 << 20, 43 << 20, 5),
    ] {
        model[from..to].fill(fill);
    }
    assert!(memory.contents() == model);
}

/// A channel that can be full, and break.
#[derive(Default)]
struct Channel {
    state: Mutex<(bool, bool)>,
    changed: Condvar,
    /// What was given to it so far, also what waits.
    given: AtomicUsize,
}

impl Channel {
    fn set(&self, full: bool, broken: bool) {
        *self.state.lock().unwrap() = (full, broken);
        self.changed.notify_all();
    }

    /// Waits until it is given more than this.
    fn wait_given(&self, before: usize) {
        let more = || self.given.load(Ordering::SeqCst) > before;
        wait::for_condition(SOON, "the client's write", more).unwrap();
    }

    fn take(&self) -> Result<(), Broken> {
        self.given.fetch_add(1, Ordering::SeqCst);
        let state = self
            .changed
            .wait_while(self.state.lock().unwrap(), |(full, broken)| *full && !*broken)
            .unwrap();
        if state.1 {
            Err(Broken("the link is down".into()))
        } else {
            Ok(())
        }
    }
}

impl Sink for Channel {
    fn write(&self, _: u16, _: u64, _: &[u8]) -> Result<(), Broken> {
        self.take()
    }
    fn zeroes(&self, _: u16, _: u64, _: u64) -> Result<(), Broken> {
        self.take()
    }
    fn discard(&self, _: u16, _: u64, _: u64) -> Result<(), Broken> {
        self.take()
    }
}

fn forwarding(dir: &Path) -> (Arc<Channel>, Server, String) {
    let channel = Arc::new(Channel::default());
    let socket = dir.join("nbd");
    let backend = Arc::new(Forward::new(channel.clone(), 0));
    let server = Server::start(
        &socket,
        vec![Export {
            name: "d0".into(),
            size: SIZE as u64,
            backend,
        }],
    )
    .unwrap();
    (channel, server, uri(&socket, "d0"))
}

#[test]
fn a_broken_channel_is_an_error_to_the_mirror_at_once() {
    if !gate::programs("a_broken_channel_is_an_error_to_the_mirror_at_once", TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (channel, _server, uri) = forwarding(dir.path());
    let write = ["-f", "raw", "-c", "write 0 3M", "-c", "flush", &uri];
    assert!(ok("qemu-io", &write).contains("wrote 3145728"));
    assert!(
        !ok_or_said(&["-f", "raw", "-c", "read 0 1k", &uri]).contains("read 1024"),
        "there is nothing to read"
    );

    channel.set(true, false);
    let before = channel.given.load(Ordering::SeqCst);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run("qemu-io", &write).1);
        channel.wait_given(before);
        channel.set(true, true);
        let said = waiting.join().unwrap();
        assert!(said.contains("write failed: Input/output error"), "{said}");
    });
}

fn ok_or_said(args: &[&str]) -> String {
    run("qemu-io", args).1
}

#[test]
fn a_server_ends_though_its_channel_is_full() {
    if !gate::programs("a_server_ends_though_its_channel_is_full", TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (channel, server, uri) = forwarding(dir.path());
    channel.set(true, false);
    // One that says nothing, too.
    let mut silent = UnixStream::connect(dir.path().join("nbd")).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| run("qemu-io", &["-f", "raw", "-c", "write 0 3M", &uri]));
        channel.wait_given(0);
        assert!(server.in_use("d0"));
        let begun = Instant::now();
        drop(server);
        assert!(begun.elapsed() < SOON);
        let said = waiting.join().unwrap().1;
        assert!(said.contains("write failed"), "{said}");
    });
    silent.read_to_end(&mut Vec::new()).unwrap();
    channel.set(false, true);
}
