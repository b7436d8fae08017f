//! Services call their clients back through two gateways and a real hub: WS-Addressing, JSON, headers; and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::net::SocketAddr;

use common::*;
use hawser_gateway::Gateway;
use hawser_session::Body;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use tokio::{net::TcpListener, sync::mpsc};

/// What a listener got.
struct Got {
    path: String,
    headers: HeaderMap,
    body: String,
}

/// A web server that hands over what it gets, and answers 202 with `answer`.
async fn listener(answer: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let tell = tell.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| {
                    let tell = tell.clone();
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        let _ = tell.send(Got {
                            path: parts.uri.path_and_query().unwrap().to_string(),
                            headers: parts.headers,
                            body: String::from_utf8(body.to_vec()).unwrap(),
                        });
                        let mut response = Response::new(hawser_session::full(answer));
                        *response.status_mut() = StatusCode::ACCEPTED;
                        response
                            .headers_mut()
                            .insert("content-type", "text/xml".parse().unwrap());
                        Ok::<_, hyper::Error>(response)
                    }
                });
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    (address, told)
}

/// POST to `address`, as if it were `url` when it is a proxy.
async fn post(
    address: SocketAddr,
    path: &str,
    host: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (StatusCode, String) {
    let mut request = Request::post(format!("http://{address}{path}")).header("host", host);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let client: Client<_, Body> = Client::builder(TokioExecutor::new()).set_host(false).build_http();
    let response = client
        .request(request.body(hawser_session::full(body.to_owned())).unwrap())
        .await
        .unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

struct Pair {
    _world: World,
    acme: Gateway,
    beta: Gateway,
    service: mpsc::UnboundedReceiver<Got>,
    client: mpsc::UnboundedReceiver<Got>,
    /// Of the client.
    listens: SocketAddr,
}

impl Pair {
    async fn new(rules: &str, allow: &[(&str, &str)], answer: &'static str) -> Self {
        let world = World::new(allow).await;
        let a = world.domain("acme", "gw1", DAY).await;
        let b = world.domain("beta", "gw1", DAY).await;
        peer(&a, &b).await;
        let (origin, service) = listener(answer).await;
        let (listens, client) = listener("").await;
        let rules = rules.replace("LISTENS", &listens.to_string());
        let acme = gateway(&a, &format!("[proxy]\nlisten = [\"127.0.0.1:0\"]\n{rules}"), DAY).await;
        let exports = export_http("orders", origin, "acme");
        let port = free_port();
        let beta = gateway(
            &b,
            &format!("[proxy]\nlisten = [\"127.0.0.1:{port}\"]\n{exports}"),
            DAY,
        )
        .await;
        sees(&acme, "orders.beta", 1).await;
        let back = "hawser-callbacks.acme".parse().unwrap();
        if allow.len() == 1 {
            eventually(|| beta.links().routes().protocol(&back).is_some()).await;
        }
        Self {
            _world: world,
            acme,
            beta,
            service,
            client,
            listens,
        }
    }

    async fn call(&self, headers: &[(&str, &str)], body: &str) -> (StatusCode, String) {
        let proxy = self.acme.front().proxy_addrs()[0];
        post(proxy, "/orders", "orders.beta.hawser", headers, body).await
    }

    /// As the service does.
    async fn call_back(&self, url: &str, appended: &str, body: &str) -> (StatusCode, String) {
        let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        assert_eq!(address, self.beta.front().proxy_addrs()[0].to_string());
        post(
            address.parse().unwrap(),
            &format!("/{path}{appended}"),
            address,
            &[("content-type", "text/xml")],
            body,
        )
        .await
    }
}

fn soap(reply_to: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:wsa=\"http://www.w3.org/2005/08/addressing\"><s:Header><wsa:MessageID>urn:uuid:1</wsa:MessageID>\
         <wsa:ReplyTo><wsa:Address>{reply_to}</wsa:Address></wsa:ReplyTo></s:Header><s:Body><order  n='1'/></s:Body></s:Envelope>"
    )
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    text.split_once(before).unwrap().1.split_once(after).unwrap().0
}

const LISTED: &str = "[callbacks]\ntargets = [\"LISTENS\"]\n";
const ONE_WAY: &[(&str, &str)] = &[("acme", "beta")];

#[tokio::test(flavor = "multi_thread")]
async fn an_asynchronous_soap_answer_reaches_the_client_behind_its_firewall() {
    let mut pair = Pair::new(LISTED, ONE_WAY, "").await;
    let own = format!("http://{}/cb?x=1&amp;y=2", pair.listens);
    let (status, text) = pair
        .call(&[("content-type", "text/xml; charset=utf-8")], &soap(&own))
        .await;
    assert_eq!(status, StatusCode::ACCEPTED, "{text}");
    let got = pair.service.recv().await.unwrap();
    let address = between(&got.body, "<wsa:Address>", "</wsa:Address>").to_owned();
    assert_eq!(got.body, soap(&address), "nothing else has changed");
    assert_eq!(got.headers["content-length"], got.body.len().to_string());
    assert!(
        !address.contains("LISTENS") && address.contains("/.hawser/cb/acme/"),
        "{address}"
    );
    assert!(
        got.headers.keys().all(|n| !n.as_str().starts_with("hawser-")),
        "{:?}",
        got.headers
    );

    let answer = format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:wsa=\"http://www.w3.org/2005/08/addressing\">\
         <s:Header><wsa:To>{address}</wsa:To><wsa:RelatesTo>urn:uuid:1</wsa:RelatesTo></s:Header><s:Body/></s:Envelope>"
    );
    let (status, text) = pair.call_back(&address, "", &answer).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{text}");
    let got = pair.client.recv().await.unwrap();
    assert_eq!(got.path, "/cb?x=1&y=2");
    assert_eq!(got.headers["host"], pair.listens.to_string());
    assert_eq!(
        got.body,
        answer.replace(&address, &own),
        "wsa:To is what the client called itself"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_find_addresses_in_json_headers_and_queries_and_more_may_be_appended() {
    let rules = format!(
        "{LISTED}[[callbacks.rule]]\nservice = \"orders.beta\"\njson = [\"/hooks/*/url\"]\nheaders = [\"X-Callback\"]\n"
    );
    let mut pair = Pair::new(&rules, ONE_WAY, "").await;
    let own = format!("http://{}/hook", pair.listens);
    let body = format!("{{ \"hooks\": [ {{\"url\":\"{own}\", \"n\": 1}} ], \"url\": \"{own}\" }}");
    let (status, text) = pair
        .call(
            &[("content-type", "application/json"), ("x-callback", &own)],
            &body,
        )
        .await;
    assert_eq!(status, StatusCode::ACCEPTED, "{text}");
    let got = pair.service.recv().await.unwrap();
    let address = between(&got.body, "[ {\"url\":\"", "\"").to_owned();
    assert_eq!(got.body, body.replacen(&own, &address, 1));
    let by_header = got.headers["x-callback"].to_str().unwrap().to_owned();
    assert_ne!(by_header, address, "each is sealed by itself");
    for url in [&address, &by_header] {
        let (status, text) = pair.call_back(url, "/more?z=3", "payload").await;
        assert_eq!(status, StatusCode::ACCEPTED, "{text}");
        let got = pair.client.recv().await.unwrap();
        assert_eq!(
            (got.path.as_str(), got.body.as_str()),
            ("/hook/more?z=3", "payload")
        );
    }
    for odd in ["/../admin", "/%2e%2e/admin", "/a%2fb", "//x", "/a\\b"] {
        let (status, text) = pair.call_back(&address, odd, "").await;
        assert!(status.is_client_error(), "{odd}: {status} {text}");
    }
    assert!(pair.client.try_recv().is_err(), "none of them came through");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_sealed_here_for_this_domain_is_refused() {
    let mut pair = Pair::new(LISTED, ONE_WAY, "").await;
    let own = format!("http://{}/cb", pair.listens);
    assert_eq!(
        pair.call(&[("content-type", "text/xml")], &soap(&own)).await.0,
        StatusCode::ACCEPTED
    );
    let got = pair.service.recv().await.unwrap();
    let address = between(&got.body, "<wsa:Address>", "</wsa:Address>").to_owned();
    let last = address.chars().last().unwrap();
    let other = if last == 'A' { 'Q' } else { 'A' };
    let forged = format!("{}{other}", &address[..address.len() - 1]);
    let (status, text) = pair.call_back(&forged, "", "").await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{text}");
    let (status, _) = pair
        .call_back(&address.replace("/cb/acme/", "/cb/gamma/"), "", "")
        .await;
    assert!(
        status == StatusCode::NOT_FOUND
            || status == StatusCode::BAD_GATEWAY
            || status == StatusCode::FORBIDDEN,
        "{status}"
    );
    assert!(pair.client.try_recv().is_err());

    for foreign in [
        "http://10.9.8.7:80/x",
        "http://127.0.0.1:1/x",
        "http://169.254.169.254/latest/meta-data",
        "http://localhost/x",
    ] {
        let (status, text) = pair.call(&[("content-type", "text/xml")], &soap(foreign)).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{foreign}");
        assert!(text.contains("targets"), "{text}");
    }
    for none in [
        "http://www.w3.org/2005/08/addressing/anonymous",
        "http://www.w3.org/2005/08/addressing/none",
        "http://me.acme.hawser/x",
    ] {
        assert_eq!(
            pair.call(&[("content-type", "text/xml")], &soap(none)).await.0,
            StatusCode::ACCEPTED
        );
        assert_eq!(pair.service.recv().await.unwrap().body, soap(none), "left alone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_an_answer_names_is_reached_by_the_services_name() {
    const ANSWER: &str = "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" \
        xmlns:wsa=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" xmlns:wse=\"http://schemas.xmlsoap.org/ws/2004/08/eventing\">\
        <s:Header/><s:Body><wse:SubscribeResponse><wse:SubscriptionManager><wsa:Address>http://orders.beta.hawser/manager\
        </wsa:Address></wse:SubscriptionManager></wse:SubscribeResponse></s:Body></s:Envelope>";
    let mut pair = Pair::new(LISTED, ONE_WAY, ANSWER).await;
    let own = format!("http://{}/cb", pair.listens);
    let (_, text) = pair.call(&[("content-type", "text/xml")], &soap(&own)).await;
    assert!(
        text.contains("<wsa:Address>http://orders.beta.hawser/manager"),
        "{text}"
    );
    let _ = pair.service.recv().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_may_turn_it_off() {
    let mut pair = Pair::new(
        "[callbacks]\nenabled = false\n",
        &[("acme", "beta"), ("beta", "acme")],
        "",
    )
    .await;
    let own = format!("http://{}/cb", pair.listens);
    assert_eq!(
        pair.call(&[("content-type", "text/xml")], &soap(&own)).await.0,
        StatusCode::ACCEPTED
    );
    assert_eq!(pair.service.recv().await.unwrap().body, soap(&own));
}

const OPENAPI: &str = r##"{"openapi":"3.0.3","info":{"title":"Orders","version":"2"},
"servers":[{"url":"http://erp.internal:8080/v1"}],
"paths":{"/orders":{"post":{"operationId":"place","requestBody":{"required":true,"content":{"application/json":{"schema":
{"type":"object","required":["item"],"properties":{"item":{"type":"string"}}}}}},"responses":{"202":{"description":"taken"}}}}}}"##;

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_description_is_read_with_addresses_that_work_and_requests_are_held_against_it() {
    let world = World::new(ONE_WAY).await;
    let a = world.domain("acme", "gw1", DAY).await;
    let b = world.domain("beta", "gw1", DAY).await;
    peer(&a, &b).await;
    let (origin, mut service) = listener("").await;
    let file = world.dir.path().join("orders.json");
    std::fs::write(&file, OPENAPI).unwrap();
    let acme = gateway(&a, "[proxy]\nlisten = [\"127.0.0.1:0\"]\n", DAY).await;
    let export = export_http("orders", origin, "acme");
    let tables = format!("{export}interface = {{ file = {file:?}, validate = true }}\n");
    let _beta = gateway(&b, &tables, DAY).await;
    sees(&acme, "orders.beta", 1).await;

    let read = acme.interface(&"orders.beta".parse().unwrap()).await.unwrap();
    assert_eq!(
        read.text,
        OPENAPI.replace("http://erp.internal:8080", "http://orders.beta.hawser")
    );
    assert_eq!(read.summary.title.as_deref(), Some("Orders"));
    let none = acme.interface(&"other.beta".parse().unwrap()).await;
    assert!(none.is_err());

    let proxy = acme.front().proxy_addrs()[0];
    let json = [("content-type", "application/json")];
    let host = "orders.beta.hawser";
    let (status, text) = post(proxy, "/v1/orders", host, &json, "{\"item\":\"bolt\"}").await;
    assert_eq!(status, StatusCode::ACCEPTED, "{text}");
    assert_eq!(service.recv().await.unwrap().body, "{\"item\":\"bolt\"}");
    for (path, body) in [
        ("/v1/orders", "{\"item\":4}"),
        ("/v1/orders", "{}"),
        ("/v1/others", "{}"),
    ] {
        let (status, text) = post(proxy, path, host, &json, body).await;
        assert!(
            status.is_client_error() && text.contains("request-invalid"),
            "{status} {text}"
        );
    }
    assert!(service.try_recv().is_err(), "none of them came through");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_sees_its_own_host_is_addressed_by_it() {
    let world = World::new(ONE_WAY).await;
    let a = world.domain("acme", "gw1", DAY).await;
    let b = world.domain("beta", "gw1", DAY).await;
    peer(&a, &b).await;
    let (origin, mut service) = listener("").await;
    let acme = gateway(&a, "[proxy]\nlisten = [\"127.0.0.1:0\"]\n", DAY).await;
    let _beta = gateway(
        &b,
        &(export_http("orders", origin, "acme") + "host = \"origin\"\n"),
        DAY,
    )
    .await;
    sees(&acme, "orders.beta", 1).await;
    let proxy = acme.front().proxy_addrs()[0];
    let to = |to: &str| {
        format!(
            "<s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" xmlns:a=\"http://www.w3.org/2005/08/addressing\">\
             <s:Header><a:To>{to}</a:To></s:Header><s:Body/></s:Envelope>"
        )
    };
    for (called, known) in [
        (
            "http://orders.beta.hawser/orders?x=1",
            format!("http://{origin}/orders?x=1"),
        ),
        (
            "http://other.beta.hawser/orders",
            "http://other.beta.hawser/orders".into(),
        ),
    ] {
        let soap = [("content-type", "application/soap+xml")];
        let (status, text) = post(proxy, "/orders", "orders.beta.hawser", &soap, &to(called)).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{text}");
        assert_eq!(service.recv().await.unwrap().body, to(&known));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_interfaces_are_read_by_those_who_call_them_back_and_called_by_nobody() {
    let world = World::new(&[("beta", "acme")]).await;
    let a = world.domain("acme", "gw1", DAY).await;
    let b = world.domain("beta", "gw1", DAY).await;
    peer(&a, &b).await;
    let file = world.dir.path().join("answers.json");
    std::fs::write(&file, OPENAPI).unwrap();
    let export = |name: &str, allow: &str| {
        format!(
            "[[export]]\nname = \"{name}\"\ncallbacks = true\ninterface = {{ file = {file:?} }}\nallow = [{allow}]\n"
        )
    };
    let exports =
        export("answers", "{ domains = [\"beta\"] }") + &export("hidden", "{ domains = [\"gamma\"] }");
    let _acme = gateway(&a, &exports, DAY).await;
    let beta = gateway(&b, "[proxy]\nlisten = [\"127.0.0.1:0\"]\n", DAY).await;
    sees(&beta, "answers.acme", 1).await;
    let read = beta.interface(&"answers.acme".parse().unwrap()).await.unwrap();
    assert_eq!(read.text, OPENAPI, "its addresses are those of an example");
    let refused = beta.interface(&"hidden.acme".parse().unwrap()).await;
    assert!(refused.is_err());
    let proxy = beta.front().proxy_addrs()[0];
    let (status, text) = post(proxy, "/v1/orders", "answers.acme.hawser", &[], "{}").await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{text}");
    assert!(text.contains("clients-interface"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_was_opened_is_called_as_it_is_and_no_other() {
    let world = World::new(ONE_WAY).await;
    let a = world.domain("acme", "gw1", DAY).await;
    let b = world.domain("beta", "gw1", DAY).await;
    peer(&a, &b).await;
    let (open, mut opened) = listener("").await;
    let (closed, mut none) = listener("").await;
    let tables = format!("[[callbacks.open]]\ndomains = [\"beta\"]\ntargets = [\"{open}\"]\n");
    let _acme = gateway(&a, &tables, DAY).await;
    let tables = "[proxy]\nlisten = [\"127.0.0.1:0\"]\nthrough = [{ hosts = [\"127.0.0.1:OPEN\", \"127.0.0.1:CLOSED\"], domain = \"acme\" }]\n";
    let tables = tables
        .replace("OPEN", &open.port().to_string())
        .replace("CLOSED", &closed.port().to_string());
    let beta = gateway(&b, &tables, DAY).await;
    let back = "hawser-callbacks.acme".parse().unwrap();
    eventually(|| beta.links().routes().protocol(&back).is_some()).await;
    let proxy = beta.front().proxy_addrs()[0];
    let xml = [("content-type", "text/xml")];
    let signed = soap("http://127.0.0.1/as-it-is");
    let (status, text) = post(proxy, "/cb?x=1", &open.to_string(), &xml, &signed).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{text}");
    let got = opened.recv().await.unwrap();
    assert_eq!(
        (got.path.as_str(), got.body.as_str()),
        ("/cb?x=1", signed.as_str())
    );
    assert_eq!(got.headers["host"], open.to_string());
    let (status, text) = post(proxy, "/cb", &closed.to_string(), &xml, "x").await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{text}");
    assert!(text.contains("not open"), "{text}");
    assert!(none.try_recv().is_err());
}
