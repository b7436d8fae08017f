//! The active side: when output leaves, and whether the machine may go on here.

use std::time::{Duration, Instant};

use hawser_proto::{
    NodeName,
    arbiter::{Award, Record, SessionId},
};

use super::{Reply, Seen, Silence};

/// Wait before the register is asked again after it could not be reached.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// What happens around the active side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time passed.
    Tick,
    /// Memory and disks are synchronised and output is held: epochs may begin.
    Holding,
    /// The standby holds this epoch: memory, device state and disk writes.
    Acknowledged(u64),
    /// Any byte or heartbeat came from the standby.
    Heard,
    /// The connection to the standby ended, or the standby refused to go on; why.
    LinkDown(String),
    /// The guest's process ended, and no shutdown preceded it.
    GuestDied,
    /// QEMU does not answer any more.
    GuestHung(String),
    /// The guest shut down, or was told to quit by its administrator.
    GuestShutDown,
    /// The register answered.
    Register(Reply),
    /// The user ends the protection.
    Stop,
    /// The user forces the standby to take over.
    FailOver,
}

/// What the active side is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Let output up to the boundary of this epoch leave.
    Release(u64),
    /// Read the register.
    Read,
    /// Change the register.
    Change {
        /// The term that it must have.
        from_term: u64,
        /// What it is to say.
        to: Award,
    },
    /// Give up the connection to the standby for good; why.
    Break(String),
    /// Tell the standby that the guest is dead here and that it is to take over.
    TellDied,
    /// Tell the standby that protection has ended and that it may clean up.
    TellEnded,
    /// The machine goes on here without protection: let all output leave, and take off everything that was added to it.
    Free(Outcome),
    /// The machine must not live here any longer; why.
    Destroy(String),
    /// Protection is in force.
    Announce,
}

/// How protection ended with the machine here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The user asked for it.
    Stopped,
    /// It never began; why.
    NeverBegan(String),
    /// The standby is lost; why. The machine runs on unprotected.
    Alone(String),
    /// The guest shut down.
    ShutDown,
}

/// Where the active side stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Memory and disks are being synchronised; output leaves as ever.
    Synchronising,
    /// Output is held until the standby has the first epoch.
    First,
    /// The register is asked for `Protected`.
    Claiming,
    /// The standby may take over.
    Protected,
    /// The register is asked for `Alone` or `Stopped`; output stays held until it has said so.
    Leaving(Outcome),
    /// It is over.
    Ended,
}

/// The state machine of the active side of one session.
#[derive(Debug)]
pub struct Active {
    own: NodeName,
    standby: NodeName,
    session: SessionId,
    phase: Phase,
    /// The register's term as last seen.
    term: u64,
    committed: u64,
    released: u64,
    silence: Silence,
    /// The standby may have given this side up: the register is read before anything is released.
    doubt: bool,
    /// A question to the register waits for its answer.
    asking: bool,
    /// The claim was sent and its outcome is not known: it may still arrive at the register. Only repeating it settles that.
    unsettled: bool,
    claiming: bool,
    ask_at: Option<Instant>,
    broken: bool,
}

