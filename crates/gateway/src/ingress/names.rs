//! The names that are published, the certificates by which they are known, and TLS with those who ask for them.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use hawser_identity::{Given, IdentityError, SharedCredentials, tls};
use hawser_proto::{ALPN_DEVICE, HostName, UnixTime, control::Publishing};
use hawser_session::{
    BoxedCarrier,
    hello::{Alert, Opening},
    hop::HANDSHAKE_TIMEOUT,
};
use rustls::ServerConfig;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Handler, PublishedStatus, Visit};
use crate::{acme::Keep, config::CertificatePlan};

/// How often the files of given certificates are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// All that is published.
pub(crate) struct Ingress {
    sites: ArcSwap<Vec<Site>>,
    by_root: Arc<ServerConfig>,
    /// Serves the names of [`By::Public`].
    public: Arc<dyn Handler>,
    /// Serves those of [`By::Given`], once there is one.
    handler: OnceLock<Arc<dyn Handler>>,
    /// Where certificates by ACME are.
    keep: Keep,
    /// What hubs are to be told: nothing until somebody serves it.
    published: watch::Sender<Vec<HostName>>,
    /// What each hub says of it, by `host:port`.
    said: Mutex<BTreeMap<Arc<str>, Vec<Publishing>>>,
}

/// One name.
#[derive(Clone)]
struct Site {
    name: HostName,
    by: By,
    certificate: CertificatePlan,
    /// None for ACME until there is a certificate.
    given: Option<(Arc<Given>, Arc<ServerConfig>)>,
}

/// A name to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) name: HostName,
    pub(crate) certificate: CertificatePlan,
    pub(crate) by: By,
}

/// Who serves a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The handler that [`Ingress::serve`] is given: devices may verify it by the domain's root.
    Given,
    /// The gateway itself ([`crate::public`]), for browsers and all that verifies as they do.
    Public,
}

/// Why a client was not let in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VisitError {
    /// Its TLS.
    #[error("TLS: {}", tls::explain(.0))]
    Tls(io::Error),
    /// It took too long.
    #[error("no TLS within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Late,
    /// It asks for something else than the hub announced, or what is not published here.
    #[error(
        "the hub announced a client of {announced}, and it asks for {asked}: nothing of that is published here"
    )]
    Name {
        /// By the hub.
        announced: HostName,
        /// In its ClientHello.
        asked: String,
    },
    /// It knows no root, and there is no public certificate.
    #[error(
        "it wants a public certificate, and {0} has none, or none yet: set acme, or certificate and key, in the table that names it"
    )]
    NoCertificate(HostName),
    /// Nobody serves what is published.
    #[error("nobody serves {0} here")]
    Unserved(HostName),
}

impl Ingress {
    /// Reads the certificates. What `public` does not serve is not published until [`Ingress::serve`].
    pub(crate) fn new(
        own: SharedCredentials,
        keep: Keep,
        wanted: &[Wanted],
        public: Arc<dyn Handler>,
    ) -> Result<Arc<Self>, IdentityError> {
        let ingress = Self {
            sites: ArcSwap::from_pointee(sites(wanted, &[], &keep)?),
            keep,
            by_root: tls::gateway_device(own)?,
            public,
            handler: OnceLock::new(),
            published: watch::Sender::default(),
            said: Mutex::default(),
        };
        ingress.tell();
        Ok(Arc::new(ingress))
    }

    /// Publishes from now on what this handler serves. The first handler stays.
    pub(crate) fn serve(&self, handler: Arc<dyn Handler>) {
        if self.handler.set(handler).is_err() {
            warn!("published names have a handler already: the first one stays");
        }
        self.tell();
    }

    /// Other names or certificates, which are read before anything changes.
    pub(crate) fn prepare(&self, wanted: &[Wanted]) -> Result<Prepared, IdentityError> {
        sites(wanted, &self.sites.load(), &self.keep).map(Prepared)
    }

    /// Puts them into force.
    pub(crate) fn apply(&self, prepared: Prepared) {
        self.sites.store(Arc::new(prepared.0));
        self.tell();
    }

