//! The broker's ground: an enterprise `acme` behind its firewall, with a gateway that runs the broker and a host for
//! applications; the hub with a mailbox; and somebody outside, where devices are.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Daemon, Host, Process,
    authority::Authority,
    curl::{Answer, Curl},
    hawser::{self, admin_table},
    net::{Plan, Site, Sites},
    wait,
};

/// The enterprise.
pub const DOMAIN: &str = "acme";
/// Where devices find their mailbox.
pub const MAILBOX: &str = "mail.example.org";
/// Where devices find control, and browsers the device page.
pub const CONTROL: &str = "devices.acme.example";
/// Where applications publish, at the gateway.
pub const PUBLISH_PORT: u16 = 8500;
/// What the devices' users type.
pub const PASSPHRASE: &str = "correct horse battery staple";

const SETUP: Duration = Duration::from_secs(60);
/// Longer than the longest wait before a device or a gateway tries the hub again.
const AGAIN: Duration = Duration::from_secs(90);

/// Everything runs. Fields are dropped in this order.
pub struct Office {
    /// The hub; none while it is down.
    pub hub: Option<Daemon>,
    /// The gateway; none while it is down.
    pub gateway: Option<Daemon>,
    /// The networks.
    pub sites: Sites,
    /// Vouches for [`MAILBOX`] and [`CONTROL`] towards browsers.
    pub authority: Authority,
    dir: TempDir,
}

impl Office {
    /// Sets it up, and waits until the gateway is connected.
    pub fn start() -> Result<Self> {
        Self::start_with("", "")
    }

    /// The same with more lines for the `[hub.mailbox]` and `[gateway.broker]` tables.
    pub fn start_with(mailbox: &str, broker: &str) -> Result<Self> {
        let plan = Plan {
            domains: &[DOMAIN],
            gateways: 1,
            proxy_only: false,
        };
        let sites = Sites::build(&plan)?;
        let dir = tempfile::Builder::new().prefix("hawser-office-").tempdir()?;
        let authority = Authority::new(dir.path())?;
        let hub_ip = sites.hub.address();
        sites.net.knows(&[(MAILBOX, hub_ip), (CONTROL, hub_ip)])?;
        let mut office = Self {
            hub: None,
            gateway: None,
            sites,
            authority,
            dir,
        };
        fs::write(office.path("hub.toml"), office.hub_config(mailbox)?)?;
        fs::write(office.path("acme.toml"), office.gateway_config(broker)?)?;
        fs::write(office.path("passphrase"), PASSPHRASE)?;
        office.start_hub()?;
        office.admin(&["domain", "init", DOMAIN, "gw1"], "")?;
        let token = office.hub()?.command(&["token", "hub", DOMAIN], "")?;
        office.admin(&["join"], &token)?;
        office.start_gateway()?;
        Ok(office)
    }

    /// Starts the hub (again).
    pub fn start_hub(&mut self) -> Result<()> {
        self.hub = None;
        let (config, state, log) = (self.path("hub.toml"), self.path("hub"), self.path("hub.log"));
        self.hub = Some(Daemon::start(&self.sites.hub, &config, &state, &log)?);
        Ok(())
    }

    /// Starts the gateway (again), and waits until it is connected.
    pub fn start_gateway(&mut self) -> Result<()> {
        self.gateway = None;
        let (config, state, log) = (self.path("acme.toml"), self.path("gw1"), self.path("acme.log"));
        let mut gateway = Daemon::start(&self.site().gateways[0], &config, &state, &log)?;
        gateway.wait_ready(SETUP)?;
        gateway.wait_published(SETUP, 1)?;
        self.gateway = Some(gateway);
        Ok(())
    }

    /// The hub's process; an error if it is down.
    pub fn hub(&mut self) -> Result<&mut Daemon> {
        self.hub.as_mut().context("the hub is down")
    }

    /// The gateway's process; an error if it is down.
    pub fn gateway(&mut self) -> Result<&mut Daemon> {
        self.gateway.as_mut().context("the gateway is down")
    }

    /// The enterprise's hosts and firewall.
    pub fn site(&self) -> &Site {
        &self.sites.domains[0]
    }

