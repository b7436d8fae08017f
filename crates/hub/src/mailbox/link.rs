//! A gateway's connection with the mailbox: the shell around [`Conversation`]. One task reads, asks the store and answers;
//! another one writes. What the gateway may make it hold is bounded by requests and bytes on their way to the disk.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Instant,
};

use hawser_proto::{
    Fault, Place, Role, UnixTime, VERSION,
    broker::{
        DeviceHandle,
        mailbox::{FetchAnswer, FromMailbox, MAX_REPORTS, ToMailbox},
    },
    control::{DEAD_AFTER, PING_EVERY},
};
use hawser_session::hop::{ControlReceiver, ControlSender, HopError};
use hawser_store::mailbox::{Deposited, Item, Reply, Report, Skipped};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Mailbox,
    conversation::{self, Call, Conversation, Step},
};
use crate::{lives::Life, shared::Party};

/// Requests of a gateway that are on their way to the disk.
const IN_FLIGHT: usize = 1024;
/// Their envelopes' bytes.
const IN_FLIGHT_BYTES: usize = 16 * 1024 * 1024;
/// Messages that wait to be written.
const QUEUE: usize = 1024;
/// Orders of devices that wait.
const ORDERS: usize = 1024;

/// How the rest of the mailbox reaches the gateway of a domain.
#[derive(Debug, Clone)]
pub(super) struct Link {
    gateway: String,
    pub(super) orders: mpsc::Sender<Order>,
    /// Told when there are new reports.
    pub(super) reports: Arc<Notify>,
    replaced: CancellationToken,
}

/// What the mailbox wants of a gateway.
#[derive(Debug)]
pub(super) enum Order {
    /// A device asks for content. The answer comes with the id of the fetch.
    Ask {
        device: DeviceHandle,
        request: Vec<u8>,
        reply: oneshot::Sender<(u64, FetchAnswer)>,
    },
    /// The device reads on. An empty piece, or none: there is no more.
    Pull {
        fetch: u64,
        reply: oneshot::Sender<Vec<u8>>,
    },
    /// It has all, or wants no more.
    Over(u64),
    /// Its streams began or ended.
    Contact { device: DeviceHandle, connected: bool },
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error(transparent)]
    Hop(#[from] HopError),
    #[error("nothing came from it for {} s", DEAD_AFTER.as_secs())]
    Silent,
    #[error("it took none of our messages for {} s", DEAD_AFTER.as_secs())]
    Stuck,
    #[error("its certificate has ended")]
    Expired,
    #[error("it was cut")]
    Cut,
    #[error("a newer connection of the gateway has taken over")]
    Replaced,
}

/// What the store is doing for the gateway.
enum Doing {
    Admit(
        u64,
        hawser_store::mailbox::Device,
        Reply<hawser_store::mailbox::Admission>,
    ),
    Revoke(u64, DeviceHandle, Reply<hawser_store::mailbox::Revocation>),
    Deposit(u64, DeviceHandle, Box<Item>, Reply<Deposited>),
    Skip(u64, DeviceHandle, Box<(u64, Item)>, Reply<Skipped>),
}

impl Mailbox {
    /// Serves a gateway's connection until it ends.
    pub(crate) async fn converse(
        self: Arc<Self>,
        party: Arc<Party>,
        life: Life,
        sender: ControlSender<FromMailbox>,
        receiver: ControlReceiver<ToMailbox>,
    ) {
        let id = party.id.clone();
        let domain: Arc<str> = id.domain.as_str().into();
        let (orders, ordered) = mpsc::channel(ORDERS);
        let link = Link {
            gateway: id.to_string(),
            orders,
            reports: Arc::default(),
            replaced: CancellationToken::new(),
        };
        if let Err(fault) = self.enter(&party, &domain, &link) {
            tracing::warn!(%id, %fault, "refused a gateway's mailbox connection");
            refuse(sender, fault).await;
            return;
        }
        tracing::info!(%id, "gateway connected with the mailbox");
        let (queue, queued) = mpsc::channel(QUEUE);
        let mut talk = Talk {
            conversation: Conversation::new(domain.clone()),
            mailbox: self.clone(),
            party,
            domain: domain.clone(),
            queue,
            doing: VecDeque::new(),
            bytes: 0,
            asks: HashMap::new(),
            pulls: HashMap::new(),
            reading: None,
            heard: Instant::now(),
        };
        let writer = write(sender, queued);
        let end = tokio::select! {
            end = talk.run(receiver, ordered, &link, &life) => end,
            end = writer => end,
        };
        self.leave(&domain, &link);
        tracing::info!(%id, reason = %end, "gateway disconnected from the mailbox");
    }

