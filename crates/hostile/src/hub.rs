//! The hub itself: takes over a real hub's state and address, and does as it is told.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use hawser_identity::{CertificateDer, HubIdentity, SharedTrust, Trust, tls};
use hawser_proto::{
    DomainName, NodeId,
    control::{Route, ToGateway},
    hop::Ticket,
};
use hawser_session::hop::{Arrival, Half, HopServer};
use hawser_store::Store;
use minicbor::{Decode, Encode};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use crate::{
    control,
    deal::{Answer, Asked, Deal, Policy},
    middle::{Middle, Transcript},
    sessions::{Seat, Seats},
};

/// Slack for anything that should happen at once, on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// Something that the hub saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A gateway registered, first or again.
    Registered(NodeId),
    /// A gateway's control connection ended.
    Left(NodeId),
    /// A gateway asked for a session.
    Asked(Asked),
    /// A gateway showed a ticket.
    Arrived {
        /// Who it is, as TLS proved.
        who: NodeId,
        /// Whether it was the first time that this ticket was shown.
        fresh: bool,
    },
    /// Both sides (or the only one) of a session were told to go on.
    Paired(Asked),
    /// A gateway handed in a revocation list.
    Revocations {
        /// Who did.
        from: NodeId,
        /// Whether it was passed on.
        passed: bool,
    },
    /// A gateway's control connection was answered with nonsense.
    Spoilt(NodeId),
    /// Somebody came whom the hub sent away, or who sent the hub away.
    Failed(String),
    /// A forger was answered, or was refused.
    Forger(Result<String, String>),
}

/// Changes what gateways are shown: whose eyes, and what they would be shown.
pub type Announce = Arc<dyn Fn(&NodeId, Vec<Route>) -> Vec<Route> + Send + Sync>;

/// A running hub; ends when dropped. Its own threads do the work, so that tests are plain functions.
pub struct HostileHub {
    runtime: Option<Runtime>,
    shared: Arc<Shared>,
    identity: HubIdentity,
    trust: SharedTrust,
    address: SocketAddr,
}

pub(crate) struct Shared {
    pub(crate) server: HopServer,
    pub(crate) hop: Arc<ServerConfig>,
    pub(crate) trust: SharedTrust,
    pub(crate) gateways: Mutex<HashMap<NodeId, control::Gateway>>,
    pub(crate) seats: Mutex<Seats>,
    pub(crate) number: AtomicU64,
    events: Mutex<Vec<Event>>,
    news: watch::Sender<usize>,
    transcripts: Mutex<Vec<Arc<Transcript>>>,
    manners: Mutex<Manners>,
}

/// What the hub was told to do.
struct Manners {
    policy: Policy,
    announce: Announce,
    withhold: bool,
    spoil: Option<Vec<u8>>,
    /// Ends all sessions and control connections that there are.
    sessions: Sessions,
    cut_controls: CancellationToken,
}

/// The sessions since the last cut.
#[derive(Clone, Default)]
pub(crate) struct Sessions {
    cut: CancellationToken,
    /// Each of them has a receiver.
    here: watch::Sender<()>,
}

impl Sessions {
    /// One more: its cut, and what it holds until its end.
    pub(crate) fn enter(&self) -> (CancellationToken, watch::Receiver<()>) {
        (self.cut.clone(), self.here.subscribe())
    }
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            policy: Arc::new(|asked| Answer::Deal(Deal::honest(asked))),
            announce: Arc::new(|_, routes| routes),
            withhold: false,
            spoil: None,
            sessions: Sessions::default(),
            cut_controls: CancellationToken::new(),
        }
    }
}

impl HostileHub {
    /// Takes over what a stopped hub left in its state directory, and its address. Behaves well until told otherwise.
    pub fn take_over(state: &Path, address: SocketAddr) -> Result<Self> {
        let identity = HubIdentity::load_or_create(state)?;
        let runtime = runtime()?;
        let trust = runtime.block_on(admitted(state))?;
        Self::on(runtime, identity, trust.shared(), address)
    }

    /// A hub with this identity that takes these domains for admitted.
    pub fn start(identity: HubIdentity, trust: SharedTrust, address: SocketAddr) -> Result<Self> {
        Self::on(runtime()?, identity, trust, address)
    }

