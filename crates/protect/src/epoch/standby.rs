//! The standby side: what is acknowledged, and when the machine starts here.

use std::time::{Duration, Instant};

use hawser_proto::{
    NodeName,
    arbiter::{Award, Record, SessionId},
};

use super::{Reply, Seen, Silence};

/// Wait before the register is asked again after it could not be reached.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// What happens around the standby side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time passed.
    Tick,
    /// All of an epoch is here: memory, device state and disk writes up to its barrier.
    Complete(u64),
    /// Any byte or heartbeat came from the active host.
    Heard,
    /// The connection ended; why.
    LinkDown(String),
    /// The active host says that the guest died there.
    GuestDied,
    /// The active host says that protection has ended.
    Ended,
    /// The replica cannot take what came; why.
    Failed(String),
    /// The user forces the take-over.
    TakeOver,
    /// The device state is loaded into the waiting QEMU, all memory and disk writes of the last epoch before it; or it failed.
    Loaded(Result<(), String>),
    /// The register answered.
    Register(Reply),
}

/// What the standby side is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Tell the active host that this epoch is here.
    Acknowledge(u64),
    /// Apply the pages of this epoch, and let its disk writes go to the disk. If it cannot be, nothing that follows is done, and
    /// [`Event::Failed`] is told.
    Commit(u64),
    /// Give up the connection to the active host for good, forget what came after the last committed epoch, and load that one.
    /// Nothing is acknowledged from here on.
    Load,
    /// Read the register.
    Read,
    /// Change the register.
    Change {
        /// The term that it must have.
        from_term: u64,
        /// What it is to say.
        to: Award,
    },
    /// The register says that the machine runs here: let it.
    Run,
    /// Nothing will come of this session; why. The connection is given up, and the waiting QEMU ended.
    Discard(String),
}

/// Where the standby side stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Epochs come in.
    Receiving,
    /// The last epoch is being loaded.
    Loading,
    /// The register is asked.
    Asking,
    /// The machine runs here.
    Running,
    /// It is over.
    Ended,
}

/// The state machine of the standby side of one session.
#[derive(Debug)]
pub struct Standby {
    own: NodeName,
    active: NodeName,
    session: SessionId,
    phase: Phase,
    committed: u64,
    silence: Silence,
    link_down: bool,
    why: String,
    /// The term in which the register says `Protected` for this session, once read; then that of the take-over.
    term: Option<u64>,
    asking: bool,
    ask_at: Option<Instant>,
}

