//! The conversation with a domain's gateway, without the connection: what to do about what it says, what to ask it for devices,
//! and which reports it may be told.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use hawser_proto::broker::{
    DeviceHandle, Envelope, Kind,
    envelope::{MAX_ANSWER, MAX_ENVELOPE},
    mailbox::{FetchAnswer, FromMailbox, GRANT_LIFE, Happening, MAX_PIECE, MAX_REPORTS, Outcome, ToMailbox},
    statement::{self, Signed, SkipReason},
};
use hawser_store::{
    StoreError,
    mailbox::{
        Admission, Deposit, Deposited, Device, Event, MAX_SEQUENCE, Reason, Report, Revocation, Skip, Skipped,
    },
};

/// What devices ask one domain for at a time, granted answers that were not read included.
pub(super) const MAX_FETCHES: usize = 1024;
/// How long a gateway may take to answer a device, or to bring a piece.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
/// Messages with reports that the gateway has not taken yet.
const REPORTS_AHEAD: u64 = 4;

/// What a message asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Nothing,
    /// Say this.
    Say(FromMailbox),
    /// Ask the store; its answer is for the request with this id.
    Call(u64, Call),
    /// Tell the store that these reports are the gateway's.
    Taken(u64),
    /// The answer to what a device asked for.
    Answered(u64, FetchAnswer),
    /// A piece of what a device reads; empty: there is no more.
    Piece(u64, Vec<u8>),
}

/// What the store is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    /// A device may come.
    Admit(Device),
    /// It may no more.
    Revoke(DeviceHandle),
    /// An envelope.
    Deposit(Deposit),
    /// A skip record.
    Skip(Skip),
}

/// The machine. Times are the caller's.
#[derive(Debug)]
pub(super) struct Conversation {
    domain: Arc<str>,
    fetches: HashMap<u64, Fetch>,
    /// Of the last fetch.
    fetch: u64,
    /// Number of the last report said.
    told: u64,
    /// Number of the last report taken, here or on an earlier connection; none before the first was said.
    taken: Option<u64>,
}

#[derive(Debug)]
struct Fetch {
    since: Instant,
    state: FetchState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FetchState {
    Asked,
    Granted { size: u64, read: u64, pulling: bool },
}

impl Conversation {
    /// With a gateway of this domain.
    pub(super) fn new(domain: Arc<str>) -> Self {
        Self {
            domain,
            fetches: HashMap::new(),
            fetch: 0,
            told: 0,
            taken: None,
        }
    }

    /// The gateway has said something.
    pub(super) fn hear(&mut self, message: ToMailbox) -> Step {
        match message {
            ToMailbox::Admit {
                id,
                device,
                thumbprint,
                epoch,
            } => {
                let device = Device {
                    handle: device.0,
                    domain: self.domain.clone(),
                    thumbprint,
                    epoch,
                    revoked: false,
                };
                Step::Call(id, Call::Admit(device))
            }
            ToMailbox::Revoke { id, device } => Step::Call(id, Call::Revoke(device)),
            ToMailbox::Deposit { id, envelope } => called(id, self.deposit(envelope).map(Call::Deposit)),
            ToMailbox::Skip {
                id,
                device,
                from,
                to,
                record,
            } => called(id, self.skip(device, from, to, record).map(Call::Skip)),
            ToMailbox::Taken(number) => {
                let number = number.min(self.told);
                self.taken = self.taken.map(|taken| taken.max(number));
                Step::Taken(number)
            }
            ToMailbox::Fetched { id, answer } => self.fetched(id, answer),
            ToMailbox::Piece { id, bytes } => self.piece(id, bytes),
            ToMailbox::Ping(n) => Step::Say(FromMailbox::Pong(n)),
            ToMailbox::Pong(_) => Step::Nothing,
        }
    }

