//! What an administrator does to a gateway's state directory: make a domain, join hubs and domains, peer, revoke. Each function
//! works on files and database alone, beside a gateway that may be running on them and follows within a second.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use data_encoding::HEXLOWER;
use hawser_identity::{
    CertificateDer, Credentials, Fingerprint, HubAddress, HubToken, IdentityError, Issuer, JoinToken, Joins,
    NodeKey, PeeringToken, RootAuthority, Secret, TokenError, Trust, file, prepare_dir, token,
};
use hawser_proto::{
    DomainName, Fault, NodeId, NodeName, Role, UnixTime,
    frame::MAX_FRAME_UNPROVED,
    hop::{JoinHello, admit_statement},
    session::{Issued, Open, join_statement},
};
use hawser_session::{
    BoxedCarrier, SessionError,
    carrier::Ways,
    end_to_end::enrol_connect,
    hop::{HopError, join_admit, join_pair},
};
use hawser_store::{Store, StoreError};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use crate::callbacks::keys::Keys;
use crate::links::records::{
    HUBS, HubRecord, ISSUED, IssuedRecord, PEERS, PeerRecord, REVOKED, RevokedRecord, TOKENS, TokenRecord,
};

/// How long a new token may take from the gateway that made it to its hubs.
const TOKEN_TRAVEL: Duration = Duration::from_secs(3);
/// Longest wait for the issuer's answer to a joiner.
const ANSWER: Duration = Duration::from_secs(20);

/// Why an administrator's wish was not fulfilled.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Keys, certificates or files.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The token's text.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The hub, or the way to it.
    #[error(transparent)]
    Hop(#[from] HopError),
    /// The session with the issuer.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The issuer said no.
    #[error("{0}")]
    Refused(Fault),
    /// There is a domain here already.
    #[error("{} holds the keys of {holder} already; use another state directory", dir.display())]
    Taken {
        /// The state directory.
        dir: PathBuf,
        /// Whose keys are there.
        holder: String,
    },
    /// The token is for another domain than that of the state directory.
    #[error("the token is for domain {token}, this gateway is of domain {own}")]
    OtherDomain {
        /// In the token.
        token: DomainName,
        /// Here.
        own: DomainName,
    },
    /// Only an issuer can do this.
    #[error("this gateway is no issuer of {0}: do it on the gateway where `hawser domain init` ran")]
    NoIssuer(DomainName),
    /// No hub to put into a token.
    #[error(
        "this gateway has joined no hub: do that first, with `hawser join` and a token of the hub's operator"
    )]
    NoHub,
    /// No hub of the token paired us.
    #[error("no hub of the token could pair this gateway with an issuer: {}", .0.join("; "))]
    NoPairing(Vec<String>),
    /// What the issuer gave is of no use.
    #[error("the issuer answered with something of no use: {0}")]
    Useless(String),
    /// A domain cannot peer with itself.
    #[error("this is the peering token of this very domain: give it to the other one, and take theirs")]
    OwnToken,
    /// The peer's root is not the one that was accepted before.
    #[error(
        "domain {domain} was accepted with another root ({known}): remove it first if it has really changed"
    )]
    RootChanged {
        /// Whose.
        domain: DomainName,
        /// The root accepted before.
        known: Fingerprint,
    },
    /// There is no such peer.
    #[error("domain {0} is no peer; `hawser domain peer list` shows those that are")]
    NoPeer(DomainName),
    /// A gateway cannot revoke itself.
    #[error(
        "{0} is this very gateway: revoke it on another issuer, or stop it and remove its state directory"
    )]
    Oneself(NodeId),
}

/// What a new domain is made of.
#[derive(Debug, Clone)]
pub struct NewDomain {
    /// Its name.
    pub domain: DomainName,
    /// The name of its first gateway, which becomes its first issuer.
    pub gateway: NodeName,
    /// What the company's PKI gives; the rest is made.
    pub given: Given,
    /// Life of the gateway's certificates.
    pub life: Duration,
}

