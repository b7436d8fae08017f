//! `-netdev` and `-nic`: taps by their names on the standby.

use super::{Need, Standby};
use crate::vm::{finding::Unfit, fitness::Word, syntax::Options};

impl Standby<'_> {
    pub(super) fn network(&mut self, word: &Word) -> Result<(), Unfit> {
        let mut options = word.options.clone();
        match options.get("type").as_deref() {
            Some("tap") => self.tap(&mut options)?,
            Some("bridge") => {
                let bridge = options.get("br").unwrap_or_else(|| "br0".into());
                self.needs.push(Need::Bridge(bridge));
            }
            _ if options.has("fd") || options.get("addr.type").as_deref() == Some("fd") => {
                return Err(Unfit::new(
                    format!(
                        "-{} {} uses a socket that was open when QEMU started",
                        word.name, word.value
                    ),
                    "use a tap",
                ));
            }
            _ => {}
        }
        self.replace(word, options.to_string());
        Ok(())
    }

    fn tap(&mut self, options: &mut Options) -> Result<(), Unfit> {
        let id = options.get("id");
        let name = options.get("ifname");
        let substitution = self
            .substitutions
            .taps
            .iter()
            .find(|t| Some(&t.network) == name.as_ref() || Some(&t.network) == id.as_ref());
        let given = options.has("fd");
        let helped = options.has("helper") || (options.has("br") && !options.has("ifname"));
        match (substitution, name) {
            (Some(tap), _) => options.set("ifname", tap.ifname.as_str()),
            (None, Some(_)) => {}
            // QEMU's bridge helper makes a tap by itself.
            (None, None) if helped => {}
            (None, None) => {
                let who = id
                    .map(|i| format!("tap of network {i}"))
                    .unwrap_or_else(|| "a tap".into());
                return Err(Unfit::new(
                    format!(
                        "{who} has no name on the command line, so that there is none to use on the standby"
                    ),
                    "say which tap the standby shall use for it",
                ));
            }
        }
        if given {
            options.remove("fd");
            options.set("script", "no");
            options.set("downscript", "no");
        }
        // Both hosts must put the same header before each frame.
        if let Some(ifname) = options.get("ifname") {
            self.needs.push(Need::Tap(ifname));
        } else {
            self.needs
                .push(Need::Bridge(options.get("br").unwrap_or_else(|| "br0".into())));
        }
        for key in ["script", "downscript", "helper"] {
            let file = options.get(key).filter(|f| f.starts_with('/'));
            self.needs.extend(file.map(|f| Need::SameFile(f.into())));
        }
        Ok(())
    }
}
