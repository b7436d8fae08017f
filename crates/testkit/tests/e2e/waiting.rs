//! Messages whose target is away: kept by a gateway that is killed at every stage, delivered in order, and never lost.

use std::{
    collections::{BTreeMap, HashMap},
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use hawser_testkit::{
    curl::{Answer, Curl},
    gate,
    origin::{HttpOrigin, Inbox, Letter, Letters},
    wait,
    world::{Service, Spec, Way, World},
};
use serde_json::{Value, json};

const EVENTS: u16 = 8300;
const WEB: u16 = 8301;
const HOOK: u16 = 9300;
/// Long enough for many restarts on a busy machine.
const SLOW: Duration = Duration::from_secs(120);
/// Every byte that there is.
const ALL_BYTES: &str = "all-bytes";

/// A queue that tries often, so that tests need not wait.
fn queue(more: &str) -> String {
    format!(
        "queue = {{ paths = [\"/in/**\"], order_by = \"X-Order\", retry_first = \"100ms\", retry_longest = \"300ms\"{more} }}"
    )
}

fn world(more: &str) -> World {
    let events = Service::http("events", EVENTS).more(&queue(more));
    Spec::new([events]).start().unwrap()
}

/// A message with a number and a key.
fn post(way: &Way, key: &str, n: usize, path: &str) -> Curl {
    way.curl("events", path)
        .header(&format!("X-Order: {key}"))
        .header(&format!("Idempotency-Key: \"{n}\""))
        .header("Content-Type: text/plain")
        .post(&format!("message {n}"))
}

/// Where the state of an accepted message is, as the client is told.
fn state_of(way: &Way, accepted: &Answer) -> Value {
    let place = accepted.header("location").unwrap();
    let answer = way.curl("events", place).expect(200).unwrap();
    answer.json().unwrap()
}

fn number(letter: &Letter) -> usize {
    let key = letter.header("idempotency-key").unwrap();
    key.trim_matches('"').parse().unwrap()
}

fn list(world: &World, domain: usize, state: &str) -> Vec<Value> {
    let listed = world.gateways[domain][0].command(&["queue", "list", "--state", state, "--json"], "");
    let listed: Value = serde_json::from_str(&listed.unwrap()).unwrap();
    listed.as_array().unwrap().clone()
}

#[test]
fn nothing_accepted_is_lost_and_order_is_kept_though_the_gateway_is_killed_at_every_stage() {
    if !gate::networks("messages kept by a gateway that dies") {
        return;
    }
    const SENDERS: usize = 3;
    const EACH: usize = 40;
    let mut world = world("");
    let host = world.site(1).app.clone();
    let letters = Letters::default();
    let accepted = Mutex::new(Vec::<(usize, usize)>::new());
    let ended = AtomicUsize::new(0);
    // The domain that sends stays as it is; what runs in the other is taken out of the world to be killed.
    let mut gateway = world.gateways[1].remove(0);
    let way = world.ways()[0];
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (accepted, ended) = (&accepted, &ended);
            scope.spawn(move || {
                for i in 0..EACH {
                    let n = sender * EACH + i;
                    // Sent again until it is accepted, as a careful sender does; its name tells that it is the same.
                    let what = format!("message {n} to be accepted");
                    wait::for_condition(SLOW, &what, || {
                        let answer = post(&way, &format!("key-{sender}"), n, "/in/box")
                            .limit(Duration::from_secs(10))
                            .call();
                        answer.is_ok_and(|a| a.status == 202)
                    })
                    .unwrap();
                    accepted.lock().unwrap().push((sender, n));
                }
                ended.fetch_add(1, Ordering::SeqCst);
            });
        }
        let count = |at_least: usize| {
            wait::for_condition(SLOW, "messages to be accepted", || {
                accepted.lock().unwrap().len() >= at_least
            })
            .unwrap();
        };
        let mut kill = |stage: &str| {
            gateway.daemon.as_mut().unwrap().process.kill().unwrap();
            gateway.start().unwrap_or_else(|e| panic!("{stage}: {e:?}"));
            gateway.running().unwrap().wait_ready(SLOW).unwrap();
        };
        // While it accepts, with nobody to deliver to.
        count(20);
        kill("accepting");
        count(50);
        // While it tries in vain, and accepts.
        kill("trying");
        {
            let inbox = Inbox::start(&host, EVENTS, &letters).unwrap();
            wait::for_condition(SLOW, "a first delivery", || !letters.taken().is_empty()).unwrap();
            // While it delivers, and accepts.
            kill("delivering");
            let before = letters.taken().len();
            wait::for_condition(SLOW, "deliveries after that", || {
                // Unless there are none left.
                let taken = letters.taken().len();
                taken > before || taken >= SENDERS * EACH
            })
            .unwrap();
            drop(inbox);
        }
        wait::for_condition(SLOW, "all to be accepted", || {
            ended.load(Ordering::SeqCst) == SENDERS
        })
        .unwrap();
        // While all of them wait.
        kill("waiting");
        let _inbox = Inbox::start(&host, EVENTS, &letters).unwrap();
        wait::for_condition(SLOW, "the last deliveries", || {
            let taken = letters.taken();
            let mut all: Vec<usize> = taken.iter().map(number).collect();
            all.sort_unstable();
            all.dedup();
            all.len() == SENDERS * EACH
        })
        .unwrap();
    });
    // What came twice came right after a kill, and has its name; the first of each are in order.
    let mut first: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut bodies: HashMap<usize, String> = HashMap::new();
    for letter in letters.taken() {
        let n = number(&letter);
        assert_eq!(letter.text(), format!("message {n}"));
        if bodies.insert(n, letter.text()).is_none() {
            let key = letter.header("x-order").unwrap().to_owned();
            first.entry(key).or_default().push(n);
        }
    }
    assert_eq!(first.len(), SENDERS);
    for (key, numbers) in &first {
        assert_eq!(numbers.len(), EACH, "{key}");
        assert!(numbers.is_sorted(), "{key}: {numbers:?}");
    }
    let twice = letters.taken().len() - SENDERS * EACH;
    println!(
        "{} accepted, all delivered in order; {twice} came twice",
        SENDERS * EACH
    );
    world.gateways[1].push(gateway);
    wait::for_condition(wait::SOON, "an empty queue", || {
        list(&world, 1, "waiting").is_empty()
    })
    .unwrap();
}

