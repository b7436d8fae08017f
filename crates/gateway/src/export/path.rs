//! Path patterns of export rules, and the paths that may be matched against them.
//!
//! A rule is only worth something if gateway and origin read the same path. A [`PlainPath`] is one that every server reads
//! alike: no dot segments, empty segments, encoded separators or path parameters. Others are refused, not repaired.

use std::{fmt, str::FromStr};

/// A path pattern: `*` within a segment stands for any characters, `**` as a segment for any number of segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathGlob {
    text: Box<str>,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// `**`
    Any,
    /// Characters, of which `*` stands for any.
    One(Vec<char>),
}

impl PathGlob {
    /// Whether it matches every path.
    pub fn is_all(&self) -> bool {
        matches!(self.segments.as_slice(), [Segment::Any])
    }

    /// Whether it matches `path`.
    pub fn matches(&self, path: &PlainPath) -> bool {
        let segments: Vec<&str> = path.0[1..].split('/').collect();
        wild(
            &self.segments,
            &segments,
            |p| matches!(p, Segment::Any),
            |p, s| match p {
                Segment::Any => true,
                Segment::One(pattern) => {
                    let text: Vec<char> = s.chars().collect();
                    wild(pattern, &text, |&c| c == '*', |a, b| a == b)
                }
            },
        )
    }
}

impl FromStr for PathGlob {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{s:?} is no path pattern: {why}");
        let rest = s
            .strip_prefix('/')
            .ok_or_else(|| wrong("expected it to begin with '/', as in \"/v1/**\""))?;
        if s.contains(['%', '?', '#', ';', '\\']) {
            return Err(wrong(
                "it is matched against the decoded path, without a query; '%', '?', '#', ';' and '\\' never match",
            ));
        }
        if s.contains("//") || rest.split('/').any(|p| p == "." || p == "..") {
            return Err(wrong(
                "paths with empty or dot segments are refused, so it would never match",
            ));
        }
        let segments = rest.split('/').map(|p| match p {
            "**" => Ok(Segment::Any),
            p if p.contains("**") => Err(wrong("'**' is a segment of its own, as in \"/v1/**\"")),
            p => Ok(Segment::One(p.chars().collect())),
        });
        Ok(Self {
            text: s.into(),
            segments: segments.collect::<Result<_, _>>()?,
        })
    }
}

impl fmt::Display for PathGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// Matches with wildcards in time O(pattern x text): on a mismatch only the last wildcard takes one item more.
fn wild<P, T>(
    pattern: &[P],
    text: &[T],
    is_wild: impl Fn(&P) -> bool,
    same: impl Fn(&P, &T) -> bool,
) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut last: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p).is_some_and(&is_wild) {
            last = Some((p, t));
            p += 1;
        } else if pattern.get(p).is_some_and(|x| same(x, &text[t])) {
            p += 1;
            t += 1;
        } else if let Some((wild_at, taken)) = last {
            last = Some((wild_at, taken + 1));
            p = wild_at + 1;
            t = taken + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(is_wild)
}

/// A decoded path that every server reads alike. Begins with `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainPath(String);

/// Why servers may read a path differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// Not an absolute path.
    #[error("it does not begin with '/'")]
    Relative,
    /// `.` or `..`.
    #[error("it has a '.' or '..' segment")]
    DotSegment,
    /// `//`.
    #[error("it has an empty segment ('//')")]
    EmptySegment,
    /// An encoded separator or dot, a `%` without two digits, an encoded `%`.
    #[error("it has an encoded '.', '/', '\\', ';', '?', '#' or '%', or a broken '%' code")]
    Encoding,
    /// A character that some servers take for a separator.
    #[error("it has a '\\', a ';' or a control character")]
    Separator,
    /// Decoded, it is no text.
    #[error("decoded, it is not UTF-8")]
    NotText,
}

impl FromStr for PlainPath {
    type Err = Ambiguous;

    fn from_str(s: &str) -> Result<Self, Ambiguous> {
        if !s.starts_with('/') {
            return Err(Ambiguous::Relative);
        }
        let decoded = decode(s)?;
        let path = String::from_utf8(decoded).map_err(|_| Ambiguous::NotText)?;
        if path.contains("//") {
            return Err(Ambiguous::EmptySegment);
        }
        if path.split('/').any(|p| p == "." || p == "..") {
            return Err(Ambiguous::DotSegment);
        }
        Ok(Self(path))
    }
}