impl Standby {
    /// A session whose memory and disks are being synchronised.
    pub fn new(own: NodeName, active: NodeName, session: SessionId, detect: Duration, now: Instant) -> Self {
        Self {
            own,
            active,
            session,
            phase: Phase::Receiving,
            committed: 0,
            silence: Silence::new(detect, now),
            link_down: false,
            why: String::new(),
            term: None,
            asking: false,
            ask_at: None,
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The last epoch that is wholly here. 0: none.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// The register's term, once asked for.
    pub fn term(&self) -> Option<u64> {
        self.term
    }

    /// Why it takes over, or ended.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// When [`Event::Tick`] is due next.
    pub fn next_tick(&self) -> Option<Instant> {
        let look = self.silence.next_look();
        match self.phase {
            Phase::Receiving => Some(self.ask_at.map_or(look, |t| t.min(look))),
            Phase::Loading | Phase::Asking => self.ask_at,
            Phase::Running | Phase::Ended => None,
        }
    }

    /// Takes an event. Commands are added to `out`, to be carried out in their order.
    pub fn handle(&mut self, now: Instant, event: Event, out: &mut Vec<Command>) {
        match self.phase {
            Phase::Receiving => self.receiving(now, event, out),
            Phase::Loading | Phase::Asking => self.taking_over(now, event, out),
            Phase::Running | Phase::Ended => {}
        }
    }

    fn receiving(&mut self, now: Instant, event: Event, out: &mut Vec<Command>) {
        match event {
            Event::Tick => self.tick(now, out),
            Event::Heard => {
                self.silence.heard(now);
            }
            Event::Complete(epoch) => {
                self.silence.heard(now);
                if epoch > self.committed && !self.link_down {
                    self.committed = epoch;
                    out.push(Command::Commit(epoch));
                    out.push(Command::Acknowledge(epoch));
                }
            }
            Event::LinkDown(why) => {
                if self.committed == 0 {
                    return self.discard(format!("the connection ended before the first epoch: {why}"), out);
                }
                if !self.link_down {
                    self.link_down = true;
                    self.why = why;
                    self.ask_at = Some(now + ASK_AGAIN);
                }
            }
            Event::Ended => self.discard("protection has ended".into(), out),
            Event::Failed(why) => self.discard(why, out),
            Event::GuestDied => self.take_over("the guest died on the active host".into(), out),
            Event::TakeOver => self.take_over("the fail-over was asked for".into(), out),
            Event::Register(reply) => {
                self.asking = false;
                self.still_ours(now, reply, out);
            }
            Event::Loaded(_) => {}
        }
    }

    fn tick(&mut self, now: Instant, out: &mut Vec<Command>) {
        // The connection is gone, but the active host lives: what the register says tells how it goes on.
        if self.ask_at.is_some_and(|t| t <= now) {
            self.ask_at = None;
            self.ask(Command::Read, out);
        }
        if self.silence.look(now) == Seen::Silent {
            self.take_over("the active host is silent".into(), out);
        }
    }

    /// An answer that comes while epochs still come in, or while only the connection is gone.
    fn still_ours(&mut self, now: Instant, reply: Reply, out: &mut Vec<Command>) {
        match reply {
            Reply::Is(record) if !record.as_ref().is_some_and(|r| self.is_ours(r)) => {
                let why = not_ours(record.as_ref());
                self.discard(format!("{}; {why}", self.why), out);
            }
            _ => self.ask_at = Some(now + ASK_AGAIN),
        }
    }

    fn take_over(&mut self, why: String, out: &mut Vec<Command>) {
        if self.committed == 0 {
            return self.discard(format!("{why}, and no epoch is here"), out);
        }
        self.why = why;
        self.phase = Phase::Loading;
        out.push(Command::Load);
        // Asked at the same time; the change itself waits until the state is loaded.
        self.ask(Command::Read, out);
    }

    fn taking_over(&mut self, now: Instant, event: Event, out: &mut Vec<Command>) {
        match event {
            Event::Loaded(Ok(())) => {
                self.phase = Phase::Asking;
                match self.term {
                    Some(_) => self.ask_to_run(out),
                    None => self.ask(Command::Read, out),
                }
            }
            Event::Loaded(Err(why)) => {
                self.discard(format!("the last epoch could not be loaded: {why}"), out)
            }
            Event::Register(reply) => {
                self.asking = false;
                self.replied(now, reply, out);
            }
            Event::Tick if self.ask_at.is_some_and(|t| t <= now) => {
                self.ask_at = None;
                self.ask(Command::Read, out);
            }
            _ => {}
        }
    }

    fn replied(&mut self, now: Instant, reply: Reply, out: &mut Vec<Command>) {
        match reply {
            Reply::Changed(record) | Reply::Is(Some(record)) | Reply::Lost(Some(record)) => {
                if self.phase == Phase::Asking && record.award == self.award() {
                    self.phase = Phase::Running;
                    self.term = Some(record.term);
                    out.push(Command::Run);
                } else if self.is_ours(&record) {
                    self.term = Some(record.term);
                    if self.phase == Phase::Asking {
                        self.ask_to_run(out);
                    }
                } else {
                    self.discard(not_ours(Some(&record)), out);
                }
            }
            Reply::Is(None) | Reply::Lost(None) => self.discard(not_ours(None), out),
            Reply::Refused(why) => {
                // A refusal of the rules is final: what it says is not ours to change.
                self.discard(format!("the register refused: {why}"), out);
            }
            Reply::Unknown => self.ask_at = Some(now),
            Reply::Unreachable => self.ask_at = Some(now + ASK_AGAIN),
        }
    }

    fn ask_to_run(&mut self, out: &mut Vec<Command>) {
        if let Some(from_term) = self.term {
            let to = self.award();
            self.ask(Command::Change { from_term, to }, out);
        }
    }

    fn ask(&mut self, question: Command, out: &mut Vec<Command>) {
        if !self.asking {
            self.asking = true;
            self.ask_at = None;
            out.push(question);
        }
    }

    fn discard(&mut self, why: String, out: &mut Vec<Command>) {
        self.phase = Phase::Ended;
        self.why.clone_from(&why);
        out.push(Command::Discard(why));
    }

    fn is_ours(&self, record: &Record) -> bool {
        record.award
            == Award::Protected {
                active: self.active.clone(),
                standby: self.own.clone(),
                session: self.session,
            }
    }

    fn award(&self) -> Award {
        Award::Alone {
            host: self.own.clone(),
        }
    }
}

fn not_ours(record: Option<&Record>) -> String {
    match record.map(|r| &r.award) {
        Some(award) => format!("the register says {award}"),
        None => "the register does not know the machine".into(),
    }
}
