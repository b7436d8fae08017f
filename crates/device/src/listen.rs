//! Taking what comes: the stream with resume, belief, opening, handing on, acknowledging.

use std::{future::Future, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use hawser_proto::{
    UnixTime,
    broker::{
        Header,
        envelope::Content,
        statement::{AckCode, Signed, Skip},
    },
};
use hawser_seal::{OpenError, Withheld, sha256, verify};

use tokio::time::{Instant, timeout_at};

use crate::{
    Device, DeviceError,
    device::MAX_ACKS,
    home::{Recent, State},
    sse::Parser,
};

/// The mailbox sends something at least every 20 s; after this long without, the connection is taken for dead.
const SILENCE: Duration = Duration::from_secs(65);
/// What is to be acknowledged is gathered for so long after the last request, or until it fills one: each request takes a proof, of
/// which a mailbox remembers few for a device.
const PACE: Duration = Duration::from_millis(100);
/// First wait before the stream is tried again; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Something that came, or did not.
#[derive(Debug)]
#[non_exhaustive]
pub enum Arrived {
    /// The stream is open.
    Connected,
    /// A message, verified and opened.
    Message(Box<Message>),
    /// An envelope that was not believed or did not open.
    Refused {
        /// Its number, if it stands under the sender's signature.
        sequence: Option<u64>,
        /// Why.
        error: OpenError,
    },
    /// Numbers are missing, and nothing explains them yet.
    Withheld(Withheld),
    /// The domain says why numbers are missing.
    Skipped(Skip),
    /// The stream is lost and will be tried again.
    Disconnected {
        /// Why.
        error: DeviceError,
        /// After this long.
        retry: Duration,
    },
}

/// A message for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What the mailbox saw of it.
    pub header: Header,
    /// What the user sees.
    pub content: Content,
    /// When it came, by the server's clock.
    pub at: UnixTime,
}

/// What was done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// It was handed on.
    Delivered,
    /// It could not be; the domain is told so.
    NotDelivered,
    /// It was handed on, and no more is wanted: listening ends once it is acknowledged.
    Enough,
    /// It was not handed on, and nothing can be: listening ends, and the message comes again the next time.
    Abandon,
}

impl Handled {
    fn is_end(self) -> bool {
        matches!(self, Self::Enough | Self::Abandon)
    }
}

/// Takes what comes.
pub trait Receiver {
    /// Called for one thing after another. What it says counts for messages, and what ends listening for everything. A message is
    /// acknowledged when this is done; should the process die in between, the message comes again.
    fn receive(&mut self, arrived: Arrived) -> impl Future<Output = Handled>;
}

/// Something in the queue.
enum Item {
    Envelope(Vec<u8>),
    Skip(Vec<u8>),
    Revoked,
    Unknown,
}

impl Device {
    /// Listens until the receiver has enough or the device is revoked, through lost connections, which are made anew with growing
    /// waits. One process at a time. Not cancel safe beyond this: what was handed on and not acknowledged comes again.
    pub async fn listen(&mut self, receiver: &mut impl Receiver) -> Result<(), DeviceError> {
        let _lock = self.home.lock()?;
        let mut state = self.home.state()?;
        let mut wait = FIRST_WAIT;
        loop {
            let followed = self.follow(&mut state, receiver, &mut wait).await;
            self.save_now(&mut state)?;
            let error = match followed {
                Ok(()) => return Ok(()),
                Err(e) if !e.is_passing() => return Err(e),
                Err(e) => e,
            };
            let retry = wait.mul_f64(jitter());
            wait = (wait * 2).min(LONGEST_WAIT);
            let told = receiver.receive(Arrived::Disconnected { error, retry });
            if told.await.is_end() {
                return Ok(());
            }
            tokio::time::sleep(retry).await;
        }
    }

