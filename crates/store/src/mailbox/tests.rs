use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use super::{
    conformance::{self, LIMITS, all, device, envelope},
    *,
};

/// Tells a re-executed test binary to act as the other process, in this directory.
const OTHER: &str = "HAWSER_MAILBOX_TEST_DIR";

const WIDE: Limits = Limits {
    devices: 100_000,
    devices_per_domain: 100_000,
    envelopes_per_device: 1_000_000,
    bytes_per_device: 1 << 40,
    bytes_per_domain: 1 << 40,
    reports: 1_000_000,
};

fn fresh(limits: Limits) -> (tempfile::TempDir, PathBuf, Arc<dyn Backend>) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state");
    let engine = open(&dir, limits).unwrap();
    (parent, dir, engine)
}

fn holds(dir: &Path, needle: &[u8]) -> Vec<String> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    files
        .filter(|f| {
            let content = fs::read(f.path()).unwrap();
            content.windows(needle.len()).any(|w| w == needle)
        })
        .map(|f| f.file_name().to_string_lossy().into_owned())
        .collect()
}

#[tokio::test]
async fn conforms() {
    let (_parent, _, engine) = fresh(LIMITS);
    conformance::run(&*engine).await;
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let (_parent, dir, engine) = fresh(LIMITS);
    engine.admit(device("acme", 1)).await.unwrap();
    engine.admit(device("acme", 2)).await.unwrap();
    engine.revoke("acme".into(), [2; 16]).await.unwrap();
    for n in 1..=3 {
        engine.deposit(envelope(1, n, b"body")).await.unwrap();
    }
    let skip = Skip {
        domain: "acme".into(),
        device: [1; 16],
        from: 3,
        to: 3,
        body: b"signed".as_slice().into(),
    };
    engine.skip(skip).await.unwrap();
    let ack = Ack {
        sequence: 1,
        record: vec![1],
    };
    engine.acknowledge([1; 16], vec![ack]).await.unwrap();
    engine.sent(vec![([1; 16], 2)]).await.unwrap();
    let reports = engine.reports("acme".into(), 0, 10).await.unwrap();
    engine.taken("acme".into(), reports[0].number).await.unwrap();
    let before = (
        engine.totals().await.unwrap(),
        all(&*engine, [1; 16]).await,
        engine.reports("acme".into(), 0, 10).await.unwrap(),
    );
    assert_eq!((before.0.envelopes, before.1.len(), before.2.len()), (1, 2, 1));
    drop(engine);
    let engine = open(&dir, LIMITS).unwrap();
    let after = (
        engine.totals().await.unwrap(),
        all(&*engine, [1; 16]).await,
        engine.reports("acme".into(), 0, 10).await.unwrap(),
    );
    assert_eq!(before, after);
    assert_eq!(engine.admit(device("acme", 2)).await.unwrap(), Admission::Revoked);
    assert!(matches!(
        engine.deposit(envelope(1, 4, b"body")).await.unwrap(),
        Deposited::Kept { position, .. } if position > before.1[1].position
    ));
}

#[tokio::test]
async fn a_revoked_queue_is_gone_from_the_files_when_the_answer_is_there() {
    let (_parent, dir, engine) = fresh(WIDE);
    engine.admit(device("acme", 1)).await.unwrap();
    engine.admit(device("acme", 2)).await.unwrap();
    let marker = b"a-marker-that-is-nowhere-else";
    // Short ones that share a page with others', and ones with pages of their own.
    for n in 1..=40 {
        let body = if n % 2 == 0 {
            marker.to_vec()
        } else {
            marker.repeat(2000)
        };
        engine.deposit(envelope(1, n, &body)).await.unwrap();
        engine.deposit(envelope(2, n, b"others' bytes")).await.unwrap();
    }
    assert!(
        !holds(&dir, marker).is_empty(),
        "the search finds it while it is there"
    );
    engine.revoke("acme".into(), [1; 16]).await.unwrap();
    assert_eq!(holds(&dir, marker), Vec::<String>::new());
    assert_eq!(all(&*engine, [2; 16]).await.len(), 40);
}

