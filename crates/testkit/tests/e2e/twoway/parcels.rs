//! An OpenAPI callback, by a client that is generated from the description as the client's side sees it.

use hawser_testkit::{
    curl::Curl,
    parties::{Happening, Party, parcels},
};

use super::Stage;

/// Both parties, which still run, and what was seen.
pub(crate) struct Parcels {
    pub(crate) service: Party,
    pub(crate) client: Party,
    /// The subscription at the service, with `callback_url`.
    pub(crate) subscribe: Happening,
    /// The service's URL that the generated client uses.
    pub(crate) used: String,
}

/// Fetches the description, generates a client, subscribes, is called back, unsubscribes, is not called back.
pub(crate) fn parcels(stage: &Stage) -> Parcels {
    let mut service = parcels::service(stage.server, stage.origin, stage.server_proxy, stage.dir).unwrap();
    let mut fetch = Curl::new(stage.client, format!("{}/openapi.json", stage.service));
    if let Some(proxy) = stage.client_proxy {
        fetch = fetch.proxy(proxy);
    }
    let description = fetch.expect(200).unwrap().body;
    let mut client = parcels::client(
        stage.client,
        &description,
        stage.listener,
        stage.client_proxy,
        stage.dir,
    )
    .unwrap();

    client.tell("subscribe p1").unwrap();
    let subscribed = client
        .wait_for("subscribed", |h| h.text("parcel") == "p1")
        .unwrap();
    let id = subscribed.text("id");
    let subscribe = service.wait_for("subscribe", |h| h.text("id") == id).unwrap();
    moves(&mut service, "p1 Ulm", "Ulm", 1);
    let moved = client.wait_for("moved", |h| h.text("place") == "Ulm").unwrap();
    assert_eq!(moved.text("parcel"), "p1");
    assert_eq!(moved.text("target"), parcels::MOVES_TO);
    assert_eq!(moved.text("host"), stage.listener.to_string());
    let posted = service.wait_for("posted", |h| h.text("place") == "Ulm").unwrap();
    assert_eq!(posted.text("status"), "204");
    client.tell(&format!("unsubscribe {id}")).unwrap();
    client.wait_for("unsubscribed", |h| h.text("id") == id).unwrap();
    moves(&mut service, "p1 Worms", "Worms", 0);
    Parcels {
        service,
        client,
        subscribe,
        used: subscribed.text("host").into(),
    }
}

fn moves(service: &mut Party, what: &str, place: &str, subscriptions: usize) {
    service.tell(&format!("move {what}")).unwrap();
    let done = service.wait_for("done", |h| h.text("place") == place).unwrap();
    assert_eq!(done.text("subscriptions"), subscriptions.to_string());
}
