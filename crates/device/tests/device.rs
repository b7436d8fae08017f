//! A device against a control and a mailbox over real TLS.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fake;

use std::{sync::Arc, time::Duration};

use fake::{DEVICE, Fake, ITEM, MAX_SEQUENCE};
use hawser_device::{Arrived, Cost, Device, DeviceError, Enrolment, Handled, Home, Receiver, enrol};
use hawser_proto::broker::{
    api::Profile,
    statement::{AckCode, Acknowledgement},
};
use hawser_seal::OpenError;
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};

const PASSPHRASE: &str = "correct horse battery";
const CHEAP: Cost = Cost {
    memory: 64,
    passes: 1,
    lanes: 1,
};
/// Nothing here takes so long unless it is broken.
const LONG: Duration = Duration::from_secs(60);

struct World {
    fake: Arc<Fake>,
    acks: UnboundedReceiver<Acknowledgement>,
    home: Home,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let (fake, acks) = Fake::start().await;
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path().join("device"));
        Self {
            fake,
            acks,
            home,
            _dir: dir,
        }
    }

    async fn enrolled() -> Self {
        let world = Self::new().await;
        world.enrol(&world.fake.link(), PASSPHRASE).await.unwrap();
        world
    }

    async fn enrol(&self, link: &str, passphrase: &str) -> Result<hawser_device::Identity, DeviceError> {
        let enrolment = Enrolment {
            link: link.into(),
            name: "alice's laptop".into(),
            profile: Profile::default(),
            cost: CHEAP,
        };
        enrol(&self.home, &enrolment, passphrase, |number| {
            assert_eq!(number.len(), 6)
        })
        .await
    }

    fn device(&self) -> Device {
        Device::open(self.home.clone(), PASSPHRASE).unwrap()
    }

    /// Listens in a task; what comes is told here.
    fn listen(&self) -> Listening {
        let (told, tell) = unbounded_channel();
        let mut device = self.device();
        let task = tokio::spawn(async move {
            let mut tell = Tell(told);
            device.listen(&mut tell).await
        });
        Listening { told: tell, task }
    }

    async fn acked(&mut self) -> (u64, AckCode) {
        let ack = timeout(LONG, self.acks.recv()).await.unwrap().unwrap();
        assert_eq!(ack.device, DEVICE);
        (ack.sequence, ack.code)
    }
}

struct Tell(UnboundedSender<Arrived>);

impl Receiver for Tell {
    async fn receive(&mut self, arrived: Arrived) -> Handled {
        let last = matches!(&arrived, Arrived::Message(m) if m.content.id == "last");
        let bad = matches!(&arrived, Arrived::Message(m) if m.content.id == "undeliverable");
        let _ = self.0.send(arrived);
        match (last, bad) {
            (true, _) => Handled::Enough,
            (_, true) => Handled::NotDelivered,
            _ => Handled::Delivered,
        }
    }
}

struct Listening {
    told: UnboundedReceiver<Arrived>,
    task: tokio::task::JoinHandle<Result<(), DeviceError>>,
}

impl Listening {
    async fn next(&mut self) -> Arrived {
        timeout(LONG, self.told.recv()).await.unwrap().unwrap()
    }

    async fn connected(&mut self) {
        assert!(matches!(self.next().await, Arrived::Connected));
    }