    /// One stream; ends well when the receiver has enough.
    async fn follow(
        &mut self,
        state: &mut State,
        receiver: &mut impl Receiver,
        wait: &mut Duration,
    ) -> Result<(), DeviceError> {
        self.flush(state).await?;
        let mut stream = self.stream(state.arrivals.complete()).await?;
        if receiver.receive(Arrived::Connected).await.is_end() {
            return Ok(());
        }
        let mut parser = Parser::default();
        let protocol = |detail: &str| DeviceError::Protocol {
            to: self.identity.mailbox.clone(),
            detail: detail.into(),
        };
        let (ended, too_long) = (
            protocol("it ended the stream"),
            protocol("a line longer than any envelope"),
        );
        let mut told = Instant::now();
        loop {
            if !state.pending.is_empty() && (state.pending.len() >= MAX_ACKS || told.elapsed() >= PACE) {
                self.flush(state).await?;
                told = Instant::now();
            }
            self.save_due(state)?;
            let told_next = (!state.pending.is_empty()).then(|| told + PACE);
            let due = told_next
                .into_iter()
                .chain(state.due().map(Instant::from_std))
                .min();
            let bytes = match due {
                None => stream.next(SILENCE).await?,
                Some(due) => match timeout_at(due, stream.next(SILENCE)).await {
                    Ok(bytes) => bytes?,
                    Err(_) => continue,
                },
            };
            let Some(bytes) = bytes else {
                return Err(ended);
            };
            *wait = FIRST_WAIT;
            let Ok(events) = parser.push(&bytes) else {
                return Err(too_long);
            };
            let mut enough = false;
            for event in events {
                let handled = match item(&event.kind, &event.data) {
                    Item::Envelope(bytes) => self.envelope(state, &bytes, receiver).await?,
                    Item::Skip(bytes) => self.skip(state, &bytes, receiver).await?,
                    Item::Revoked => return Err(DeviceError::Revoked),
                    Item::Unknown => Handled::Delivered,
                };
                if handled.is_end() {
                    enough = true;
                    break;
                }
            }
            if enough {
                return self.flush(state).await;
            }
        }
    }

    /// Something changed: it goes to disk when changes were gathered for a moment.
    fn keep(&self, state: &mut State) -> Result<(), DeviceError> {
        state.changed();
        self.save_due(state)
    }

    fn save_due(&self, state: &mut State) -> Result<(), DeviceError> {
        match state.due() {
            Some(due) if due <= std::time::Instant::now() => self.home.save_state(state),
            _ => Ok(()),
        }
    }

    /// What has changed goes to disk without waiting for more.
    fn save_now(&self, state: &mut State) -> Result<(), DeviceError> {
        match state.due() {
            Some(_) => self.home.save_state(state),
            None => Ok(()),
        }
    }

    /// Hands what is to be acknowledged to the mailbox. One that the mailbox refuses for good holds back no other.
    async fn flush(&mut self, state: &mut State) -> Result<(), DeviceError> {
        if state.pending.is_empty() {
            return Ok(());
        }
        // What is acknowledged does not come again: it must be known here for good.
        self.save_now(state)?;
        match self.acknowledge(&state.pending).await {
            Err(e) if e.is_senseless() => {
                for ack in &state.pending {
                    match self.acknowledge(std::slice::from_ref(ack)).await {
                        Err(e) if e.is_senseless() => {
                            tracing::warn!(error = %e, "the mailbox takes an acknowledgement at no time");
                        }
                        other => other?,
                    }
                }
            }
            other => other?,
        }
        state.pending.clear();
        state.changed();
        Ok(())
    }

