//! What every engine must do, as a suite: each engine's tests call [`run`] with an empty engine of theirs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test suite, in a module of its own for other crates' tests"
)]

use std::sync::Arc;

use super::{
    Ack, Acked, Admission, Backend, Deposit, Deposited, Device, Event, Expired, Handle, Item, Limits,
    MAX_SKIPS, MAX_TRIES, Page, Reason, Revocation, Skip, Skipped,
};

/// The bounds that [`run`] works within.
pub const LIMITS: Limits = Limits {
    devices: 5,
    devices_per_domain: 3,
    envelopes_per_device: 4,
    bytes_per_device: 4000,
    bytes_per_domain: 6000,
    reports: 3,
};

/// Runs the suite against an empty engine with [`LIMITS`]; panics with what is wrong.
pub async fn run(engine: &dyn Backend) {
    devices(engine).await;
    queues(engine).await;
    skips(engine).await;
    bounds(engine).await;
    acknowledgements(engine).await;
    endings(engine).await;
    revocation(engine).await;
    assert_eq!(engine.retain(vec!["beta".into()]).await.unwrap(), 1);
    assert!(
        engine
            .devices()
            .await
            .unwrap()
            .iter()
            .all(|d| &*d.domain == "beta")
    );
    assert_eq!(engine.totals().await.unwrap().bytes, 0, "nothing is left of acme");
}

/// A device of a domain, as the suite has it.
pub fn device(domain: &str, n: u8) -> Device {
    Device {
        handle: [n; 16],
        domain: domain.into(),
        thumbprint: [n; 32],
        epoch: 1,
        revoked: false,
    }
}

/// An envelope for a device of acme, as the suite has it.
pub fn envelope(n: u8, sequence: u64, body: &[u8]) -> Deposit {
    Deposit {
        domain: "acme".into(),
        device: [n; 16],
        sequence,
        expires: 1000,
        collapse: None,
        body: body.into(),
    }
}

/// All of a queue.
pub async fn all(engine: &dyn Backend, device: Handle) -> Vec<Item> {
    let page = Page {
        after: 0,
        above: 0,
        now: 1,
        items: 1000,
        bytes: usize::MAX,
    };
    engine.read(device, page).await.unwrap()
}

async fn numbers(engine: &dyn Backend, n: u8) -> Vec<u64> {
    all(engine, [n; 16]).await.iter().map(|i| i.sequence).collect()
}

/// Takes all reports of acme.
async fn events(engine: &dyn Backend) -> Vec<(Handle, Event)> {
    let acme: Arc<str> = "acme".into();
    let reports = engine.reports(acme.clone(), 0, 1000).await.unwrap();
    assert!(reports.is_sorted_by(|a, b| a.number < b.number));
    if let Some(last) = reports.last() {
        engine.taken(acme.clone(), last.number).await.unwrap();
    }
    assert!(engine.reports(acme, 0, 1).await.unwrap().is_empty());
    reports.into_iter().map(|r| (r.device, r.event)).collect()
}

fn kept(deposited: &Deposited) -> u64 {
    match deposited {
        Deposited::Kept { position, .. } => *position,
        other => panic!("{other:?}"),
    }
}

