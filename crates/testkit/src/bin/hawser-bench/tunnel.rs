//! The tunnel: what it costs to look through SOAP messages, how long a call back takes, and how many messages are kept on disk and
//! delivered.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hawser_testkit::{
    Host,
    world::{Service, Spec, World},
};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, client::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::mpsc,
    task::JoinSet,
};

use crate::figures::{Better, Figures, median};

/// Connections that call at one time.
const CLIENTS: usize = 16;
/// Length of one round.
const ROUND: Duration = Duration::from_secs(2);
/// Rounds of each kind; they take turns, so that what else the machine does falls on both alike.
const ROUNDS: usize = 7;
/// Calls back that are timed.
const CALLS_BACK: usize = 200;
const PORT: u16 = 8300;
const LISTENER: u16 = 9100;
/// Imports of the same origin: one looked through, one not.
const LOOKED_THROUGH: u16 = 9001;
const PASSED: u16 = 9002;
/// Import of the same origin, whose messages are kept and delivered later.
const KEPT: u16 = 9003;
/// Messages in one round of these, and rounds.
const MESSAGES: usize = 4000;
const KEPT_ROUNDS: usize = 5;

pub(crate) fn measure() -> Result<Figures> {
    let rules = "[[gateway.callbacks.rule]]\nservice = \"passed.beta\"\nmode = \"off\"";
    let services = [
        Service::http("looked", PORT).imported(LOOKED_THROUGH),
        Service::http("passed", PORT).imported(PASSED),
        Service::http("kept", PORT)
            .imported(KEPT)
            .more("queue = { at_once = 16, messages = 1000000 }"),
    ];
    let world = Spec::new(services)
        .gateway_tables(rules)
        .start()
        .context("the setup")?;
    let way = world.ways()[0];
    let mut origin = Server::start(way.server(), PORT)?;
    let mut figures = Figures::default();
    println!("tunnel, SOAP messages through two gateways and a hub, {CLIENTS} connections");
    let mut worst = f64::INFINITY;
    for (name, size) in [("4k", 4 << 10), ("256k", 256 << 10)] {
        let message = soap(&format!("http://{}/answers", way.client().at(LISTENER)), size);
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            with.push(rate(way.client(), way.import(LOOKED_THROUGH), &message)?);
            without.push(rate(way.client(), way.import(PASSED), &message)?);
        }
        let ratios = with.iter().zip(&without).map(|(w, o)| w / o).collect();
        let ratio = median(ratios);
        figures.add(
            &format!("soap_{name}_requests_per_second"),
            "1/s",
            Better::Higher,
            median(with),
        );
        figures.add(
            &format!("soap_{name}_requests_per_second_off"),
            "1/s",
            Better::Higher,
            median(without),
        );
        worst = worst.min(ratio);
    }
    figures.add("soap_rewrite_overhead_ratio", "", Better::Higher, worst);
    let (mut accepted, mut delivered) = (Vec::new(), Vec::new());
    for _ in 0..KEPT_ROUNDS {
        let (accepting, delivering) = store_and_forward(&world, &mut origin)?;
        accepted.push(accepting);
        delivered.push(delivering);
    }
    figures.add(
        "store_forward_accepted_eps",
        "1/s",
        Better::Higher,
        median(accepted),
    );
    figures.add("store_forward_eps", "1/s", Better::Higher, median(delivered));
    let trips = round_trips(&world, &origin)?;
    figures.add("callback_roundtrip_ms_p50", "ms", Better::Lower, median(trips));
    Ok(figures)
}

/// A message that wants its answer at `reply_to`, of about `size` bytes.
fn soap(reply_to: &str, size: usize) -> Bytes {
    let head = format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:wsa=\"http://www.w3.org/2005/08/addressing\">\
         <s:Header><wsa:MessageID>urn:uuid:5b8c3a1e-0000-4000-8000-000000000000</wsa:MessageID><wsa:Action>urn:place</wsa:Action>\
         <wsa:ReplyTo><wsa:Address>{reply_to}</wsa:Address></wsa:ReplyTo></s:Header><s:Body><o:order xmlns:o=\"urn:orders\">"
    );
    let mut text = head;
    let mut n = 0;
    while text.len() < size {
        n += 1;
        text += &format!(
            "<o:line number=\"{n}\"><o:item>bolt M8 &amp; washer</o:item><o:count>40</o:count></o:line>\n"
        );
    }
    text += "</o:order></s:Body></s:Envelope>";
    text.into()
}

