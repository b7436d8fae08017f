//! A WebDAV server: Apache with `mod_dav`, of class 2 (locks).

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

use super::git::listens;
use crate::{Host, Process, wait};

/// A running server with one collection, `/docs/`; ends when dropped.
pub struct WebDav {
    _process: Process,
    docs: PathBuf,
    access: PathBuf,
}

impl WebDav {
    /// Starts it on a host's port; its files are in `dir`, which others must be able to enter.
    pub fn start(host: &Host, port: u16, dir: &Path) -> Result<Self> {
        let root = dir.join(format!("{}-webdav", host.name()));
        let (docs, access) = (root.join("docs"), root.join("access.log"));
        fs::create_dir_all(&docs)?;
        let at: SocketAddr = host.at(port);
        let config = root.join("apache.conf");
        fs::write(
            &config,
            format!(
                r#"ServerRoot "{root}"
ServerName {ip}
Listen {at}
PidFile "{root}/apache.pid"
Mutex file:{root}
User www-data
Group www-data
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule dav_module /usr/lib/apache2/modules/mod_dav.so
LoadModule dav_fs_module /usr/lib/apache2/modules/mod_dav_fs.so
ErrorLog /dev/stderr
LogFormat "%m %U %>s" short
CustomLog "{access}" short
DavLockDB "{root}/locks"
DocumentRoot "{root}"
<Directory "{root}">
  Require all denied
</Directory>
<Directory "{docs}">
  Require all granted
  Dav On
  # Otherwise the tag of a file just written is weak, and matches nothing.
  FileETag Digest
</Directory>
"#,
                root = root.display(),
                docs = docs.display(),
                access = access.display(),
                ip = at.ip(),
            ),
        )?;
        let owned = Command::new("chown")
            .args(["-R", "www-data"])
            .arg(&root)
            .status()?;
        ensure!(owned.success(), "there is no user `www-data`");
        let config = config.to_str().context("the path is no text")?;
        let log = root.join("apache.log");
        let mut process = Process::start(host, "apache2", &["-D", "FOREGROUND", "-f", config], &log)?;
        process.wait_until(wait::SOON, "apache2 to listen", |_| listens(host, at))?;
        Ok(Self {
            _process: process,
            docs,
            access,
        })
    }

    /// Puts a document there, as somebody with access to the server's disk does.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.docs.join(name);
        fs::write(&path, content)?;
        let owned = Command::new("chown").arg("www-data").arg(&path).status()?;
        ensure!(owned.success(), "{} cannot be given away", path.display());
        Ok(())
    }

    /// What lies there under a name.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        Ok(fs::read(self.docs.join(name))?)
    }

    /// Each request that it answered, as `METHOD PATH STATUS`.
    pub fn served(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.access).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}