async fn devices(engine: &dyn Backend) {
    assert!(engine.devices().await.unwrap().is_empty());
    assert_eq!(
        engine.deposit(envelope(1, 1, b"x")).await.unwrap(),
        Deposited::UnknownDevice
    );
    for (n, expected) in [
        (1, Admission::Admitted),
        (2, Admission::Admitted),
        (3, Admission::Admitted),
        (4, Admission::Full),
        (1, Admission::Unchanged),
    ] {
        assert_eq!(engine.admit(device("acme", n)).await.unwrap(), expected, "{n}");
    }
    assert_eq!(engine.admit(device("beta", 1)).await.unwrap(), Admission::Foreign);
    let other_key = Device {
        thumbprint: [9; 32],
        ..device("acme", 1)
    };
    assert_eq!(
        engine.admit(other_key.clone()).await.unwrap(),
        Admission::SameEpoch
    );
    let renewed = Device {
        epoch: 2,
        ..other_key
    };
    assert_eq!(engine.admit(renewed.clone()).await.unwrap(), Admission::Admitted);
    assert_eq!(
        engine.admit(device("acme", 1)).await.unwrap(),
        Admission::Older(2)
    );
    assert!(engine.devices().await.unwrap().contains(&renewed));
    for (n, expected) in [
        (11, Admission::Admitted),
        (12, Admission::Admitted),
        (13, Admission::Full),
    ] {
        assert_eq!(engine.admit(device("beta", n)).await.unwrap(), expected, "{n}");
    }
    assert_eq!(engine.totals().await.unwrap().devices, 5);
}

async fn queues(engine: &dyn Backend) {
    let first = kept(&engine.deposit(envelope(1, 1, b"one")).await.unwrap());
    let second = kept(&engine.deposit(envelope(1, 2, b"two")).await.unwrap());
    assert!(second > first);
    assert_eq!(
        engine.deposit(envelope(1, 1, b"one")).await.unwrap(),
        Deposited::Already
    );
    let foreign = Deposit {
        domain: "beta".into(),
        ..envelope(1, 3, b"x")
    };
    assert_eq!(engine.deposit(foreign).await.unwrap(), Deposited::UnknownDevice);
    let items = all(engine, [1; 16]).await;
    let expected = Item {
        position: first,
        sequence: 1,
        expires: 1000,
        skip: false,
        body: b"one".as_slice().into(),
    };
    assert_eq!((items.len(), &items[0]), (2, &expected));
    let page = |after, above, now, items, bytes| Page {
        after,
        above,
        now,
        items,
        bytes,
    };
    for (page, found) in [
        (page(first, 0, 1, 10, 1000), 1),
        (page(0, 1, 1, 10, 1000), 1),
        (page(0, 0, 1000, 10, 1000), 0),
        (page(0, 0, 1, 1, 1000), 1),
        (page(0, 0, 1, 10, 1), 1),
    ] {
        let items = engine.read([1; 16], page).await.unwrap();
        assert_eq!(items.len(), found, "{page:?}");
    }
    // Calls that nobody waited for between are in order all the same.
    let calls: Vec<_> = (3..=4).map(|n| engine.deposit(envelope(1, n, b"x"))).collect();
    let mut positions = Vec::new();
    for call in calls {
        positions.push(kept(&call.await.unwrap()));
    }
    assert!(positions.is_sorted() && positions[0] > second);
    assert_eq!(numbers(engine, 1).await, [1, 2, 3, 4]);
    assert!(all(engine, [2; 16]).await.is_empty(), "a queue is one device's");
}

fn skip_of(device: u8, from: u64, to: u64) -> Skip {
    Skip {
        domain: "acme".into(),
        device: [device; 16],
        from,
        to,
        body: b"signed".as_slice().into(),
    }
}

async fn skips(engine: &dyn Backend) {
    let skip = |from, to| skip_of(1, from, to);
    assert!(matches!(
        engine.skip(skip(2, 3)).await.unwrap(),
        Skipped::Kept { .. }
    ));
    assert_eq!(
        numbers(engine, 1).await,
        [1, 4, 3],
        "by when they came; the record has its last number"
    );
    let again = engine.skip(skip(2, 3)).await.unwrap();
    let position = last(engine).await;
    assert_eq!(again, Skipped::Kept { position }, "it takes its own place");
    assert_eq!(engine.skip(skip(3, 3)).await.unwrap(), Skipped::Already);
    assert_eq!(
        engine.deposit(envelope(1, 2, b"x")).await.unwrap(),
        Deposited::Already
    );
    let unknown = Skip {
        device: [99; 16],
        ..skip(1, 1)
    };
    assert_eq!(engine.skip(unknown).await.unwrap(), Skipped::UnknownDevice);
    engine.explained([1; 16], 2).await.unwrap();
    assert_eq!(numbers(engine, 1).await, [1, 4, 3]);
    engine.explained([1; 16], 3).await.unwrap();
    assert_eq!(numbers(engine, 1).await, [1, 4]);
    for n in 0..=u64::from(MAX_SKIPS) {
        engine.skip(skip(100 + 2 * n, 100 + 2 * n)).await.unwrap();
    }
    let left = numbers(engine, 1).await;
    assert_eq!(left.len(), 2 + MAX_SKIPS as usize);
    assert_eq!(left[2], 102, "the oldest has gone");
    engine.explained([1; 16], u64::MAX).await.unwrap();
    assert_eq!(numbers(engine, 1).await, [1, 4]);
}

