//! Both sides, the register and the network between them as one simulated world: whatever is cut, frozen, lost or late, and in
//! whatever order, what the module promises holds.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use hawser_proto::{
    NodeName,
    arbiter::{Award, Decision, Record, SessionId, decide},
};
use proptest::prelude::*;

use super::{
    Reply, Seen, Silence,
    active::{self, Active, Outcome},
    standby::{self, Standby},
};

const DETECT: Duration = Duration::from_millis(400);
const SESSION: SessionId = SessionId([7; 16]);

fn name(s: &str) -> NodeName {
    s.parse().unwrap()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Active,
    Standby,
}

#[derive(Debug, Clone)]
enum Message {
    Epoch(u64),
    Died,
    Ended,
    Acknowledge(u64),
    Heartbeat,
}

#[derive(Debug, Clone)]
enum Question {
    Read,
    Change(u64, Award),
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Time,
    Epoch,
    ToStandby,
    ToActive,
    Cut,
    CutSilently,
    FreezeActive,
    FreezeStandby,
    Register,
    RegisterLoses,
    RegisterLater,
    Late,
    Answer,
    GuestDies,
    Stop,
    ArbiterAway,
    Loaded,
}

const STEPS: [Step; 17] = [
    Step::Time,
    Step::Epoch,
    Step::ToStandby,
    Step::ToActive,
    Step::Cut,
    Step::CutSilently,
    Step::FreezeActive,
    Step::FreezeStandby,
    Step::Register,
    Step::RegisterLoses,
    Step::RegisterLater,
    Step::Late,
    Step::Answer,
    Step::GuestDies,
    Step::Stop,
    Step::ArbiterAway,
    Step::Loaded,
];