impl Active {
    /// A session that begins; the register says `Alone(own)` in this term.
    pub fn new(
        own: NodeName,
        standby: NodeName,
        session: SessionId,
        term: u64,
        detect: Duration,
        now: Instant,
    ) -> Self {
        Self {
            own,
            standby,
            session,
            phase: Phase::Synchronising,
            term,
            committed: 0,
            released: 0,
            silence: Silence::new(detect, now),
            doubt: false,
            asking: false,
            unsettled: false,
            claiming: false,
            ask_at: None,
            broken: false,
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The last epoch that the standby holds.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// The register's term as last seen.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Whether epochs are to be taken.
    pub fn takes_epochs(&self) -> bool {
        !matches!(self.phase, Phase::Leaving(_) | Phase::Ended) && !self.broken
    }

    /// When [`Event::Tick`] is due next.
    pub fn next_tick(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ended => None,
            _ if self.broken => self.ask_at,
            _ => Some(
                self.ask_at
                    .map_or(self.silence.next_look(), |t| t.min(self.silence.next_look())),
            ),
        }
    }

    /// Takes an event. Commands are added to `out`, to be carried out in their order.
    pub fn handle(&mut self, now: Instant, event: Event, out: &mut Vec<Command>) {
        if self.phase == Phase::Ended {
            return;
        }
        match event {
            Event::Tick => self.tick(now, out),
            Event::Holding => {
                if self.phase == Phase::Synchronising {
                    self.phase = Phase::First;
                }
            }
            Event::Heard => self.heard(now, out),
            Event::Acknowledged(epoch) => {
                self.heard(now, out);
                self.acknowledged(epoch, out);
            }
            Event::LinkDown(why) => self.isolated(why, out),
            Event::GuestDied => self.guest_died(out),
            Event::GuestHung(why) => self.guest_hung(why, out),
            Event::GuestShutDown => self.leave(Outcome::ShutDown, out),
            Event::Register(reply) => {
                self.asking = false;
                if std::mem::take(&mut self.claiming) {
                    self.unsettled = match reply {
                        Reply::Unknown => true,
                        Reply::Unreachable => self.unsettled,
                        _ => false,
                    };
                }
                self.replied(now, reply, out);
            }
            Event::Stop => self.leave(Outcome::Stopped, out),
            Event::FailOver => {
                if self.phase == Phase::Protected {
                    out.push(Command::Destroy("the fail-over was asked for".into()));
                    self.guest_died(out);
                }
            }
        }
    }

    fn tick(&mut self, now: Instant, out: &mut Vec<Command>) {
        if self.ask_at.is_some_and(|t| t <= now) {
            self.ask_at = None;
            self.ask(Command::Read, out);
        }
        if self.broken {
            return;
        }
        match self.silence.look(now) {
            Seen::Alive => {}
            Seen::OwnGap => self.doubted(out),
            Seen::Silent => self.isolated("the standby is silent".into(), out),
        }
    }

    fn heard(&mut self, now: Instant, out: &mut Vec<Command>) {
        if self.silence.heard(now) {
            self.doubted(out);
        }
    }

    /// The standby may have given this side up while it was not looking.
    fn doubted(&mut self, out: &mut Vec<Command>) {
        if matches!(self.phase, Phase::Claiming | Phase::Protected) {
            self.doubt = true;
            self.ask(Command::Read, out);
        }
    }

    fn acknowledged(&mut self, epoch: u64, out: &mut Vec<Command>) {
        if self.broken || epoch <= self.committed {
            return;
        }
        self.committed = epoch;
        if self.phase == Phase::First {
            self.phase = Phase::Claiming;
            self.claim(out);
        }
        self.release(out);
    }

    fn release(&mut self, out: &mut Vec<Command>) {
        let may = matches!(self.phase, Phase::Claiming | Phase::Protected) && !self.doubt && !self.broken;
        if may && self.released < self.committed {
            self.released = self.committed;
            out.push(Command::Release(self.committed));
        }
    }

    /// Nothing more will come from the standby in this session.
    fn isolated(&mut self, why: String, out: &mut Vec<Command>) {
        if !self.broken {
            self.broken = true;
            out.push(Command::Break(why.clone()));
        }
        match self.phase {
            // The standby cannot take over before the register says so: nothing needs to be asked.
            Phase::Synchronising | Phase::First => self.free(Outcome::NeverBegan(why), out),
            Phase::Claiming => {
                // The claim may still arrive at the register, or have arrived.
                self.phase = Phase::Leaving(Outcome::Alone(why));
                self.ask(Command::Read, out);
            }
            Phase::Protected => {
                self.phase = Phase::Leaving(Outcome::Alone(why));
                self.ask_to_leave(out);
            }
            Phase::Leaving(_) | Phase::Ended => {}
        }
    }

    fn leave(&mut self, outcome: Outcome, out: &mut Vec<Command>) {
        match self.phase {
            Phase::Synchronising | Phase::First => {
                if outcome == Outcome::ShutDown {
                    self.phase = Phase::Leaving(outcome);
                    self.ask_to_leave(out);
                } else {
                    out.push(Command::TellEnded);
                    self.free(outcome, out);
                }
            }
            Phase::Claiming => {
                self.phase = Phase::Leaving(outcome);
                self.ask(Command::Read, out);
            }
            Phase::Protected => {
                self.phase = Phase::Leaving(outcome);
                self.ask_to_leave(out);
            }
            Phase::Leaving(ref mut before) => {
                if outcome == Outcome::ShutDown {
                    *before = outcome;
                }
            }
            Phase::Ended => {}
        }
    }

    /// Only where the standby may take over is a machine that does not answer worth less than none.
    fn guest_hung(&mut self, why: String, out: &mut Vec<Command>) {
        match self.phase {
            Phase::Protected => {
                out.push(Command::Destroy(why));
                self.guest_died(out);
            }
            Phase::Synchronising | Phase::First | Phase::Claiming => {
                self.leave(Outcome::NeverBegan(why), out);
            }
            Phase::Leaving(_) | Phase::Ended => {}
        }
    }

    fn guest_died(&mut self, out: &mut Vec<Command>) {
        if matches!(self.phase, Phase::Leaving(Outcome::ShutDown)) {
            return;
        }
        if !self.broken {
            // Where the register lets it, the standby takes over: it asks for itself.
            let protected = matches!(self.phase, Phase::Claiming | Phase::Protected | Phase::Leaving(_));
            out.push(if protected {
                Command::TellDied
            } else {
                Command::TellEnded
            });
        }
        self.phase = Phase::Ended;
    }

    fn free(&mut self, outcome: Outcome, out: &mut Vec<Command>) {
        self.phase = Phase::Ended;
        out.push(Command::Free(outcome));
    }

    /// The register is somebody else's.
    fn lost(&mut self, record: Option<Record>, out: &mut Vec<Command>) {
        let who = match record.map(|r| r.award) {
            Some(Award::Alone { host }) => format!("{host} runs it"),
            Some(other) => format!("the register says {other}"),
            None => "the register knows it no longer".into(),
        };
        if !self.broken {
            self.broken = true;
            out.push(Command::Break(who.clone()));
        }
        self.phase = Phase::Ended;
        out.push(Command::Destroy(who));
    }

    fn replied(&mut self, now: Instant, reply: Reply, out: &mut Vec<Command>) {
        match reply {
            Reply::Changed(record) | Reply::Is(Some(record)) => self.record(record, out),
            Reply::Is(None) => self.lost(None, out),
            Reply::Lost(current) => match current {
                Some(record) => self.record(record, out),
                None => self.lost(None, out),
            },
            Reply::Refused(why) => self.refused(now, why, out),
            Reply::Unknown => self.ask_at = Some(now),
            Reply::Unreachable => match self.phase {
                // The claim was never put: the register still says Alone.
                Phase::Claiming if !self.doubt && !self.unsettled => {
                    out.push(Command::TellEnded);
                    self.free(Outcome::NeverBegan("the register cannot be reached".into()), out);
                }
                _ => self.ask_at = Some(now + ASK_AGAIN),
            },
        }
    }

    /// What the register says, however it came to be known.
    fn record(&mut self, record: Record, out: &mut Vec<Command>) {
        let ours_protected = record.award == self.award_protected();
        let ours_alone = record.award == self.award_alone();
        let ours_stopped = record.award == self.award_stopped();
        if !(ours_protected || ours_alone || ours_stopped) {
            return self.lost(Some(record), out);
        }
        self.term = record.term;
        match self.phase.clone() {
            Phase::Claiming | Phase::Protected if ours_protected => {
                if self.phase == Phase::Claiming {
                    self.phase = Phase::Protected;
                    out.push(Command::Announce);
                }
                self.doubt = false;
                self.release(out);
            }
            // Not claimed yet: the answer to a question that overtook the claim, or the claim was lost on its way.
            Phase::Claiming if ours_alone => {
                self.doubt = false;
                self.claim(out);
                self.release(out);
            }
            Phase::Protected => self.lost(Some(record), out),
            Phase::Leaving(outcome) => {
                let done = if outcome == Outcome::ShutDown {
                    ours_stopped
                } else {
                    ours_alone
                };
                if ours_alone && self.unsettled {
                    self.claim(out);
                } else if done {
                    if !self.broken {
                        out.push(Command::TellEnded);
                    }
                    self.free(outcome, out);
                } else {
                    self.ask_to_leave(out);
                }
            }
            _ => {}
        }
    }

    fn refused(&mut self, now: Instant, why: String, out: &mut Vec<Command>) {
        match self.phase {
            Phase::Claiming => {
                out.push(Command::TellEnded);
                self.free(Outcome::NeverBegan(format!("the register refused: {why}")), out);
            }
            _ => self.ask_at = Some(now + ASK_AGAIN),
        }
    }

    fn ask_to_leave(&mut self, out: &mut Vec<Command>) {
        let to = if matches!(self.phase, Phase::Leaving(Outcome::ShutDown)) {
            self.award_stopped()
        } else {
            self.award_alone()
        };
        self.ask(self.change(to), out);
    }

    fn claim(&mut self, out: &mut Vec<Command>) {
        if !self.asking {
            self.claiming = true;
            self.ask(self.change(self.award_protected()), out);
        }
    }

    /// One question at a time; when one is under way, its answer leads to the next.
    fn ask(&mut self, question: Command, out: &mut Vec<Command>) {
        if !self.asking {
            self.asking = true;
            self.ask_at = None;
            out.push(question);
        }
    }

    fn change(&self, to: Award) -> Command {
        Command::Change {
            from_term: self.term,
            to,
        }
    }

    fn award_protected(&self) -> Award {
        Award::Protected {
            active: self.own.clone(),
            standby: self.standby.clone(),
            session: self.session,
        }
    }

    fn award_alone(&self) -> Award {
        Award::Alone {
            host: self.own.clone(),
        }
    }

    fn award_stopped(&self) -> Award {
        Award::Stopped {
            host: self.own.clone(),
        }
    }
}
