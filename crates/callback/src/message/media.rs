//! What a Content-Type says (RFC 9110 section 8.3.1, RFC 2387).

use crate::replace::Refusal;

/// Longest Content-Type that is looked at, in bytes.
const MAX: usize = 2048;

/// A media type: type and parameter names in lower case.
#[derive(Debug)]
pub(super) struct MediaType {
    essence: String,
    parameters: Vec<(String, String)>,
}

impl MediaType {
    /// `None`: nothing that could be one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX {
            return None;
        }
        let (essence, mut rest) = text.split_once(';').unwrap_or((text, ""));
        let essence = essence.trim().to_ascii_lowercase();
        if !essence.contains('/') {
            return None;
        }
        let mut parameters = Vec::new();
        while let Some((name, value, after)) = parameter(rest) {
            if !name.is_empty() {
                parameters.push((name, value));
            }
            rest = after;
        }
        Some(Self { essence, parameters })
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    pub(super) fn is_xml(&self) -> bool {
        is_xml(&self.essence)
    }

    /// `multipart/related` whose root is XML, as far as it says.
    pub(super) fn is_related_xml(&self) -> bool {
        let root = self.parameter("type").map(|t| {
            t.split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_lowercase()
        });
        self.essence == "multipart/related" && root.is_none_or(|t| is_xml(&t))
    }

    pub(super) fn is_json(&self) -> bool {
        let json = ["application/json", "text/json"].contains(&self.essence.as_str());
        json || (self.essence.starts_with("application/") && self.essence.ends_with("+json"))
    }

    pub(super) fn is_form(&self) -> bool {
        self.essence == "application/x-www-form-urlencoded"
    }

    /// Refuses what is not written in ASCII where ASCII would do.
    pub(super) fn check_charset(&self) -> Result<(), Refusal> {
        match self.parameter("charset") {
            Some(charset) if !is_ascii_based(charset) => {
                Err(Refusal::Charset(charset.chars().take(40).collect()))
            }
            _ => Ok(()),
        }
    }
}

fn is_xml(essence: &str) -> bool {
    [
        "text/xml",
        "application/soap+xml",
        "application/xml",
        "application/xop+xml",
    ]
    .contains(&essence)
}

/// Whether ASCII characters, and no others, are written as the bytes of ASCII.
pub(super) fn is_ascii_based(charset: &str) -> bool {
    let charset = charset.trim().to_ascii_lowercase();
    let exact = ["utf-8", "utf8", "us-ascii", "ascii", "latin1"];
    let families = ["iso-8859-", "iso_8859-", "windows-125"];
    exact.contains(&charset.as_str()) || families.iter().any(|f| charset.starts_with(f))
}

/// The next parameter: name, value, and what follows. An empty name is a stray semicolon.
fn parameter(text: &str) -> Option<(String, String, &str)> {
    let text = text.trim_start_matches([' ', '\t', ';']);
    if text.is_empty() {
        return None;
    }
    let end = text.find(['=', ';']).unwrap_or(text.len());
    let name = text[..end].trim().to_ascii_lowercase();
    let Some(value) = text[end..].strip_prefix('=') else {
        return Some((String::new(), String::new(), &text[end..]));
    };
    let value = value.trim_start_matches([' ', '\t']);
    let Some(quoted) = value.strip_prefix('"') else {
        let end = value.find(';').unwrap_or(value.len());
        return Some((name, value[..end].trim().to_owned(), &value[end..]));
    };
    let mut unquoted = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((name, unquoted, &quoted[at + 1..])),
            '\\' => unquoted.extend(chars.next().map(|(_, c)| c)),
            c => unquoted.push(c),
        }
    }
    Some((name, unquoted, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_may_be_quoted() {
        let media = MediaType::parse(
            "Multipart/Related; boundary=\"a;b\\\"c\";; start=<x@y> ;type=\"application/xop+xml\"",
        )
        .unwrap();
        assert_eq!(media.parameter("boundary"), Some("a;b\"c"));
        assert_eq!(media.parameter("start"), Some("<x@y>"));
        assert!(media.is_related_xml());
        assert!(MediaType::parse("nothing").is_none());
        assert!(!MediaType::parse("text/xml;charset").unwrap().is_related_xml());
    }

    #[test]
    fn charsets() {
        let refused = |s: &str| MediaType::parse(s).unwrap().check_charset().is_err();
        assert!(
            !refused("text/xml; charset=\"UTF-8\"")
                && !refused("text/xml")
                && !refused("text/xml;charset=ISO-8859-1")
        );
        assert!(refused("text/xml; charset=utf-16") && refused("text/xml; charset=ebcdic-cp-us"));
    }
}
