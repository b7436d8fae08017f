use std::{
    arch::x86_64::__cpuid_count,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    mem::{self, MaybeUninit},
    net::TcpStream,
    os::fd::AsRawFd as _,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use hawser_testkit::vm::{Aio, Drive, Machine, Spec, Version, here};

use super::*;

/// What must not differ: registers, vector and floating point state, signal mask.
struct State {
    registers: Vec<u8>,
    xsave: Xsave,
    mask: u64,
}

impl State {
    fn of(tid: Pid) -> Self {
        let mut mask = 0_u64;
        // SAFETY: the kernel writes eight bytes.
        let done = unsafe {
            libc::ptrace(
                libc::PTRACE_GETSIGMASK,
                tid.as_raw(),
                8_usize,
                ptr::from_mut(&mut mask),
            )
        };
        assert_eq!(done, 0);
        Self {
            registers: register_set(tid, 1),
            xsave: Xsave(register_set(tid, NT_X86_XSTATE)),
            mask,
        }
    }

    /// Where two states differ.
    fn differs_from(&self, other: &Self) -> String {
        let mut told = String::new();
        let registers = different(&self.registers, &other.registers);
        if !registers.is_empty() {
            told += &format!("register bytes {registers:?}; ");
        }
        told += &self.xsave.differs_from(&other.xsave);
        if self.mask != other.mask {
            told += &format!("signal mask {:x}, now {:x}", self.mask, other.mask);
        }
        told
    }
}

/// An XSAVE area in its standard form (Intel SDM vol. 1, 13.4). All of it is compared, byte by byte, but for the bits of XSTATE_BV
/// (13.4.2): a component that is marked absent has its initial value. Whether one that has that value is marked absent is the
/// processor's to choose at every switch to another thread. Seen under load: the AVX component, all zero, marked present before
/// and absent after.
struct Xsave(Vec<u8>);

impl Xsave {
    const MARKS: std::ops::Range<usize> = 512..520;

    fn marks(&self) -> u64 {
        u64::from_le_bytes(self.0[Self::MARKS].try_into().unwrap())
    }

    fn differs_from(&self, other: &Self) -> String {
        let mut told = String::new();
        let at = different(&self.0, &other.0);
        let at: Vec<_> = at.into_iter().filter(|at| !Self::MARKS.contains(at)).collect();
        if !at.is_empty() {
            told += &format!("XSAVE bytes {at:?}; ");
        }
        let changed = self.marks() ^ other.marks();
        for number in (0..64).filter(|number| changed >> number & 1 == 1) {
            if ![self, other].iter().all(|state| state.is_initial(number)) {
                told += &format!("component {number} is not initial and marked otherwise; ");
            }
        }
        told
    }

    /// Whether a component has its initial value (13.6). One that this processor has no place for has none.
    fn is_initial(&self, component: u32) -> bool {
        let zero =
            |range: std::ops::Range<usize>| self.0.get(range).is_some_and(|b| b.iter().all(|b| *b == 0));
        match component {
            // x87: control word 037F, everything else zero; MXCSR and its mask lie in between.
            0 => self.0[..2] == [0x7f, 0x03] && zero(2..24) && zero(32..160),
            // SSE: the vector registers, and MXCSR.
            1 => self.0[24..28] == [0x80, 0x1f, 0, 0] && zero(160..416),
            _ => {
                let place = __cpuid_count(0xd, component);
                let (begin, size) = (place.ebx as usize, place.eax as usize);
                size > 0 && zero(begin..begin + size)
            }
        }
    }
}

/// The places at which two of them differ.
fn different(a: &[u8], b: &[u8]) -> Vec<usize> {
    (0..a.len().max(b.len()))
        .filter(|at| a.get(*at) != b.get(*at))
        .collect()
}

fn register_set(tid: Pid, set: usize) -> Vec<u8> {
    let mut bytes = vec![0; 16384];
    let mut place = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: the kernel writes at most as many bytes as `place` names, and says how many.
    let done = unsafe {
        libc::ptrace(
            libc::PTRACE_GETREGSET,
            tid.as_raw(),
            set,
            ptr::from_mut(&mut place),
        )
    };
    assert_eq!(done, 0);
    bytes.truncate(place.iov_len);
    bytes
}

const NT_X86_XSTATE: usize = 0x202;

/// What a thread was doing when it was stopped.
#[derive(Debug, PartialEq, Eq, Hash, Clone, Copy, PartialOrd, Ord)]
enum Was {
    Computing,
    /// In a system call that the kernel starts again by itself, by its error number.
    Blocked(i64),
    AtExitOfCall,
    BusyInSequence,
}

#[test]
fn a_component_may_be_marked_otherwise_only_where_it_has_its_initial_value() {
    let mut plain = vec![0; 832];
    plain[..2].copy_from_slice(&[0x7f, 0x03]);
    plain[24..28].copy_from_slice(&[0x80, 0x1f, 0, 0]);
    let state = |marks: u8, changed: &[usize]| {
        let mut bytes = plain.clone();
        bytes[512] = marks;
        changed.iter().for_each(|at| bytes[*at] ^= 1);
        Xsave(bytes)
    };
    let (x87, xmm) = (40, 200);
    for marks in [1, 2, 3] {
        assert_eq!(state(marks, &[]).differs_from(&state(0, &[])), "");
    }
    for (component, at) in [(1, x87), (2, xmm), (2, 24)] {
        assert_eq!(state(component, &[at]).differs_from(&state(component, &[at])), "");
        assert_ne!(state(component, &[at]).differs_from(&state(0, &[at])), "", "lost");
        assert_ne!(
            state(component, &[at]).differs_from(&state(component, &[])),
            "",
            "changed"
        );
    }
    // Of the header, of no component, and marked without a place.
    assert_ne!(state(0, &[520]).differs_from(&state(0, &[])), "");
    let nowhere = |marks: u64| {
        let mut state = state(0, &[]);
        state.0[Xsave::MARKS].copy_from_slice(&marks.to_le_bytes());
        state
    };
    assert_ne!(nowhere(1 << 62).differs_from(&nowhere(0)), "");
}

/// A whole injection into one thread, from stop to release: the state at the end must be that at the start. Also the time that the
/// thread stood still.
fn inject(tools: &Tools, tid: Pid) -> Result<(Was, Duration)> {
    on_own_thread(|| {
        let start = Instant::now();
        let Some(mut thread) = Borrowed::stop(tools, tid)? else {
            return Ok((Was::BusyInSequence, start.elapsed()));
        };
        let was = match (thread.own.orig_rax as i64, thread.own.rax as i64) {
            (..0, _) => Was::Computing,
            (_, error @ -516..=-512) => Was::Blocked(-error),
            _ => Was::AtExitOfCall,
        };
        let own = bytes_of(&thread.own);
        let before = State::of(tid);
        let fd = thread
            .call(libc::SYS_userfaultfd as u64, UFFD_USER_MODE_ONLY)?
            .unwrap();
        thread.call(libc::SYS_close as u64, fd)?.unwrap();
        thread.put_back()?;
        // After a signal, the handler's first instruction is what it goes on from.
        if own == bytes_of(&thread.own) {
            let after = State::of(tid);
            assert!(before.xsave.0.len() > 576);
            let differs = before.differs_from(&after);
            assert!(
                differs.is_empty(),
                "thread {tid} is not as it was ({was:?}): {differs}"
            );
        }
        thread.let_go()?;
        Ok((was, start.elapsed()))
    })
}

fn bytes_of(registers: &user_regs_struct) -> Vec<u8> {
    // SAFETY: a plain structure of integers without padding.
    let bytes: [u8; size_of::<user_regs_struct>()] = unsafe { mem::transmute_copy(registers) };
    bytes.to_vec()
}

/// How long a disk may keep threads from being stopped.
const PATIENCE: Duration = Duration::from_secs(120);

/// So many injections, one thread after the other; says how often each kind of place was met.
fn inject_all_over(process: &Process, times: usize) -> std::collections::BTreeMap<Was, usize> {
    let tools = Tools::find(process).unwrap();
    let mut met = std::collections::BTreeMap::new();
    let mut held = Vec::new();
    let (began, mut stuck) = (Instant::now(), 0);
    while held.len() < times {
        for tid in threads(process).unwrap() {
            match inject(&tools, tid) {
                Ok((was, time)) => {
                    *met.entry(was).or_default() += 1;
                    held.push(time);
                }
                Err(InjectError::Gone) if process.is_alive() => {} // threads of a pool come and go
                // One that waits in the kernel for a busy disk: another one is taken in its place, in earnest as here.
                Err(InjectError::Stuck) if began.elapsed() < PATIENCE => stuck += 1,
                Err(e) => panic!("{e}"),
            }
        }
    }
    held.sort_unstable();
    let (median, worst) = (held[held.len() / 2], held[held.len() - 1]);
    eprintln!(
        "{} injections, {met:?}; a thread held for {median:?}, at worst {worst:?}; {stuck} times one could not be stopped",
        held.len()
    );
    met
}

#[test]
fn a_thread_in_any_state_goes_on_as_it_was() {
    let mut victim = Command::new(std::env::current_exe().unwrap());
    let victim = victim
        .args(["--exact", "sys::inject::tests::victim", "--nocapture"])
        .env(VICTIM, "1");
    let mut victim = victim
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(victim.stdout.take().unwrap());
    said.skip_until(b'!').unwrap();
    let process = Process::open(victim.id()).unwrap();
    let met = inject_all_over(&process, 1000);
    for there in [
        Was::Computing,
        Was::Blocked(512),
        Was::Blocked(514),
        Was::Blocked(516),
    ] {
        assert!(met.contains_key(&there), "{there:?} was not met");
    }
    drop(victim.stdin.take());
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(victim.wait().unwrap().success(), "the victim noticed: {rest}");
    assert!(rest.contains("unharmed"), "{rest}");
}

/// Every thread of a QEMU whose guest keeps processor, disk and network busy.
#[test]
fn a_busy_qemu_goes_on_as_it_was() {
    if !hawser_testkit::gate::root("injections into QEMU") {
        return;
    }
    for version in Version::all().unwrap() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Drive::create(&dir.path().join("vm1.raw"), 64, Aio::Threads).unwrap();
        let machine =
            Machine::start(&here(), &Spec::new(&version).with_user_network().with_drive(disk)).unwrap();
        machine.wait_up().unwrap();
        let mut guest = TcpStream::connect(machine.kv()).unwrap();
        let mut answers = BufReader::new(guest.try_clone().unwrap()).lines();
        let mut ask = |request: &str| {
            writeln!(guest, "{request}").unwrap();
            answers.next().unwrap().unwrap()
        };
        for load in ["DIRTY 500 1000", "DISK 200", "FLOOD 200 10.0.2.2:9 1000"] {
            assert_eq!(ask(load), "OK");
        }
        let met = inject_all_over(&Process::open(machine.pid()).unwrap(), 1000);
        assert!(
            met.contains_key(&Was::Computing) && met.contains_key(&Was::Blocked(512)),
            "{met:?}"
        );
        assert!(ask("CHECK").starts_with("OK"));
        assert!(ask("STATUS").contains(" errors=0 "), "{}", ask("STATUS"));
        assert!(ask("SET after 1").starts_with("OK"));
        assert!(machine.is_alive(), "{version}: {}", machine.log());
    }
}

