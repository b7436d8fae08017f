//! What every engine must do, as a suite: each engine's tests call [`run`] with an empty engine of theirs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test suite, in a module of its own for other crates' tests"
)]

use super::{
    Accepted, Backend, Bounds, Change, Content, Entry, Filter, Id, Kind, Message, State, Totals, Twin,
};

/// Bounds that the suite's messages do not reach.
pub const WIDE: Bounds = Bounds {
    messages: 1000,
    bytes: 1 << 20,
};

/// Runs the suite against an empty engine; panics with what is wrong.
pub async fn run(engine: &dyn Backend) {
    accepting(engine).await;
    twins(engine).await;
    bounds(engine).await;
    lives(engine).await;
    lists(engine).await;
    sweeping(engine).await;
}

/// A message of a queue, as the suite has it.
pub fn message(queue: &str, n: u8, body: &[u8]) -> Message {
    Message {
        id: [n; 16],
        queue: queue.into(),
        lane: "lane".into(),
        key: (n % 2 == 1).then(|| "odd".into()),
        from: "acme".into(),
        twin: None,
        accepted: 1000 + u64::from(n),
        expires: 9000,
        head: vec![n],
        body: body.to_vec(),
    }
}

async fn kept(engine: &dyn Backend, message: Message) -> u64 {
    match engine.accept(message, WIDE).await.unwrap() {
        Accepted::Kept { number } => number,
        other => panic!("{other:?}"),
    }
}

async fn of(engine: &dyn Backend, queue: &str) -> Totals {
    let all = engine.totals().await.unwrap();
    all.into_iter().find(|t| &*t.queue == queue).unwrap()
}

async fn accepting(engine: &dyn Backend) {
    let first = kept(engine, message("a", 1, b"one")).await;
    let second = kept(engine, message("a", 2, b"")).await;
    assert!(second > first);
    let entry = engine.find([1; 16]).await.unwrap().unwrap();
    assert_eq!(
        entry,
        Entry {
            number: first,
            id: [1; 16],
            queue: "a".into(),
            lane: "lane".into(),
            key: Some("odd".into()),
            from: "acme".into(),
            accepted: 1001,
            expires: 9000,
            bytes: 4,
            attempts: 0,
            state: State::Waiting { next: 1001 },
            why: None,
        }
    );
    let content = engine.content([1; 16]).await.unwrap();
    let all = Content {
        head: vec![1],
        body: b"one".to_vec(),
    };
    assert_eq!(content, Some(all));
    assert_eq!(engine.find([99; 16]).await.unwrap(), None);
    assert_eq!(engine.content([99; 16]).await.unwrap(), None);
    assert_eq!(engine.change([99; 16], Change::Discarded).await.unwrap(), None);
    let totals = of(engine, "a").await;
    assert_eq!((totals.waiting, totals.dead, totals.bytes), (2, 0, 5));
    assert_eq!(totals.oldest, Some(1001));
}

async fn twins(engine: &dyn Backend) {
    let twin = |name: u8, content: u8| {
        Some(Twin {
            name: [name; 32],
            content: [content; 32],
        })
    };
    let with = |queue: &str, n: u8, twin| Message {
        twin,
        ..message(queue, n, b"x")
    };
    kept(engine, with("t", 10, twin(1, 1))).await;
    let again = engine.accept(with("t", 11, twin(1, 1)), WIDE).await.unwrap();
    assert_eq!(again, Accepted::Already([10; 16]));
    let other = engine.accept(with("t", 12, twin(1, 2)), WIDE).await.unwrap();
    assert_eq!(other, Accepted::Differs);
    kept(engine, with("t", 13, twin(2, 1))).await;
    kept(engine, with("u", 14, twin(1, 2))).await;
    // What was delivered is known still; what was thrown away is not.
    let delivered = Change::Delivered { status: 200, at: 5 };
    engine.change([10; 16], delivered).await.unwrap().unwrap();
    let again = engine.accept(with("t", 15, twin(1, 1)), WIDE).await.unwrap();
    assert_eq!(again, Accepted::Already([10; 16]));
    engine.change([13; 16], Change::Discarded).await.unwrap().unwrap();
    kept(engine, with("t", 16, twin(2, 1))).await;
}

async fn bounds(engine: &dyn Backend) {
    let bounds = Bounds {
        messages: 2,
        bytes: 100,
    };
    let accept = |m| engine.accept(m, bounds);
    assert!(matches!(
        accept(message("b", 20, &[0; 60])).await.unwrap(),
        Accepted::Kept { .. }
    ));
    assert_eq!(
        accept(message("b", 21, &[0; 60])).await.unwrap(),
        Accepted::Full,
        "bytes"
    );
    assert!(matches!(
        accept(message("b", 22, &[0; 30])).await.unwrap(),
        Accepted::Kept { .. }
    ));
    assert_eq!(
        accept(message("b", 23, b"")).await.unwrap(),
        Accepted::Full,
        "messages"
    );
    let dead = Change::GivenUp {
        at: 1,
        tried: false,
        why: "old".into(),
    };
    engine.change([20; 16], dead).await.unwrap().unwrap();
    assert_eq!(
        accept(message("b", 24, b"")).await.unwrap(),
        Accepted::Full,
        "dead ones count"
    );
    engine.change([20; 16], Change::Discarded).await.unwrap().unwrap();
    assert!(matches!(
        accept(message("b", 25, b"")).await.unwrap(),
        Accepted::Kept { .. }
    ));
    assert_eq!(of(engine, "b").await.bytes, 32);
}

