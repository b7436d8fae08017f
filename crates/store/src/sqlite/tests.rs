use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use proptest::prelude::*;

use super::*;
use crate::{Bucket, Store, conformance};

/// Tells a re-executed test binary to act as the other process, in this directory.
const OTHER: &str = "HAWSER_STORE_TEST_DIR";

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// A store in a directory that does not exist yet.
fn fresh() -> (tempfile::TempDir, PathBuf, Store) {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state/hub");
    let store = Store::open(&dir).unwrap();
    (parent, dir, store)
}

/// Runs one test of this binary in another process.
fn other_process(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("sqlite::tests::{test}"), "--nocapture"])
        .env(OTHER, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

fn other_dir() -> Option<PathBuf> {
    std::env::var_os(OTHER).map(PathBuf::from)
}

/// The number on the next line that begins with `word`.
fn next(lines: &mut impl Iterator<Item = std::io::Result<String>>, word: &str) -> Option<u64> {
    lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix(word)?.trim().parse().ok())
}

/// Whether any file in the directory holds these bytes.
fn holds(dir: &Path, needle: &[u8]) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let content = fs::read(entry.unwrap().path()).unwrap();
        content.windows(needle.len()).any(|w| w == needle)
    })
}

#[tokio::test]
async fn of_calls_that_share_a_commit_each_fails_alone() {
    let (_parent, dir, store) = fresh();
    let bucket = store.bucket::<u64>("b");
    bucket.put("taken", &0).await.unwrap();
    let calls: Vec<_> = (0..200u64)
        .map(|n| {
            let bucket = bucket.clone();
            tokio::spawn(async move {
                match n % 4 {
                    0 => matches!(bucket.create("taken", &n).await, Err(StoreError::Exists { .. })),
                    1 => matches!(bucket.delete("nothing").await, Ok(false)),
                    2 => matches!(bucket.get("taken").await, Ok(Some((0, 1)))),
                    _ => bucket.put(&format!("k{n}"), &n).await.is_ok(),
                }
            })
        })
        .collect();
    for call in calls {
        assert!(call.await.unwrap());
    }
    drop((store, bucket));
    let store = Store::open(&dir).unwrap();
    let entries = store.bucket::<u64>("b").entries().await.unwrap();
    assert_eq!(entries.len(), 51);
    let last = entries.iter().map(|(_, _, revision)| *revision).max();
    assert_eq!(last, Some(51), "those refused used up none");
}

