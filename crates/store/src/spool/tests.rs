use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use super::{
    conformance::{self, WIDE, message},
    *,
};

/// Tells a re-executed test binary to act as the other process, in this directory.
const OTHER: &str = "HAWSER_SPOOL_TEST_DIR";

#[tokio::test]
async fn it_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conformance::run(&*open(&dir.path().join("state")).unwrap()).await;
}

#[tokio::test]
async fn numbers_go_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let number = async |n| {
        let spool = open(&dir.path().join("state")).unwrap();
        let Accepted::Kept { number } = spool.accept(message("a", n, b"x"), WIDE).await.unwrap() else {
            panic!()
        };
        spool.change([n; 16], Change::Discarded).await.unwrap().unwrap();
        number
    };
    let first = number(1).await;
    assert!(number(2).await > first, "though the first one is gone");
}

#[tokio::test]
async fn what_was_delivered_is_in_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let spool = open(&state).unwrap();
    let secret = b"a-word-that-stands-nowhere-else".repeat(40);
    spool.accept(message("a", 1, &secret), WIDE).await.unwrap();
    let holds = || {
        let mut files = fs::read_dir(&state)
            .unwrap()
            .map(|f| fs::read(f.unwrap().path()).unwrap());
        files.any(|bytes| bytes.windows(31).any(|w| w == &secret[..31]))
    };
    assert!(holds(), "control");
    let delivered = Change::Delivered { status: 200, at: 1 };
    spool.change([1; 16], delivered).await.unwrap().unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while holds() {
        assert!(std::time::Instant::now() < end, "the log was not emptied");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[test]
fn what_was_accepted_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "spool::tests::the_other_process", "--nocapture"])
        .env(OTHER, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(other.stdout.take().unwrap()).lines();
    let mut told = 0;
    for line in lines.map_while(Result::ok) {
        if let Some(n) = line.strip_prefix("accepted ") {
            told = n.parse::<u8>().unwrap();
        }
        if told == 100 {
            break;
        }
    }
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(told, 100);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let spool = open(dir.path()).unwrap();
        for n in 1..=told {
            let content = spool.content([n; 16]).await.unwrap().unwrap();
            assert_eq!(content.body, vec![n; 1000]);
        }
    });
}

/// Not a test of its own: accepts until it is killed, when told to by [`OTHER`].
#[test]
fn the_other_process() {
    let Some(dir) = std::env::var_os(OTHER) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let spool = open(Path::new(&dir)).unwrap();
        for n in 1..=200 {
            let accepted = spool.accept(message("a", n, &vec![n; 1000]), WIDE).await.unwrap();
            assert!(matches!(accepted, Accepted::Kept { .. }));
            println!("\naccepted {n}");
        }
        // The one that kills is to find it alive.
        std::future::pending::<()>().await;
    });
}