fn decode(s: &str) -> Result<Vec<u8>, Ambiguous> {
    let mut out = Vec::with_capacity(s.len());
    let mut rest = s.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        rest = tail;
        match b {
            b'%' => {
                let digits = tail.first_chunk::<2>().ok_or(Ambiguous::Encoding)?;
                let byte = hex(digits[0])
                    .zip(hex(digits[1]))
                    .map(|(h, l)| h << 4 | l)
                    .ok_or(Ambiguous::Encoding)?;
                if b"./\\;?#%".contains(&byte) || byte.is_ascii_control() {
                    return Err(Ambiguous::Encoding);
                }
                out.push(byte);
                rest = &tail[2..];
            }
            b'\\' | b';' => return Err(Ambiguous::Separator),
            b if b.is_ascii_control() => return Err(Ambiguous::Separator),
            b => out.push(b),
        }
    }
    Ok(out)
}

fn hex(b: u8) -> Option<u8> {
    (b as char).to_digit(16).map(|d| d as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(glob: &str, path: &str) -> bool {
        glob.parse::<PathGlob>().unwrap().matches(&path.parse().unwrap())
    }

    #[test]
    fn patterns_match_whole_paths() {
        for (glob, yes, no) in [
            (
                "/v1/**",
                &["/v1", "/v1/", "/v1/a", "/v1/a/b", "/v1/%61"][..],
                &["/v10", "/", "/v2/v1/a", "/V1"][..],
            ),
            (
                "/a/*/c",
                &["/a/b/c", "/a//c".trim_start_matches("//")][..1],
                &["/a/c", "/a/b/d/c", "/a/b/c/"][..],
            ),
            (
                "/*.json",
                &["/x.json", "/.json"][..],
                &["/a/x.json", "/x.jsonp"][..],
            ),
            (
                "/**/end",
                &["/end", "/a/end", "/a/b/end"][..],
                &["/end/a", "/bend"][..],
            ),
            ("/", &["/"][..], &["/a"][..]),
        ] {
            for path in yes {
                assert!(matches(glob, path), "{glob} should match {path}");
            }
            for path in no {
                assert!(!matches(glob, path), "{glob} should not match {path}");
            }
        }
    }

    #[test]
    fn paths_that_servers_read_differently_are_refused() {
        for bad in [
            "",
            "*",
            "a",
            "//",
            "/a//b",
            "/..",
            "/a/../b",
            "/a/./b",
            "/a/..",
            "/%2e%2e/b",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\..\\b",
            "/a/..;/b",
            "/a;x=1/b",
            "/a%3bx",
            "/%252e%252e/",
            "/%",
            "/%2",
            "/%zz",
            "/%00",
            "/%c0%ae%c0%ae/",
            "/a%0d%0a",
            "/a%3fb",
            "/a%23b",
        ] {
            assert!(bad.parse::<PlainPath>().is_err(), "{bad:?}");
        }
        for good in [
            "/",
            "/a",
            "/a/",
            "/a.b/c..d/...",
            "/%C3%A4",
            "/a%20b",
            "/a:b@c,d=e+f!$&'()*",
        ] {
            assert!(good.parse::<PlainPath>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn bad_patterns_are_refused() {
        for bad in ["", "v1", "/a**", "/**b", "/a?b", "/%61", "/a//b", "/../a"] {
            assert!(bad.parse::<PathGlob>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_leaves_a_prefix(path in "(/|%2e|%2f|\\.|\\.\\.|;|a|\\\\|%25|v1){0,12}") {
            if let Ok(plain) = path.parse::<PlainPath>() && "/v1/**".parse::<PathGlob>().unwrap().matches(&plain) {
                prop_assert!(path == "/v1" || path.starts_with("/v1/"), "{}", path);
                prop_assert!(!path.contains(".."), "{}", path);
            }
        }

        #[test]
        fn wildcards_agree_with_a_simple_matcher(pattern in "[ab*]{0,8}", text in "[ab]{0,10}") {
            fn simple(p: &[u8], t: &[u8]) -> bool {
                match (p.split_first(), t.split_first()) {
                    (None, None) => true,
                    (Some((b'*', p)), _) if simple(p, t) => true,
                    (Some((b'*', _)), Some((_, t))) => simple(p, t),
                    (Some((a, p)), Some((b, t))) => a == b && simple(p, t),
                    _ => false,
                }
            }
            let p: Vec<char> = pattern.chars().collect();
            let t: Vec<char> = text.chars().collect();
            prop_assert_eq!(wild(&p, &t, |&c| c == '*', |a, b| a == b), simple(pattern.as_bytes(), text.as_bytes()));
        }
    }
}