/// A figure rather than a bound: `cargo test -p hawser-store -- --ignored --nocapture writes_a_second`.
#[tokio::test]
#[ignore = "a measurement"]
async fn writes_a_second() {
    for waiting in [1, 64, 256] {
        let parent = std::env::var("HAWSER_BENCH_DIR").unwrap_or("/var/tmp".into());
        let parent = tempfile::tempdir_in(parent).unwrap();
        let store = Store::open(&parent.path().join("state")).unwrap();
        let each = if waiting == 1 { 300 } else { 10_000 / waiting };
        let begin = Instant::now();
        let tasks: Vec<_> = (0..waiting)
            .map(|task| {
                let bucket = store.bucket::<u64>("b");
                tokio::spawn(async move {
                    for n in 0..each {
                        bucket.put(&format!("{task}.{}", n % 100), &n).await.unwrap();
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let rate = (waiting * each) as f64 / begin.elapsed().as_secs_f64();
        println!("{rate:.0} writes/s, {waiting} waiting");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let (_parent, _, store) = fresh();
    conformance::run(store).await;
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let (_parent, dir, store) = fresh();
    let bucket: Bucket<u64> = store.bucket("numbers");
    let revision = bucket.put("a", &1).await.unwrap();
    drop((bucket, store));
    let again = Store::open(&dir).unwrap();
    let bucket: Bucket<u64> = again.bucket("numbers");
    assert_eq!(bucket.get("a").await.unwrap(), Some((1, revision)));
    assert!(bucket.put("a", &2).await.unwrap() > revision, "revisions go on");
}

#[tokio::test]
async fn directory_and_files_are_nobody_elses() {
    let (_parent, dir, store) = fresh();
    store.bucket::<u64>("numbers").put("a", &1).await.unwrap();
    assert_eq!(mode(&dir), 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        names.push(path.file_name().unwrap().to_string_lossy().into_owned());
    }
    names.sort();
    assert_eq!(names, ["hawser.db", "hawser.db-shm", "hawser.db-wal"]);
    // A file that somebody opened up is closed again; a directory in which others could replace files is refused.
    fs::set_permissions(dir.join(KIND.file), fs::Permissions::from_mode(0o644)).unwrap();
    Store::open(&dir).unwrap();
    assert_eq!(mode(&dir.join(KIND.file)), 0o600);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
    let refused = Store::open(&dir).unwrap_err();
    assert!(refused.to_string().contains("chmod 700"), "{refused}");
}

#[tokio::test]
async fn a_commit_is_synced_and_a_deleted_value_wiped() {
    let (_parent, dir, store) = fresh();
    let connection = connect(&dir.join(KIND.file), &KIND, SCHEMA).unwrap();
    let pragma = |name| {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
            .unwrap()
    };
    assert_eq!(pragma("journal_mode"), rusqlite::types::Value::Text("wal".into()));
    assert_eq!(pragma("synchronous"), rusqlite::types::Value::Integer(2), "FULL");
    assert_eq!(pragma("secure_delete"), rusqlite::types::Value::Integer(1));
    drop(connection);
    let bucket: Bucket<String> = store.bucket("tokens");
    let marker = "a-marker-that-is-nowhere-else";
    bucket.put("t", &marker.repeat(300)).await.unwrap();
    bucket.put("u", &"kept".into()).await.unwrap();
    assert!(
        holds(&dir, marker.as_bytes()),
        "the search finds it while it is there"
    );
    bucket.delete("t").await.unwrap();
    assert!(
        !holds(&dir, marker.as_bytes()),
        "neither in the database nor in its log"
    );
    assert!(bucket.get("u").await.unwrap().is_some());
}

#[tokio::test]
async fn a_value_deleted_or_replaced_while_another_process_reads_is_wiped_soon_after() {
    let (_parent, dir, store) = fresh();
    let bucket: Bucket<String> = store.bucket("tokens");
    let (one, two) = (
        "one-marker-that-is-nowhere-else",
        "two-marker-that-is-nowhere-else",
    );
    bucket.put("one", &one.repeat(300)).await.unwrap();
    bucket.put("two", &two.repeat(300)).await.unwrap();
    let reader = Connection::open(dir.join(KIND.file)).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM entries;")
        .unwrap();
    bucket.delete("one").await.unwrap();
    bucket.put("two", &"spent".into()).await.unwrap();
    assert!(holds(&dir, one.as_bytes()), "the reader may still see it");
    reader.execute_batch("COMMIT").unwrap();
    for _ in 0..100 {
        if !holds(&dir, one.as_bytes()) && !holds(&dir, two.as_bytes()) {
            return;
        }
        tokio::time::sleep(POLL).await;
    }
    panic!("the values are still in the files");
}

#[tokio::test]
async fn a_commit_of_another_process_is_noticed() {
    let (_parent, dir, store) = fresh();
    let bucket: Bucket<u64> = store.bucket("numbers");
    let mut watch = store.watch();
    watch.borrow_and_update();
    let mut other = other_process("writes_one", &dir);
    tokio::time::timeout(Duration::from_secs(30), watch.changed())
        .await
        .unwrap()
        .unwrap();
    // Opening may be a commit of its own; the value comes with one of the next changes.
    while bucket.get("from-outside").await.unwrap().is_none() {
        tokio::time::timeout(Duration::from_secs(30), watch.changed())
            .await
            .unwrap()
            .unwrap();
    }
    assert!(other.wait().unwrap().success());
}

/// The other process of [`a_commit_of_another_process_is_noticed`]; nothing by itself.
#[tokio::test]
async fn writes_one() {
    let Some(dir) = other_dir() else { return };
    let bucket: Bucket<u64> = Store::open(&dir).unwrap().bucket("numbers");
    bucket.put("from-outside", &1).await.unwrap();
}

#[tokio::test]
async fn nothing_is_noticed_when_nothing_happens() {
    let (_parent, _, store) = fresh();
    let mut watch = store.watch();
    watch.borrow_and_update();
    store.bucket::<u64>("numbers").get("a").await.unwrap();
    let quiet = tokio::time::timeout(4 * POLL, watch.changed()).await;
    assert!(quiet.is_err(), "reading is no change");
}

/// Kills the writer, without a chance to clean up, right after it has said that a write is done.
#[tokio::test]
async fn an_acknowledged_write_survives_kill_9() {
    let (_parent, dir, store) = fresh();
    drop(store);
    let mut last = 0;
    for _ in 0..5 {
        let mut writer = other_process("writes_until_killed", &dir);
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let first = next(&mut lines, "done ").unwrap();
        assert_eq!(first, last + 1, "the writer found what was acknowledged before");
        for _ in 0..20 {
            last = next(&mut lines, "done ").unwrap();
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
        // What it said between our last look and its end counts as well.
        while let Some(n) = next(&mut lines, "done ") {
            last = n;
        }
        let bucket: Bucket<u64> = Store::open(&dir).unwrap().bucket("numbers");
        let entries = bucket.entries().await.unwrap();
        let found = entries.len() as u64;
        assert!(
            (last..=last + 1).contains(&found),
            "acknowledged {last}, found {found}"
        );
        assert!(
            entries
                .iter()
                .enumerate()
                .all(|(i, (_, n, _))| *n == i as u64 + 1),
            "no gap"
        );
        last = found;
    }
}

/// The other process of [`an_acknowledged_write_survives_kill_9`]; nothing by itself.
#[tokio::test]
async fn writes_until_killed() {
    let Some(dir) = other_dir() else { return };
    let bucket: Bucket<u64> = Store::open(&dir).unwrap().bucket("numbers");
    let from = bucket.entries().await.unwrap().len() as u64;
    for n in from + 1.. {
        bucket.create(&format!("{n:08}"), &n).await.unwrap();
        println!("done {n}");
    }
}

/// Processes that write at once wait for each other; none loses a write.
#[tokio::test]
async fn several_processes_write_at_once() {
    let (_parent, dir, store) = fresh();
    drop(store);
    let others: Vec<_> = (0..3).map(|_| other_process("counts", &dir)).collect();
    for mut other in others {
        assert!(other.wait().unwrap().success());
    }
    let bucket: Bucket<u64> = Store::open(&dir).unwrap().bucket("numbers");
    assert_eq!(bucket.get("count").await.unwrap().map(|(n, _)| n), Some(3 * 25));
}

/// The other process of [`several_processes_write_at_once`]; nothing by itself.
#[tokio::test]
async fn counts() {
    let Some(dir) = other_dir() else { return };
    let bucket: Bucket<u64> = Store::open(&dir).unwrap().bucket("numbers");
    let mut done = 0;
    while done < 25 {
        let result = match bucket.get("count").await.unwrap() {
            None => bucket.create("count", &1).await,
            Some((n, revision)) => bucket.update("count", &(n + 1), revision).await,
        };
        match result {
            Ok(_) => done += 1,
            Err(StoreError::Exists { .. } | StoreError::Conflict { .. }) => {}
            Err(e) => panic!("{e}"),
        }
    }
}

#[tokio::test]
async fn many_open_the_same_new_directory_at_once() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state");
    let stores: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| Store::open(&dir).unwrap()))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for (i, store) in stores.iter().enumerate() {
        store
            .bucket::<u64>("numbers")
            .put(&i.to_string(), &1)
            .await
            .unwrap();
    }
    assert_eq!(
        stores[0].bucket::<u64>("numbers").entries().await.unwrap().len(),
        8
    );
}

#[tokio::test]
async fn another_format_is_left_alone() {
    let parent = tempfile::tempdir().unwrap();
    let newer = parent.path().join("newer");
    drop(Store::open(&newer).unwrap());
    Connection::open(newer.join(KIND.file))
        .unwrap()
        .pragma_update(None, "user_version", KIND.format + 1)
        .unwrap();
    let refused = Store::open(&newer).unwrap_err();
    assert!(matches!(refused, StoreError::Format { .. }), "{refused}");

    let foreign = parent.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    Connection::open(foreign.join(KIND.file))
        .unwrap()
        .pragma_update(None, "application_id", 42)
        .unwrap();
    assert!(matches!(Store::open(&foreign), Err(StoreError::Format { .. })));

    let junk = parent.path().join("junk");
    fs::create_dir(&junk).unwrap();
    fs::write(
        junk.join(KIND.file),
        "this is no database, and long enough to be taken for one".repeat(100),
    )
    .unwrap();
    let before = fs::read(junk.join(KIND.file)).unwrap();
    assert!(matches!(Store::open(&junk), Err(StoreError::Engine(_))));
    assert_eq!(fs::read(junk.join(KIND.file)).unwrap(), before);

    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(Store::open(&file), Err(StoreError::Path { .. })));
}

/// A dropped call neither blocks nor harms the next one, and thousands of calls wait their turn.
#[tokio::test(flavor = "multi_thread")]
async fn callers_come_and_go() {
    let (_parent, _, store) = fresh();
    let bucket: Bucket<u64> = store.bucket("numbers");
    for n in 0..50 {
        let _ = tokio::time::timeout(Duration::ZERO, bucket.put("dropped", &n)).await;
    }
    let reads: Vec<_> = (0..4 * MAX_QUEUED)
        .map(|_| {
            tokio::spawn({
                let bucket = bucket.clone();
                async move { bucket.get("dropped").await.unwrap() }
            })
        })
        .collect();
    for read in reads {
        read.await.unwrap();
    }
    assert!(bucket.put("after", &1).await.is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_key_and_value_come_back(pairs in prop::collection::btree_map("\\PC{1,80}", "\\PC{0,200}", 0..10)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (_parent, _, store) = fresh();
            let bucket: Bucket<String> = store.bucket("texts");
            for (key, value) in &pairs {
                bucket.put(key, value).await.unwrap();
            }
            let entries = bucket.entries().await.unwrap();
            let found: Vec<_> = entries.into_iter().map(|(key, value, _)| (key, value)).collect();
            assert_eq!(found, pairs.into_iter().collect::<Vec<_>>());
        });
    }
}
