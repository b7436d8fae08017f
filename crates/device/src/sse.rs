//! Server-sent events (HTML standard, "Server-sent events"), as far as the mailbox uses them, within limits.

use hawser_proto::broker::envelope::MAX_ENVELOPE;

/// Longest line: an envelope as base64url, and the field's name.
const MAX_LINE: usize = MAX_ENVELOPE / 3 * 4 + 64;

/// One event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its `event` field.
    pub(crate) kind: String,
    /// Its `data` field; the mailbox sends one line.
    pub(crate) data: String,
}

/// Takes bytes, gives events.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    event: Event,
}

/// A line is longer than any of a mailbox's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Parser {
    /// Takes the next bytes; gives the events that end in them.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            self.extend(&bytes[..end])?;
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            events.extend(self.line(&line));
        }
        self.extend(bytes)?;
        Ok(events)
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        if self.line.len() + bytes.len() > MAX_LINE {
            return Err(TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Option<Event> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return (event != Event::default()).then_some(event);
        }
        let text = String::from_utf8_lossy(line);
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event.kind = value.into(),
            "data" => self.event.data = value.into(),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str =
        ": hello\n\nevent: envelope\nid: 7\ndata: YWJj\n\n: tick\nevent:revoked\r\n\r\ndata:x\n\n";

    #[test]
    fn events_come_out_however_the_bytes_are_cut() {
        let event = |kind: &str, data: &str| Event {
            kind: kind.into(),
            data: data.into(),
        };
        let expected = [event("envelope", "YWJj"), event("revoked", ""), event("", "x")];
        for size in 1..TEXT.len() {
            let mut parser = Parser::default();
            let found: Vec<_> = TEXT
                .as_bytes()
                .chunks(size)
                .flat_map(|c| parser.push(c).unwrap())
                .collect();
            assert_eq!(found, expected, "{size}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut parser = Parser::default();
        let refused = (0..100).find(|_| parser.push(&[b'a'; 8192]).is_err());
        assert!(refused.is_some());
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken(bytes: Vec<u8>) {
            let _ = Parser::default().push(&bytes);
        }
    }
}
