//! Consoles, monitors and displays: none of them is part of the machine's state, but the guest's side of each must be there.

use super::{Need, Standby};
use crate::vm::{escape, fitness::Word};

impl Standby<'_> {
    /// `-chardev`: the same id, with sockets and files in the standby's directory.
    pub(super) fn chardev(&mut self, word: &Word) {
        let id = word.options.get("id").unwrap_or_default();
        if self.is_monitor_only(&id) {
            return self.drop(word);
        }
        let backend = word.options.get("backend").unwrap_or_default();
        let mut options = word.options.clone();
        options.remove("logfile");
        options.remove("logappend");
        match backend.as_str() {
            "socket" if self.is_tpm(&id) => {
                let path = self.substitutions.directory.join(format!("{}.sock", plain(&id)));
                options.retain(|k| matches!(k, "backend" | "id"));
                options.set("path", path.display().to_string());
                self.needs.push(Need::TpmSocket(path));
            }
            "socket" => {
                options.retain(|k| matches!(k, "backend" | "id" | "mux"));
                options.set("path", self.name(&plain(&id), ".sock"));
                options.switch("server", true);
                options.switch("wait", false);
            }
            "file" => {
                options.retain(|k| matches!(k, "backend" | "id" | "mux"));
                options.set("path", self.name(&plain(&id), ".log"));
            }
            "stdio" | "pipe" | "serial" | "tty" | "parallel" | "parport" | "udp" | "console" | "vc"
            | "braille" | "gdb" => {
                options.retain(|k| matches!(k, "backend" | "id" | "mux"));
                options.set("backend", "null");
            }
            // pty, null, ringbuf, spicevmc, spiceport, qemu-vdagent and the like depend on nothing outside.
            _ => {}
        }
        self.replace(word, options.to_string());
    }

    /// `-serial` and its like: a place of the machine's, whose far end is outside.
    pub(super) fn character(&mut self, word: &Word) {
        let value = word.value.strip_prefix("mon:").unwrap_or(&word.value);
        let kind = value.split([':', ',']).next().unwrap_or_default();
        let to = match kind {
            "none" | "null" | "chardev" | "pty" | "msmouse" | "wctablet" | "ringbuf" => value.to_string(),
            "file" => format!("file:{}", self.name(&word.name, ".log")),
            "unix" | "tcp" | "telnet" | "websocket" => {
                format!(
                    "unix:{},server=on,wait=off",
                    escape(&self.name(&word.name, ".sock"))
                )
            }
            _ => "null".into(),
        };
        self.replace(word, to);
    }

    pub(super) fn display(&mut self, word: &Word) {
        if word.options.has("vnc") {
            let path = self.name("vnc", ".sock");
            self.replace(word, format!("vnc=unix:{}", escape(&path)));
        } else {
            self.replace(word, "none".into());
        }
    }

    pub(super) fn vnc(&mut self, word: &Word) {
        if word.value == "none" {
            return self.keep(word);
        }
        let to = format!("unix:{}", escape(&self.name("vnc", ".sock")));
        self.replace(word, to);
    }

    pub(super) fn spice(&mut self, word: &Word) {
        let path = escape(&self.name("spice", ".sock"));
        self.replace(word, format!("unix=on,addr={path},disable-ticketing=on"));
    }

    /// What QEMU would open by itself where the command line says nothing: a window, and consoles on the terminal.
    pub(super) fn defaults(&mut self) {
        let has = |names: &[&str]| self.words.iter().any(|w| names.contains(&w.name.as_str()));
        let displayed = self
            .args
            .iter()
            .any(|a| matches!(a.as_str(), "-display" | "-vnc" | "-spice" | "-nographic"));
        let bare = has(&["nodefaults"]);
        // Without -nodefaults there are a serial and a parallel port; with -nographic they would be on the terminal.
        let serial = !bare && !has(&["serial"]) && !self.has_device("isa-serial");
        let parallel = !bare && !has(&["parallel"]) && !self.has_device("isa-parallel");
        if !displayed {
            self.add("display", "none");
        }
        if serial {
            self.add("serial", "null");
        }
        if parallel {
            self.add("parallel", "null");
        }
        if !bare {
            self.add("monitor", "none");
        }
    }

    fn has_device(&self, driver: &str) -> bool {
        let mut devices = self.words.iter().filter(|w| w.name == "device");
        devices.any(|w| w.options.get("driver").as_deref() == Some(driver))
    }

    /// Whether a character device serves a monitor and nothing of the machine's.
    fn is_monitor_only(&self, id: &str) -> bool {
        let mut monitor = false;
        for word in self.words.iter().filter(|w| w.name != "chardev") {
            if !refers(word, id) {
                continue;
            }
            if word.name != "mon" {
                return false;
            }
            monitor = true;
        }
        monitor
    }

    fn is_tpm(&self, id: &str) -> bool {
        self.words.iter().any(|w| w.name == "tpmdev" && refers(w, id))
    }
}

fn refers(word: &Word, id: &str) -> bool {
    let direct = word
        .value
        .strip_prefix("chardev:")
        .or_else(|| word.value.strip_prefix("mon:chardev:"));
    let mut values = word.options.values().into_iter();
    direct == Some(id) || values.any(|(key, value)| key.ends_with("dev") && value == id)
}

/// An id as a part of a file's name.
fn plain(id: &str) -> String {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = id.chars().filter(allowed).collect();
    if name.starts_with('.') || name.is_empty() {
        format!("c{name}")
    } else {
        name
    }
}