/// What a company's own PKI gives to a new domain (PEM files).
#[derive(Debug, Clone, Default)]
pub enum Given {
    /// Nothing: root and issuer are made.
    #[default]
    Nothing,
    /// The root. Its key is used once, and not copied.
    Root {
        /// The root's certificate.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// An issuer under a root whose key stays away. The issuer's key is copied into the state directory.
    Issuer {
        /// The root's certificate.
        root: PathBuf,
        /// The issuer's certificate.
        certificate: PathBuf,
        /// Its key.
        key: PathBuf,
    },
}

/// A domain as its administrator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Its name.
    pub domain: DomainName,
    /// This gateway.
    pub gateway: NodeId,
    /// Fingerprint of the domain's root.
    pub root: String,
    /// The same as words, to be compared by telephone.
    pub root_words: String,
    /// Whether the root's key is here. It may be moved away.
    pub root_key_here: bool,
    /// When this gateway's certificate ends.
    pub certificate_ends: UnixTime,
    /// When the issuer's certificate ends, if this gateway is an issuer.
    pub issuer_ends: Option<UnixTime>,
    /// Hubs that it has joined: address and fingerprint.
    pub hubs: Vec<(String, String)>,
    /// Domains that it is peered with.
    pub peers: Vec<PeerSummary>,
    /// Names that this domain has revoked.
    pub revoked: Vec<NodeId>,
    /// Names given out here, with the gateway that gave them.
    pub issued: Vec<(String, String)>,
}

/// A peered domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerSummary {
    /// Its name.
    pub domain: DomainName,
    /// Fingerprint of its root.
    pub root: String,
    /// The same as words.
    pub words: String,
}

/// Makes a domain in `dir`: root, first issuer, and this gateway's certificate.
pub async fn init_domain(dir: &Path, new: &NewDomain) -> Result<Summary, AdminError> {
    prepare_dir(dir)?;
    refuse_taken(dir)?;
    let (root, issuer) = authorities(new)?;
    let key = NodeKey::create()?;
    let id = NodeId::gateway(new.domain.clone(), new.gateway.clone());
    let credentials = Credentials::new(issuer.issue(&id, &key.csr()?, new.life)?, &key)?;
    let store = Store::open(dir)?;
    let record = IssuedRecord {
        at: UnixTime::now(),
        by: new.gateway.to_string(),
    };
    store.bucket(ISSUED).put(new.gateway.as_str(), &record).await?;
    if let Some(root) = root {
        root.save(dir)?;
    }
    issuer.save(dir)?;
    // Last: a gateway exists when its certificate does.
    credentials.save(dir)?;
    summary(dir).await
}

/// The domain's issuer, and its root if it was made here and is to be kept.
fn authorities(new: &NewDomain) -> Result<(Option<RootAuthority>, Issuer), AdminError> {
    match &new.given {
        Given::Nothing => {
            let root = RootAuthority::create(&new.domain)?;
            let issuer = Issuer::create(&root, &new.domain, &new.gateway)?;
            Ok((Some(root), issuer))
        }
        Given::Root { certificate, key } => {
            let root = RootAuthority::load(certificate, key)?;
            Ok((None, Issuer::create(&root, &new.domain, &new.gateway)?))
        }
        Given::Issuer {
            root,
            certificate,
            key,
        } => {
            let issuer = Issuer::load_files(root, certificate, key)?;
            if issuer.id().domain != new.domain {
                return Err(IdentityError::OtherDomain {
                    expected: new.domain.clone(),
                    found: issuer.id().domain.to_string(),
                }
                .into());
            }
            Ok((None, issuer))
        }
    }
}

/// Makes a one-time token by which another gateway, or a host, joins this domain, good for `life`.
pub async fn make_join_token(dir: &Path, joins: Joins, life: Duration) -> Result<JoinToken, AdminError> {
    let own = Credentials::load(dir)?;
    let domain = own.id().domain.clone();
    if !dir.join(file::ISSUER_KEY).exists() {
        return Err(AdminError::NoIssuer(domain));
    }
    let store = Store::open(dir)?;
    let hubs: Vec<_> = hubs(&store).await?.into_iter().take(token::MAX_HUBS).collect();
    if hubs.is_empty() {
        return Err(AdminError::NoHub);
    }
    let made = JoinToken {
        joins,
        hubs,
        domain,
        root: own.root(),
        hub_half: Secret::random()?,
        domain_half: Secret::random()?,
        expires: UnixTime::now().plus(life),
    };
    let record = TokenRecord {
        domain_half: made.domain_half.clone(),
        expires: made.expires,
        spent: None,
        role: Some(joins.role()),
    };
    store
        .bucket(TOKENS)
        .create(&HEXLOWER.encode(&made.hub_half.hash()), &record)
        .await?;
    Ok(made)
}