async fn lives(engine: &dyn Backend) {
    let id: Id = [30; 16];
    kept(engine, message("l", 30, b"body")).await;
    let change = |change| engine.change(id, change);
    let failed = Change::Failed {
        next: 5000,
        why: "away".into(),
    };
    let entry = change(failed.clone()).await.unwrap().unwrap();
    assert_eq!((entry.attempts, entry.state), (1, State::Waiting { next: 5000 }));
    assert_eq!(entry.why.as_deref(), Some("away"));
    let given_up = Change::GivenUp {
        at: 6000,
        tried: true,
        why: "refused".into(),
    };
    let entry = change(given_up.clone()).await.unwrap().unwrap();
    assert_eq!((entry.attempts, entry.state), (2, State::Dead { at: 6000 }));
    assert!(engine.content(id).await.unwrap().is_some(), "for its replay");
    for late in [failed, given_up, Change::Delivered { status: 200, at: 1 }] {
        assert_eq!(change(late).await.unwrap(), None, "it does not wait");
    }
    let replayed = Change::Replayed {
        next: 7000,
        expires: 99_000,
    };
    let entry = change(replayed.clone()).await.unwrap().unwrap();
    assert_eq!((entry.attempts, entry.state), (2, State::Waiting { next: 7000 }));
    assert_eq!(entry.expires, 99_000);
    assert_eq!(change(replayed.clone()).await.unwrap(), None, "it is not dead");
    let delivered = Change::Delivered {
        status: 204,
        at: 8000,
    };
    let entry = change(delivered).await.unwrap().unwrap();
    assert_eq!(
        entry.state,
        State::Delivered {
            status: 204,
            at: 8000
        }
    );
    assert_eq!((entry.attempts, entry.bytes, entry.why), (3, 0, None));
    assert_eq!(engine.content(id).await.unwrap(), None);
    for late in [replayed, Change::Discarded] {
        assert_eq!(change(late).await.unwrap(), None, "it was delivered");
    }
    let totals = of(engine, "l").await;
    assert_eq!((totals.waiting, totals.dead, totals.bytes), (0, 0, 0));
    assert_eq!(totals.oldest, None);
}

async fn lists(engine: &dyn Backend) {
    for n in 40..45 {
        kept(engine, message("m", n, b"x")).await;
    }
    let dead = Change::GivenUp {
        at: 1_000_000,
        tried: false,
        why: "old".into(),
    };
    engine.change([42; 16], dead).await.unwrap().unwrap();
    let list = async |state, after, most| {
        let filter = Filter {
            queue: Some("m".into()),
            state,
            after,
        };
        let found = engine.list(filter, most).await.unwrap();
        found.iter().map(|e| (e.id[0], e.number)).collect::<Vec<_>>()
    };
    let ids = |found: &[(u8, u64)]| found.iter().map(|f| f.0).collect::<Vec<_>>();
    assert_eq!(ids(&list(None, 0, 10).await), [40, 41, 42, 43, 44]);
    assert_eq!(ids(&list(Some(Kind::Dead), 0, 10).await), [42]);
    assert_eq!(ids(&list(Some(Kind::Delivered), 0, 10).await), [0; 0]);
    let page = list(Some(Kind::Waiting), 0, 2).await;
    assert_eq!(ids(&page), [40, 41]);
    assert_eq!(ids(&list(Some(Kind::Waiting), page[1].1, 9).await), [43, 44]);
    let all = engine.list(Filter::default(), 1000).await.unwrap();
    assert!(all.iter().any(|e| &*e.queue == "a") && all.iter().any(|e| &*e.queue == "m"));
    assert!(all.is_sorted_by_key(|e| e.number));
}

async fn sweeping(engine: &dyn Backend) {
    for n in 50..54 {
        kept(engine, message("s", n, b"x")).await;
    }
    let delivered = |at| Change::Delivered { status: 200, at };
    let dead = |at| Change::GivenUp {
        at,
        tried: false,
        why: "old".into(),
    };
    for (n, change) in [
        (50, delivered(2_000_000)),
        (51, delivered(3_000_000)),
        (52, dead(2_000_000)),
    ] {
        engine.change([n; 16], change).await.unwrap().unwrap();
    }
    while engine.sweep(2_500_000, 1_500_000, 1).await.unwrap() > 0 {}
    let there = async |n: u8| engine.find([n; 16]).await.unwrap().is_some();
    assert!(!there(50).await, "delivered long ago");
    assert!(there(51).await && there(52).await && there(53).await);
    assert!(engine.sweep(0, 2_500_000, 100).await.unwrap() >= 1);
    assert!(!there(52).await, "dead for long");
    assert!(there(53).await, "what waits is never swept");
    let totals = of(engine, "s").await;
    assert_eq!((totals.waiting, totals.dead, totals.bytes), (1, 0, 2));
}
