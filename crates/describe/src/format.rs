//! Which kind of document some bytes are.

use crate::{DescribeError, MAX_BYTES};

/// Namespace of WSDL 1.1.
pub(crate) const WSDL: &str = "http://schemas.xmlsoap.org/wsdl/";
/// Namespace of WSDL 2.0, which is not read.
pub(crate) const WSDL2: &str = "http://www.w3.org/ns/wsdl";
/// Namespace of XML schemas.
pub(crate) const XSD: &str = "http://www.w3.org/2001/XMLSchema";

/// How a document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Xml,
    Json,
    Yaml,
}

impl Format {
    /// How `bytes` are written.
    ///
    /// # Errors
    /// Too large, empty, or UTF-16.
    pub(crate) fn of(bytes: &[u8], hint: Option<&str>) -> Result<Self, DescribeError> {
        if bytes.len() > MAX_BYTES {
            return Err(DescribeError::TooLarge(bytes.len()));
        }
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") || bytes.starts_with(b"\0<") {
            return Err(DescribeError::Encoding("UTF-16".into()));
        }
        let yaml = hint.is_some_and(|hint| {
            let hint = hint
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_lowercase();
            hint.ends_with("yaml") || hint.ends_with("yml")
        });
        match start(bytes).first() {
            None => Err(DescribeError::Unknown("empty".into())),
            Some(b'<') => Ok(Self::Xml),
            Some(b'{') if !yaml => Ok(Self::Json),
            Some(_) => Ok(Self::Yaml),
        }
    }
}

/// Whether an answer of this content type that begins with these bytes is worth reading as a description. Cheap, and only a guess:
/// 1 KiB of a body is enough, [`parse`](crate::Description::parse) decides. OpenAPI that is declared as plain JSON or YAML is
/// recognised if its `openapi` stands in these bytes, as every generator writes it.
pub fn is_description(content_type: Option<&str>, first_bytes: &[u8]) -> bool {
    let kind = content_type
        .and_then(|c| c.split(';').next())
        .map(|c| c.trim().to_ascii_lowercase());
    let kind = kind.as_deref().unwrap_or_default();
    if kind.starts_with("application/vnd.oai.openapi") || kind.starts_with("application/openapi") {
        return true;
    }
    let text = start(first_bytes);
    if text.first() == Some(&b'<') {
        let may_be = kind.is_empty()
            || kind.ends_with("xml")
            || kind == "text/plain"
            || kind == "application/octet-stream";
        return may_be && is_wsdl(text);
    }
    let json = kind.ends_with("json");
    let yaml = kind.ends_with("yaml") || kind.ends_with("yml");
    let other = matches!(
        kind,
        "" | "text/plain" | "application/octet-stream" | "text/vnd.yaml"
    );
    (json || yaml || other) && is_openapi(text, text.first() == Some(&b'{'))
}

/// Without byte order mark and white space.
fn start(bytes: &[u8]) -> &[u8] {
    bytes
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(bytes)
        .trim_ascii_start()
}

/// Whether the root element is `definitions` or `schema`, and its namespace is named.
fn is_wsdl(mut text: &[u8]) -> bool {
    loop {
        text = text.trim_ascii_start();
        let end: &[u8] = if text.starts_with(b"<?") {
            b"?>"
        } else if text.starts_with(b"<!--") {
            b"-->"
        } else {
            break;
        };
        let Some(at) = find(text, end) else { return false };
        text = &text[at + end.len()..];
    }
    let Some(root) = text.strip_prefix(b"<") else {
        return false;
    };
    let name_end = root
        .iter()
        .position(|b| b.is_ascii_whitespace() || matches!(b, b'>' | b'/'))
        .unwrap_or(root.len());
    let name = &root[..name_end];
    match name.rsplit(|b| *b == b':').next() {
        Some(b"definitions") => find(root, WSDL.as_bytes()).is_some(),
        Some(b"schema") => find(root, XSD.as_bytes()).is_some(),
        _ => false,
    }
}

/// Whether `openapi` stands as a key with a version 3 behind it.
fn is_openapi(text: &[u8], json: bool) -> bool {
    let mut rest = text;
    while let Some(at) = find(rest, b"openapi") {
        let before = rest[..at].last().copied();
        rest = &rest[at + b"openapi".len()..];
        let quoted = matches!(before, Some(b'"' | b'\''));
        if !quoted && (json || !matches!(before, None | Some(b'\n' | b'\r'))) {
            continue;
        }
        let value = if quoted {
            rest.get(1..).unwrap_or_default()
        } else {
            rest
        };
        let value = value.trim_ascii_start();
        if let Some(value) = value.strip_prefix(b":") {
            let value = value.trim_ascii_start();
            let value = value
                .strip_prefix(b"\"")
                .or(value.strip_prefix(b"'"))
                .unwrap_or(value);
            if value.starts_with(b"3.") {
                return true;
            }
        }
    }
    false
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|w| w == part)
}