    /// Where devices are: outside.
    pub fn outside(&self) -> &Host {
        &self.sites.net
    }

    /// A file of the test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The test's directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs a command with the gateway's configuration, as its administrator does.
    pub fn admin(&self, args: &[&str], input: &str) -> Result<String> {
        hawser::run(&self.site().gateways[0], &self.path("acme.toml"), args, input)
    }

    /// Adds a user.
    pub fn user(&self, name: &str) -> Result<()> {
        self.admin(&["user", "add", name], "").map(drop)
    }

    /// Lets an application publish; returns its token.
    pub fn application(&self, name: &str) -> Result<String> {
        Ok(self.admin(&["application", "add", name], "")?.trim().to_owned())
    }

    /// An enrolment link for a user's next device.
    pub fn link(&self, user: &str) -> Result<String> {
        Ok(self.admin(&["enrol", user, "--no-qr"], "")?.trim().to_owned())
    }

    /// A device outside that has been enrolled as a user's.
    pub fn device(&self, user: &str, name: &str) -> Result<Device> {
        let device = self.new_device(name);
        device.enrol(&self.link(user)?, &[])?;
        Ok(device)
    }

    /// A device outside that is nobody's yet.
    pub fn new_device(&self, name: &str) -> Device {
        Device {
            host: self.outside().clone(),
            home: self.path(&format!("device-{name}")),
            passphrase: self.path("passphrase"),
            name: name.into(),
            config: self.path("none.toml"),
        }
    }

    /// Publishes as an application does: headers are the CloudEvents attributes.
    pub fn publish(
        &self,
        token: &str,
        attributes: &[(&str, &str)],
        media: &str,
        data: &[u8],
    ) -> Result<Answer> {
        let file = self.path("event.body");
        fs::write(&file, data)?;
        let url = format!("http://{}/v1/events", self.site().gateways[0].at(PUBLISH_PORT));
        let mut headers = vec![
            format!("Authorization: Bearer {token}"),
            format!("Content-Type: {media}"),
            "ce-specversion: 1.0".to_owned(),
        ];
        headers.extend(
            attributes
                .iter()
                .map(|(name, value)| format!("ce-{name}: {value}")),
        );
        let mut curl = Curl::new(&self.site().app, &url);
        for header in &headers {
            curl = curl.header(header);
        }
        curl.args(["--data-binary".to_owned(), format!("@{}", file.display())])
            .call()
    }

    /// What became of an event.
    pub fn delivery(&self, token: &str, id: &str) -> Result<Value> {
        let url = format!(
            "http://{}/v1/deliveries/{id}",
            self.site().gateways[0].at(PUBLISH_PORT)
        );
        let answer = Curl::new(&self.site().app, &url)
            .header(&format!("Authorization: Bearer {token}"))
            .expect(200)?;
        Ok(serde_json::from_str(&answer.text())?)
    }