const VICTIM: &str = "HAWSER_TEST_VICTIM";

static END: AtomicBool = AtomicBool::new(false);
static CAUGHT: AtomicU64 = AtomicU64::new(0);

/// Not a test of its own: the process that the other injects into. Its threads do what QEMU's do, and notice what goes wrong.
#[test]
fn victim() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let jobs: [fn(); 8] = [
        sleeps,
        waits_on_futex,
        polls,
        polls_with_mask,
        reads,
        computes,
        blocks_signals,
        catches_signals,
    ];
    let threads: Vec<_> = jobs.into_iter().map(thread::spawn).collect();
    print!("!");
    std::io::stdout().flush().unwrap();
    let mut nothing = [0];
    assert_eq!(std::io::stdin().read(&mut nothing).unwrap(), 0);
    END.store(true, Ordering::SeqCst);
    for thread in threads {
        // A failed one has said why.
        thread.join().unwrap();
    }
    println!("unharmed");
}

fn until_end(limit: Duration, mut round: impl FnMut()) {
    while !END.load(Ordering::SeqCst) {
        let start = Instant::now();
        round();
        assert!(
            start.elapsed() >= limit,
            "returned after {:?} instead of {limit:?}",
            start.elapsed()
        );
    }
}

const ROUND: Duration = Duration::from_millis(3);
static ROUND_SPEC: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 3_000_000,
};