/// Has this gateway's domain admitted at the hub of the token, and remembers the hub. Needs an issuer.
pub async fn join_with_hub_token(dir: &Path, token: &HubToken, ways: &Ways) -> Result<(), AdminError> {
    token.check(UnixTime::now())?;
    let own = Credentials::load(dir)?;
    let domain = &own.id().domain;
    if token.domain != *domain {
        return Err(AdminError::OtherDomain {
            token: token.domain.clone(),
            own: domain.clone(),
        });
    }
    if !dir.join(file::ISSUER_KEY).exists() {
        return Err(AdminError::NoIssuer(domain.clone()));
    }
    let issuer = Issuer::load(dir)?;
    let secret = *token.secret.expose();
    let hello = JoinHello::Admit {
        domain: domain.clone(),
        secret,
        root: issuer.root().to_vec(),
        signature: issuer.sign(&admit_statement(domain, &token.pin.0, &secret))?,
        issuer: issuer.certificate().to_vec(),
    };
    join_admit(ways, token, &hello).await?;
    let store = Store::open(dir)?;
    remember_hub(&store, &token.hub, token.pin).await
}

/// Has this gateway know the hub in its own process by this address, and by no address that it had before.
pub async fn know_own_hub(dir: &Path, hub: &HubAddress, pin: Fingerprint) -> Result<(), AdminError> {
    let store = Store::open(dir)?;
    let known = hubs(&store).await?;
    if !known.iter().any(|(address, its)| address == hub && *its == pin) {
        remember_hub(&store, hub, pin).await?;
    }
    for (address, _) in known
        .iter()
        .filter(|(address, its)| address != hub && *its == pin)
    {
        store
            .bucket::<HubRecord>(HUBS)
            .delete(&address.to_string())
            .await?;
    }
    Ok(())
}

/// Makes `dir` the state of a new gateway or host `name` of the token's domain: an issuer certifies it, met through one of the
/// token's hubs.
pub async fn join_with_token(
    dir: &Path,
    name: &NodeName,
    token: &JoinToken,
    ways: &Ways,
) -> Result<Summary, AdminError> {
    token.check(UnixTime::now())?;
    prepare_dir(dir)?;
    refuse_taken(dir)?;
    let key = NodeKey::create()?;
    let request = key.csr()?;
    let mut failures = Vec::new();
    let mut answered = None;
    for (hub, pin) in &token.hubs {
        match ask_issuer(name, token, hub, *pin, &request, ways).await {
            Ok(issued) => {
                answered = Some(issued);
                break;
            }
            // The token has reached the issuer: another hub changes nothing.
            Err(e @ AdminError::Refused(_)) => return Err(e),
            Err(e) => failures.push(format!("{hub}: {e}")),
        }
    }
    let (chain, shared) = match answered {
        Some(Issued::Chain(chain, shared)) => (chain, shared.unwrap_or_default()),
        Some(Issued::Refused(fault)) => return Err(AdminError::Refused(fault)),
        None => return Err(AdminError::NoPairing(failures)),
    };
    let chain: Vec<_> = chain
        .into_iter()
        .map(|der| CertificateDer::from(Vec::from(der)))
        .collect();
    let credentials = checked(chain, &key, name, token)?;
    let store = Store::open(dir)?;
    for (hub, pin) in &token.hubs {
        remember_hub(&store, hub, *pin).await?;
    }
    Keys::new(&store).merge(shared).await?;
    hawser_identity::write_certificates(
        &dir.join(file::ROOT_CERTIFICATE),
        credentials
            .chain()
            .last()
            .map(std::slice::from_ref)
            .unwrap_or_default(),
    )?;
    credentials.save(dir)?;
    summary(dir).await
}

/// What another domain needs to accept this one.
pub fn peer_token(dir: &Path) -> Result<PeeringToken, AdminError> {
    let own = Credentials::load(dir)?;
    let root = own.chain().last().cloned().ok_or(IdentityError::NoCertificate)?;
    Ok(PeeringToken::new(own.id().domain.clone(), root)?)
}