    /// Waits until every device of a delivery is in one of these states.
    pub fn delivered(&self, token: &str, id: &str, states: &[&str]) -> Result<Value> {
        let what = format!("the delivery {id} to be {}", states.join(" or "));
        let mut last = Value::Null;
        let seen = wait::until(AGAIN, &what, || {
            last = self.delivery(token, id)?;
            let rows = last["recipients"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            let done = !rows.is_empty()
                && rows
                    .iter()
                    .all(|r| r["state"].as_str().is_some_and(|s| states.contains(&s)));
            Ok(done.then(|| last.clone()))
        });
        seen.with_context(|| format!("{}\n{}", last, self.logs()))
    }

    /// What the programs wrote to their logs.
    pub fn logs(&self) -> String {
        ["hub.log", "acme.log"]
            .map(|name| {
                format!(
                    "== {name}\n{}\n",
                    fs::read_to_string(self.path(name)).unwrap_or_default()
                )
            })
            .concat()
    }

    fn hub_config(&self, mailbox: &str) -> Result<String> {
        let (certificate, key) = self.authority.issue(MAILBOX)?;
        let at = self.sites.hub_at();
        Ok(format!(
            "{}[hub]\nlisten = [\"{at}\"]\npublic = \"{at}\"\nstate = \"{}\"\n\n[hub.mailbox]\nname = \"{MAILBOX}\"\n\
             certificate = \"{}\"\nkey = \"{}\"\n{mailbox}\n\n[[hub.publish]]\ndomain = \"{DOMAIN}\"\nnames = [\"{CONTROL}\"]\n",
            admin_table(&self.sites.hub),
            self.path("hub").display(),
            certificate.display(),
            key.display()
        ))
    }

    fn gateway_config(&self, broker: &str) -> Result<String> {
        let (certificate, key) = self.authority.issue(CONTROL)?;
        let host = &self.site().gateways[0];
        Ok(format!(
            "{}[gateway]\nstate = \"{}\"\n\n[gateway.broker]\nname = \"{CONTROL}\"\ncertificate = \"{}\"\nkey = \"{}\"\nport = {}\n\
             listen = [\"{}\"]\nclients = [\"{}\"]\n{broker}\n",
            admin_table(host),
            self.path("gw1").display(),
            certificate.display(),
            key.display(),
            self.sites.hub_at().port(),
            host.at(PUBLISH_PORT),
            self.site().network,
        ))
    }
}

/// A command-line device.
#[derive(Clone)]
pub struct Device {
    /// Where it is.
    pub host: Host,
    /// Its directory.
    pub home: PathBuf,
    /// File with what its user types.
    pub passphrase: PathBuf,
    name: String,
    config: PathBuf,
}

impl Device {
    /// Makes it the device of the link's user. More words are for `hawser device enrol`.
    pub fn enrol(&self, link: &str, more: &[&str]) -> Result<String> {
        let words = [&["enrol", "--name", &self.name], more].concat();
        self.run(&words, link)
    }

    /// Runs `hawser device` with these words.
    pub fn run(&self, words: &[&str], input: &str) -> Result<String> {
        let (out, err, ok) = self.try_run(words, input)?;
        ensure!(ok, "hawser device {}: {err}{out}", words.join(" "));
        Ok(out)
    }

    /// The same whatever its end: standard output, standard error, whether it succeeded.
    pub fn try_run(&self, words: &[&str], input: &str) -> Result<(String, String, bool)> {
        let own = self.words(words)?;
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        hawser::try_run(&self.host, &self.config, &own, input)
    }

    /// `hawser device listen --json` that goes on until it is dropped; each line of its log is an event.
    pub fn listen(&self, more: &[&str]) -> Result<Listening> {
        let log = self.home.with_extension("log");
        let _ = fs::remove_file(&log);
        let words = self.words(&[&["listen", "--json"], more].concat())?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let program = hawser::binary()?
            .to_str()
            .context("the binary's path is no text")?;
        Ok(Listening {
            process: Process::start(&self.host, program, &words, &log)?,
        })
    }

    fn words(&self, words: &[&str]) -> Result<Vec<String>> {
        let (first, rest) = words.split_first().context("no command")?;
        let mut own = vec!["device".to_owned(), (*first).to_owned()];
        own.push("--home".into());
        own.push(self.home.display().to_string());
        own.push("--passphrase-file".into());
        own.push(self.passphrase.display().to_string());
        own.extend(rest.iter().map(|w| (*w).to_owned()));
        Ok(own)
    }
}

/// A device that listens.
pub struct Listening {
    /// The process.
    pub process: Process,
}

impl Listening {
    /// Waits for an event whose JSON holds this text, and returns it.
    pub fn event(&mut self, text: &str) -> Result<Value> {
        let what = format!("an event with {text:?}");
        self.process
            .wait_until(AGAIN, &what, |p| line(&p.log(), text).is_some())?;
        line(&self.process.log(), text).context("it was there a moment ago")
    }

    /// The events so far.
    pub fn events(&self) -> Vec<Value> {
        let log = self.process.log();
        log.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
    }
}

fn line(log: &str, text: &str) -> Option<Value> {
    log.lines()
        .filter(|l| l.contains(text))
        .find_map(|l| serde_json::from_str(l).ok())
}