    fn deposit(&self, bytes: Vec<u8>) -> Result<Deposit, String> {
        let (_, header) = Envelope::parse(&bytes, MAX_ENVELOPE).map_err(|e| e.to_string())?;
        if header.kind != Kind::Event || !(1..=MAX_SEQUENCE).contains(&header.sequence) {
            return Err("expected an event's envelope with a number from 1".into());
        }
        Ok(Deposit {
            domain: self.domain.clone(),
            device: header.device.0,
            sequence: header.sequence,
            expires: header.expires.0,
            collapse: header.collapse,
            body: bytes.into(),
        })
    }

    fn skip(&self, device: DeviceHandle, from: u64, to: u64, record: Vec<u8>) -> Result<Skip, String> {
        let said = Signed::<statement::Skip>::parse(&record)
            .and_then(|signed| signed.unverified())
            .map_err(|e| e.to_string())?;
        if (said.device, said.from, said.to) != (device, from, to) {
            return Err("the skip record is about other numbers or another device".into());
        }
        if from == 0 || from > to || to > MAX_SEQUENCE {
            return Err(format!("{from} to {to} are no numbers to skip"));
        }
        Ok(Skip {
            domain: self.domain.clone(),
            device: device.0,
            from,
            to,
            body: record.into(),
        })
    }

    /// A device asks for something: its id, and what to say. None: too much is being asked already.
    pub(super) fn ask(
        &mut self,
        device: DeviceHandle,
        request: Vec<u8>,
        now: Instant,
    ) -> Option<(u64, FromMailbox)> {
        if self.fetches.len() >= MAX_FETCHES {
            return None;
        }
        self.fetch += 1;
        let id = self.fetch;
        let fetch = Fetch {
            since: now,
            state: FetchState::Asked,
        };
        self.fetches.insert(id, fetch);
        Some((id, FromMailbox::Fetch { id, device, request }))
    }

    fn fetched(&mut self, id: u64, answer: FetchAnswer) -> Step {
        let Some(fetch) = self.fetches.get_mut(&id).filter(|f| f.state == FetchState::Asked) else {
            return Step::Say(FromMailbox::Over(id));
        };
        match answer {
            FetchAnswer::Granted { size, .. } if size > MAX_ANSWER as u64 => {
                self.fetches.remove(&id);
                let reason = format!("the answer has {size} bytes, over the limit of {MAX_ANSWER}");
                Step::Answered(id, FetchAnswer::Refused { status: 502, reason })
            }
            FetchAnswer::Granted { size, .. } => {
                fetch.state = FetchState::Granted {
                    size,
                    read: 0,
                    pulling: false,
                };
                Step::Answered(id, answer)
            }
            FetchAnswer::Refused { .. } => {
                self.fetches.remove(&id);
                Step::Answered(id, answer)
            }
        }
    }

    /// A device wants more of what it was granted. None: there is nothing to be had.
    pub(super) fn pull(&mut self, id: u64) -> Option<FromMailbox> {
        match &mut self.fetches.get_mut(&id)?.state {
            FetchState::Granted { size, read, pulling } if !*pulling && *read < *size => {
                *pulling = true;
                Some(FromMailbox::Pull { id, offset: *read })
            }
            _ => None,
        }
    }

    fn piece(&mut self, id: u64, bytes: Vec<u8>) -> Step {
        let Some(Fetch {
            state: FetchState::Granted { size, read, pulling },
            ..
        }) = self.fetches.get_mut(&id)
        else {
            return Step::Nothing;
        };
        let length = bytes.len() as u64;
        if !*pulling || bytes.len() > MAX_PIECE || *read + length > *size {
            return Step::Piece(id, Vec::new());
        }
        *pulling = false;
        *read += length;
        Step::Piece(id, bytes)
    }

    /// A device has what it was granted, or does not want it any more.
    pub(super) fn over(&mut self, id: u64) -> Option<FromMailbox> {
        self.fetches.remove(&id).map(|_| FromMailbox::Over(id))
    }

    /// Fetches that took too long end: their ids.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<u64> {
        let late = |fetch: &Fetch| {
            let life = match fetch.state {
                FetchState::Asked => FETCH_TIMEOUT,
                FetchState::Granted { .. } => GRANT_LIFE * 2,
            };
            now.saturating_duration_since(fetch.since) > life
        };
        let of = self.fetches.iter().filter(|(_, fetch)| late(fetch));
        let ids: Vec<_> = of.map(|(id, _)| *id).collect();
        self.fetches.retain(|_, fetch| !late(fetch));
        ids
    }

