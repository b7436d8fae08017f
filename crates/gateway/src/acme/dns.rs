//! Questions to the DNS, over TCP: where a record belongs, and whether all who are to give it do. What the servers say is checked by
//! nobody here; the certificate authority looks for itself.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Message, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use super::caa::Caa;

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(5);
/// Most aliases that are followed from one name.
const MAX_ALIASES: usize = 8;
/// Most servers of a zone that are asked.
const MAX_SERVERS: usize = 16;
/// Waits between looks for a record.
const LOOK: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
const PORT: u16 = 53;
const SYSTEM: &str = "/etc/resolv.conf";

/// Why the DNS did not say what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// No server to ask.
    #[error("{SYSTEM} names no server ({0}): name some in gateway.acme.resolvers")]
    NoResolver(String),
    /// A server cannot be spoken to.
    #[error("the DNS server {server} does not answer over TCP: {detail}")]
    Silent {
        /// Which one.
        server: SocketAddr,
        /// What happened.
        detail: String,
    },
    /// A server says that it cannot say.
    #[error("the DNS server {server} answers {code} when asked for {what}")]
    Refused {
        /// Which one.
        server: SocketAddr,
        /// Its response code.
        code: ResponseCode,
        /// Name and type.
        what: String,
    },
    /// Aliases lead nowhere.
    #[error("{0}: over {MAX_ALIASES} aliases (CNAME) one after the other")]
    Aliases(Name),
    /// No zone.
    #[error("no zone was found that {0} belongs to")]
    NoZone(Name),
    /// The zone's servers have no addresses.
    #[error("the servers (NS) of the zone {0} have no addresses")]
    NoServers(Name),
    /// The record is not there.
    #[error("{record} is not given by {missing} within {waited:?}")]
    Missing {
        /// The record's name.
        record: Name,
        /// Who does not give it.
        missing: String,
        /// How long was waited.
        waited: Duration,
    },
    /// No such name can be.
    #[error("{0}")]
    Name(#[from] hickory_proto::ProtoError),
}

/// Where a record belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Its name, after aliases.
    pub(super) record: Name,
    /// The zone that holds it.
    pub(super) zone: Name,
    /// The zone's servers.
    pub(super) servers: Vec<SocketAddr>,
}

/// Asks servers that resolve for others, or at least know the zone.
#[derive(Debug, Clone)]
pub(super) struct Resolver(Vec<SocketAddr>);

impl Resolver {
    /// Asks these; without any, those of the system.
    pub(super) fn new(configured: &[SocketAddr]) -> Result<Self, DnsError> {
        if !configured.is_empty() {
            return Ok(Self(configured.to_vec()));
        }
        let text = fs::read_to_string(SYSTEM).map_err(|e| DnsError::NoResolver(e.to_string()))?;
        match system(&text) {
            list if list.is_empty() => Err(DnsError::NoResolver("no nameserver line".into())),
            list => Ok(Self(list)),
        }
    }

    /// The addresses that a name leads to, by aliases too; none where there is no such name. Cancel safe.
    pub(super) async fn addresses(&self, name: &Name) -> Result<BTreeSet<IpAddr>, DnsError> {
        let mut found = BTreeSet::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            found.extend(self.ask(name, kind).await?.answers.iter().filter_map(address));
        }
        Ok(found)
    }

    /// The CAA records that apply to a name: its own, or those of the nearest name above that has some (RFC 8659, 3). Cancel safe.
    pub(super) async fn caa(&self, name: &Name) -> Result<Vec<Caa>, DnsError> {
        let mut at = name.clone();
        while !at.is_root() {
            let answer = match self.ask(&at, RecordType::CAA).await {
                // A server that knows the zone alone.
                Err(DnsError::Refused { .. }) if at != *name => break,
                other => other?,
            };
            let found: Vec<_> = answer.answers.iter().filter_map(caa).collect();
            if !found.is_empty() {
                return Ok(found);
            }
            at = at.base_name();
        }
        Ok(Vec::new())
    }

    /// Follows aliases from a name, and finds the zone at their end. Cancel safe.
    pub(super) async fn place(&self, name: &Name) -> Result<Place, DnsError> {
        let record = self.follow(name).await?;
        let mut zone = record.clone();
        loop {
            let answer = self.ask(&zone, RecordType::SOA).await?;
            let own = |r: &Record| r.record_type() == RecordType::SOA && r.name == zone;
            if answer.answers.iter().any(own) {
                break;
            }
            if zone.is_root() {
                return Err(DnsError::NoZone(record));
            }
            zone = zone.base_name();
        }
        let servers = self.servers(&zone).await?;
        Ok(Place {
            record,
            zone,
            servers,
        })
    }

    async fn follow(&self, name: &Name) -> Result<Name, DnsError> {
        let mut at = name.clone();
        for _ in 0..MAX_ALIASES {
            let answer = self.ask(&at, RecordType::CNAME).await?;
            let next = answer.answers.iter().find_map(|r| match &r.data {
                RData::CNAME(to) if r.name == at => Some(to.0.clone()),
                _ => None,
            });
            match next {
                Some(next) => at = next,
                None => return Ok(at),
            }
        }
        Err(DnsError::Aliases(name.clone()))
    }

    async fn servers(&self, zone: &Name) -> Result<Vec<SocketAddr>, DnsError> {
        let answer = self.ask(zone, RecordType::NS).await?;
        let names = answer.answers.iter().filter_map(|r| match &r.data {
            RData::NS(ns) => Some(ns.0.clone()),
            _ => None,
        });
        let mut found = BTreeSet::new();
        for name in names.take(MAX_SERVERS) {
            for kind in [RecordType::A, RecordType::AAAA] {
                // A server in another zone may be out of reach of who knows this one.
                let Ok(answer) = self.ask(&name, kind).await else {
                    continue;
                };
                let addresses = answer.answers.iter().filter_map(address);
                found.extend(addresses.map(|ip| SocketAddr::new(ip, PORT)));
            }
        }
        match found.is_empty() {
            true => Err(DnsError::NoServers(zone.clone())),
            false => Ok(found.into_iter().take(MAX_SERVERS).collect()),
        }
    }

    async fn ask(&self, name: &Name, kind: RecordType) -> Result<Message, DnsError> {
        let mut last = None;
        for server in &self.0 {
            match ask(*server, name, kind).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| DnsError::NoResolver("none".into())))
    }
}