/// Accepts another domain's root for that domain's names. Whether it is the right one is for people to compare first.
pub async fn accept_peer(dir: &Path, token: &PeeringToken) -> Result<PeerSummary, AdminError> {
    let own = Credentials::load(dir)?;
    if own.id().domain == *token.domain() {
        return Err(AdminError::OwnToken);
    }
    let store = Store::open(dir)?;
    let peers = store.bucket::<PeerRecord>(PEERS);
    if let Some((known, _)) = peers.get(token.domain().as_str()).await? {
        let known = Fingerprint::of_certificate(&CertificateDer::from(known.root))?;
        if known != token.fingerprint() {
            return Err(AdminError::RootChanged {
                domain: token.domain().clone(),
                known,
            });
        }
    }
    peers
        .put(
            token.domain().as_str(),
            &PeerRecord {
                root: token.root().to_vec(),
            },
        )
        .await?;
    Ok(peer_summary(token.domain().clone(), token.fingerprint()))
}

/// The domains that this one is peered with.
pub async fn peers(dir: &Path) -> Result<Vec<PeerSummary>, AdminError> {
    peers_in(&Store::open(dir)?).await
}

/// Accepts nobody of a domain any more; live sessions with it are cut within a second.
pub async fn remove_peer(dir: &Path, domain: &DomainName) -> Result<(), AdminError> {
    let store = Store::open(dir)?;
    if store.bucket::<PeerRecord>(PEERS).delete(domain.as_str()).await? {
        Ok(())
    } else {
        Err(AdminError::NoPeer(domain.clone()))
    }
}

/// Revokes a name of this domain for good: a gateway's, or (`role`) an issuer's with all that it has signed. Live sessions are
/// cut within seconds, here and at all peers.
pub async fn revoke(dir: &Path, role: Role, name: &NodeName) -> Result<NodeId, AdminError> {
    let own = Credentials::load(dir)?;
    let domain = own.id().domain.clone();
    if !dir.join(file::ISSUER_KEY).exists() {
        return Err(AdminError::NoIssuer(domain));
    }
    let id = NodeId {
        domain,
        role,
        name: name.clone(),
    };
    if id == *own.id() {
        return Err(AdminError::Oneself(id));
    }
    let store = Store::open(dir)?;
    store
        .bucket(REVOKED)
        .put(&id.to_string(), &RevokedRecord { at: UnixTime::now() })
        .await?;
    Ok(id)
}

/// The domain and this gateway's part in it.
pub async fn summary(dir: &Path) -> Result<Summary, AdminError> {
    let own = Credentials::load(dir)?;
    let domain = own.id().domain.clone();
    let issuer = match dir.join(file::ISSUER_KEY).exists() {
        true => Some(Issuer::load(dir)?),
        false => None,
    };
    let store = Store::open(dir)?;
    let revoked = store.bucket::<RevokedRecord>(REVOKED).entries().await?;
    let issued = store.bucket::<IssuedRecord>(ISSUED).entries().await?;
    let joined = hubs(&store).await?;
    Ok(Summary {
        root: own.root().to_string(),
        root_words: own.root().words(),
        root_key_here: dir.join(file::ROOT_KEY).exists(),
        certificate_ends: own.not_after(),
        issuer_ends: issuer.map(|i| i.not_after()),
        hubs: joined
            .into_iter()
            .map(|(hub, pin)| (hub.to_string(), pin.to_string()))
            .collect(),
        peers: peers_in(&store).await?,
        revoked: revoked
            .into_iter()
            .filter_map(|(id, _, _)| id.parse().ok())
            .collect(),
        issued: issued
            .into_iter()
            .map(|(name, record, _)| (name, record.by))
            .collect(),
        gateway: own.id().clone(),
        domain,
    })
}