    /// After which number reports may be said now.
    pub(super) fn wants_reports(&self) -> Option<u64> {
        let ahead = REPORTS_AHEAD * MAX_REPORTS as u64;
        self.taken
            .is_none_or(|taken| self.told - taken < ahead)
            .then_some(self.told)
    }

    /// Reports that follow the last one said.
    pub(super) fn report(&mut self, reports: Vec<Report>) -> Option<FromMailbox> {
        let last = reports.last()?.number;
        // Those before were taken on an earlier connection.
        self.taken.get_or_insert(reports[0].number - 1);
        self.told = last;
        Some(FromMailbox::Reports(reports.into_iter().map(say).collect()))
    }
}

fn called(id: u64, call: Result<Call, String>) -> Step {
    match call {
        Ok(call) => Step::Call(id, call),
        Err(why) => Step::Say(FromMailbox::Done {
            id,
            outcome: Outcome::Refused(why),
        }),
    }
}

fn say(report: Report) -> hawser_proto::broker::mailbox::Report {
    let what = match report.event {
        Event::Acknowledged(record) => Happening::Acknowledged(record),
        Event::Sent(sequence) => Happening::Sent { sequence },
        Event::GivenUp(sequence, reason) => Happening::GivenUp {
            sequence,
            reason: match reason {
                Reason::Collapsed => SkipReason::Collapsed,
                Reason::Expired => SkipReason::Expired,
                Reason::Dropped => SkipReason::Dropped,
            },
        },
    };
    hawser_proto::broker::mailbox::Report {
        number: report.number,
        device: DeviceHandle(report.device),
        what,
    }
}

/// What the gateway is told of [`Call::Admit`].
pub(super) fn admitted(done: &Result<Admission, StoreError>) -> Outcome {
    match done {
        Ok(Admission::Admitted | Admission::Unchanged) => Outcome::Kept,
        Ok(Admission::Revoked) => Outcome::Revoked,
        Ok(Admission::Full) => Outcome::Full,
        Ok(Admission::Foreign) => Outcome::Refused("another domain has a device with this handle".into()),
        Ok(Admission::Older(known)) => Outcome::Refused(format!(
            "the device's epoch is {known} already: a lower one is over"
        )),
        Ok(Admission::SameEpoch) => Outcome::Refused("a new key needs a higher epoch".into()),
        Err(_) => Outcome::Busy,
    }
}

/// What the gateway is told of [`Call::Revoke`].
pub(super) fn revoked(done: &Result<Revocation, StoreError>) -> Outcome {
    match done {
        Ok(Revocation::Revoked) => Outcome::Kept,
        Ok(Revocation::UnknownDevice) => Outcome::UnknownDevice,
        Err(_) => Outcome::Busy,
    }
}

/// What the gateway is told of [`Call::Deposit`].
pub(super) fn deposited(done: &Result<Deposited, StoreError>) -> Outcome {
    match done {
        Ok(Deposited::Kept { .. } | Deposited::Already) => Outcome::Kept,
        Ok(Deposited::UnknownDevice) => Outcome::UnknownDevice,
        Ok(Deposited::Revoked) => Outcome::Revoked,
        Ok(Deposited::Full) => Outcome::Full,
        Err(_) => Outcome::Busy,
    }
}

/// What the gateway is told of [`Call::Skip`].
pub(super) fn skipped(done: &Result<Skipped, StoreError>) -> Outcome {
    match done {
        Ok(Skipped::Kept { .. } | Skipped::Already) => Outcome::Kept,
        Ok(Skipped::UnknownDevice) => Outcome::UnknownDevice,
        Ok(Skipped::Revoked) => Outcome::Revoked,
        Err(_) => Outcome::Busy,
    }
}

#[cfg(test)]
#[path = "tests/conversation.rs"]
mod tests;