    fn on(runtime: Runtime, identity: HubIdentity, trust: SharedTrust, address: SocketAddr) -> Result<Self> {
        let hop = tls::hub_hop(&identity, trust.clone())?;
        let shared = Arc::new(Shared {
            server: HopServer::new(hop.clone(), tls::hub_join(&identity)?, trust.clone()),
            hop,
            trust: trust.clone(),
            gateways: Mutex::default(),
            seats: Mutex::default(),
            number: AtomicU64::new(1),
            events: Mutex::default(),
            news: watch::Sender::new(0),
            transcripts: Mutex::default(),
            manners: Mutex::default(),
        });
        let listener = runtime
            .block_on(TcpListener::bind(address))
            .with_context(|| format!("cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        runtime.spawn(accept(shared.clone(), listener));
        Ok(Self {
            runtime: Some(runtime),
            shared,
            identity,
            trust,
            address,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The identity that tokens pin.
    pub fn identity(&self) -> &HubIdentity {
        &self.identity
    }

    /// Behaves well from now on.
    pub fn behave(&self) {
        let mut manners = self.shared.manners();
        *manners = Manners {
            sessions: manners.sessions.clone(),
            cut_controls: manners.cut_controls.clone(),
            ..Manners::default()
        };
        drop(manners);
        self.shared.publish();
    }

    /// Answers requests for sessions so from now on.
    pub fn answer(&self, policy: impl Fn(&Asked) -> Answer + Send + Sync + 'static) {
        self.shared.manners().policy = Arc::new(policy);
    }

    /// Brings the right gateways together from now on, with this in the middle.
    pub fn put_in_the_middle(&self, middle: Middle) {
        self.answer(move |asked| Answer::Deal(Deal::with(asked, middle.clone())));
    }

    /// Takes the called gateway's place from now on: nobody is told to dial in, and `middle` has the calling one's stream.
    pub fn take_the_place(&self, middle: Middle) {
        self.answer(move |asked| Answer::Deal(Deal::alone(asked, middle.clone())));
    }

    /// Shows gateways other routes from now on.
    pub fn announce(&self, announce: impl Fn(&NodeId, Vec<Route>) -> Vec<Route> + Send + Sync + 'static) {
        self.shared.manners().announce = Arc::new(announce);
        self.shared.publish();
    }

    /// Whether revocation lists stay here.
    pub fn withhold_revocations(&self, withhold: bool) {
        self.shared.manners().withhold = withhold;
    }

    /// Answers control connections, once they have said hello, with these bytes from now on, and then with silence; or no
    /// longer.
    pub fn spoil_controls(&self, bytes: Option<Vec<u8>>) {
        self.shared.manners().spoil = bytes;
    }

    /// Ends every session under way, forgets every ticket given out, and waits until it is done. Gateways may begin others meanwhile.
    pub fn cut_sessions(&self) -> Result<()> {
        let sessions = {
            let mut manners = self.shared.manners();
            // What enters from here on has tickets of its own.
            self.shared.seats().clear();
            std::mem::take(&mut manners.sessions)
        };
        sessions.cut.cancel();
        self.block_on(async { tokio::time::timeout(SOON, sessions.here.closed()).await })
            .context("sessions that do not end")
    }

    /// Ends every control connection.
    pub fn cut_controls(&self) {
        std::mem::take(&mut self.shared.manners().cut_controls).cancel();
    }

    /// Says something to a gateway.
    pub fn tell(&self, to: &NodeId, message: ToGateway) -> Result<()> {
        self.shared.tell(to, message)
    }

    /// Has a gateway dial in as the accepting side for a call of `claimed`, and returns the raw stream to it, on which the
    /// hub is the TLS client.
    pub fn lure(&self, gateway: &NodeId, claimed: &NodeId) -> Result<(Ticket, TcpStream)> {
        let (ticket, half) = self.lure_half(gateway, claimed)?;
        Ok((ticket, self.block_on(half.ready_go())?))
    }

    /// The same, up to where the gateway has shown its ticket.
    pub fn lure_half(&self, gateway: &NodeId, claimed: &NodeId) -> Result<(Ticket, Half)> {
        let (ticket, seat) = self.shared.seats().seat();
        self.tell(
            gateway,
            ToGateway::Dial {
                ticket,
                peer: Some(claimed.clone()),
                join: None,
            },
        )?;
        Ok((ticket, self.take_seat(seat)?))
    }

    /// Waits for whoever shows the ticket of a seat.
    pub fn take_seat(&self, seat: Seat) -> Result<Half> {
        self.block_on(async {
            let (who, half) = tokio::time::timeout(SOON, seat.taken())
                .await
                .context("nobody came")??;
            drop(who);
            Ok(half)
        })
    }

    /// A seat for whoever shows this ticket next, though it was shown before.
    pub fn seat_again(&self, ticket: Ticket) -> Seat {
        self.shared.seats().seat_for(ticket)
    }

    /// What was seen so far.
    pub fn events(&self) -> Vec<Event> {
        self.shared.events().clone()
    }

    /// How much was seen so far, for [`Self::await_event`].
    pub fn mark(&self) -> usize {
        self.shared.events().len()
    }

    /// Waits for something to be seen, counted from a [`Self::mark`].
    pub fn await_event(&self, since: usize, what: &str, is_it: impl Fn(&Event) -> bool) -> Result<Event> {
        let mut news = self.shared.news.subscribe();
        let found = self.block_on(async {
            tokio::time::timeout(SOON, async {
                loop {
                    news.borrow_and_update();
                    let found = self
                        .shared
                        .events()
                        .iter()
                        .skip(since)
                        .find(|e| is_it(e))
                        .cloned();
                    if let Some(event) = found {
                        return Some(event);
                    }
                    if news.changed().await.is_err() {
                        return None;
                    }
                }
            })
            .await
        });
        match found {
            Ok(Some(event)) => Ok(event),
            _ => {
                let seen = self.events();
                let tail = &seen[since.min(seen.len())..];
                bail!("waited {SOON:?} in vain for: {what}; since then the hub saw {tail:?}")
            }
        }
    }

    /// Waits until these gateways are connected and registered.
    pub fn await_connected(&self, limit: Duration, gateways: &[&NodeId]) -> Result<()> {
        let mut news = self.shared.news.subscribe();
        let there = || gateways.iter().all(|id| self.shared.gateways().contains_key(*id));
        self.block_on(async {
            tokio::time::timeout(limit, news.wait_for(|_| there()))
                .await
                .map(drop)
        })
        .with_context(|| format!("waited {limit:?} in vain for {gateways:?}"))
    }

    /// The roots of the admitted domains, as they stand in the hub's database.
    pub fn roots(&self) -> BTreeMap<DomainName, CertificateDer<'static>> {
        let trust = self.trust.load();
        let root = |domain: &DomainName| Some((domain.clone(), trust.root(domain)?.clone()));
        trust.domains().filter_map(|(domain, _)| root(domain)).collect()
    }

    /// What passed in every session so far, in the order in which they began.
    pub fn transcripts(&self) -> Vec<Arc<Transcript>> {
        self.shared.transcripts().clone()
    }

    /// Notes what came of a forgery, as [`Event::Forger`].
    pub fn forger_notes(&self) -> impl Fn(Result<String, String>) + Clone + Send + Sync + 'static {
        let shared = self.shared.clone();
        move |outcome| shared.note(Event::Forger(outcome))
    }

    /// Runs something on the hub's threads, with its network.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        match &self.runtime {
            Some(runtime) => runtime.block_on(work),
            None => unreachable!("it is there until the hub is dropped"),
        }
    }
}

impl Drop for HostileHub {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    pub(crate) fn note(&self, event: Event) {
        self.events().push(event);
        self.news.send_modify(|n| *n += 1);
    }