async fn last(engine: &dyn Backend) -> u64 {
    all(engine, [1; 16]).await.last().map_or(0, |i| i.position)
}

async fn bounds(engine: &dyn Backend) {
    for (n, sequence, length, expected) in [
        (1, 5, 3990, "Kept"),
        (1, 6, 10, "Full"),
        (2, 1, 2000, "Kept"),
        (2, 2, 100, "Full"),
        (3, 1, 1, "Kept"),
        (3, 2, 1, "Kept"),
        (3, 3, 1, "Kept"),
        (3, 4, 1, "Kept"),
        (3, 5, 1, "Full"),
    ] {
        let done = engine
            .deposit(envelope(n, sequence, &vec![7; length]))
            .await
            .unwrap();
        assert!(
            format!("{done:?}").starts_with(expected),
            "{n}/{sequence}: {done:?}"
        );
    }
    let wider = Limits {
        bytes_per_domain: 100_000,
        bytes_per_device: 50_000,
        envelopes_per_device: 10,
        ..LIMITS
    };
    engine.limit(wider).await.unwrap();
    assert_eq!(
        engine.deposit(envelope(3, 6, b"x")).await.unwrap(),
        Deposited::Full,
        "there is room now, but a lower number was refused"
    );
    assert_eq!(
        engine.deposit(envelope(2, 3, b"x")).await.unwrap(),
        Deposited::Full
    );
    for (n, refused) in [(1, 6), (2, 2)] {
        engine.skip(skip_of(n, refused, refused)).await.unwrap();
        engine.explained([n; 16], refused).await.unwrap();
    }
    kept(&engine.deposit(envelope(2, 3, b"x")).await.unwrap());
    kept(&engine.deposit(envelope(3, 5, b"x")).await.unwrap());
}

async fn acknowledgements(engine: &dyn Backend) {
    let ack = |sequence| Ack {
        sequence,
        record: vec![sequence as u8],
    };
    assert!(events(engine).await.is_empty());
    let before = engine.totals().await.unwrap();
    assert_eq!(
        engine.acknowledge([1; 16], vec![ack(1), ack(77)]).await.unwrap(),
        Acked::Kept
    );
    assert_eq!(numbers(engine, 1).await, [4, 5]);
    let after = engine.totals().await.unwrap();
    assert_eq!(
        (after.envelopes, after.bytes, after.reports),
        (before.envelopes - 1, before.bytes - 3, 2)
    );
    assert_eq!(
        engine.acknowledge([1; 16], vec![ack(4), ack(5)]).await.unwrap(),
        Acked::Full,
        "all or none"
    );
    assert_eq!(numbers(engine, 1).await, [4, 5]);
    assert_eq!(
        engine.acknowledge([99; 16], vec![ack(1)]).await.unwrap(),
        Acked::Gone
    );
    let told = events(engine).await;
    assert_eq!(
        told,
        [
            ([1; 16], Event::Acknowledged(vec![1])),
            ([1; 16], Event::Acknowledged(vec![77]))
        ]
    );
    assert_eq!(
        engine.acknowledge([1; 16], vec![ack(4), ack(5)]).await.unwrap(),
        Acked::Kept
    );
    let reports = engine.reports("acme".into(), 0, 1).await.unwrap();
    assert_eq!(reports[0].number, 3, "numbers go on when reports were taken");
    let rest = engine
        .reports("acme".into(), reports[0].number, 10)
        .await
        .unwrap();
    assert_eq!((rest.len(), rest[0].number), (1, 4));
    assert!(engine.reports("beta".into(), 0, 10).await.unwrap().is_empty());
    events(engine).await;
}

