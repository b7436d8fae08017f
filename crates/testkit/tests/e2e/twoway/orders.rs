//! The asynchronous answer: a request names a `ReplyTo` and a `FaultTo` at the client's listener, and there the answer comes.

use hawser_testkit::parties::{
    Happening, Party,
    orders::{self, Stack},
};

use super::Stage;

/// What was seen of one order that the answer to was sent elsewhere.
pub(crate) struct Exchange {
    /// One of [`Stack::variants`].
    pub(crate) variant: &'static str,
    /// The URL that the client asked to be called at.
    pub(crate) wanted: String,
    /// The request at the server, with `to`, `reply_to`, `fault_to` and `host`.
    pub(crate) request: Happening,
}

/// Both parties, which still run, and what they did.
pub(crate) struct Orders {
    pub(crate) server: Party,
    pub(crate) client: Party,
    pub(crate) exchanges: Vec<Exchange>,
}

/// Orders whose answers come to the client's listener, one with a fault, and one that is answered on the connection, in each variant
/// that the server speaks.
pub(crate) fn orders(stage: &Stage, client: Stack, server: Stack) -> Orders {
    let mut server_party =
        orders::server(server, stage.server, stage.origin, stage.server_proxy, stage.dir).unwrap();
    let mut client_party = orders::client(
        client,
        stage.client,
        &stage.service,
        stage.listener,
        stage.client_proxy,
        stage.dir,
    )
    .unwrap();
    let both = (&mut client_party, &mut server_party);
    let mut exchanges = Vec::new();
    for variant in client.variants().iter().filter(|v| server.variants().contains(v)) {
        exchanges.push(answered(stage, both.0, both.1, variant));
        exchanges.push(refused(stage, both.0, both.1, variant));
        both.0.tell(&format!("call {variant} washer 3")).unwrap();
        let wanted = "Müller & Söhne: 3 of washer";
        both.0.wait_for("called", |h| h.text("order") == wanted).unwrap();
    }
    Orders {
        server: server_party,
        client: client_party,
        exchanges,
    }
}

/// With Metro's server still there: `wsimport` generates a client from the WSDL as the client's side sees it, and that works as it is.
pub(crate) fn generated(stage: &Stage) {
    let wsdl = format!("{}/soap11?wsdl", stage.service);
    let called = orders::generated(stage.client, &wsdl, stage.client_proxy).unwrap();
    assert_eq!(called.text("order"), "Müller & Söhne: 5 of rivet");
}

/// One order, and its answer at the listener.
fn answered(stage: &Stage, client: &mut Party, server: &mut Party, variant: &'static str) -> Exchange {
    let target = orders::answers_to(variant, "bolt");
    let (exchange, answer) = exchange(stage, client, server, variant, "bolt 40", ("answer", &target));
    assert_eq!(answer.text("said"), "Müller & Söhne: 40 of bolt");
    assert_eq!(answer.text("action"), "urn:example:orders/placeResponse");
    exchange
}

/// One order that cannot be taken, and the fault at the listener.
fn refused(stage: &Stage, client: &mut Party, server: &mut Party, variant: &'static str) -> Exchange {
    let target = orders::faults_to(variant, "nothing");
    let (exchange, fault) = exchange(stage, client, server, variant, "nothing 0", ("fault", &target));
    assert_eq!(fault.text("said"), "an order has at least one piece");
    exchange
}

fn exchange(
    stage: &Stage,
    client: &mut Party,
    server: &mut Party,
    variant: &'static str,
    order: &str,
    (kind, target): (&str, &str),
) -> (Exchange, Happening) {
    client.tell(&format!("place {variant} {order}")).unwrap();
    let came = client.wait_for(kind, |h| h.text("target") == target).unwrap();
    let sent = client
        .wait_for("sent", |h| h.text("message_id") == came.text("relates_to"))
        .unwrap();
    assert_eq!(sent.text("status"), "202");
    // What the client reads is what it would read without anything in between.
    let wanted = format!("http://{}{target}", stage.listener);
    assert_eq!(came.text("to"), wanted);
    assert_eq!(came.text("host"), stage.listener.to_string());
    let request = server
        .wait_for("request", |h| h.text("message_id") == sent.text("message_id"))
        .unwrap();
    (
        Exchange {
            variant,
            wanted,
            request,
        },
        came,
    )
}
