use proptest::prelude::*;

use super::*;

fn host(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn alone(name: &str) -> Award {
    Award::Alone { host: host(name) }
}

fn stopped(name: &str) -> Award {
    Award::Stopped { host: host(name) }
}

fn protected(active: &str, standby: &str) -> Award {
    Award::Protected {
        active: host(active),
        standby: host(standby),
        session: SessionId([7; 16]),
    }
}

/// All awards over the hosts a, b and c.
fn awards() -> Vec<Award> {
    let hosts = ["a", "b", "c"];
    let mut all = Vec::new();
    for x in hosts {
        all.extend([alone(x), stopped(x)]);
        all.extend(hosts.map(|y| protected(x, y)));
    }
    all
}

#[test]
fn only_these_steps_are_permitted() {
    let allowed = [
        // From, by, to.
        (None, "a", alone("a")),
        (Some(alone("a")), "a", protected("a", "b")),
        (Some(alone("a")), "a", protected("a", "c")),
        (Some(alone("a")), "a", stopped("a")),
        (Some(protected("a", "b")), "a", alone("a")),
        (Some(protected("a", "b")), "a", stopped("a")),
        (Some(protected("a", "b")), "b", alone("b")),
        (Some(stopped("a")), "a", alone("a")),
    ];
    let from = [
        None,
        Some(alone("a")),
        Some(protected("a", "b")),
        Some(stopped("a")),
    ];
    for current in &from {
        for by in ["a", "b", "c"] {
            for to in awards() {
                let listed = allowed
                    .iter()
                    .any(|(f, b, t)| f == current && *b == by && *t == to)
                    // A machine begins on whichever host asks.
                    || (current.is_none() && to == alone(by));
                let permitted = permits(current.as_ref(), &host(by), &to);
                assert_eq!(
                    permitted.is_ok(),
                    listed,
                    "{current:?} by {by} to {to:?}: {permitted:?}"
                );
            }
        }
    }
}

#[test]
fn refusals_say_why() {
    let cases = [
        (None, "a", alone("b"), Denial::Unknown),
        (None, "a", protected("a", "b"), Denial::Unknown),
        (None, "a", stopped("a"), Denial::Unknown),
        (Some(alone("a")), "b", alone("b"), Denial::Stranger),
        (Some(alone("a")), "a", protected("b", "a"), Denial::Step),
        (Some(alone("a")), "a", alone("b"), Denial::Step),
        (Some(alone("a")), "a", protected("a", "a"), Denial::OwnStandby),
        (Some(protected("a", "b")), "c", alone("c"), Denial::Stranger),
        (Some(protected("a", "b")), "b", stopped("b"), Denial::Standby),
        (Some(protected("a", "b")), "b", alone("a"), Denial::Standby),
        (Some(protected("a", "b")), "a", alone("b"), Denial::Step),
        (Some(protected("a", "b")), "a", protected("a", "c"), Denial::Step),
        (Some(stopped("a")), "b", alone("b"), Denial::Stranger),
        (Some(stopped("a")), "a", protected("a", "b"), Denial::Step),
    ];
    for (current, by, to, why) in cases {
        assert_eq!(
            permits(current.as_ref(), &host(by), &to),
            Err(why),
            "{current:?} by {by} to {to}"
        );
    }
}

fn record(award: Award, term: u64, by: &str) -> Record {
    Record {
        award,
        term,
        by: host(by),
    }
}

#[test]
fn a_change_starts_from_the_present_term_and_makes_the_next() {
    let now = record(protected("a", "b"), 5, "a");
    let won = Decision::Write(record(alone("b"), 6, "b"));
    assert_eq!(decide(Some(&now), &host("b"), 5, &alone("b")), won);
    for from in [0, 4, 6, u64::MAX] {
        assert_eq!(decide(Some(&now), &host("b"), from, &alone("b")), Decision::Lost);
    }
    assert_eq!(
        decide(None, &host("a"), 0, &alone("a")),
        Decision::Write(record(alone("a"), 1, "a"))
    );
    assert_eq!(decide(None, &host("a"), 1, &alone("a")), Decision::Lost);
    let denied = Decision::Denied(Denial::Stranger);
    assert_eq!(decide(Some(&now), &host("c"), 5, &alone("c")), denied);
}

#[test]
fn a_repeated_change_is_done_and_nobody_elses_is() {
    let now = record(alone("b"), 6, "b");
    assert_eq!(
        decide(Some(&now), &host("b"), 5, &alone("b")),
        Decision::Done(now.clone())
    );
    assert_eq!(
        decide(Some(&now), &host("a"), 5, &alone("a")),
        Decision::Lost,
        "the other one lost"
    );
    assert_eq!(
        decide(Some(&now), &host("a"), 5, &alone("b")),
        Decision::Lost,
        "not its change"
    );
    assert_eq!(
        decide(Some(&now), &host("b"), 5, &stopped("b")),
        Decision::Lost,
        "another change"
    );
    assert_eq!(
        decide(Some(&now), &host("b"), 4, &alone("b")),
        Decision::Lost,
        "an older change"
    );
    let first = record(alone("a"), 1, "a");
    assert_eq!(
        decide(Some(&first), &host("a"), 0, &alone("a")),
        Decision::Done(first.clone())
    );
    // Another session is another change.
    let session = record(protected("a", "b"), 2, "a");
    let other = Award::Protected {
        active: host("a"),
        standby: host("b"),
        session: SessionId([8; 16]),
    };
    assert_eq!(decide(Some(&session), &host("a"), 1, &other), Decision::Lost);
}

#[test]
fn uuids_are_read_as_qemu_prints_them() {
    let text = "8c3d2a54-0f63-4b7e-9d0e-5a1c2b3d4e5f";
    let id: VmId = text.parse().unwrap();
    assert_eq!(id.0[..4], [0x8c, 0x3d, 0x2a, 0x54]);
    assert_eq!(id.to_string(), text);
    assert_eq!(text.to_uppercase().parse::<VmId>().unwrap(), id);
    for bad in [
        "",
        "8c3d2a54",
        "8c3d2a540f634b7e9d0e5a1c2b3d4e5f",
        "8c3d2a54-0f63-4b7e-9d0e-5a1c2b3d4e5g",
        "8c3d2a54-0f63-4b7e-9d0e-5a1c2b3d4e5f ",
        "8c3d2a5-40f63-4b7e-9d0e-5a1c2b3d4e5f",
        "8c3d2a54-0f63-4b7e-9d0e-5a1c2b3d4eé",
    ] {
        assert!(bad.parse::<VmId>().is_err(), "{bad:?}");
    }
}

#[test]
fn awards_are_json_for_operators() {
    let id: VmId = "8c3d2a54-0f63-4b7e-9d0e-5a1c2b3d4e5f".parse().unwrap();
    assert_eq!(
        minicbor::decode::<VmId>(&minicbor::to_vec(id).unwrap()).unwrap(),
        id
    );
    assert!(
        minicbor::decode::<VmId>(&minicbor::to_vec(minicbor::bytes::ByteVec::from(vec![1; 15])).unwrap())
            .is_err()
    );
}

proptest! {
    #[test]
    fn any_text_is_a_uuid_or_refused(s in "\\PC{0,60}") {
        if let Ok(id) = s.parse::<VmId>() { prop_assert_eq!(id.to_string(), s.to_lowercase()); }
    }

    /// Whatever hosts ask in whatever order, at most one of them may run the machine, and each term is decided once.
    #[test]
    fn whoever_asks_whatever_each_term_has_one_award(
        asks in proptest::collection::vec((0usize..3, 0u64..40, 0usize..15, any::<bool>()), 1..120),
    ) {
        let hosts = ["a", "b", "c"];
        let all = awards();
        let mut now: Option<Record> = None;
        let mut history: Vec<Record> = Vec::new();
        for (by, from, to, fresh) in asks {
            let from = if fresh { term(now.as_ref()) } else { from };
            match decide(now.as_ref(), &host(hosts[by]), from, &all[to]) {
                Decision::Write(next) => {
                    prop_assert_eq!(next.term, term(now.as_ref()) + 1);
                    history.push(next.clone());
                    now = Some(next);
                }
                Decision::Done(record) => prop_assert!(history.contains(&record) && now.as_ref() == Some(&record)),
                Decision::Lost | Decision::Denied(_) => {}
            }
        }
    }
}