#[test]
fn a_sender_sees_what_became_of_its_message_and_may_send_it_twice() {
    if !gate::networks("the state of messages") {
        return;
    }
    let world = world(", body_limit = 2000, messages = 3");
    for way in world.ways() {
        let letters = Letters::default();
        let first = post(&way, "a", 1, "/in/1").expect(202).unwrap();
        assert!(first.body.is_empty(), "one-way: nothing but the head");
        let waits = state_of(&way, &first);
        assert_eq!(waits["state"], "waiting", "{waits}");
        wait::for_condition(wait::SOON, "a failed attempt", || {
            let tried = state_of(&way, &first);
            tried["attempts"].as_u64().unwrap() > 0
                && tried["why"].as_str().unwrap().contains("could not connect")
        })
        .unwrap();

        let again = post(&way, "a", 1, "/in/1").expect(202).unwrap();
        assert_eq!(
            again.header("location"),
            first.header("location"),
            "the same message"
        );
        let other = post(&way, "a", 1, "/in/other").expect(422).unwrap();
        assert_eq!(
            other.json().unwrap()["type"],
            "urn:hawser:fault:idempotency-key-reused"
        );
        let large = way
            .curl("events", "/in/1")
            .post(&"x".repeat(2001))
            .expect(413)
            .unwrap();
        assert!(large.text().contains("2000 bytes"), "{}", large.text());
        for n in 2..=3 {
            post(&way, "a", n, "/in/1").expect(202).unwrap();
        }
        let full = post(&way, "a", 4, "/in/1").expect(503).unwrap();
        assert_eq!(full.json().unwrap()["type"], "urn:hawser:fault:queue-full");
        // What is not for the queue is called as ever: nobody is there.
        post(&way, "a", 5, "/out").expect(503).unwrap();

        let _inbox = Inbox::start(way.server(), EVENTS, &letters).unwrap();
        wait::for_condition(wait::SOON, "its delivery", || {
            state_of(&way, &first)["state"] == "delivered"
        })
        .unwrap();
        wait::for_condition(wait::SOON, "the others'", || letters.taken().len() == 3).unwrap();
        assert_eq!(letters.taken().iter().map(number).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(state_of(&way, &first)["status"], 204);
        post(&way, "a", 6, "/out").expect(204).unwrap();

        // Nobody else is told of it: the place of one domain's message is unknown to the other.
        let place = first.header("location").unwrap().to_owned();
        let back = world.ways().into_iter().find(|w| w.from == way.to).unwrap();
        back.curl("events", &place).expect(404).unwrap();
        let shown = place.rsplit('/').next().unwrap();
        let shown = world.gateways[way.to][0]
            .command(&["queue", "show", &shown[..8]], "")
            .unwrap();
        assert!(
            shown.contains("delivered") && !shown.contains("message 1"),
            "{shown}"
        );
    }
}

#[test]
fn dead_letters_are_listed_shown_replayed_and_discarded() {
    if !gate::networks("dead letters") {
        return;
    }
    let services = [
        Service::http("events", EVENTS).more(&queue("")),
        Service::http("brief", EVENTS).more(&queue(", expire = \"2s\"")),
    ];
    let world = Spec::new(services).start().unwrap();
    let way = world.ways()[0];
    let letters = Letters::default();
    // Over its time, with nobody there.
    way.curl("brief", "/in/late")
        .header("Authorization: Bearer geheim")
        .post("late")
        .expect(202)
        .unwrap();
    wait::for_condition(wait::SOON, "it to be given up", || {
        list(&world, 1, "dead").len() == 1
    })
    .unwrap();

    // Refused for good, and not for good.
    letters.answer("/in/bad", 422);
    letters.answer("/in/busy", 503);
    let inbox = Inbox::start(way.server(), EVENTS, &letters).unwrap();
    post(&way, "k", 2, "/in/bad").expect(202).unwrap();
    // Behind the refused one, with its key: it is not held up by it.
    post(&way, "k", 3, "/in/good").expect(202).unwrap();
    wait::for_condition(wait::SOON, "the good one", || {
        letters.taken().iter().any(|l| l.target == "/in/good")
    })
    .unwrap();
    let dead = list(&world, 1, "dead");
    assert_eq!(dead.len(), 2, "{dead:?}");
    let [late, bad] = &dead[..] else {
        panic!("{dead:?}")
    };
    assert!(late["why"].as_str().unwrap().contains("time was over"), "{late}");
    assert!(bad["why"].as_str().unwrap().contains("422"), "{bad}");
    post(&way, "k", 4, "/in/busy").expect(202).unwrap();
    wait::for_condition(wait::SOON, "several attempts", || {
        letters
            .refused()
            .iter()
            .filter(|l| l.target == "/in/busy")
            .count()
            > 2
    })
    .unwrap();
    letters.answer("/in/busy", 0);
    wait::for_condition(wait::SOON, "the busy one", || {
        letters.taken().iter().any(|l| l.target == "/in/busy")
    })
    .unwrap();

    let gateway = &world.gateways[1][0];
    let id = |m: &Value| m["id"].as_str().unwrap().to_owned();
    let shown = gateway.command(&["queue", "show", &id(late)[..12]], "").unwrap();
    assert!(
        shown.contains("/in/late") && shown.contains("\nlate\n"),
        "{shown}"
    );
    assert!(
        shown.contains("authorization: ***") && !shown.contains("geheim"),
        "{shown}"
    );
    let body = gateway
        .command(&["queue", "show", &id(late), "--body", "-"], "")
        .unwrap();
    assert_eq!(body, "late");

    let before = letters.taken().len();
    gateway.command(&["queue", "replay", &id(late)], "").unwrap();
    wait::for_condition(wait::SOON, "the replayed one", || {
        letters.taken().len() == before + 1
    })
    .unwrap();
    let replayed = letters.taken().last().unwrap().clone();
    assert_eq!(
        (replayed.target.as_str(), replayed.text().as_str()),
        ("/in/late", "late")
    );
    assert_eq!(
        replayed.header("authorization"),
        Some("Bearer geheim"),
        "what is masked is kept"
    );
    letters.answer("/in/bad", 0);
    gateway.command(&["queue", "replay", "--all"], "").unwrap();
    wait::for_condition(wait::SOON, "the other", || letters.taken().len() == before + 2).unwrap();
    wait::for_condition(wait::SOON, "no dead ones", || list(&world, 1, "dead").is_empty()).unwrap();

    drop(inbox);
    way.curl("events", "/in/never").post("x").expect(202).unwrap();
    let waiting = list(&world, 1, "waiting");
    gateway
        .command(&["queue", "discard", &id(&waiting[0])], "")
        .unwrap();
    assert!(list(&world, 1, "waiting").is_empty() && list(&world, 1, "dead").is_empty());
    let refused = gateway.command(&["queue", "show", "ffffffff"], "").unwrap_err();
    assert!(
        format!("{refused:?}").contains("no message is known"),
        "{refused:?}"
    );
}

#[test]
fn a_signed_webhook_waits_for_its_client_byte_for_byte() {
    if !gate::networks("calls back that wait") || !gate::programs("signatures", &["openssl"]) {
        return;
    }
    let tables = "[gateway.callbacks.queue]\nretry_first = \"100ms\"\nretry_longest = \"300ms\"\n\
        [[gateway.callbacks.rule]]\nservice = \"*\"\njson = [\"/callbackUrl\"]";
    let mut world = Spec::new([Service::http("web", WEB)])
        .gateway_tables(tables)
        .start()
        .unwrap();
    let body: Vec<u8> = (0..=255u8).cycle().take(5000).collect();
    let file = world.dir().join(ALL_BYTES);
    std::fs::write(&file, &body).unwrap();
    let signature = {
        let signed = std::process::Command::new("openssl")
            .args(["dgst", "-sha256", "-hmac", "shared-secret", "-r"])
            .arg(&file)
            .stderr(Stdio::null())
            .output()
            .unwrap();
        String::from_utf8(signed.stdout)
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(signature.len(), 64);
    let letters = [Letters::default(), Letters::default()];
    let mut places = Vec::new();
    for way in world.ways() {
        let _origin = HttpOrigin::start(way.server(), WEB).unwrap();
        let own = json!({ "callbackUrl": format!("http://{}/hook", way.client().at(HOOK)) }).to_string();
        let mirrored = way
            .curl("web", "/mirror")
            .header("Content-Type: application/json")
            .post(&own)
            .expect(200)
            .unwrap();
        let address = mirrored.json().unwrap()["callbackUrl"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(address.contains("/.hawser/cb/"), "{address}");
        // The client is away when it is called back.
        let told = Curl::new(way.server(), format!("{address}/7?x=1"))
            .header("Content-Type: application/octet-stream")
            .header(&format!("X-Signature: sha256={signature}"))
            .args(["--data-binary".to_owned(), format!("@{}", file.display())])
            .expect(202)
            .unwrap();
        // Heads are read in lower case here, and a capability is not: the id is.
        let id = told.header("location").unwrap().rsplit('/').next().unwrap();
        let place = format!("{address}/7/.hawser/queue/{id}");
        let state = Curl::new(way.server(), &place)
            .expect(200)
            .unwrap()
            .json()
            .unwrap();
        assert_eq!(state["state"], "waiting", "{state}");
        places.push(place);
    }
    // The gateways that have them die, and are there again.
    for domain in 0..2 {
        let gateway = &mut world.gateways[domain][0];
        gateway.daemon.as_mut().unwrap().process.kill().unwrap();
        gateway.start().unwrap();
    }
    world.wait_connected(SLOW).unwrap();
    for (way, (letters, place)) in world.ways().into_iter().zip(letters.iter().zip(&places)) {
        let _client = Inbox::start(way.client(), HOOK, letters).unwrap();
        let letter = wait::until(wait::SOON, "the call back", || {
            Ok(letters.taken().first().cloned())
        })
        .unwrap();
        assert_eq!(letter.target, "/hook/7?x=1");
        assert_eq!(letter.body, body, "byte for byte");
        assert_eq!(
            letter.header("x-signature"),
            Some(&*format!("sha256={signature}"))
        );
        assert_eq!(letter.header("content-type"), Some("application/octet-stream"));
        assert!(
            letter.header("idempotency-key").is_some(),
            "so that it can be known again"
        );
        wait::for_condition(wait::SOON, "its sender to be told", || {
            let state = Curl::new(way.server(), place).call();
            state.is_ok_and(|s| s.json().is_ok_and(|s| s["state"] == "delivered"))
        })
        .unwrap();
        assert_eq!(letters.taken().len(), 1);
    }
}