struct World {
    now: Instant,
    active: Active,
    standby: Standby,
    register: Option<Record>,
    to_standby: VecDeque<Message>,
    to_active: VecDeque<Message>,
    connected: bool,
    frozen: [bool; 2],
    arbiter_away: bool,
    questions: VecDeque<(Side, Question)>,
    answers: VecDeque<(Side, Reply)>,
    late: VecDeque<(Side, Question)>,
    taken: u64,
    released: u64,
    guest_alive: bool,
    freed: Option<Outcome>,
    runs: bool,
    loading: bool,
    discarded: bool,
    /// The guest died while its protection was being given up.
    excused: bool,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let (a, b) = (name("a"), name("b"));
        let record = Record {
            award: Award::Alone { host: a.clone() },
            term: 1,
            by: a.clone(),
        };
        let mut world = Self {
            now,
            active: Active::new(a.clone(), b.clone(), SESSION, 1, DETECT, now),
            standby: Standby::new(b, a, SESSION, DETECT, now),
            register: Some(record),
            to_standby: VecDeque::new(),
            to_active: VecDeque::new(),
            connected: true,
            frozen: [false; 2],
            arbiter_away: false,
            questions: VecDeque::new(),
            answers: VecDeque::new(),
            late: VecDeque::new(),
            taken: 0,
            released: 0,
            guest_alive: true,
            freed: None,
            runs: false,
            loading: false,
            discarded: false,
            excused: false,
        };
        world.active(active::Event::Holding);
        world
    }

    fn active(&mut self, event: active::Event) {
        let mut out = Vec::new();
        self.active.handle(self.now, event, &mut out);
        for command in out {
            self.obey_active(command);
        }
    }

    fn obey_active(&mut self, command: active::Command) {
        use active::Command::*;
        match command {
            Release(epoch) => {
                assert!(
                    epoch <= self.standby.committed(),
                    "released {epoch} before the standby had it"
                );
                self.released = epoch;
            }
            Read => self.questions.push_back((Side::Active, Question::Read)),
            Change { from_term, to } => self
                .questions
                .push_back((Side::Active, Question::Change(from_term, to))),
            Break(_) => self.cut(),
            TellDied => self.send_standby(Message::Died),
            TellEnded => self.send_standby(Message::Ended),
            Free(outcome) => {
                assert!(!self.runs, "freed while the standby runs");
                self.freed = Some(outcome);
            }
            Destroy(_) => self.guest_alive = false,
            Announce => {}
        }
    }

    fn standby(&mut self, event: standby::Event) {
        let mut out = Vec::new();
        self.standby.handle(self.now, event, &mut out);
        for command in out {
            self.obey_standby(command);
        }
    }

    fn obey_standby(&mut self, command: standby::Command) {
        use standby::Command::*;
        match command {
            Acknowledge(epoch) => {
                assert!(!self.loading && !self.runs, "acknowledged while taking over");
                if self.connected {
                    self.to_active.push_back(Message::Acknowledge(epoch));
                }
            }
            Commit(_) => {}
            Load => {
                self.loading = true;
                self.cut();
            }
            Read => self.questions.push_back((Side::Standby, Question::Read)),
            Change { from_term, to } => self
                .questions
                .push_back((Side::Standby, Question::Change(from_term, to))),
            Run => {
                assert!(
                    self.freed.is_none(),
                    "runs though the active side was freed: {:?}",
                    self.freed
                );
                assert!(!self.loading, "runs before the state is loaded");
                assert!(
                    self.released <= self.standby.committed(),
                    "an epoch was released that is lost"
                );
                self.runs = true;
            }
            Discard(_) => {
                self.discarded = true;
                self.cut();
            }
        }
    }

    fn send_standby(&mut self, message: Message) {
        if self.connected {
            self.to_standby.push_back(message);
        }
    }

    fn cut(&mut self) {
        self.connected = false;
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Time => self.time(),
            Step::Epoch if self.guest_alive && !self.frozen[0] && self.active.takes_epochs() => {
                self.taken += 1;
                self.send_standby(Message::Epoch(self.taken));
            }
            Step::ToStandby if !self.frozen[1] => self.deliver_standby(),
            Step::ToActive if !self.frozen[0] => self.deliver_active(),
            Step::Cut if self.connected => {
                self.cut();
                self.active(active::Event::LinkDown("cut".into()));
                self.standby(standby::Event::LinkDown("cut".into()));
            }
            Step::CutSilently => self.cut(),
            Step::FreezeActive => self.frozen[0] = !self.frozen[0],
            Step::FreezeStandby => self.frozen[1] = !self.frozen[1],
            Step::Register => self.register(true),
            Step::RegisterLoses => self.register(false),
            Step::RegisterLater => self.register_later(),
            Step::Late => {
                if let Some((side, question)) = self.late.pop_front() {
                    self.decide(side, question);
                }
            }
            Step::Answer => self.answer(),
            Step::GuestDies if self.guest_alive && !self.frozen[0] && self.freed.is_none() => {
                self.excused |= matches!(self.active.phase(), active::Phase::Leaving(_));
                self.guest_alive = false;
                self.active(active::Event::GuestDied);
            }
            Step::Stop if !self.frozen[0] => self.active(active::Event::Stop),
            Step::ArbiterAway => self.arbiter_away = !self.arbiter_away,
            Step::Loaded if self.loading && !self.frozen[1] => {
                self.loading = false;
                self.standby(standby::Event::Loaded(Ok(())));
            }
            _ => {}
        }
    }

    fn time(&mut self) {
        self.now += DETECT / 8;
        if self.connected && !self.frozen[0] {
            self.to_standby.push_back(Message::Heartbeat);
        }
        if self.connected && !self.frozen[1] {
            self.to_active.push_back(Message::Heartbeat);
        }
        if !self.frozen[0] && self.active.next_tick().is_some_and(|t| t <= self.now) {
            self.active(active::Event::Tick);
        }
        if !self.frozen[1] && self.standby.next_tick().is_some_and(|t| t <= self.now) {
            self.standby(standby::Event::Tick);
        }
    }

    fn deliver_standby(&mut self) {
        match self.to_standby.pop_front() {
            Some(Message::Epoch(e)) => self.standby(standby::Event::Complete(e)),
            Some(Message::Died) => self.standby(standby::Event::GuestDied),
            Some(Message::Ended) => self.standby(standby::Event::Ended),
            Some(Message::Heartbeat) => self.standby(standby::Event::Heard),
            _ => {}
        }
    }

    fn deliver_active(&mut self) {
        match self.to_active.pop_front() {
            Some(Message::Acknowledge(e)) => self.active(active::Event::Acknowledged(e)),
            Some(Message::Heartbeat) => self.active(active::Event::Heard),
            _ => {}
        }
    }

    /// The next question reaches the register; its answer may get lost on the way back.
    fn register(&mut self, answers: bool) {
        let Some((side, question)) = self.questions.pop_front() else {
            return;
        };
        let reply = if self.arbiter_away {
            Reply::Unreachable
        } else {
            let reply = self.decide(side, question);
            if answers { reply } else { Reply::Unknown }
        };
        self.answers.push_back((side, reply));
    }

    /// The connection dies under the next question, which will reach the register later all the same.
    fn register_later(&mut self) {
        if let Some((side, question)) = self.questions.pop_front() {
            self.answers.push_back((side, Reply::Unknown));
            self.late.push_back((side, question));
        }
    }

    fn decide(&mut self, side: Side, question: Question) -> Reply {
        let by = if side == Side::Active {
            name("a")
        } else {
            name("b")
        };
        match question {
            Question::Read => Reply::Is(self.register.clone()),
            Question::Change(from, to) => match decide(self.register.as_ref(), &by, from, &to) {
                Decision::Write(record) => {
                    self.register = Some(record.clone());
                    Reply::Changed(record)
                }
                Decision::Done(record) => Reply::Changed(record),
                Decision::Lost => Reply::Lost(self.register.clone()),
                Decision::Denied(why) => Reply::Refused(why.to_string()),
            },
        }
    }

    fn answer(&mut self) {
        match self.answers.front() {
            Some((Side::Active, _)) if self.frozen[0] => {}
            Some((Side::Standby, _)) if self.frozen[1] => {}
            _ => match self.answers.pop_front() {
                Some((Side::Active, reply)) => self.active(active::Event::Register(reply)),
                Some((Side::Standby, reply)) => self.standby(standby::Event::Register(reply)),
                None => {}
            },
        }
    }

    /// All that can be mended is mended, and everything gets its turn.
    fn heal(&mut self) {
        self.frozen = [false; 2];
        self.arbiter_away = false;
        if !self.connected {
            self.active(active::Event::LinkDown("found cut".into()));
            self.standby(standby::Event::LinkDown("found cut".into()));
        }
        for _ in 0..200 {
            for step in [
                Step::Time,
                Step::Late,
                Step::ToStandby,
                Step::ToActive,
                Step::Register,
                Step::Answer,
                Step::Loaded,
            ] {
                self.step(step);
            }
            while !self.to_standby.is_empty() || !self.to_active.is_empty() {
                self.deliver_standby();
                self.deliver_active();
            }
        }
    }
}

