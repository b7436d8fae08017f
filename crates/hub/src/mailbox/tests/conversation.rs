use std::time::{Duration, Instant};

use hawser_proto::{
    UnixTime,
    broker::{
        Header, KeyId, Urgency,
        envelope::{EPOCH_KEY, SUITE, VERSION, encoded},
    },
};

use super::*;

const DEVICE: DeviceHandle = DeviceHandle([1; 16]);

fn talk() -> Conversation {
    Conversation::new("acme".into())
}

fn envelope(kind: Kind, sequence: u64) -> Vec<u8> {
    let header = Header {
        version: VERSION,
        suite: SUITE,
        kind,
        device: DEVICE,
        sequence,
        epoch: 1,
        sender: KeyId([0; 8]),
        expires: UnixTime(50),
        urgency: Urgency::Normal,
        collapse: Some([3; 32]),
    };
    Envelope {
        header: encoded(&header),
        epoch_key: vec![0; EPOCH_KEY],
        wrapped: vec![1],
        ciphertext: vec![2],
        signature: [0; 64],
    }
    .to_bytes()
}

fn refused(step: Step) -> String {
    match step {
        Step::Say(FromMailbox::Done {
            outcome: Outcome::Refused(why),
            ..
        }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_deposit_goes_to_the_store_as_its_header_says() {
    let bytes = envelope(Kind::Event, 7);
    let expected = Deposit {
        domain: "acme".into(),
        device: DEVICE.0,
        sequence: 7,
        expires: 50,
        collapse: Some([3; 32]),
        body: bytes.clone().into(),
    };
    let step = talk().hear(ToMailbox::Deposit {
        id: 9,
        envelope: bytes,
    });
    assert_eq!(step, Step::Call(9, Call::Deposit(expected)));
}

#[test]
fn what_makes_no_sense_is_refused_and_nothing_else_happens() {
    let mut trailing = envelope(Kind::Event, 1);
    trailing.push(0);
    for envelope in [
        envelope(Kind::Answer, 1),
        envelope(Kind::Event, 0),
        envelope(Kind::Event, MAX_SEQUENCE + 1),
        trailing,
        vec![0xff; 100],
        vec![0; MAX_ENVELOPE + 1],
        Vec::new(),
    ] {
        refused(talk().hear(ToMailbox::Deposit { id: 1, envelope }));
    }
    let record = |device, from, to| {
        let said = statement::Skip {
            device,
            from,
            to,
            reason: SkipReason::Expired,
        };
        Signed::<statement::Skip>::new(encoded(&said), [0; 64]).to_bytes()
    };
    let skip = |from, to, record| ToMailbox::Skip {
        id: 1,
        device: DEVICE,
        from,
        to,
        record,
    };
    let good = talk().hear(skip(2, 3, record(DEVICE, 2, 3)));
    assert!(matches!(good, Step::Call(1, Call::Skip(_))), "{good:?}");
    for (from, to, record) in [
        (2, 3, record(DEVICE, 2, 4)),
        (2, 3, record(DeviceHandle([2; 16]), 2, 3)),
        (0, 3, record(DEVICE, 0, 3)),
        (3, 2, record(DEVICE, 3, 2)),
        (2, 3, vec![1, 2, 3]),
    ] {
        refused(talk().hear(skip(from, to, record)));
    }
}

fn granted(id: u64, size: u64) -> ToMailbox {
    ToMailbox::Fetched {
        id,
        answer: FetchAnswer::Granted { grant: [5; 16], size },
    }
}

fn piece(id: u64, length: usize) -> ToMailbox {
    ToMailbox::Piece {
        id,
        bytes: vec![7; length],
    }
}

#[test]
fn an_answer_comes_in_pieces_each_asked_for() {
    let mut talk = talk();
    let (id, message) = talk.ask(DEVICE, vec![1], Instant::now()).unwrap();
    assert!(matches!(message, FromMailbox::Fetch { id: n, .. } if n == id));
    assert!(talk.pull(id).is_none(), "nothing is granted yet");
    assert!(matches!(talk.hear(granted(id, 10)), Step::Answered(n, FetchAnswer::Granted { .. }) if n == id));
    assert!(
        matches!(talk.hear(piece(id, 3)), Step::Piece(_, bytes) if bytes.is_empty()),
        "not asked for"
    );
    assert_eq!(talk.pull(id), Some(FromMailbox::Pull { id, offset: 0 }));
    assert!(talk.pull(id).is_none(), "one at a time");
    assert!(matches!(talk.hear(piece(id, 6)), Step::Piece(_, bytes) if bytes.len() == 6));
    assert_eq!(talk.pull(id), Some(FromMailbox::Pull { id, offset: 6 }));
    assert!(
        matches!(talk.hear(piece(id, 5)), Step::Piece(_, bytes) if bytes.is_empty()),
        "more than was granted"
    );
    assert_eq!(talk.over(id), Some(FromMailbox::Over(id)));
    assert_eq!(talk.over(id), None);
    assert_eq!(talk.hear(piece(id, 1)), Step::Nothing);
    assert_eq!(
        talk.hear(granted(id, 10)),
        Step::Say(FromMailbox::Over(id)),
        "too late"
    );
}

#[test]
fn fetches_are_bounded_in_number_size_and_time() {
    let mut talk = talk();
    let now = Instant::now();
    let (id, _) = talk.ask(DEVICE, vec![], now).unwrap();
    let step = talk.hear(granted(id, MAX_ANSWER as u64 + 1));
    assert!(
        matches!(step, Step::Answered(_, FetchAnswer::Refused { status: 502, .. })),
        "{step:?}"
    );
    for _ in 0..MAX_FETCHES {
        talk.ask(DEVICE, vec![], now).unwrap();
    }
    assert!(talk.ask(DEVICE, vec![], now).is_none());
    assert!(talk.tick(now + FETCH_TIMEOUT).is_empty());
    assert_eq!(
        talk.tick(now + FETCH_TIMEOUT + Duration::from_secs(1)).len(),
        MAX_FETCHES
    );
    assert!(talk.ask(DEVICE, vec![], now).is_some());
}

#[test]
fn reports_go_on_until_the_gateway_falls_behind() {
    let mut talk = talk();
    let reports = |from: u64, count: u64| {
        (from..from + count)
            .map(|number| Report {
                number,
                device: DEVICE.0,
                event: Event::Sent(number),
            })
            .collect::<Vec<_>>()
    };
    assert!(talk.report(Vec::new()).is_none());
    assert_eq!(talk.wants_reports(), Some(0));
    let most = MAX_REPORTS as u64;
    for n in 0..REPORTS_AHEAD {
        let said = talk.report(reports(1001 + n * most, most)).unwrap();
        assert!(matches!(said, FromMailbox::Reports(r) if r.len() == MAX_REPORTS));
    }
    assert_eq!(talk.wants_reports(), None);
    let last = 1000 + REPORTS_AHEAD * most;
    assert_eq!(
        talk.hear(ToMailbox::Taken(u64::MAX)),
        Step::Taken(last),
        "no more than was said"
    );
    assert_eq!(talk.wants_reports(), Some(last));
}