/// Started again by restart_syscall.
fn sleeps() {
    // SAFETY: both places are valid; no remainder is wanted.
    until_end(ROUND, || {
        assert_eq!(unsafe { libc::nanosleep(&ROUND_SPEC, ptr::null_mut()) }, 0)
    });
}

fn waits_on_futex() {
    let word = 7_u32;
    until_end(ROUND, || {
        // SAFETY: the word and the time are valid for the call.
        let done = unsafe {
            libc::syscall(
                libc::SYS_futex,
                &raw const word,
                libc::FUTEX_WAIT,
                7,
                &raw const ROUND_SPEC,
            )
        };
        assert_eq!(
            (done, io::Error::last_os_error().raw_os_error()),
            (-1, Some(libc::ETIMEDOUT))
        );
    });
}

fn polls() {
    // SAFETY: no descriptors.
    until_end(ROUND, || {
        assert_eq!(unsafe { libc::poll(ptr::null_mut(), 0, 3) }, 0)
    });
}

fn polls_with_mask() {
    // SAFETY: no descriptors; time and mask are valid.
    until_end(ROUND, || unsafe {
        let mut mask = MaybeUninit::uninit();
        libc::sigfillset(mask.as_mut_ptr());
        assert_eq!(libc::ppoll(ptr::null_mut(), 0, &ROUND_SPEC, mask.as_ptr()), 0);
    });
}