/// Requests a second that are answered.
fn rate(client: &Host, at: SocketAddr, message: &Bytes) -> Result<f64> {
    let runtime = client.runtime()?;
    let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    runtime.block_on(async {
        let mut callers = JoinSet::new();
        for _ in 0..CLIENTS {
            let (count, stop, message) = (count.clone(), stop.clone(), message.clone());
            callers.spawn(async move {
                let mut sender = connect(at).await?;
                while !stop.load(Ordering::Relaxed) {
                    post(&mut sender, at, "/orders", message.clone()).await?;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            });
        }
        tokio::time::sleep(ROUND / 4).await;
        let (before, began) = (count.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(ROUND).await;
        let rate = (count.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        while let Some(caller) = callers.join_next().await {
            caller??;
        }
        Ok(rate)
    })
}

/// Messages of 1 KiB a second: those that are answered with 202 once they are on disk, and those that the origin has.
fn store_and_forward(world: &World, origin: &mut Server) -> Result<(f64, f64)> {
    let way = world.ways()[0];
    let (at, message) = (way.import(KEPT), Bytes::from(vec![b'x'; 1024]));
    while origin.came.try_recv().is_ok() {}
    let runtime = way.client().runtime()?;
    let (began, left) = (Instant::now(), Arc::new(AtomicU64::new(MESSAGES as u64)));
    let accepted = runtime.block_on(async {
        let mut callers = JoinSet::new();
        for _ in 0..CLIENTS {
            let (left, message) = (left.clone(), message.clone());
            callers.spawn(async move {
                let mut sender = connect(at).await?;
                let take = |n: u64| n.checked_sub(1);
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    .is_ok()
                {
                    post(&mut sender, at, "/events", message.clone()).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(caller) = callers.join_next().await {
            caller??;
        }
        anyhow::Ok(began.elapsed())
    })?;
    for _ in 0..MESSAGES {
        origin
            .came
            .blocking_recv()
            .context("nobody is there to deliver to")?;
    }
    let rate = |time: Duration| MESSAGES as f64 / time.as_secs_f64();
    Ok((rate(accepted), rate(began.elapsed())))
}

/// From a request's first byte to the call back at the client's own listener, in milliseconds.
fn round_trips(world: &World, origin: &Server) -> Result<Vec<f64>> {
    let way = world.ways()[0];
    let mut listener = Server::start(way.client(), LISTENER)?;
    origin.answers.store(true, Ordering::Relaxed);
    let message = soap(&format!("http://{}/answers", way.client().at(LISTENER)), 1024);
    let at = way.import(LOOKED_THROUGH);
    let runtime = way.client().runtime()?;
    // On a thread of the runtime, which is on the client's host; this one is not.
    let trips = runtime.spawn(async move {
        let mut sender = connect(at).await?;
        let mut trips = Vec::new();
        for _ in 0..CALLS_BACK {
            let began = Instant::now();
            post(&mut sender, at, "/orders", message.clone()).await?;
            listener.came.recv().await.context("nobody was called back")?;
            trips.push(began.elapsed().as_secs_f64() * 1000.0);
        }
        anyhow::Ok((listener, trips))
    });
    let (_listener, trips) = runtime.block_on(trips)??;
    Ok(trips)
}

async fn connect(at: SocketAddr) -> Result<http1::SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn post(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    at: SocketAddr,
    path: &str,
    body: Bytes,
) -> Result<()> {
    let request = Request::post(path)
        .header("host", at.to_string())
        .header("content-type", "text/xml; charset=utf-8")
        .body(Full::new(body))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(
        status == StatusCode::ACCEPTED,
        "the answer was {status}: {}",
        String::from_utf8_lossy(&body)
    );
    Ok(())
}

/// Takes messages, answers 202, tells of them, and may answer each at the address that it names.
struct Server {
    _runtime: Runtime,
    came: mpsc::UnboundedReceiver<()>,
    answers: Arc<AtomicBool>,
}

impl Server {
    fn start(host: &Host, port: u16) -> Result<Self> {
        let runtime = host.runtime()?;
        let listener = host.listen(host.at(port))?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let (tell, came) = mpsc::unbounded_channel();
        let answers = Arc::new(AtomicBool::new(false));
        let answering = answers.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (tell, answering) = (tell.clone(), answering.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    serve(request, tell.clone(), answering.clone())
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Ok(Self {
            _runtime: runtime,
            came,
            answers,
        })
    }
}

async fn serve(
    request: Request<Incoming>,
    tell: mpsc::UnboundedSender<()>,
    answering: Arc<AtomicBool>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request
        .into_body()
        .collect()
        .await
        .map(|b| b.to_bytes())
        .unwrap_or_default();
    if answering.load(Ordering::Relaxed) {
        tokio::spawn(async move {
            if let Err(e) = call_back(&body).await {
                eprintln!("a call back failed: {e:#}");
            }
        });
    } else {
        let _ = tell.send(());
    }
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

/// Answers at the address that the message names.
async fn call_back(message: &[u8]) -> Result<()> {
    let text = std::str::from_utf8(message)?;
    let address = text
        .split_once("<wsa:ReplyTo><wsa:Address>http://")
        .and_then(|(_, rest)| rest.split_once('<'))
        .context("no ReplyTo")?
        .0;
    let (host, path) = address.split_once('/').context("no path")?;
    let at: SocketAddr = host.parse()?;
    let mut sender = connect(at).await?;
    post(
        &mut sender,
        at,
        &format!("/{path}"),
        soap("http://www.w3.org/2005/08/addressing/none", 512),
    )
    .await
}
