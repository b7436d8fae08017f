//! The attacker's tools, shown to work: a hub that behaves well carries a call, and a forger with the victim's own key is
//! believed. Without these, the failures in `hostile.rs` would prove nothing.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hawser_hostile::{Event, HostileHub, Mask, Step, Way, hub::SOON, middle};
use hawser_identity::{
    Credentials, HubIdentity, Issuer, NodeKey, RootAuthority, SharedCredentials, SharedTrust, Trust,
};
use hawser_proto::{
    DomainName, NodeId, UnixTime,
    control::{Protocol, Registration, Target, ToGateway, ToHub},
    frame::MAX_FRAME_UNPROVED,
    session::{Open, Opened, REQUEST_ID, RequestId},
};
use hawser_session::{
    EndToEnd, SessionError,
    carrier::Ways,
    end_to_end,
    hop::{ControlReceiver, ControlSender, HopClient, Side},
};
use tempfile::TempDir;

const MARKER: &str = "a-text-that-must-not-be-seen";

fn domain(name: &str) -> DomainName {
    name.parse().unwrap()
}

fn gateway(name: &str) -> NodeId {
    NodeId::gateway(domain(name), "gw1".parse().unwrap())
}

/// A domain with one gateway, whose files are in a directory.
struct Party {
    dir: TempDir,
    root: RootAuthority,
    own: SharedCredentials,
}

impl Party {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = RootAuthority::create(&domain(name)).unwrap();
        let issuer = Issuer::create(&root, &domain(name), &"gw1".parse().unwrap()).unwrap();
        let key = NodeKey::create().unwrap();
        let life = Duration::from_secs(3600);
        let chain = issuer.issue(&gateway(name), &key.csr().unwrap(), life).unwrap();
        let own = Credentials::new(chain, &key).unwrap();
        own.save(dir.path()).unwrap();
        Self {
            dir,
            root,
            own: own.shared(),
        }
    }
}

/// Two peered domains and a hub between them.
struct Pair {
    a: Party,
    b: Party,
    trust: SharedTrust,
    hub: HostileHub,
    _state: TempDir,
}

impl Pair {
    fn new() -> Self {
        let (a, b) = (Party::new("acme"), Party::new("beta"));
        let mut trust = Trust::new();
        trust
            .add_root(&domain("acme"), a.root.certificate().clone())
            .unwrap();
        trust
            .add_root(&domain("beta"), b.root.certificate().clone())
            .unwrap();
        let trust = trust.shared();
        let state = tempfile::tempdir().unwrap();
        let identity = HubIdentity::load_or_create(state.path()).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let hub = HostileHub::start(identity, trust.clone(), any).unwrap();
        Self {
            a,
            b,
            trust,
            hub,
            _state: state,
        }
    }

    fn client(&self, of: &Party) -> HopClient {
        let at = self.hub.address().to_string().parse().unwrap();
        HopClient::new(
            Arc::new(Ways::default()),
            at,
            self.hub.identity().pin(),
            of.own.clone(),
        )
        .unwrap()
    }

    /// B registers and serves each session with [`serve`]; A is connected.
    async fn connect(&self) -> (ControlSender<ToHub>, ControlReceiver<ToGateway>) {
        let client = self.client(&self.b);
        let (mut out, mut from) = client.control("test").await.unwrap();
        let service = Registration {
            name: "orders".parse().unwrap(),
            protocol: Protocol::Tcp,
            healthy: true,
            description: String::new(),
        };
        let register = |services| ToHub::Register {
            services,
            issuer: false,
            draining: false,
            joins: Vec::new(),
            publishes: Vec::new(),
        };
        out.send(&register(vec![service])).await.unwrap();
        let (own, trust) = (self.b.own.clone(), self.trust.clone());
        tokio::spawn(async move {
            let _out = out;
            while let Ok(message) = from.recv().await {
                if let ToGateway::Dial { ticket, .. } = message {
                    let carrier = client.session(ticket, Side::Accepting).await.unwrap();
                    if let Ok(session) = end_to_end::accept(carrier, own.clone(), trust.clone()).await {
                        // Whoever called has seen what went wrong.
                        let _ = serve(session).await;
                    }
                }
            }
        });
        let (mut out, mut from) = self.client(&self.a).control("test").await.unwrap();
        assert!(matches!(from.recv().await.unwrap(), ToGateway::Welcome { .. }));
        out.send(&register(Vec::new())).await.unwrap();
        loop {
            if let ToGateway::Routes { routes, .. } = from.recv().await.unwrap()
                && !routes.is_empty()
            {
                return (out, from);
            }
        }
    }