    /// What hubs are to be told.
    pub(crate) fn published(&self) -> watch::Receiver<Vec<HostName>> {
        self.published.subscribe()
    }

    /// A hub says what became of the names.
    pub(crate) fn heard(&self, hub: &Arc<str>, said: Vec<Publishing>) {
        for one in &said {
            if one.allowed {
                info!(%hub, name = %one.name, "published at the hub");
            } else {
                warn!(%hub, name = %one.name, "the hub does not let this domain publish the name: ask its operator for a [[hub.publish]] rule");
            }
        }
        self.said().insert(hub.clone(), said);
    }

    /// A hub is not connected.
    pub(crate) fn lost(&self, hub: &str) {
        self.said().remove(hub);
    }

    /// The names, where their certificates come from, and when these end.
    pub(crate) fn certificates(&self) -> Vec<(HostName, CertificatePlan, Option<UnixTime>)> {
        let sites = self.sites.load();
        let public = sites.iter().filter(|s| s.certificate != CertificatePlan::None);
        let one = |s: &Site| {
            let ends = s.given.as_ref().map(|(given, _)| given.not_after());
            (s.name.clone(), s.certificate.clone(), ends)
        };
        public.map(one).collect()
    }

    /// For people's eyes.
    pub(crate) fn status(&self) -> Vec<PublishedStatus> {
        let said = self.said();
        let of_hub = |(hub, names): (&Arc<str>, &Vec<Publishing>)| {
            let hub = hub.to_string();
            names
                .iter()
                .map(move |p| PublishedStatus {
                    name: p.name.clone(),
                    hub: hub.clone(),
                    allowed: p.allowed,
                })
                .collect::<Vec<_>>()
        };
        said.iter().flat_map(of_hub).collect()
    }

    /// TLS with a client of this name, and who serves it.
    pub(crate) async fn open(
        &self,
        name: HostName,
        carrier: BoxedCarrier,
        drain: CancellationToken,
    ) -> Result<(Visit, Arc<dyn Handler>), VisitError> {
        let visit = timeout(HANDSHAKE_TIMEOUT, self.accept(name, carrier, drain));
        let (visit, by) = visit.await.map_err(|_| VisitError::Late)??;
        match self.handler(by) {
            Some(handler) => Ok((visit, handler.clone())),
            None => Err(VisitError::Unserved(visit.name)),
        }
    }

    async fn accept(
        &self,
        name: HostName,
        carrier: BoxedCarrier,
        drain: CancellationToken,
    ) -> Result<(Visit, By), VisitError> {
        let opening = Opening::read(carrier).await.map_err(VisitError::Tls)?;
        let site = self.sites.load().iter().find(|s| s.name == name).cloned();
        let Some(site) = site.filter(|s| opening.name().as_ref() == Some(&s.name)) else {
            let asked = opening.name();
            // It may have gone already; why it was refused counts more.
            let _ = opening.refuse(Alert::UnknownName).await;
            return Err(VisitError::Name {
                announced: name,
                asked: asked.map_or_else(|| "no name".into(), |n| n.to_string()),
            });
        };
        let by_root = site.by == By::Given && opening.offers(ALPN_DEVICE);
        let config = match (by_root, site.given) {
            (true, _) => self.by_root.clone(),
            (false, Some((_, config))) => config,
            (false, None) => {
                let _ = opening.refuse(Alert::NoProtocol).await;
                return Err(VisitError::NoCertificate(name));
            }
        };
        let stream = opening.accept(config).await.map_err(VisitError::Tls)?;
        let visit = Visit {
            name,
            by_root,
            stream,
            drain,
        };
        Ok((visit, site.by))
    }

    fn handler(&self, by: By) -> Option<&Arc<dyn Handler>> {
        match by {
            By::Given => self.handler.get(),
            By::Public => Some(&self.public),
        }
    }

    fn tell(&self) {
        let sites = self.sites.load();
        let served = sites.iter().filter(|s| self.handler(s.by).is_some());
        let names: Vec<_> = served.map(|s| s.name.clone()).collect();
        self.published.send_if_modified(|told| {
            let changed = *told != names;
            *told = names;
            changed
        });
    }