async fn endings(engine: &dyn Backend) {
    let keyed = |sequence| Deposit {
        collapse: Some([1; 32]),
        ..envelope(1, sequence, b"weather")
    };
    kept(&engine.deposit(keyed(10)).await.unwrap());
    kept(&engine.deposit(keyed(11)).await.unwrap());
    assert_eq!(numbers(engine, 1).await, [11]);
    let acme: Arc<str> = "acme".into();
    let told = engine.sent(vec![([1; 16], 11)]).await.unwrap();
    assert_eq!(told, std::slice::from_ref(&acme));
    assert!(
        engine
            .sent(vec![([1; 16], 11), ([99; 16], 1)])
            .await
            .unwrap()
            .is_empty(),
        "told once"
    );
    kept(&engine.deposit(keyed(12)).await.unwrap());
    assert_eq!(numbers(engine, 1).await, [11, 12], "what was sent stays");
    for n in 3..=MAX_TRIES + 1 {
        let told = engine.sent(vec![([1; 16], 11)]).await.unwrap();
        assert_eq!(told.is_empty(), n <= MAX_TRIES, "{n}");
    }
    let early = Deposit {
        expires: 50,
        ..envelope(1, 13, b"soon over")
    };
    kept(&engine.deposit(early).await.unwrap());
    assert!(engine.expire(49, 10).await.unwrap().is_empty());
    let expected = Expired {
        domain: acme,
        device: [1; 16],
        sequence: 13,
    };
    assert_eq!(engine.expire(50, 10).await.unwrap(), [expected]);
    assert_eq!(numbers(engine, 1).await, [12]);
    let given_up = |n, reason| ([1; 16], Event::GivenUp(n, reason));
    assert_eq!(
        events(engine).await,
        [
            given_up(10, Reason::Collapsed),
            ([1; 16], Event::Sent(11)),
            given_up(11, Reason::Dropped),
            given_up(13, Reason::Expired),
        ]
    );
    let over = engine.expire(2000, 3).await.unwrap();
    assert_eq!(over.len(), 3, "as many at a time as was asked for");
    while !engine.expire(2000, 3).await.unwrap().is_empty() {}
    assert_eq!(engine.totals().await.unwrap().bytes, 0);
    events(engine).await;
}

async fn revocation(engine: &dyn Backend) {
    kept(&engine.deposit(envelope(1, 20, b"secret")).await.unwrap());
    let acme: Arc<str> = "acme".into();
    assert_eq!(
        engine.revoke("beta".into(), [1; 16]).await.unwrap(),
        Revocation::UnknownDevice
    );
    assert_eq!(numbers(engine, 1).await, [20]);
    for _ in 0..2 {
        assert_eq!(
            engine.revoke(acme.clone(), [1; 16]).await.unwrap(),
            Revocation::Revoked
        );
    }
    assert!(numbers(engine, 1).await.is_empty());
    assert_eq!(
        engine.deposit(envelope(1, 21, b"x")).await.unwrap(),
        Deposited::Revoked
    );
    let again = Device {
        epoch: 9,
        ..device("acme", 1)
    };
    assert_eq!(engine.admit(again).await.unwrap(), Admission::Revoked);
    let acks = vec![Ack {
        sequence: 20,
        record: vec![1],
    }];
    assert_eq!(engine.acknowledge([1; 16], acks).await.unwrap(), Acked::Gone);
    assert_eq!(
        engine.admit(device("acme", 5)).await.unwrap(),
        Admission::Admitted,
        "its place is free"
    );
}
