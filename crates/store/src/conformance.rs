//! What every engine must do, as a suite: each engine's tests call [`run`] with an empty store of theirs.

use crate::{MAX_KEY, MAX_VALUE, Store, StoreError};

/// Runs the suite against an empty store; panics with what is wrong.
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test suite, in a module of its own for other crates' tests"
)]
pub async fn run(store: Store) {
    let bucket = store.bucket::<String>("conformance");
    let text = String::from;

    assert!(bucket.get("a").await.unwrap().is_none());
    assert!(bucket.entries().await.unwrap().is_empty());
    assert!(!bucket.delete("a").await.unwrap(), "nothing there to delete");

    let first = bucket.put("a", &text("1")).await.unwrap();
    assert_eq!(bucket.get("a").await.unwrap(), Some((text("1"), first)));
    let second = bucket.put("a", &text("2")).await.unwrap();
    assert!(second > first, "revisions ascend");

    assert!(matches!(
        bucket.create("a", &text("x")).await,
        Err(StoreError::Exists { .. })
    ));
    let conflict = bucket.update("a", &text("x"), first).await;
    assert!(
        matches!(conflict, Err(StoreError::Conflict { expected, found, .. }) if expected == first && found == Some(second))
    );
    assert_eq!(
        bucket.get("a").await.unwrap(),
        Some((text("2"), second)),
        "a refused write leaves no trace"
    );
    let third = bucket.update("a", &text("3"), second).await.unwrap();
    assert!(third > second);
    let absent = bucket.update("b", &text("x"), third).await;
    assert!(matches!(absent, Err(StoreError::Conflict { found: None, .. })));

    assert!(bucket.delete("a").await.unwrap());
    let again = bucket.create("a", &text("4")).await.unwrap();
    assert!(again > third, "a revision is not used again after a delete");
    assert!(matches!(
        bucket.update("a", &text("x"), third).await,
        Err(StoreError::Conflict { .. })
    ));

    let other = store.bucket::<u64>("conformance-other");
    other.put("a", &7).await.unwrap();
    assert_eq!(other.entries().await.unwrap().len(), 1, "buckets are apart");
    assert_eq!(other.get("a").await.unwrap().map(|(n, _)| n), Some(7));
    let wrong = store.bucket::<u64>("conformance").get("a").await;
    assert!(
        matches!(wrong, Err(StoreError::Malformed { .. })),
        "a value of another type"
    );

    let keys = [
        "hub.example.org:8443",
        "[::1]:8443",
        "spiffe://acme/gateway/gw1",
        "domain:acme",
        "ä%",
        "A",
        "a b",
    ];
    for key in keys {
        bucket.put(key, &text(key)).await.unwrap();
    }
    let entries = bucket.entries().await.unwrap();
    let mut sorted = entries.clone();
    sorted.sort();
    assert_eq!(entries, sorted, "entries come in the order of their keys");
    assert_eq!(entries.len(), keys.len() + 1);
    assert!(
        keys.iter()
            .all(|k| entries.iter().any(|(key, value, _)| key == k && value == k))
    );

    limits(&store).await;
    contention(&store).await;
    watching(&store).await;
}

#[allow(clippy::unwrap_used, reason = "as above")]
async fn limits(store: &Store) {
    let bucket = store.bucket::<String>("conformance-limits");
    for key in [String::new(), "k".repeat(MAX_KEY + 1)] {
        let refused = bucket.put(&key, &String::new()).await;
        assert!(matches!(refused, Err(StoreError::Key { .. })));
    }
    let long = "k".repeat(MAX_KEY);
    bucket.put(&long, &"v".repeat(MAX_VALUE - 16)).await.unwrap();
    assert_eq!(
        bucket.get(&long).await.unwrap().map(|(v, _)| v.len()),
        Some(MAX_VALUE - 16)
    );
    let refused = bucket.put("k", &"v".repeat(MAX_VALUE)).await;
    assert!(matches!(refused, Err(StoreError::TooLong { .. })));
}

/// Of many who swap the same value, each revision is won by exactly one.
#[allow(clippy::unwrap_used, reason = "as above")]
async fn contention(store: &Store) {
    const TASKS: u64 = 4;
    const EACH: u64 = 20;
    let bucket = store.bucket::<u64>("conformance-contention");
    bucket.create("n", &0).await.unwrap();
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let bucket = bucket.clone();
            tokio::spawn(async move {
                for _ in 0..EACH {
                    loop {
                        let (n, revision) = bucket.get("n").await.unwrap().unwrap();
                        match bucket.update("n", &(n + 1), revision).await {
                            Ok(_) => break,
                            Err(StoreError::Conflict { .. }) => {}
                            Err(e) => panic!("{e}"),
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(bucket.get("n").await.unwrap().map(|(n, _)| n), Some(TASKS * EACH));
}

#[allow(clippy::unwrap_used, reason = "as above")]
async fn watching(store: &Store) {
    let bucket = store.bucket::<u64>("conformance-watch");
    let mut watch = store.watch();
    watch.borrow_and_update();
    bucket.put("a", &1).await.unwrap();
    watch.changed().await.unwrap();
    watch.borrow_and_update();
    bucket.delete("a").await.unwrap();
    watch.changed().await.unwrap();
}