    fn said(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Vec<Publishing>>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the first certificates by ACME.
    fn take_first(&self) {
        let waits = |s: &&Site| {
            let file = self.keep.certificate(&s.name);
            let has = |(given, _): &(Arc<Given>, _)| given.is_of(&file, &file);
            s.certificate == CertificatePlan::Acme && !s.given.as_ref().is_some_and(has)
        };
        for site in self.sites.load().iter().filter(waits) {
            let Some(given) = kept(&site.name, site.by, &self.keep) else {
                continue;
            };
            info!(name = %site.name, "took the first certificate");
            let same =
                |s: &&mut Site| s.name == site.name && s.by == site.by && s.certificate == site.certificate;
            self.sites.rcu(|sites| {
                let mut sites = Vec::clone(sites);
                for s in sites.iter_mut().filter(same) {
                    s.given = Some(given.clone());
                }
                sites
            });
        }
    }

    /// Reads given certificates again when their files change.
    pub(crate) async fn tend(self: Arc<Self>) {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut trouble = BTreeMap::new();
        loop {
            tick.tick().await;
            self.take_first();
            for site in self.sites.load_full().iter() {
                let Some((given, _)) = site.given.clone() else {
                    continue;
                };
                let looked = tokio::task::spawn_blocking(move || given.refresh()).await;
                match looked {
                    Ok(Ok(true)) => info!(name = %site.name, "took the new certificate"),
                    Ok(Err(error)) => {
                        let error = error.to_string();
                        if trouble.get(&site.name) != Some(&error) {
                            warn!(name = %site.name, %error, "cannot take the new certificate; the old one stays");
                            trouble.insert(site.name.clone(), error);
                        }
                        continue;
                    }
                    // The runtime ends.
                    Err(_) => return,
                    Ok(Ok(false)) => {}
                }
                trouble.remove(&site.name);
            }
        }
    }
}

/// Names whose certificates were read.
pub(crate) struct Prepared(Vec<Site>);

/// What is wanted; certificates in use from the same files stay.
fn sites(wanted: &[Wanted], before: &[Site], keep: &Keep) -> Result<Vec<Site>, IdentityError> {
    let one = |wanted: &Wanted| {
        let (name, by) = (&wanted.name, wanted.by);
        let same = before.iter().find(|s| {
            s.name == *name && s.by == by && s.certificate == wanted.certificate && s.given.is_some()
        });
        if let Some(same) = same {
            return Ok(same.clone());
        }
        let given = match &wanted.certificate {
            CertificatePlan::None => None,
            CertificatePlan::Files { certificate, key } => {
                Some(known(Given::load(name, certificate, key)?, by)?)
            }
            // The certificate that it had serves until there is one.
            CertificatePlan::Acme => kept(name, by, keep).or_else(|| {
                let before = before.iter().find(|s| s.name == *name && s.by == by);
                before.and_then(|s| s.given.clone())
            }),
        };
        Ok(Site {
            name: name.clone(),
            by,
            certificate: wanted.certificate.clone(),
            given,
        })
    };
    wanted.iter().map(one).collect()
}

/// The certificate that ACME got, if it is there and can be used.
fn kept(name: &HostName, by: By, keep: &Keep) -> Option<(Arc<Given>, Arc<ServerConfig>)> {
    let file = keep.certificate(name);
    if !file.exists() {
        return None;
    }
    match Given::load(name, &file, &file).and_then(|given| known(given, by)) {
        Ok(known) => Some(known),
        Err(error) => {
            debug!(%name, %error, "the certificate by ACME cannot be used; it waits for another");
            None
        }
    }
}

fn known(given: Arc<Given>, by: By) -> Result<(Arc<Given>, Arc<ServerConfig>), IdentityError> {
    let config = match by {
        By::Given => tls::public_server(given.clone())?,
        By::Public => tls::public_web_server(given.clone())?,
    };
    Ok((given, config))
}