/// Asks the hub for an issuer. A token just made may still be on its way from its gateway to the hub, so one that the hub
/// does not know is shown again for a while.
async fn pair(
    token: &JoinToken,
    hub: &HubAddress,
    pin: Fingerprint,
    ways: &Ways,
) -> Result<BoxedCarrier, HopError> {
    let end = Instant::now() + TOKEN_TRAVEL;
    loop {
        match join_pair(ways, hub, pin, &token.domain, *token.hub_half.expose()).await {
            Err(HopError::Refused(fault)) if fault.code == "join-token-unknown" && Instant::now() < end => {
                sleep(TOKEN_TRAVEL / 10).await;
            }
            done => return done,
        }
    }
}

async fn ask_issuer(
    name: &NodeName,
    token: &JoinToken,
    hub: &HubAddress,
    pin: Fingerprint,
    request: &[u8],
    ways: &Ways,
) -> Result<Issued, AdminError> {
    let carrier = pair(token, hub, pin, ways).await?;
    let mut session = enrol_connect(carrier, token.domain.clone(), token.root).await?;
    let statement = join_statement(name, request, session.exporter());
    let join = Open::Join {
        name: name.clone(),
        request: request.to_vec(),
        token: token.hub_half.hash(),
        mac: token::mac(&token.domain_half, &statement),
    };
    let exchange = async {
        session.write_frame(&join).await?;
        session.read_frame(MAX_FRAME_UNPROVED).await
    };
    let issued = timeout(ANSWER, exchange)
        .await
        .map_err(|_| AdminError::Useless(format!("nothing within {} s", ANSWER.as_secs())))??;
    session.close().await;
    match issued {
        Issued::Refused(fault) => Err(AdminError::Refused(fault)),
        issued => Ok(issued),
    }
}

/// The credentials, if they are what was asked for, under the root that the token pins.
fn checked(
    chain: Vec<CertificateDer<'static>>,
    key: &NodeKey,
    name: &NodeName,
    token: &JoinToken,
) -> Result<Credentials, AdminError> {
    let mut trust = Trust::new();
    let root = chain.last().cloned().ok_or(IdentityError::NoCertificate)?;
    let fingerprint = trust.add_root(&token.domain, root)?;
    if fingerprint != token.root {
        return Err(AdminError::Useless(format!(
            "a chain under the root {fingerprint}, not {}",
            token.root
        )));
    }
    let proved = trust.verify(&chain, UnixTime::now())?;
    let wanted = NodeId {
        domain: token.domain.clone(),
        role: token.joins.role(),
        name: name.clone(),
    };
    if proved.id != wanted {
        return Err(AdminError::Useless(format!("a certificate for {}", proved.id)));
    }
    Ok(Credentials::new(chain, key)?)
}

fn refuse_taken(dir: &Path) -> Result<(), AdminError> {
    let taken = |holder| {
        Err(AdminError::Taken {
            dir: dir.to_owned(),
            holder,
        })
    };
    match Credentials::load(dir) {
        Ok(credentials) => taken(credentials.id().to_string()),
        Err(_) if dir.join(file::NODE_CERTIFICATE).exists() => taken("somebody".into()),
        Err(_) => Ok(()),
    }
}

async fn remember_hub(store: &Store, hub: &HubAddress, pin: Fingerprint) -> Result<(), AdminError> {
    store
        .bucket(HUBS)
        .put(&hub.to_string(), &HubRecord { pin: pin.0 })
        .await?;
    Ok(())
}

async fn hubs(store: &Store) -> Result<Vec<(HubAddress, Fingerprint)>, AdminError> {
    let entries = store.bucket::<HubRecord>(HUBS).entries().await?;
    Ok(entries
        .into_iter()
        .filter_map(|(key, record, _)| Some((key.parse().ok()?, Fingerprint(record.pin))))
        .collect())
}

async fn peers_in(store: &Store) -> Result<Vec<PeerSummary>, AdminError> {
    let entries = store.bucket::<PeerRecord>(PEERS).entries().await?;
    let mut peers = Vec::with_capacity(entries.len());
    for (domain, record, _) in entries {
        if let Ok(domain) = domain.parse() {
            let root = Fingerprint::of_certificate(&CertificateDer::from(record.root))?;
            peers.push(peer_summary(domain, root));
        }
    }
    Ok(peers)
}

fn peer_summary(domain: DomainName, root: Fingerprint) -> PeerSummary {
    PeerSummary {
        domain,
        root: root.to_string(),
        words: root.words(),
    }
}