/// Waits until every server of the place that can be reached, and one at least, gives this TXT record. Cancel safe.
pub(super) async fn wait_for(place: &Place, value: &str, within: Duration) -> Result<(), DnsError> {
    let end = Instant::now() + within;
    let mut pause = LOOK.0;
    loop {
        let missing = missing(place, value).await;
        let Some(missing) = missing else {
            return Ok(());
        };
        if Instant::now() + pause > end {
            return Err(DnsError::Missing {
                record: place.record.clone(),
                missing,
                waited: within,
            });
        }
        sleep(pause).await;
        pause = (pause * 2).min(LOOK.1);
    }
}

/// Who of the servers does not give the record.
async fn missing(place: &Place, value: &str) -> Option<String> {
    let (mut without, mut silent, mut gives) = (Vec::new(), Vec::new(), false);
    for server in &place.servers {
        match ask(*server, &place.record, RecordType::TXT).await {
            Ok(answer) if holds(&answer, value) => gives = true,
            Ok(_) => without.push(server.to_string()),
            Err(error) => {
                debug!(%server, %error, "cannot ask for the record");
                silent.push(error.to_string());
            }
        }
    }
    match (without.is_empty(), gives) {
        (true, true) => None,
        (true, false) => Some(format!("any server of {} ({})", place.zone, silent.join("; "))),
        (false, _) => Some(without.join(", ")),
    }
}

fn address(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(a) => Some(IpAddr::V6(a.0)),
        _ => None,
    }
}

fn caa(record: &Record) -> Option<Caa> {
    match &record.data {
        RData::CAA(caa) => Some(Caa {
            critical: caa.issuer_critical,
            tag: caa.tag.clone(),
            value: caa.value.clone(),
        }),
        _ => None,
    }
}

/// A host's name as the DNS has it.
pub(super) fn absolute(name: &str) -> Result<Name, DnsError> {
    let mut name = Name::from_ascii(name)?;
    name.set_fqdn(true);
    Ok(name)
}

fn holds(answer: &Message, value: &str) -> bool {
    answer.answers.iter().any(|r| match &r.data {
        RData::TXT(txt) => txt.txt_data.concat() == value.as_bytes(),
        _ => false,
    })
}

async fn ask(server: SocketAddr, name: &Name, kind: RecordType) -> Result<Message, DnsError> {
    let mut message = Message::query();
    message.metadata.op_code = OpCode::Query;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name.clone(), kind));
    let bytes = exchange(server, &message.to_vec()?).await?;
    let silent = |detail: String| DnsError::Silent { server, detail };
    let answer = Message::from_vec(&bytes).map_err(|e| silent(format!("not understood: {e}")))?;
    if answer.id != message.id {
        return Err(silent("it answers something else".into()));
    }
    match answer.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain => Ok(answer),
        code => Err(DnsError::Refused {
            server,
            code,
            what: format!("{name} {kind}"),
        }),
    }
}

/// A message to a server, and its answer. Cancel safe.
pub(super) async fn exchange(server: SocketAddr, message: &[u8]) -> Result<Vec<u8>, DnsError> {
    let said = timeout(ANSWER, converse(server, message));
    let said = said
        .await
        .unwrap_or_else(|_| Err(io::Error::other(format!("nothing within {ANSWER:?}"))));
    said.map_err(|e| DnsError::Silent {
        server,
        detail: e.to_string(),
    })
}

async fn converse(server: SocketAddr, message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// The servers of a resolv.conf.
fn system(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let ip = words.next().filter(|w| *w == "nameserver").and(words.next())?;
        Some(SocketAddr::new(ip.parse().ok()?, PORT))
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_servers_are_found() {
        let text = "# nameserver 192.0.2.9\nsearch acme.example\nnameserver 192.0.2.1\n nameserver  2001:db8::1 \nnameserver x\n";
        let found: Vec<_> = system(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53"]);
    }
}