fn reads() {
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    let feeder = thread::spawn(move || {
        until_end(ROUND, || {
            thread::sleep(ROUND);
            writer.write_all(b"x").unwrap();
        })
    });
    let mut byte = [0];
    loop {
        // SAFETY: one byte of room. (Not `Read`, which tries again by itself.)
        match unsafe { libc::read(reader.as_raw_fd(), byte.as_mut_ptr().cast(), 1) } {
            1 => assert_eq!(mem::take(&mut byte), *b"x"),
            0 => break,
            _ => panic!("{}", io::Error::last_os_error()),
        }
    }
    assert_eq!(reader.read(&mut byte).unwrap(), 0);
    feeder.join().unwrap();
}

fn computes() {
    let numbers: Vec<f64> = (1..5000).map(f64::from).collect();
    let sum = || {
        numbers
            .iter()
            .map(|n| n.sqrt().mul_add(1.5, 1.0 / n))
            .sum::<f64>()
            .to_bits()
    };
    let right = sum();
    until_end(Duration::ZERO, || assert_eq!(sum(), right));
}

fn blocks_signals() {
    let mut all = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: the places are valid sets.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut());
    }
    until_end(ROUND, || {
        thread::sleep(ROUND);
        let mut mask = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: as above.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, ptr::null(), mask.as_mut_ptr());
            assert_eq!(
                libc::sigismember(mask.as_ptr(), libc::SIGTRAP),
                1,
                "SIGTRAP is no longer blocked"
            );
        }
    });
}

/// Queued signals are neither lost nor doubled.
fn catches_signals() {
    extern "C" fn count(_: c_int) {
        CAUGHT.fetch_add(1, Ordering::SeqCst);
    }
    let signal = libc::SIGRTMIN() + 3;
    // SAFETY: the handler only touches an atomic.
    unsafe { libc::signal(signal, count as extern "C" fn(c_int) as libc::sighandler_t) };
    // SAFETY: of this thread.
    let this = unsafe { libc::pthread_self() };
    let sender = thread::spawn(move || {
        let mut sent = 0_u64;
        until_end(Duration::ZERO, || {
            let value = libc::sigval {
                sival_ptr: ptr::null_mut(),
            };
            // SAFETY: the thread waits for this one before it ends.
            sent += u64::from(unsafe { libc::pthread_sigqueue(this, signal, value) } == 0);
            thread::sleep(Duration::from_micros(300));
        });
        sent
    });
    while !END.load(Ordering::SeqCst) {
        thread::sleep(ROUND);
    }
    let sent = sender.join().unwrap();
    let caught = CAUGHT.load(Ordering::SeqCst);
    assert!(sent > 0 && sent == caught, "{sent} signals sent, {caught} caught");
}