    pub(crate) fn policy(&self) -> Policy {
        self.manners().policy.clone()
    }

    pub(crate) fn announcement(&self, eyes: &NodeId, honest: Vec<Route>) -> Vec<Route> {
        let announce = self.manners().announce.clone();
        announce(eyes, honest)
    }

    pub(crate) fn withholds(&self) -> bool {
        self.manners().withhold
    }

    pub(crate) fn enter(&self) -> (CancellationToken, watch::Receiver<()>) {
        self.manners().sessions.enter()
    }

    pub(crate) fn cut_controls(&self) -> CancellationToken {
        self.manners().cut_controls.clone()
    }

    pub(crate) fn transcript(&self, asked: &Asked) -> Arc<Transcript> {
        let transcript = Arc::new(Transcript::new(asked.from.clone(), asked.target.clone()));
        self.transcripts().push(transcript.clone());
        transcript
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn gateways(&self) -> MutexGuard<'_, HashMap<NodeId, control::Gateway>> {
        self.gateways.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn transcripts(&self) -> MutexGuard<'_, Vec<Arc<Transcript>>> {
        self.transcripts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn manners(&self) -> MutexGuard<'_, Manners> {
        self.manners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    while let Ok((tcp, _)) = listener.accept().await {
        let shared = shared.clone();
        let spoil = shared.manners().spoil.clone();
        tokio::spawn(async move {
            let done = match spoil {
                Some(bytes) => control::spoil(&shared, tcp, bytes).await,
                None => arrive(&shared, tcp).await,
            };
            if let Err(e) = done {
                shared.note(Event::Failed(format!("{e:#}")));
            }
        });
    }
}

async fn arrive(shared: &Arc<Shared>, tcp: TcpStream) -> Result<()> {
    match shared.server.accept(tcp, &()).await? {
        Arrival::Control {
            proved,
            sender,
            receiver,
            ..
        } => control::serve(shared, proved.id, sender, receiver).await,
        Arrival::Session { proved, ticket, half } => {
            let fresh = shared.seats().is_fresh(&ticket);
            shared.note(Event::Arrived {
                who: proved.id.clone(),
                fresh,
            });
            let seat = shared.seats().take(&ticket);
            match seat {
                // Whoever waited has given up.
                Some(seat) => drop(seat.send((proved.id, half))),
                None => bail!("{} showed a ticket that leads nowhere", proved.id),
            }
            Ok(())
        }
        other => bail!("{other:?} came: not this hub's business"),
    }
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("hostile-hub")
        .enable_all()
        .build()?)
}

/// The shape of what a hub keeps of an admitted domain, as far as it matters here.
#[derive(Debug, Encode, Decode)]
struct Admitted {
    #[cbor(n(0), with = "minicbor::bytes")]
    root: Vec<u8>,
}

/// All roots in the database of a hub.
async fn admitted(state: &Path) -> Result<Trust> {
    let mut trust = Trust::new();
    for (domain, admitted, _) in Store::open(state)?
        .bucket::<Admitted>("admitted")
        .entries()
        .await?
    {
        let domain: DomainName = domain.parse()?;
        trust.add_root(&domain, CertificateDer::from(admitted.root))?;
    }
    Ok(trust)
}