    /// One gateway of a domain at a time: its newest connection.
    fn enter(&self, party: &Party, domain: &Arc<str>, link: &Link) -> Result<(), Fault> {
        if party.id.role != Role::Gateway {
            return Err(Fault::new(
                Place::Policy,
                403,
                "host-has-no-mailbox",
                "a host asked for the mailbox",
                "connect a gateway of the domain",
            ));
        }
        let mut links = self.links();
        match links.get(domain) {
            Some(old) if old.gateway != link.gateway && !old.orders.is_closed() => Err(Fault::new(
                Place::Hub,
                503,
                "mailbox-taken",
                format!("{} holds the domain's mailbox", old.gateway),
                "let one gateway of the domain only have a [gateway.broker] table",
            )),
            old => {
                if let Some(old) = old {
                    old.replaced.cancel();
                }
                links.insert(domain.clone(), link.clone());
                Ok(())
            }
        }
    }

    fn leave(&self, domain: &Arc<str>, link: &Link) {
        let mut links = self.links();
        if links
            .get(domain)
            .is_some_and(|l| l.orders.same_channel(&link.orders))
        {
            links.remove(domain);
        }
    }
}

async fn refuse(mut sender: ControlSender<FromMailbox>, fault: Fault) {
    let word = async {
        sender.send(&FromMailbox::Refused(fault)).await?;
        sender.close().await
    };
    let _ = timeout(DEAD_AFTER, word).await;
}

async fn write(mut sender: ControlSender<FromMailbox>, mut queued: mpsc::Receiver<FromMailbox>) -> End {
    while let Some(message) = queued.recv().await {
        match timeout(DEAD_AFTER, sender.send(&message)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return End::Stuck,
        }
    }
    End::Cut
}

/// One connection's state.
struct Talk {
    mailbox: Arc<Mailbox>,
    conversation: Conversation,
    party: Arc<Party>,
    domain: Arc<str>,
    queue: mpsc::Sender<FromMailbox>,
    /// In the order in which the store was asked, which is that of its answers.
    doing: VecDeque<Doing>,
    bytes: usize,
    asks: HashMap<u64, oneshot::Sender<(u64, FetchAnswer)>>,
    pulls: HashMap<u64, oneshot::Sender<Vec<u8>>>,
    /// Reports that are being read.
    reading: Option<Reply<Vec<Report>>>,
    heard: Instant,
}