fn healthy_start(world: &mut World) {
    for step in [
        Step::Epoch,
        Step::ToStandby,
        Step::ToActive,
        Step::Register,
        Step::Answer,
    ] {
        world.step(step);
    }
    assert_eq!(*world.active.phase(), active::Phase::Protected);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100_000) })]

    #[test]
    fn never_two_and_nothing_released_is_lost(protected: bool, steps in prop::collection::vec(prop::sample::select(STEPS.to_vec()), 1..120)) {
        let mut world = World::new();
        if protected {
            healthy_start(&mut world);
        }
        for step in steps {
            world.step(step);
        }
        world.heal();
        prop_assert!(!(world.runs && world.guest_alive && world.freed.is_some()));
        // It lives on at one place, unless it died before the standby could take over.
        let lives = world.runs || world.guest_alive;
        let was_protected = protected && world.freed.is_none() && !world.excused;
        prop_assert!(lives || !was_protected, "dark: {:?} {:?} {:?}", world.active, world.standby, world.register);
        prop_assert!(!world.runs || !world.guest_alive, "the old machine still lives");
        // Nobody waits for ever for one that has ended.
        let over = *world.standby.phase() != standby::Phase::Receiving;
        prop_assert_eq!(over, *world.active.phase() == active::Phase::Ended, "{:?} {:?} {:?}", world.active, world.standby, world.register);
    }
}

#[test]
fn the_hosts_death_is_found_and_the_standby_runs() {
    let mut world = World::new();
    healthy_start(&mut world);
    world.frozen[0] = true;
    world.connected = false;
    for _ in 0..12 {
        for step in [Step::Time, Step::Register, Step::Answer, Step::Loaded] {
            world.step(step);
        }
    }
    assert!(world.runs);
    assert_eq!(world.standby.why(), "the active host is silent");
}