    async fn message(&mut self) -> (u64, String) {
        match self.next().await {
            Arrived::Message(m) => {
                assert_eq!(m.content.body, format!("about {}", m.content.id).into_bytes());
                (m.header.sequence, m.content.id)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn end(self) -> Result<(), DeviceError> {
        timeout(LONG, self.task).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn a_link_makes_one_device() {
    let world = World::new().await;
    let link = world.fake.link();
    assert!(matches!(
        world.enrol("https://localhost/enrol", PASSPHRASE).await,
        Err(DeviceError::Link)
    ));
    assert!(matches!(
        world.enrol(&link, "short").await,
        Err(DeviceError::Weak(5))
    ));
    assert!(matches!(
        Device::open(world.home.clone(), PASSPHRASE),
        Err(DeviceError::NotEnrolled(_))
    ));
    let identity = world.enrol(&link, PASSPHRASE).await.unwrap();
    assert_eq!((identity.user.as_str(), identity.device), ("alice", DEVICE));
    assert_eq!(identity.certificate().unwrap().name, "alice's laptop");
    assert!(matches!(
        world.enrol(&link, PASSPHRASE).await,
        Err(DeviceError::Enrolled(_))
    ));
    assert!(matches!(
        Device::open(world.home.clone(), "another passphrase"),
        Err(DeviceError::Passphrase)
    ));
    // Nor is a link good for a second device.
    let second = World {
        home: Home::new(world.home.path().with_file_name("second")),
        ..world
    };
    assert!(matches!(
        second.enrol(&link, PASSPHRASE).await,
        Err(DeviceError::Refused { status: 410, .. })
    ));
    assert!(second.home.identity().is_err());
}

#[tokio::test]
async fn nobody_else_answers_for_the_domain() {
    let (world, other) = (World::new().await, World::new().await);
    // The link of one domain, led to the other's server.
    let (_, fragment) = world
        .fake
        .link()
        .split_once('#')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    let link = format!("{}/enrol#{fragment}", other.fake.control);
    assert!(matches!(
        world.enrol(&link, PASSPHRASE).await,
        Err(DeviceError::Connect { .. })
    ));
    // Nor a server that has the hub's key only.
    let link = format!("{}/enrol#{fragment}", world.fake.mailbox);
    assert!(matches!(
        world.enrol(&link, PASSPHRASE).await,
        Err(DeviceError::Connect { .. })
    ));
}

#[tokio::test]
async fn what_comes_is_opened_and_acknowledged_once() {
    let mut world = World::enrolled().await;
    world.fake.event(1, "one");
    let mut listening = world.listen();
    listening.connected().await;
    assert_eq!(listening.message().await, (1, "one".into()));
    assert_eq!(world.acked().await, (1, AckCode::Delivered));
    // Live, and the same event again under another number: acknowledged, not handed on.
    world.fake.event(2, "one");
    world.fake.event(3, "undeliverable");
    assert_eq!(listening.message().await, (3, "undeliverable".into()));
    assert_eq!(world.acked().await, (2, AckCode::Delivered));
    assert_eq!(world.acked().await, (3, AckCode::NotDelivered));
    // A lost connection, and what came meanwhile.
    world.fake.cut();
    assert!(matches!(listening.next().await, Arrived::Disconnected { .. }));
    world.fake.event(4, "last");
    listening.connected().await;
    assert_eq!(listening.message().await, (4, "last".into()));
    assert_eq!(world.acked().await, (4, AckCode::Delivered));
    listening.end().await.unwrap();
    assert_eq!(world.fake.streams(), 2);
    // The user has seen one of them.
    let mut device = world.device();
    device.seen(4).await.unwrap();
    assert_eq!(world.acked().await, (4, AckCode::Opened));
    assert!(device.seen(99).await.is_err());
}

#[tokio::test]
async fn what_a_mailbox_makes_of_it_is_seen() {
    let mut world = World::enrolled().await;
    let mut listening = world.listen();
    listening.connected().await;
    let mut changed = world.fake.envelope(1, "one");
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    world.fake.queue(1, "envelope", changed);
    assert!(matches!(
        listening.next().await,
        Arrived::Refused {
            sequence: None,
            error: OpenError::Signature
        }
    ));
    assert_eq!(world.acked().await, (1, AckCode::CannotDecrypt));
    // A replay under the number that the mailbox gives it.
    let second = world.fake.envelope(2, "two");
    world.fake.queue(2, "envelope", second.clone());
    assert_eq!(listening.message().await, (2, "two".into()));
    assert!(matches!(listening.next().await, Arrived::Withheld(gap) if (gap.from, gap.to) == (1, 1)));
    assert_eq!(world.acked().await, (2, AckCode::Delivered));
    world.fake.queue(3, "envelope", second);
    assert_eq!(world.acked().await, (2, AckCode::Delivered));
    // Numbers that the domain explains, and such that nobody does.
    world.fake.skip(3, 4);
    assert!(matches!(listening.next().await, Arrived::Skipped(skip) if (skip.from, skip.to) == (3, 4)));
    world.fake.event(7, "seven");
    assert_eq!(listening.message().await, (7, "seven".into()));
    assert!(matches!(listening.next().await, Arrived::Withheld(gap) if (gap.from, gap.to) == (5, 6)));
    world.fake.queue(8, "skip", b"nothing of ours".to_vec());
    assert!(matches!(listening.next().await, Arrived::Refused { .. }));
}

#[tokio::test]
async fn an_acknowledgement_that_makes_no_sense_holds_back_no_other() {
    let mut world = World::enrolled().await;
    // Not the domain's, and with a number that only a mailbox gone mad would have.
    let mut forged = world.fake.envelope(MAX_SEQUENCE + 1, "forged");
    let last = forged.len() - 1;
    forged[last] ^= 1;
    world.fake.queue(1, "envelope", forged);
    world.fake.renew();
    world.fake.event(2, "last");
    let mut listening = world.listen();
    listening.connected().await;
    assert!(matches!(
        listening.next().await,
        Arrived::Refused { sequence: None, .. }
    ));
    assert_eq!(listening.message().await, (2, "last".into()));
    assert_eq!(world.acked().await, (2, AckCode::Delivered));
    listening.end().await.unwrap();
}

#[tokio::test]
async fn a_revoked_device_stops() {
    let world = World::enrolled().await;
    let mut listening = world.listen();
    listening.connected().await;
    // There can be one.
    let mut second = world.device();
    let (told, _keep) = unbounded_channel();
    assert!(matches!(
        second.listen(&mut Tell(told)).await,
        Err(DeviceError::Busy(_))
    ));
    world.fake.revoke();
    assert!(matches!(listening.end().await, Err(DeviceError::Revoked)));
    assert!(matches!(world.listen().end().await, Err(DeviceError::Revoked)));
}

#[tokio::test]
async fn content_is_fetched_and_a_grant_is_good_once() {
    let world = World::enrolled().await;
    let mut device = world.device();
    let fetched = device.fetch(ITEM, "text/plain").await.unwrap();
    assert_eq!(fetched.content.body.len(), 300_000);
    let other = hawser_proto::broker::ItemId([8; 16]);
    assert!(matches!(
        device.fetch(other, "").await,
        Err(DeviceError::Refused { status: 404, .. })
    ));
}

#[tokio::test]
async fn a_profile_is_changed_at_both_ends() {
    let world = World::enrolled().await;
    let mut device = world.device();
    let profile = Profile {
        accept: "text/html, text/plain;q=0.5".into(),
        languages: "de, en;q=0.5".into(),
        ..Profile::default()
    };
    device.set_profile(profile.clone()).await.unwrap();
    assert_eq!(device.view().await.unwrap().profile, profile);
    assert_eq!(world.device().identity().profile, profile);
    device.revoke().await.unwrap();
    assert!(matches!(device.view().await, Err(DeviceError::Revoked)));
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_no_hindrance() {
    let mut world = World::new().await;
    *world.fake.ahead.lock().unwrap() = 4000;
    world.enrol(&world.fake.link(), PASSPHRASE).await.unwrap();
    world.fake.event(1, "last");
    let mut listening = world.listen();
    listening.connected().await;
    assert_eq!(listening.message().await, (1, "last".into()));
    assert_eq!(world.acked().await, (1, AckCode::Delivered));
    listening.end().await.unwrap();
    world.device().view().await.unwrap();
}