    /// One exchange from A to what should be B.
    async fn call(
        &self,
        out: &mut ControlSender<ToHub>,
        from: &mut ControlReceiver<ToGateway>,
    ) -> Result<Opened, SessionError> {
        out.send(&ToHub::Request {
            id: 1,
            target: Target::Gateway(gateway("beta")),
        })
        .await
        .unwrap();
        let (ticket, peer) = loop {
            if let ToGateway::Granted { ticket, peer, .. } = from.recv().await.unwrap() {
                break (ticket, peer);
            }
        };
        let carrier = self
            .client(&self.a)
            .session(ticket, Side::Dialling)
            .await
            .unwrap();
        let mut session = end_to_end::connect(carrier, self.a.own.clone(), self.trust.clone(), &peer).await?;
        let open = Open::Tcp {
            service: MARKER.parse().unwrap(),
            request: RequestId([1; REQUEST_ID]),
        };
        session.write_frame(&open).await?;
        session.read_frame(MAX_FRAME_UNPROVED).await
    }

    /// Connects both and makes one exchange.
    fn run(&self) -> Result<Opened, SessionError> {
        self.hub.block_on(async {
            let work = async {
                let (mut out, mut from) = self.connect().await;
                self.call(&mut out, &mut from).await
            };
            tokio::time::timeout(SOON, work).await.unwrap()
        })
    }
}

/// Answers one request, and waits for the caller to go.
async fn serve(mut session: EndToEnd) -> Result<(), SessionError> {
    let Open::Tcp { service, .. } = session.read_frame(MAX_FRAME_UNPROVED).await? else {
        return Ok(());
    };
    assert_eq!(service.as_str(), MARKER);
    session.write_frame(&Opened::Accepted).await?;
    session.stirred().await;
    Ok(())
}

#[test]
fn behaving_well_it_carries_a_call_and_sees_only_ciphertext() {
    let pair = Pair::new();
    assert_eq!(pair.run().unwrap(), Opened::Accepted);
    let seen = pair.hub.transcripts().remove(0);
    for way in [Way::Up, Way::Down] {
        let bytes = seen.bytes(way);
        assert!(bytes.len() > 500, "{} bytes {way:?}", bytes.len());
        assert!(!bytes.windows(MARKER.len()).any(|w| w == MARKER.as_bytes()));
    }
}

#[test]
fn a_forger_with_the_victims_key_is_believed_and_one_with_another_is_not() {
    let pair = Pair::new();
    let run = |mask: Mask| {
        let mark = pair.hub.mark();
        pair.hub
            .take_the_place(mask.in_its_place(pair.hub.forger_notes()));
        let called = pair.run();
        (
            called,
            pair.hub
                .await_event(mark, "the forger's outcome", |e| matches!(e, Event::Forger(_)))
                .unwrap(),
        )
    };
    let (called, noted) = run(Mask::stolen(pair.b.dir.path()).unwrap());
    assert_eq!(
        called.unwrap(),
        Opened::Accepted,
        "the tool must work for its failures to mean anything"
    );
    assert!(
        matches!(&noted, Event::Forger(Ok(asked)) if asked.contains(MARKER)),
        "{noted:?}"
    );
    let key = rcgen::KeyPair::generate().unwrap();
    let masks = [
        Mask::minted(&key, &gateway("beta"), pair.b.root.certificate(), true),
        Mask::minted(&key, &gateway("beta"), pair.b.root.certificate(), false),
        Mask::self_signed(&gateway("beta")),
        Mask::without_key(pair.b.dir.path()),
        Mask::stolen(pair.a.dir.path()),
        Mask::signed_by_gateway(pair.a.dir.path(), &gateway("beta")),
    ];
    for mask in masks {
        let (called, noted) = run(mask.unwrap());
        assert!(called.is_err(), "{called:?}");
        assert!(matches!(noted, Event::Forger(Err(_))), "{noted:?}");
    }
}

#[test]
fn only_the_key_is_wrong_in_a_chain_that_the_hub_mints() {
    let root = RootAuthority::create(&domain("beta")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    root.save(dir.path()).unwrap();
    let key = std::fs::read_to_string(dir.path().join(hawser_identity::file::ROOT_KEY)).unwrap();
    let key = rcgen::KeyPair::from_pem(&key).unwrap();
    let mask = Mask::minted(&key, &gateway("beta"), root.certificate(), true).unwrap();
    let mut trust = Trust::new();
    trust
        .add_root(&domain("beta"), root.certificate().clone())
        .unwrap();
    let proved = trust.verify(mask.chain(), UnixTime::now()).unwrap();
    assert_eq!(
        proved.id,
        gateway("beta"),
        "with the root's own key it is accepted"
    );
}

#[test]
fn records_are_altered_as_told() {
    let pair = Pair::new();
    pair.hub.put_in_the_middle(middle::edited(|| {
        |mut r: hawser_hostile::Record| {
            if r.way == Way::Down && r.index == 1 {
                r.bytes[20] ^= 1;
            }
            vec![Step::Send(r.bytes)]
        }
    }));
    pair.run().unwrap_err();
}