#[test]
fn a_standby_that_takes_over_too_early_leaves_nobody_behind() {
    let mut world = World::new();
    healthy_start(&mut world);
    // Nothing reaches the standby in time, and its host lives and goes on hearing it.
    for step in [Step::Time; 4] {
        world.step(step);
        world.step(Step::ToActive);
    }
    for step in [Step::Time; 4] {
        world.step(step);
    }
    assert_eq!(*world.standby.phase(), standby::Phase::Loading);
    assert_eq!(*world.active.phase(), active::Phase::Protected);
    world.heal();
    assert!(
        world.runs != world.guest_alive,
        "{:?} {:?}",
        world.active,
        world.standby
    );
    assert_eq!(*world.active.phase(), active::Phase::Ended);
    assert_ne!(*world.standby.phase(), standby::Phase::Receiving);
}

#[test]
fn a_thawed_host_reads_the_register_and_destroys_its_machine() {
    let mut world = World::new();
    healthy_start(&mut world);
    world.step(Step::Epoch);
    world.step(Step::ToStandby);
    world.frozen[0] = true;
    world.connected = false;
    for _ in 0..12 {
        for step in [Step::Time, Step::Register, Step::Answer, Step::Loaded] {
            world.step(step);
        }
    }
    assert!(world.runs);
    let before = world.released;
    world.frozen[0] = false;
    // The acknowledgement that waited in the socket comes first.
    world.step(Step::ToActive);
    assert_eq!(
        world.released, before,
        "released without having read the register"
    );
    world.heal();
    assert!(!world.guest_alive && world.freed.is_none());
    assert_eq!(world.released, before);
}

#[test]
fn with_the_arbiter_away_nobody_changes_role() {
    let mut world = World::new();
    healthy_start(&mut world);
    world.arbiter_away = true;
    world.step(Step::Cut);
    for _ in 0..40 {
        for step in [Step::Time, Step::Register, Step::Answer, Step::Loaded] {
            world.step(step);
        }
    }
    assert!(world.freed.is_none() && !world.runs);
    assert!(world.guest_alive, "the machine waits, mute");
}

#[test]
fn a_lost_standby_frees_the_machine_once_the_register_says_so() {
    let mut world = World::new();
    healthy_start(&mut world);
    world.frozen[1] = true;
    world.connected = false;
    for _ in 0..10 {
        world.step(Step::Time);
    }
    assert!(world.freed.is_none(), "freed before the register said so");
    world.step(Step::Register);
    world.step(Step::Answer);
    assert!(matches!(world.freed, Some(Outcome::Alone(_))));
}

#[test]
fn a_hung_machine_is_destroyed_only_where_the_standby_may_take_over() {
    use active::{Command, Event, Phase};
    let now = Instant::now();
    let alone = Record {
        award: Award::Alone { host: name("a") },
        term: 1,
        by: name("a"),
    };
    let protected = Record {
        award: Award::Protected {
            active: name("a"),
            standby: name("b"),
            session: SESSION,
        },
        term: 2,
        by: name("a"),
    };
    let before = [
        Event::Holding,
        Event::Acknowledged(2),
        Event::Register(Reply::Changed(protected)),
    ];
    for steps in 0..=before.len() {
        let mut active = Active::new(name("a"), name("b"), SESSION, 1, DETECT, now);
        let mut out = Vec::new();
        for event in &before[..steps] {
            active.handle(now, event.clone(), &mut out);
        }
        let phase = active.phase().clone();
        out.clear();
        active.handle(now, Event::GuestHung("it hangs".into()), &mut out);
        let destroyed = out.iter().any(|c| matches!(c, Command::Destroy(_)));
        assert_eq!(destroyed, phase == Phase::Protected, "{phase:?}: {out:?}");
        if phase == Phase::Claiming {
            // The claim never arrived: what the register says frees it.
            active.handle(now, Event::Register(Reply::Is(Some(alone.clone()))), &mut out);
        }
        let freed = out
            .iter()
            .any(|c| matches!(c, Command::Free(Outcome::NeverBegan(_))));
        assert_eq!(freed, phase != Phase::Protected, "{phase:?}: {out:?}");
    }
}

#[test]
fn who_did_not_run_for_a_while_notices_by_what_comes_first() {
    let now = Instant::now();
    let later = now + DETECT / 2;
    let silence = || Silence::new(DETECT, now);
    assert_eq!(silence().look(later), Seen::OwnGap);
    assert!(silence().heard(later));
    let mut awake = silence();
    assert_eq!(awake.look(now + DETECT / 4), Seen::Alive);
    assert!(!awake.heard(later));
    assert_eq!(awake.look(later), Seen::Alive);
}
