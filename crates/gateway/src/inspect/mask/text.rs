//! Secrets found in text by its shape: no parser's tree, so that a body that is cut off, or is not quite what it says, is read as far
//! as it goes and stays otherwise as it is.

use super::{MASK, Masks, Withheld};

/// Deepest nesting of JSON that is followed; what is deeper is masked whole.
const DEPTH: usize = 128;

/// An object or array that is open.
struct Open {
    array: bool,
    /// The member's name or the element's number.
    at: String,
    index: usize,
}

/// Masks values of JSON, or of JSON within other text.
pub(super) fn json(masks: &Masks, text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut open: Vec<Open> = Vec::new();
    let (mut i, mut copied) = (0, 0);
    while let Some(&byte) = bytes.get(i) {
        let mut value = false;
        match byte {
            b'{' | b'[' => {
                if open.len() == DEPTH {
                    out.push_str(&text[copied..i]);
                    out.push_str(MASK);
                    return out;
                }
                let array = byte == b'[';
                open.push(Open {
                    array,
                    at: if array { "0".into() } else { String::new() },
                    index: 0,
                });
                value = array;
                i += 1;
            }
            b'}' | b']' => {
                open.pop();
                i += 1;
            }
            b',' => {
                i += 1;
                if let Some(top) = open.last_mut().filter(|top| top.array) {
                    top.index += 1;
                    top.at = top.index.to_string();
                    value = true;
                }
            }
            b'"' => {
                let end = string_end(bytes, i);
                let after = skip_space(bytes, end);
                let token = &text[i..end];
                i = end;
                if bytes.get(after) == Some(&b':') && open.last().is_none_or(|top| !top.array) {
                    let name: String =
                        serde_json::from_str(token).unwrap_or_else(|_| token.trim_matches('"').to_owned());
                    i = skip_space(bytes, after + 1);
                    let secret = masks.is_secret(&name);
                    if let Some(top) = open.last_mut() {
                        top.at = name;
                    }
                    if secret {
                        out.push_str(&text[copied..i]);
                        i = mask(&mut out, bytes, i);
                        copied = i;
                        continue;
                    }
                    value = true;
                }
            }
            _ => i += 1,
        }
        if value {
            let start = skip_space(bytes, i);
            let path = open.iter().map(|o| o.at.as_str());
            if !matches!(bytes.get(start), None | Some(b']')) && masks.is_at(path) {
                out.push_str(&text[copied..start]);
                i = mask(&mut out, bytes, start);
                copied = i;
            }
        }
    }
    out.push_str(&text[copied..]);
    out
}

/// Writes the mask in the place of the value at `start`; where that ends.
fn mask(out: &mut String, bytes: &[u8], start: usize) -> usize {
    out.push('"');
    out.push_str(MASK);
    out.push('"');
    match bytes.get(start) {
        Some(b'"') => string_end(bytes, start),
        Some(b'{' | b'[') => {
            let (mut depth, mut i) = (0_usize, start);
            while let Some(&byte) = bytes.get(i) {
                match byte {
                    b'"' => {
                        i = string_end(bytes, i);
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                i += 1;
                if depth == 0 {
                    break;
                }
            }
            i
        }
        _ => {
            let rest = bytes.get(start..).unwrap_or_default();
            let ends = |b: &u8| matches!(b, b',' | b'}' | b']' | b'\n' | b'\r');
            start + rest.iter().position(ends).unwrap_or(rest.len())
        }
    }
}

/// Behind the string that begins at `start`, or at the end of the text.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut i = start + 1;
    while let Some(byte) = bytes.get(i) {
        match byte {
            b'"' => return i + 1,
            b'\\' => i += 2,
            _ => i += 1,
        }
    }
    bytes.len()
}

fn skip_space(bytes: &[u8], mut i: usize) -> usize {
    while bytes.get(i).is_some_and(u8::is_ascii_whitespace) {
        i += 1;
    }
    i
}

/// Masks the contents of elements, and values of attributes.
pub(super) fn xml(masks: &Masks, text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = tag_end(rest);
        let (tag, after) = rest.split_at(end);
        out.push_str(&attributes(masks, tag));
        rest = after;
        let name = tag[1..].split([' ', '\t', '\r', '\n', '/', '>']).next();
        let name = name.unwrap_or_default();
        let local = name.rsplit(':').next().unwrap_or_default();
        if !local.is_empty() && !tag.ends_with("/>") && masks.is_secret(local) {
            out.push_str(MASK);
            let close = format!("</{name}");
            rest = rest.find(&close).map_or("", |at| &rest[at..]);
        }
    }
    out.push_str(rest);
    out
}

/// Behind the `>` of the tag, quotes respected, or at the end of the text.
fn tag_end(text: &str) -> usize {
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (None, '>') => return i + 1,
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            _ => {}
        }
    }
    text.len()
}

fn attributes(masks: &Masks, tag: &str) -> String {
    let mut out = String::with_capacity(tag.len());
    let mut rest = tag;
    while let Some(at) = rest.find('=') {
        let name = rest[..at].trim_end();
        let name = name
            .rsplit([' ', '\t', '\r', '\n', ':'])
            .next()
            .unwrap_or_default();
        let secret = masks.is_secret(name);
        let value = rest[at + 1..].trim_start();
        let start = rest.len() - value.len();
        out.push_str(&rest[..start]);
        let quote = value.chars().next().filter(|c| ['"', '\''].contains(c));
        let Some(quote) = quote else {
            rest = value;
            continue;
        };
        let length = value[1..].find(quote).map_or(value.len(), |end| end + 2);
        match secret {
            true => {
                out.push(quote);
                out.push_str(MASK);
                out.push(quote);
            }
            false => out.push_str(&value[..length]),
        }
        rest = &value[length..];
    }
    out.push_str(rest);
    out
}

/// Masks the fields of a form in parts, which may be binary.
pub(super) fn multipart(masks: &Masks, kind: &str, body: &[u8]) -> Result<Vec<u8>, Withheld> {
    let boundary = kind
        .split(';')
        .filter_map(|p| p.trim().split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("boundary"))
        .map(|(_, value)| value.trim_matches('"'))
        .filter(|value| !value.is_empty())
        .ok_or(Withheld(
            "its parts have no boundary, so that its secrets cannot be found",
        ))?;
    let line = format!("--{boundary}");
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    let mut begun = false;
    loop {
        let end = find(rest, line.as_bytes()).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        out.extend(if begun {
            masked_part(masks, part)
        } else {
            part.to_vec()
        });
        if after.is_empty() {
            return Ok(out);
        }
        out.extend_from_slice(line.as_bytes());
        (rest, begun) = (&after[line.len()..], true);
    }
}

fn masked_part(masks: &Masks, part: &[u8]) -> Vec<u8> {
    let Some(head) = find(part, b"\r\n\r\n") else {
        return part.to_vec();
    };
    let text = String::from_utf8_lossy(&part[..head]);
    let lower = text.to_ascii_lowercase();
    // `filename=` is no name.
    let name = lower
        .split([';', '\r', '\n'])
        .filter_map(|p| p.trim().strip_prefix("name="))
        .any(|name| masks.is_secret(name.trim_matches('"')));
    if !name {
        return part.to_vec();
    }
    [&part[..head + 4], MASK.as_bytes(), b"\r\n"].concat()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}
