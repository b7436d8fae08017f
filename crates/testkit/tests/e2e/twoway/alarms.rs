//! WS-Eventing: a subscription from its beginning to each of its ends.

use hawser_testkit::parties::{Happening, Party, alarms};

use super::Stage;

/// Both parties, which still run, and what they saw of each other's addresses.
pub(crate) struct Alarms {
    pub(crate) source: Party,
    pub(crate) subscriber: Party,
    /// The first subscription at the source, with `notify_to` and `end_to`.
    pub(crate) subscribe: Happening,
    /// Where the subscriber found the subscription manager.
    pub(crate) manager: String,
    /// How the source ended the last subscription, with `manager`.
    pub(crate) ended: Happening,
}

/// Subscribe, notify, renew, notify, unsubscribe, nothing more; one that expires; one that the source ends.
pub(crate) fn alarms(stage: &Stage) -> Alarms {
    let mut source = alarms::source(stage.server, stage.origin, stage.server_proxy, stage.dir).unwrap();
    let mut subscriber = alarms::subscriber(
        stage.client,
        &stage.service,
        stage.listener,
        stage.client_proxy,
        stage.dir,
    )
    .unwrap();

    let subscribed = subscribe(&mut subscriber, "PT10M");
    let subscribe_seen = source.wait_for("subscribe", |_| true).unwrap();
    fire(&mut source, "boiler is hot", 1);
    alarm(stage, &mut subscriber, "boiler is hot");
    subscriber.tell("renew PT20M").unwrap();
    subscriber
        .wait_for("renewed", |h| h.text("expires") == "PT20M")
        .unwrap();
    fire(&mut source, "boiler is very hot", 1);
    alarm(stage, &mut subscriber, "boiler is very hot");
    subscriber.tell("unsubscribe").unwrap();
    subscriber.wait_for("unsubscribed", |_| true).unwrap();
    fire(&mut source, "nobody hears", 0);

    subscribe(&mut subscriber, "PT1S");
    source.wait_for("expired", |_| true).unwrap();
    fire(&mut source, "nobody hears this either", 0);
    subscriber.tell("renew PT1M").unwrap();
    subscriber
        .wait_for("failed", |h| {
            h.text("why").contains("there is no such subscription")
        })
        .unwrap();

    subscribe(&mut subscriber, "PT1H");
    source.tell("cancel").unwrap();
    let ended = subscriber
        .wait_for("ended", |h| h.text("status").ends_with("/SourceCanceling"))
        .unwrap();
    arrived(stage, &ended, alarms::ENDS_TO);
    let heard = subscriber
        .happenings()
        .into_iter()
        .filter(|h| h.kind() == "alarm")
        .count();
    assert_eq!(heard, 2, "{:?}", subscriber.happenings());
    Alarms {
        source,
        subscriber,
        subscribe: subscribe_seen,
        manager: subscribed.text("manager").into(),
        ended,
    }
}

fn subscribe(subscriber: &mut Party, expires: &str) -> Happening {
    subscriber.tell(&format!("subscribe {expires}")).unwrap();
    subscriber
        .wait_for("subscribed", |h| h.text("expires") == expires)
        .unwrap()
}

fn fire(source: &mut Party, text: &str, subscriptions: usize) {
    source.tell(&format!("fire {text}")).unwrap();
    let order = format!("fire {text}");
    let done = source.wait_for("done", |h| h.text("order") == order).unwrap();
    assert_eq!(done.text("subscriptions"), subscriptions.to_string());
}

fn alarm(stage: &Stage, subscriber: &mut Party, text: &str) {
    let alarm = subscriber.wait_for("alarm", |h| h.text("text") == text).unwrap();
    arrived(stage, &alarm, alarms::ALARMS_TO);
}

/// What the sink reads is what it would read without anything in between.
fn arrived(stage: &Stage, what: &Happening, target: &str) {
    assert_eq!(what.text("target"), target);
    assert_eq!(what.text("to"), format!("http://{}{target}", stage.listener));
    assert_eq!(what.text("host"), stage.listener.to_string());
    assert_eq!(what.text("desk"), "desk 7");
}
