//! QMP as bytes: a stream of JSON objects, of bounded size. No I/O.

use serde_json::Value;

use super::error::GuestError;

/// Bytes of one message; QEMU's largest answers (its own schema) stay below a tenth of it.
pub(super) const MAX_MESSAGE: usize = 8 << 20;

/// Something that happened in QEMU.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// QEMU's name for it, as in `BLOCK_JOB_READY`.
    pub name: String,
    /// What it says; an empty object for events without data.
    pub data: Value,
}

impl Event {
    /// A text in its data, empty when absent.
    pub fn text(&self, field: &str) -> &str {
        self.data[field].as_str().unwrap_or_default()
    }
}

/// Events that are kept when too many wait: those that change what may be done with the guest.
pub(super) fn matters(name: &str) -> bool {
    const KEPT: [&str; 4] = ["SHUTDOWN", "STOP", "RESUME", "RESET"];
    KEPT.contains(&name) || name.starts_with("BLOCK_") || name.starts_with("GUEST_")
}

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) id: u64,
    pub(super) outcome: Result<Value, Refusal>,
}

#[derive(Debug)]
pub(super) struct Refusal {
    class: String,
    description: String,
}

impl Refusal {
    pub(super) fn of(self, command: &str) -> GuestError {
        GuestError::Refused {
            command: command.into(),
            class: self.class,
            description: self.description,
        }
    }
}

#[derive(Debug)]
pub(super) enum Message {
    Greeting(Value),
    Event(Event),
    Reply(Reply),
}

/// Collects bytes and takes messages out of them: one a line, or `pretty=on` with the last line a lone brace.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    /// Bytes of messages already taken.
    taken: usize,
    /// Bytes behind `taken` in which the end of the message was not found.
    searched: usize,
}

impl Inbox {
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        if self.taken == self.bytes.len() {
            self.bytes.clear();
        } else if self.taken > 0 {
            self.bytes.drain(..self.taken);
        }
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn next(&mut self) -> Result<Option<Message>, GuestError> {
        loop {
            let pending = self.bytes.get(self.taken..).unwrap_or_default();
            let fresh = pending.get(self.searched..).unwrap_or_default();
            let Some(end) = fresh.iter().position(|b| *b == b'\n') else {
                if pending.len() > MAX_MESSAGE {
                    return Err(GuestError::protocol(
                        "QEMU",
                        format!("a message of more than {MAX_MESSAGE} bytes"),
                    ));
                }
                return Ok(None);
            };
            let line_start = self.searched;
            let end = self.searched + end + 1;
            let message = pending.get(..end).unwrap_or_default().trim_ascii();
            let line = pending.get(line_start..end).unwrap_or_default();
            if message.is_empty() {
                self.taken += end;
                self.searched = 0;
                continue;
            }
            // Only these lines can end a message; parsing at each one would cost the square of a pretty answer.
            if line_start > 0 && line.trim_ascii_end() != b"}" {
                self.searched = end;
                continue;
            }
            match serde_json::from_slice::<Value>(message) {
                Ok(value) => {
                    self.taken += end;
                    self.searched = 0;
                    return classify(value).map(Some);
                }
                Err(e) if e.is_eof() => self.searched = end,
                Err(e) => {
                    return Err(GuestError::protocol(
                        "QEMU",
                        format!("{e} in {}", String::from_utf8_lossy(message)),
                    ));
                }
            }
        }
    }
}

fn classify(mut value: Value) -> Result<Message, GuestError> {
    if value.get("QMP").is_some() {
        return Ok(Message::Greeting(value));
    }
    if let Some(name) = value["event"].as_str() {
        let name = name.to_owned();
        return Ok(Message::Event(Event {
            name,
            data: value["data"].take(),
        }));
    }
    let outcome = match (value.get_mut("return").map(Value::take), &value["error"]) {
        (Some(result), _) => Ok(result),
        (None, error) => Err(Refusal {
            class: error["class"].as_str().unwrap_or("unknown").into(),
            description: error["desc"].as_str().unwrap_or("no reason given").into(),
        }),
    };
    match value["id"].as_u64() {
        Some(id) => Ok(Message::Reply(Reply { id, outcome })),
        None => Err(GuestError::protocol(
            "QEMU",
            format!("neither greeting, event nor reply: {value}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(inbox: &mut Inbox) -> Vec<String> {
        std::iter::from_fn(|| inbox.next().unwrap())
            .map(|m| format!("{m:?}"))
            .collect()
    }

    const TALK: &str = "{\"QMP\": {\"version\": {}}}\r\n{\"event\": \"STOP\", \"timestamp\": {}}\r\n\r\n{\"return\": {\"a\": 1}, \"id\": 7}\r\n{\n    \"error\": {\n        \"class\": \"GenericError\",\n        \"desc\": \"}\"\n    },\n    \"id\": 8\n}\n{\"event\": \"RESUME\"}\r\n";

    #[test]
    fn messages_come_out_whole_however_they_were_cut() {
        let mut whole = Inbox::default();
        whole.extend(TALK.as_bytes());
        let expected = all(&mut whole);
        assert_eq!(expected.len(), 5, "{expected:?}");
        for size in 1..TALK.len() {
            let mut inbox = Inbox::default();
            let mut got = Vec::new();
            for part in TALK.as_bytes().chunks(size) {
                inbox.extend(part);
                got.extend(all(&mut inbox));
            }
            assert_eq!(got, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn nonsense_and_endless_messages_are_refused() {
        let refused = |bytes: &[u8]| {
            let mut inbox = Inbox::default();
            inbox.extend(bytes);
            inbox.next().unwrap_err().to_string()
        };
        assert!(refused(b"SSH-2.0-OpenSSH\r\n").contains("SSH-2.0"));
        assert!(refused(b"{\"hello\": 1}\n").contains("neither"));
        assert!(refused(&vec![b' '; MAX_MESSAGE + 1]).contains("more than"));
        assert!(refused(b"{\"return\": {}}\n").contains("neither"));
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes: Vec<u8>) {
            let mut inbox = Inbox::default();
            inbox.extend(&bytes);
            while let Ok(Some(_)) = inbox.next() {}
        }
    }
}