    async fn envelope(
        &mut self,
        state: &mut State,
        bytes: &[u8],
        receiver: &mut impl Receiver,
    ) -> Result<Handled, DeviceError> {
        let digest = sha256(bytes);
        let header = match self.opener.header(bytes) {
            Ok(header) => header,
            Err(error) => return self.unbelieved(state, bytes, error, receiver).await,
        };
        let sequence = header.sequence;
        if state.arrivals.check(sequence).is_err() {
            // It came before, and the mailbox does not know: say again what was said.
            if let Some(code) = state.arrivals.outcome(sequence) {
                state.pending.push(self.ack(sequence, digest, code)?);
            }
            return Ok(Handled::Delivered);
        }
        let (handled, code, item) = match self.opener.open(bytes, self.now()) {
            Ok(opened) => {
                let content = opened.content;
                let item = content.item;
                let (source, id) = (content.source.clone(), content.id.clone());
                let handled = if state.arrivals.knows(&source, &id) {
                    Handled::Delivered
                } else {
                    let message = Message {
                        header,
                        content,
                        at: self.now(),
                    };
                    receiver.receive(Arrived::Message(Box::new(message))).await
                };
                let code = match handled {
                    Handled::Abandon => return Ok(handled),
                    Handled::NotDelivered => AckCode::NotDelivered,
                    Handled::Delivered | Handled::Enough => {
                        state.arrivals.handed_on(&source, &id);
                        AckCode::Delivered
                    }
                };
                (handled, code, item)
            }
            Err(error) => {
                let code = error.ack_code().unwrap_or(AckCode::CannotDecrypt);
                let sequence = Some(sequence);
                let handled = receiver.receive(Arrived::Refused { sequence, error }).await;
                (handled, code, None)
            }
        };
        let gap = state.arrivals.envelope(sequence, code);
        state.remember(Recent {
            sequence,
            digest,
            item,
        });
        state.pending.push(self.ack(sequence, digest, code)?);
        self.keep(state)?;
        Ok(tell(receiver, gap, handled).await)
    }

    /// Nothing in it counts; the mailbox is told what became of the number that it claims to have.
    async fn unbelieved(
        &mut self,
        state: &mut State,
        bytes: &[u8],
        error: OpenError,
        receiver: &mut impl Receiver,
    ) -> Result<Handled, DeviceError> {
        use hawser_proto::broker::{Envelope, envelope::MAX_ENVELOPE};
        if let Ok((_, claimed)) = Envelope::parse(bytes, MAX_ENVELOPE)
            && claimed.sequence > 0
        {
            let ack = self.ack(claimed.sequence, sha256(bytes), AckCode::CannotDecrypt)?;
            state.pending.push(ack);
        }
        let refused = Arrived::Refused {
            sequence: None,
            error,
        };
        Ok(receiver.receive(refused).await)
    }

    async fn skip(
        &mut self,
        state: &mut State,
        bytes: &[u8],
        receiver: &mut impl Receiver,
    ) -> Result<Handled, DeviceError> {
        let sender = self.identity.sender()?;
        let skip = Signed::<Skip>::parse(bytes)
            .ok()
            .and_then(|signed| verify(&signed, &sender).ok())
            .filter(|skip| skip.device == self.identity.device);
        let Some(skip) = skip else {
            let refused = Arrived::Refused {
                sequence: None,
                error: OpenError::Signature,
            };
            return Ok(receiver.receive(refused).await);
        };
        let gap = state.arrivals.skip(&skip);
        self.keep(state)?;
        let handled = receiver.receive(Arrived::Skipped(skip)).await;
        Ok(tell(receiver, gap, handled).await)
    }
}

async fn tell(receiver: &mut impl Receiver, gap: Option<Withheld>, handled: Handled) -> Handled {
    match gap {
        Some(gap) if !handled.is_end() => receiver.receive(Arrived::Withheld(gap)).await,
        _ => handled,
    }
}

fn item(kind: &str, data: &str) -> Item {
    let bytes = || B64.decode(data).unwrap_or_default();
    match kind {
        "envelope" => Item::Envelope(bytes()),
        "skip" => Item::Skip(bytes()),
        "revoked" => Item::Revoked,
        _ => Item::Unknown,
    }
}

/// Between 0.5 and 1, so that many devices do not come back at once.
fn jitter() -> f64 {
    let byte = hawser_seal::random::<1>().map_or(0, |[byte]| byte);
    0.5 + f64::from(byte) / 512.0
}
