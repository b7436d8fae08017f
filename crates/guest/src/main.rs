//! The program in a test's guest: a key-value server on TCP port 7000, and load by command. Started by the guest's init as its
//! only process.
//!
//! A request is a line, an answer is a line, in order. Words are separated by one space; a value is the rest of the line.
//!
//! | request | answer |
//! | --- | --- |
//! | `SET key value` | `OK sequence value`, once it is in the log and in memory |
//! | `ADD key number` | the same, with the sum as the value |
//! | `GET key` | `IS sequence value`, or `NONE` |
//! | `DUMP` | `KEY key sequence value` for every key, then `END` |
//! | `STATUS` | `STATUS name=number ...` |
//! | `DIRTY pages-a-second field-pages`, `DISK transfers-a-second`, `FLOOD packets-a-second address:port bytes` | `OK`; 0 ends it |
//! | `CHECK` | `OK round page` if the field of `DIRTY` is as it was written |
//! | `SHUTDOWN`, `REBOOT` | `OK`, then it is done |
//!
//! Anything that fails is answered with `ERROR why`.

mod disk;
mod load;
mod store;

use std::{
    error::Error,
    fmt::Write as _,
    fs,
    io::{self, BufRead, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use disk::Disk;
use load::Loads;
use store::{Answer, Change, Store};

const PORT: u16 = 7000;
const DISK: &str = "/dev/vda";

/// Enough for a connection: nothing here recurses, or keeps much on the stack.
const STACK: usize = 128 * 1024;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            println!("guest: failed: {e}");
            ExitCode::FAILURE
        }
    }
}

struct Server {
    store: Store,
    loads: Loads,
    connections: AtomicU64,
    writes: AtomicU64,
    started: Instant,
}

fn serve() -> Result<(), Box<dyn Error>> {
    let options = fs::read_to_string("/proc/cmdline")?;
    let flush = options.split_whitespace().any(|o| o == "hawser.flush");
    let disk = if fs::exists(DISK)? {
        Some(Arc::new(Disk::open(DISK)?))
    } else {
        None
    };
    let (store, records) = Store::open(disk.clone(), flush)?;
    let server = Arc::new(Server {
        store,
        loads: Loads::new(disk),
        connections: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        started: Instant::now(),
    });
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    println!("guest: up, {records} records in its log");
    for stream in listener.incoming().flatten() {
        let server = server.clone();
        let connection = thread::Builder::new().stack_size(STACK);
        let started = connection.spawn(move || {
            server.connections.fetch_add(1, Relaxed);
            // A client that goes away is no failure.
            let _ = server.talk(&stream);
            server.connections.fetch_sub(1, Relaxed);
        });
        if let Err(e) = started {
            println!("guest: no thread for a connection: {e}");
        }
    }
    Ok(())
}

impl Server {
    fn talk(&self, mut stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        for line in BufReader::new(stream).lines() {
            let mut answer = self.answer(&line?).unwrap_or_else(|why| format!("ERROR {why}"));
            answer.push('\n');
            stream.write_all(answer.as_bytes())?;
        }
        Ok(())
    }

    fn answer(&self, line: &str) -> Result<String, String> {
        let mut words = line.splitn(3, ' ');
        let (verb, first, rest) = (
            words.next().unwrap_or(""),
            words.next(),
            words.next().unwrap_or(""),
        );
        let first = |what: &str| first.ok_or_else(|| format!("{verb} needs a {what}"));
        match verb {
            "SET" => self.written(self.store.write(first("key")?, Change::Set(rest.into()))),
            "ADD" => self.written(self.store.write(first("key")?, Change::Add(number(rest)?))),
            "GET" => Ok(match self.store.read(first("key")?) {
                Some(record) => format!("IS {} {}", record.sequence, record.value),
                None => "NONE".into(),
            }),
            "DUMP" => {
                let mut all = String::new();
                for r in self.store.all() {
                    let _ = writeln!(all, "KEY {} {} {}", r.key, r.sequence, r.value);
                }
                Ok(all + "END")
            }
            "STATUS" => Ok(self.status()),
            "DIRTY" => {
                self.loads.dirty(number(first("rate")?)?, number(rest)?);
                Ok("OK".into())
            }
            "DISK" if self.loads.disk(number(first("rate")?)?) => Ok("OK".into()),
            "DISK" => Err("this guest has no disk".into()),
            "FLOOD" => {
                let (to, bytes) = rest.split_once(' ').ok_or("FLOOD needs an address and a size")?;
                self.loads
                    .flood(number(first("rate")?)?, number(to)?, number(bytes)?);
                Ok("OK".into())
            }
            "CHECK" => self
                .loads
                .check()
                .map(|(round, page)| format!("OK {round} {page}")),
            "SHUTDOWN" => power("poweroff"),
            "REBOOT" => power("reboot"),
            _ => Err(format!("no such request: {verb}")),
        }
    }

    fn written(&self, outcome: Answer) -> Result<String, String> {
        let record = outcome?;
        self.writes.fetch_add(1, Relaxed);
        Ok(format!("OK {} {}", record.sequence, record.value))
    }

    fn status(&self) -> String {
        let done = &self.loads.done;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_nanos());
        format!(
            "STATUS writes={} connections={} pages={} transfers={} packets={} errors={} up_ns={} clock_ns={now}",
            self.writes.load(Relaxed),
            self.connections.load(Relaxed),
            done.pages.load(Relaxed),
            done.transfers.load(Relaxed),
            done.packets.load(Relaxed),
            done.errors.load(Relaxed),
            self.started.elapsed().as_nanos(),
        )
    }
}

fn number<T: std::str::FromStr>(word: &str) -> Result<T, String> {
    word.parse()
        .map_err(|_| format!("{word:?} is not what belongs here"))
}

/// Asks the kernel, not an init, so it is done at once; the answer leaves first if the network is quick.
fn power(how: &'static str) -> Result<String, String> {
    thread::spawn(move || {
        let outcome = Command::new("/bin/busybox").args([how, "-f", "-d", "0"]).status();
        println!("guest: {how}: {outcome:?}");
    });
    Ok("OK".into())
}
