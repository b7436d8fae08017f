//! Path templates, and the paths that they match.

use crate::openapi::decode;

/// A path template with a server's path before it.
#[derive(Debug, Clone)]
pub(super) struct Route {
    segments: Vec<Vec<Piece>>,
}

#[derive(Debug, Clone)]
enum Piece {
    Literal(String),
    /// One character or more, under its name.
    Value(String),
}

impl Route {
    /// A template as `/orders/{id}`.
    pub(super) fn new(template: &str) -> Self {
        Self {
            segments: template.split('/').skip(1).map(pieces).collect(),
        }
    }

    /// The values of the template's names, if `path`, decoded segment by segment, is one of its paths.
    pub(super) fn matches(&self, path: &[String]) -> Option<Vec<(String, String)>> {
        if self.segments.len() != path.len() {
            return None;
        }
        let mut values = Vec::new();
        for (pieces, text) in self.segments.iter().zip(path) {
            segment(pieces, text, &mut values)?;
        }
        Some(values)
    }

    /// For comparison: which segments are without names, the first ones first.
    pub(super) fn literal(&self) -> Vec<bool> {
        self.segments
            .iter()
            .map(|pieces| pieces.iter().all(|piece| matches!(piece, Piece::Literal(_))))
            .collect()
    }
}

fn pieces(segment: &str) -> Vec<Piece> {
    let literal = |text: &str| Piece::Literal(decode(text).unwrap_or_else(|| text.into()));
    let mut pieces = Vec::new();
    let mut rest = segment;
    while let Some((before, name, after)) = rest
        .split_once('{')
        .and_then(|(before, behind)| behind.split_once('}').map(|(name, after)| (before, name, after)))
    {
        if !before.is_empty() {
            pieces.push(literal(before));
        }
        pieces.push(Piece::Value(name.into()));
        rest = after;
    }
    if !rest.is_empty() || pieces.is_empty() {
        pieces.push(literal(rest));
    }
    pieces
}

/// Each name takes as little as it can, the last one the rest.
fn segment(pieces: &[Piece], text: &str, values: &mut Vec<(String, String)>) -> Option<()> {
    let mut rest = text;
    let mut pieces = pieces.iter().peekable();
    while let Some(piece) = pieces.next() {
        match piece {
            Piece::Literal(literal) => rest = rest.strip_prefix(literal.as_str())?,
            Piece::Value(name) => {
                let first = rest.chars().next()?.len_utf8();
                let end = match pieces.peek() {
                    None => rest.len(),
                    Some(Piece::Value(_)) => first,
                    Some(Piece::Literal(next)) => first + rest[first..].find(next.as_str())?,
                };
                values.push((name.clone(), rest[..end].into()));
                rest = &rest[end..];
            }
        }
    }
    rest.is_empty().then_some(())
}