#[tokio::test]
async fn what_was_acknowledged_is_gone_from_the_files_soon_after() {
    let (_parent, dir, engine) = fresh(WIDE);
    engine.admit(device("acme", 1)).await.unwrap();
    let marker = b"a-marker-that-is-nowhere-else";
    engine.deposit(envelope(1, 1, &marker.repeat(500))).await.unwrap();
    assert!(!holds(&dir, marker).is_empty());
    let ack = Ack {
        sequence: 1,
        record: vec![1],
    };
    engine.acknowledge([1; 16], vec![ack]).await.unwrap();
    let end = Instant::now() + std::time::Duration::from_secs(20);
    while !holds(&dir, marker).is_empty() {
        assert!(
            Instant::now() < end,
            "it still stands in {:?}",
            holds(&dir, marker)
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Kills the writer, without a chance to clean up, right after it has said what is kept.
#[tokio::test]
async fn what_was_kept_survives_kill_9() {
    let (_parent, dir, engine) = fresh(WIDE);
    engine.admit(device("acme", 1)).await.unwrap();
    drop(engine);
    let mut last = 0;
    for _ in 0..5 {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "mailbox::tests::deposits_until_killed", "--nocapture"])
            .env(OTHER, &dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let mut next = || {
            let mut line = lines.by_ref().map_while(Result::ok);
            line.find_map(|l| l.strip_prefix("kept ")?.parse::<u64>().ok())
        };
        let before = last;
        while last < before + 200 {
            last = next().unwrap();
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        // What it said between our last look and its end counts as well.
        while let Some(n) = next() {
            last = n;
        }
        let engine = open(&dir, WIDE).unwrap();
        let numbers: Vec<_> = all_pages(&*engine).await;
        let whole = numbers.len() as u64;
        assert!(whole >= last, "kept {last}, found {whole}");
        assert!(numbers.iter().copied().eq(1..=whole), "no gap, nothing twice");
        let totals = engine.totals().await.unwrap();
        assert_eq!(totals.envelopes as u64, whole);
        last = whole;
    }
}

async fn all_pages(engine: &dyn Backend) -> Vec<u64> {
    let mut page = Page {
        after: 0,
        above: 0,
        now: 1,
        items: 100,
        bytes: usize::MAX,
    };
    let mut numbers = Vec::new();
    loop {
        let items = engine.read([1; 16], page).await.unwrap();
        let Some(last) = items.last() else { return numbers };
        page.after = last.position;
        numbers.extend(items.iter().map(|i| i.sequence));
    }
}

/// The other process of [`what_was_kept_survives_kill_9`]; nothing by itself.
#[tokio::test]
async fn deposits_until_killed() {
    let Some(dir) = std::env::var_os(OTHER).map(PathBuf::from) else {
        return;
    };
    let engine = open(&dir, WIDE).unwrap();
    let from = engine.totals().await.unwrap().envelopes as u64;
    for group in 0.. {
        let numbers: Vec<_> = (1..=7).map(|n| from + 7 * group + n).collect();
        let calls: Vec<_> = numbers
            .iter()
            .map(|&n| engine.deposit(envelope(1, n, &n.to_be_bytes())))
            .collect();
        for (n, call) in numbers.iter().zip(calls) {
            assert!(matches!(call.await.unwrap(), Deposited::Kept { .. }));
            println!("kept {n}");
        }
    }
}

#[tokio::test]
async fn a_call_that_fails_leaves_no_trace_and_the_others_of_its_group_stand() {
    let (_parent, _, engine) = fresh(WIDE);
    engine.admit(device("acme", 1)).await.unwrap();
    let good = engine.deposit(envelope(1, 1, b"one"));
    // A number that does not fit into the database.
    let bad = engine.deposit(envelope(1, u64::MAX, b"two"));
    let next = engine.deposit(envelope(1, 2, b"three"));
    assert!(matches!(good.await, Ok(Deposited::Kept { .. })));
    assert!(bad.await.is_err());
    assert!(matches!(next.await, Ok(Deposited::Kept { .. })));
    let totals = engine.totals().await.unwrap();
    assert_eq!((totals.envelopes, totals.bytes), (2, 8));
}

#[tokio::test]
async fn more_calls_than_may_wait_are_told_that_it_is_busy() {
    let (_parent, _, engine) = fresh(WIDE);
    engine.admit(device("acme", 1)).await.unwrap();
    let calls: Vec<_> = (1..30_000)
        .map(|n| engine.deposit(envelope(1, n, &[7; 100])))
        .collect();
    let (mut kept, mut busy) = (0, 0);
    for call in calls {
        match call.await {
            Ok(Deposited::Kept { .. }) => kept += 1,
            Err(StoreError::Busy(_)) => busy += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(kept >= 8192 && busy > 0, "{kept} kept, {busy} busy");
    assert_eq!(engine.totals().await.unwrap().envelopes, kept);
}

/// A figure rather than a bound: `cargo test -p hawser-store --release -- --ignored --nocapture deposits_a_second`.
#[tokio::test]
#[ignore = "a measurement"]
async fn deposits_a_second() {
    for (length, waiting) in [(1000, 1), (1000, 64), (1000, 512), (4000, 512)] {
        let dir =
            tempfile::tempdir_in(std::env::var("HAWSER_BENCH_DIR").unwrap_or("/var/tmp".into())).unwrap();
        let engine = open(&dir.path().join("state"), WIDE).unwrap();
        for n in 0..100 {
            engine.admit(device("acme", n)).await.unwrap();
        }
        let total = if waiting == 1 { 500 } else { 20_000 };
        let body = vec![7; length];
        let begin = Instant::now();
        let mut calls = std::collections::VecDeque::new();
        for n in 0..total {
            if calls.len() == waiting {
                let call: Reply<Deposited> = calls.pop_front().unwrap();
                call.await.unwrap();
            }
            calls.push_back(engine.deposit(envelope((n % 100) as u8, 1 + n / 100, &body)));
        }
        for call in calls {
            call.await.unwrap();
        }
        let rate = f64::from(total as u32) / begin.elapsed().as_secs_f64();
        println!("{rate:.0} deposits/s of {length} bytes, {waiting} waiting");
    }
}