impl Talk {
    async fn run(
        &mut self,
        mut receiver: ControlReceiver<ToMailbox>,
        mut orders: mpsc::Receiver<Order>,
        link: &Link,
        life: &Life,
    ) -> End {
        let mut tick = interval(PING_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.say(FromMailbox::Welcome {
            version: VERSION,
            url: self.mailbox.url.clone(),
        })
        .await;
        let connected = self.mailbox.devices().connected(&self.domain);
        for device in connected {
            self.contact(device, true).await;
        }
        self.read_reports();
        loop {
            let room = self.doing.len() < IN_FLIGHT && self.bytes < IN_FLIGHT_BYTES;
            tokio::select! {
                () = life.token().cancelled() => return End::Cut,
                () = self.mailbox.stop.cancelled() => return End::Cut,
                () = link.replaced.cancelled() => return End::Replaced,
                message = receiver.recv(), if room => match message {
                    Ok(message) => self.hear(message).await,
                    Err(error) => return error.into(),
                },
                done = front(&mut self.doing) => self.done(done).await,
                reports = read(&mut self.reading) => self.report(reports).await,
                () = link.reports.notified() => self.read_reports(),
                Some(order) = orders.recv() => self.order(order).await,
                _ = tick.tick() => if let Err(end) = self.tick().await {
                    return end;
                },
            }
        }
    }

    async fn hear(&mut self, message: ToMailbox) {
        self.heard = Instant::now();
        match self.conversation.hear(message) {
            Step::Nothing => {}
            Step::Say(message) => {
                if let FromMailbox::Done { .. } = message {
                    self.mailbox.metrics.deposit("refused");
                }
                self.say(message).await;
            }
            Step::Call(id, call) => self.call(id, call),
            Step::Taken(number) => {
                // In line with everything else; nobody waits for it.
                drop(self.mailbox.store.taken(self.domain.clone(), number));
                self.read_reports();
            }
            Step::Answered(fetch, answer) => {
                let reply = self.asks.remove(&fetch);
                let heard = reply.is_some_and(|reply| reply.send((fetch, answer)).is_ok());
                if !heard {
                    self.over(fetch).await;
                }
            }
            Step::Piece(fetch, bytes) => {
                if let Some(reply) = self.pulls.remove(&fetch) {
                    let _ = reply.send(bytes);
                }
            }
        }
    }

    fn call(&mut self, id: u64, call: Call) {
        let store = &self.mailbox.store;
        let doing = match call {
            Call::Admit(device) => Doing::Admit(id, device.clone(), store.admit(device)),
            Call::Revoke(device) => {
                // Its streams end, and its requests are refused, before the store has it.
                self.mailbox.cut(&self.domain, &device);
                Doing::Revoke(id, device, store.revoke(self.domain.clone(), device.0))
            }
            Call::Deposit(deposit) => {
                let item = Item {
                    position: 0,
                    sequence: deposit.sequence,
                    expires: deposit.expires,
                    skip: false,
                    body: deposit.body.clone(),
                };
                self.bytes += item.body.len();
                let device = DeviceHandle(deposit.device);
                Doing::Deposit(id, device, Box::new(item), store.deposit(deposit))
            }
            Call::Skip(skip) => {
                let item = Item {
                    position: 0,
                    sequence: skip.to,
                    expires: 0,
                    skip: true,
                    body: skip.body.clone(),
                };
                let device = DeviceHandle(skip.device);
                Doing::Skip(id, device, Box::new((skip.from, item)), store.skip(skip))
            }
        };
        self.doing.push_back(doing);
    }

    async fn done(&mut self, done: Done) {
        let mailbox = self.mailbox.clone();
        let (id, outcome) = match done {
            Done::Admit(id, mut device, done) => {
                if matches!(done, Ok(hawser_store::mailbox::Admission::Revoked)) {
                    device.revoked = true;
                }
                let outcome = conversation::admitted(&done);
                if outcome == hawser_proto::broker::mailbox::Outcome::Kept || device.revoked {
                    mailbox.devices().put(&device);
                }
                (id, outcome)
            }
            Done::Revoke(id, device, done) => {
                mailbox.cut(&self.domain, &device);
                tracing::info!(domain = %self.domain, %device, kept = done.is_ok(), "device revoked");
                (id, conversation::revoked(&done))
            }
            Done::Deposit(id, device, mut item, done) => {
                self.bytes -= item.body.len();
                if let Ok(Deposited::Kept { position, collapsed }) = &done {
                    item.position = *position;
                    let devices = mailbox.devices();
                    for number in collapsed {
                        devices.withdrawn(&device, *number, *number);
                    }
                    devices.came(&device, *item);
                    drop(devices);
                    if !collapsed.is_empty() {
                        self.read_reports();
                    }
                }
                let outcome = conversation::deposited(&done);
                mailbox.metrics.deposited(&outcome);
                (id, outcome)
            }
            Done::Skip(id, device, skip, done) => {
                let (from, mut item) = *skip;
                if let Ok(Skipped::Kept { position }) = done {
                    item.position = position;
                    let devices = mailbox.devices();
                    devices.withdrawn(&device, from, item.sequence);
                    devices.came(&device, item);
                }
                (id, conversation::skipped(&done))
            }
        };
        self.say(FromMailbox::Done { id, outcome }).await;
    }

    fn read_reports(&mut self) {
        if self.reading.is_none()
            && let Some(after) = self.conversation.wants_reports()
        {
            let store = &self.mailbox.store;
            self.reading = Some(store.reports(self.domain.clone(), after, MAX_REPORTS));
        }
    }

    async fn report(&mut self, reports: Vec<Report>) {
        if let Some(message) = self.conversation.report(reports) {
            self.say(message).await;
            self.read_reports();
        }
    }

    async fn order(&mut self, order: Order) {
        match order {
            // Dropping the reply is the answer when too much is being asked.
            Order::Ask {
                device,
                request,
                reply,
            } => {
                if let Some((fetch, message)) = self.conversation.ask(device, request, Instant::now()) {
                    self.asks.insert(fetch, reply);
                    self.say(message).await;
                }
            }
            Order::Pull { fetch, reply } => {
                if let Some(message) = self.conversation.pull(fetch) {
                    self.pulls.insert(fetch, reply);
                    self.say(message).await;
                }
            }
            Order::Over(fetch) => self.over(fetch).await,
            Order::Contact { device, connected } => self.contact(device, connected).await,
        }
    }

    async fn over(&mut self, fetch: u64) {
        self.pulls.remove(&fetch);
        if let Some(message) = self.conversation.over(fetch) {
            self.say(message).await;
        }
    }

    async fn contact(&mut self, device: DeviceHandle, connected: bool) {
        let at = UnixTime::now();
        self.say(FromMailbox::Contact {
            device,
            connected,
            at,
        })
        .await;
    }

    async fn tick(&mut self) -> Result<(), End> {
        let silent = self.heard.elapsed();
        if self.party.proved.not_after <= UnixTime::now() {
            return Err(End::Expired);
        }
        // A gateway whose requests wait for the disk is not listened to, and is not to blame for that.
        if silent >= DEAD_AFTER && self.doing.is_empty() {
            return Err(End::Silent);
        }
        if silent >= PING_EVERY / 2 {
            self.say(FromMailbox::Ping(silent.as_secs())).await;
        }
        for fetch in self.conversation.tick(Instant::now()) {
            self.asks.remove(&fetch);
            self.pulls.remove(&fetch);
            self.say(FromMailbox::Over(fetch)).await;
        }
        // What was not read because the store was busy.
        self.read_reports();
        Ok(())
    }

    /// The writer takes it; when the writer has ended, so does the connection.
    async fn say(&mut self, message: FromMailbox) {
        let _ = self.queue.send(message).await;
    }
}

/// What the store has done.
enum Done {
    Admit(
        u64,
        hawser_store::mailbox::Device,
        Result<hawser_store::mailbox::Admission, hawser_store::StoreError>,
    ),
    Revoke(
        u64,
        DeviceHandle,
        Result<hawser_store::mailbox::Revocation, hawser_store::StoreError>,
    ),
    Deposit(
        u64,
        DeviceHandle,
        Box<Item>,
        Result<Deposited, hawser_store::StoreError>,
    ),
    Skip(
        u64,
        DeviceHandle,
        Box<(u64, Item)>,
        Result<Skipped, hawser_store::StoreError>,
    ),
}

/// Waits for the oldest thing that the store does. Cancel safe: what is not done stays where it is.
async fn front(doing: &mut VecDeque<Doing>) -> Done {
    fn poll<T>(
        reply: &mut Reply<T>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Result<T, hawser_store::StoreError>> {
        Pin::new(reply).poll(cx)
    }
    std::future::poll_fn(|cx| {
        let done = match doing.front_mut() {
            None => return Poll::Pending,
            Some(Doing::Admit(id, device, reply)) => {
                poll(reply, cx).map(|r| Done::Admit(*id, device.clone(), r))
            }
            Some(Doing::Revoke(id, device, reply)) => poll(reply, cx).map(|r| Done::Revoke(*id, *device, r)),
            Some(Doing::Deposit(id, device, item, reply)) => {
                poll(reply, cx).map(|r| Done::Deposit(*id, *device, item.clone(), r))
            }
            Some(Doing::Skip(id, device, skip, reply)) => {
                poll(reply, cx).map(|r| Done::Skip(*id, *device, skip.clone(), r))
            }
        };
        if done.is_ready() {
            doing.pop_front();
        }
        done
    })
    .await
}

/// Waits for reports that are being read. Cancel safe.
async fn read(reading: &mut Option<Reply<Vec<Report>>>) -> Vec<Report> {
    let Some(reply) = reading else {
        return std::future::pending().await;
    };
    let reports = reply.await;
    *reading = None;
    match reports {
        Ok(reports) => reports,
        Err(error) => {
            tracing::warn!(%error, "cannot read reports for a gateway: trying again");
            Vec::new()
        }
    }
}
