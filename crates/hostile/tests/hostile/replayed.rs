//! Replays: tickets shown twice, tickets of others, and the recorded flights of earlier sessions.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use hawser_hostile::{
    Event, Middle, Transcript, Way,
    middle::{Ends, with_ends},
};
use hawser_proto::{NodeId, control::ToGateway};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::world::{Attack, World, world};

/// A session of acme with beta in which this was asked: by HTTP and by TCP.
fn recorded(w: &World, attack: &Attack<'_>) -> Vec<Arc<Transcript>> {
    let first = w.hub.transcripts().len();
    assert_eq!(attack.get("/echo").status, 200);
    assert!(w.download(1000).is_whole(1000));
    // Both ends have written all that they will; what the hub has of it may be on its way still.
    w.hub.cut_sessions().unwrap();
    let all = w.hub.transcripts().split_off(first);
    let whole: Vec<_> = all
        .into_iter()
        .filter(|t| t.bytes(Way::Up).len() > 2000)
        .collect();
    assert!(whole.len() >= 2, "{} sessions recorded", whole.len());
    whole
}

/// Plays bytes, and reads until the other side has had enough.
async fn play(mut stream: TcpStream, bytes: Vec<u8>) {
    // It may hang up in the middle.
    let _ = stream.write_all(&bytes).await;
    let mut buffer = [0; 4096];
    while !matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {}
}

#[test]
fn a_recorded_caller_makes_nothing_happen() {
    let w = world();
    let attack = w.attack(|_| ());
    let recorded = recorded(&w, &attack);
    let attack = w.attack(|_| ());
    for session in &recorded {
        let since = w.beta.mark();
        let (_, stream) = w.hub.lure(&w.beta.id, &w.acme.id).unwrap();
        w.hub.block_on(play(stream, session.bytes(Way::Up)));
        w.beta.warned(since, "no session").unwrap();
    }
    attack.nobody_was_served();
    attack.end();
}

#[test]
fn a_recorded_answer_is_no_answer() {
    let w = world();
    let attack = w.attack(|_| ());
    for session in recorded(&w, &attack) {
        let bytes = session.bytes(Way::Down);
        let replay = with_ends(move |ends: Ends| play(ends.dialling, bytes.clone()));
        let attack = w.attack(|hub| hub.take_the_place(replay));
        attack.calls_fail("client-gateway", 502);
        attack.acme_warned("did not prove");
        attack.end();
    }
}

#[test]
fn a_ticket_given_twice_makes_nothing_happen_twice() {
    let w = world();
    let attack = w.attack(|_| ());
    let recorded = recorded(&w, &attack);
    let flight = recorded[0].bytes(Way::Up);
    let attack = w.attack(|_| ());
    // beta dials in with it, and again, and again: each is a stranger who must prove himself.
    let (ticket, first) = w.hub.lure(&w.beta.id, &w.acme.id).unwrap();
    let mut streams = vec![first];
    for _ in 0..2 {
        let seat = w.hub.seat_again(ticket);
        let peer = Some(w.acme.id.clone());
        w.hub
            .tell(
                &w.beta.id,
                ToGateway::Dial {
                    ticket,
                    peer,
                    join: None,
                },
            )
            .unwrap();
        let half = w.hub.take_seat(seat).unwrap();
        streams.push(w.hub.block_on(half.ready_go()).unwrap());
    }
    let stale = w
        .hub
        .events()
        .iter()
        .skip(attack.hub)
        .filter(|e| matches!(e, Event::Arrived { fresh: false, .. }))
        .count();
    assert_eq!(stale, 2, "beta showed the same ticket again");
    for stream in streams {
        let since = w.beta.mark();
        w.hub.block_on(play(stream, flight.clone()));
        w.beta.warned(since, "no session").unwrap();
    }
    attack.nobody_was_served();
    attack.end();
}

#[test]
fn an_old_ticket_and_one_of_somebody_else_lead_nowhere() {
    let w = world();
    // The ticket that acme gets for its session is given to beta as well, and both come with it.
    let attack = w.attack(|_| ());
    let (ticket, half) = w.hub.lure_half(&w.beta.id, &w.acme.id).unwrap();
    let seat = w.hub.seat_again(ticket);
    w.hub
        .tell(
            &w.gamma.id,
            ToGateway::Dial {
                ticket,
                peer: Some(w.acme.id.clone()),
                join: None,
            },
        )
        .unwrap();
    let other = w.hub.take_seat(seat).unwrap();
    // Two accepting sides: neither speaks first, so neither says anything, and both give up.
    let (a, b) = w
        .hub
        .block_on(async { (half.ready_go().await.unwrap(), other.ready_go().await.unwrap()) });
    w.hub.block_on(splice(a, b));
    attack.beta_warned("no session");
    w.gamma.warned(attack.gamma, "no session").unwrap();
    attack.nobody_was_served();
    attack.end();
    // A ticket that was forgotten long ago: beta comes, is sent away, and says so.
    let attack = w.attack(|_| ());
    w.hub
        .tell(
            &w.beta.id,
            ToGateway::Dial {
                ticket,
                peer: Some(w.acme.id.clone()),
                join: None,
            },
        )
        .unwrap();
    attack.beta_warned("no session");
    attack.nobody_was_served();
    attack.end();
}

/// beta is lured into calling acme at the moment that acme calls beta: the hub joins the two callers.
#[test]
fn two_callers_joined_to_each_other_do_not_mistake_one_another() {
    let w = world();
    let attack = w.attack(|hub| hub.take_the_place(joining_callers()));
    let from_beta = std::thread::scope(|s| {
        let from_beta = s.spawn(|| {
            w.call_from_beta("http://orders.acme.hawser/bytes/1000")
                .call()
                .unwrap()
        });
        let answer = attack.get("/bytes/1000");
        assert_eq!(
            answer.header("content-type"),
            Some("application/problem+json"),
            "{}",
            answer.text()
        );
        from_beta.join().unwrap()
    });
    assert_eq!(
        from_beta.header("content-type"),
        Some("application/problem+json"),
        "{}",
        from_beta.text()
    );
    attack.nobody_was_served();
    attack.acme_warned("did not prove");
    attack.beta_warned("did not prove");
    attack.end();
}

/// Joins each caller to one of another gateway.
fn joining_callers() -> Middle {
    let waiting: Arc<Mutex<Option<(NodeId, TcpStream)>>> = Arc::default();
    with_ends(move |ends: Ends| {
        let waiting = waiting.clone();
        async move {
            let (from, stream) = (ends.transcript.from.clone(), ends.dialling);
            let other = {
                let mut waiting = waiting.lock().unwrap();
                match waiting.take() {
                    Some((other, first)) if other != from => Some((first, stream)),
                    _ => {
                        *waiting = Some((from, stream));
                        None
                    }
                }
            };
            if let Some((first, second)) = other {
                splice(first, second).await;
            }
        }
    })
}

async fn splice(mut a: TcpStream, mut b: TcpStream) {
    // Ends when both sides have given up.
    let _ = tokio::time::timeout(
        Duration::from_secs(30),
        tokio::io::copy_bidirectional(&mut a, &mut b),
    )
    .await;
}
