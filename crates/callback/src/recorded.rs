//! What would become of a message that was recorded in a file: an HTTP/1.1 request or response (RFC 9112) as it goes over the wire, head and
//! body. Line ends may be bare, since editors make them so.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header, uri::PathAndQuery};
use memchr::memmem;

use crate::{
    fields::{DIGESTS, headers, query},
    message::{Direction, Editor, Plan},
    replace::{Refusal, Replace, Report},
    rules::Rules,
};

/// Most header lines.
const MAX_HEADERS: usize = 128;
/// Bytes that go into the editor at a time, as they would come from a connection.
const PIECE: usize = 16 * 1024;

/// Why a file is no recorded message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordedError {
    /// Neither request nor response.
    #[error(
        "this is no recorded HTTP message ({0}): expected a request line or status line, headers, an empty line and the body, as `curl --trace-ascii` or a capture shows them"
    )]
    Head(String),
    /// The chunks are not what they should be.
    #[error("the body is said to be chunked, and is not (RFC 9112, section 7.1)")]
    Chunks,
    /// The body is shorter than it is said to be.
    #[error("the body has {has} bytes, its Content-Length is {said}: record the message whole")]
    Short {
        /// Bytes that are there.
        has: usize,
        /// Bytes that should be.
        said: usize,
    },
}

/// A recorded message, its body without chunks.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Which way it goes.
    pub direction: Direction,
    /// Request line or status line.
    pub first: String,
    /// Path and query of a request.
    pub target: Option<PathAndQuery>,
    /// Headers.
    pub headers: HeaderMap,
    /// Content, coded as its Content-Encoding says.
    pub body: Bytes,
}

/// What would become of a message.
#[derive(Debug, Clone)]
pub struct Account {
    /// For people, line by line.
    pub lines: Vec<String>,
    /// What was found, in head and body.
    pub report: Report,
    /// Path and query as they would go on.
    pub target: Option<PathAndQuery>,
    /// Headers as they would go on.
    pub headers: HeaderMap,
    /// The body as it would go on; what the message is refused for otherwise.
    pub body: Result<Vec<u8>, Refusal>,
}

impl Recorded {
    /// Reads a file.
    ///
    /// # Errors
    /// See [`RecordedError`].
    pub fn parse(file: &[u8]) -> Result<Self, RecordedError> {
        let bad = |e: httparse::Error| RecordedError::Head(e.to_string());
        let file = file.trim_ascii_start();
        let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let is_response = file.starts_with(b"HTTP/");
        let (length, first, target, headers) = if is_response {
            let mut response = httparse::Response::new(&mut lines);
            let length = whole(response.parse(file).map_err(bad)?)?;
            let code = response.code.unwrap_or_default();
            let first = format!("{code} {}", response.reason.unwrap_or_default());
            (length, first, None, map(response.headers)?)
        } else {
            let mut request = httparse::Request::new(&mut lines);
            let length = whole(request.parse(file).map_err(bad)?)?;
            let path = request.path.unwrap_or("/");
            let first = format!("{} {path}", request.method.unwrap_or_default());
            let target = path.parse::<http::Uri>().ok();
            let target = target.and_then(|uri| uri.into_parts().path_and_query);
            (length, first, target, map(request.headers)?)
        };
        Ok(Self {
            direction: if is_response {
                Direction::Response
            } else {
                Direction::Request
            },
            first,
            target,
            body: body(&headers, &file[length..])?,
            headers,
        })
    }

    /// What would become of it under `rules`, with `replace` deciding.
    pub fn account(&self, rules: &Rules, replace: &mut dyn Replace) -> Account {
        let mut account = Account {
            lines: vec![self.first.clone()],
            report: Report::default(),
            target: self.target.clone(),
            headers: self.headers.clone(),
            body: Ok(Vec::new()),
        };
        account.body = self.head(rules, replace, &mut account).and_then(|()| {
            let body = self.edit(rules, replace, &mut account)?;
            Ok(body.unwrap_or_else(|| self.body.to_vec()))
        });
        account.finish(self);
        account
    }

    fn head(&self, rules: &Rules, replace: &mut dyn Replace, account: &mut Account) -> Result<(), Refusal> {
        if let Some(target) = &mut account.target {
            account.report.merge(query(rules, target, replace)?);
        }
        account
            .report
            .merge(headers(rules, &mut account.headers, replace)?);
        Ok(())
    }

    /// The new body; `None`: there is no need to look into it.
    fn edit(
        &self,
        rules: &Rules,
        replace: &mut dyn Replace,
        account: &mut Account,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let text = |name: HeaderName| self.headers.get(name).and_then(|v| v.to_str().ok());
        let content_type = text(header::CONTENT_TYPE);
        let length = u64::try_from(self.body.len()).ok();
        let plan = Editor::plan(
            rules,
            self.direction,
            content_type,
            text(header::CONTENT_ENCODING),
            length,
        );
        let mut editor = match plan {
            Plan::Untouched => {
                let why = match (self.body.is_empty(), content_type) {
                    (true, _) => "body: none".to_owned(),
                    (_, Some(kind)) => format!("body: not looked into, no rule asks for {kind}"),
                    (_, None) => "body: not looked into, it has no Content-Type".to_owned(),
                };
                account.lines.push(why);
                return Ok(None);
            }
            Plan::Refuse(refusal) => return Err(refusal),
            Plan::Edit(editor) => editor,
        };
        let mut out = Vec::new();
        let (mut seen, mut settled) = (0, None);
        let mut rest = self.body.clone();
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(PIECE));
            seen += piece.len();
            let step = editor.push(piece, replace);
            // What was found until a refusal is told, too.
            let step = step.inspect_err(|_| account.report.merge(editor.report().clone()))?;
            out.extend(step.out);
            settled = settled.or(editor.settled().map(|delta| (seen, delta)));
        }
        out.extend(editor.end(replace)?.out);
        let delta = editor.settled().unwrap_or_default();
        let (after, _) = settled.unwrap_or((seen, delta));
        account.lines.push(format!(
            "body: {} bytes become {}, settled within the first {after}",
            self.body.len(),
            out.iter().map(Bytes::len).sum::<usize>()
        ));
        account.report.merge(editor.into_report());
        Ok(Some(out.concat()))
    }
}

impl Account {
    /// Tells what was found.
    fn finish(&mut self, was: &Recorded) {
        if let Some(soap) = &self.report.soap {
            self.lines.push(format!(
                "{}, operation {}",
                soap.version,
                soap.operation.as_deref().unwrap_or("none")
            ));
            let facts = [
                ("Action", &soap.action),
                ("MessageID", &soap.message_id),
                ("To", &soap.to),
            ];
            for (name, value) in facts {
                self.lines
                    .extend(value.iter().map(|value| format!("  {name}: {value}")));
            }
            self.lines
                .extend(soap.relates_to.iter().map(|id| format!("  RelatesTo: {id}")));
        }
        for replaced in &self.report.replaced {
            self.lines.push(format!("replaced: {}", replaced.place));
            self.lines.push(format!("  from {}", replaced.from));
            self.lines.push(format!("  to   {}", replaced.to));
        }
        for left in &self.report.left {
            let place = left
                .place
                .as_ref()
                .map_or_else(|| "the message".to_owned(), ToString::to_string);
            self.lines.push(format!("left as it is: {place}: {}", left.why));
        }
        if self.report.more > 0 {
            self.lines.push(format!("and {} more places", self.report.more));
        }
        match &self.body {
            Ok(body) if *body != was.body => {
                for name in DIGESTS.iter().filter(|name| was.headers.contains_key(*name)) {
                    self.lines
                        .push(format!("the header {name} would be wrong: the body is changed"));
                }
            }
            Ok(_) => {}
            Err(refusal) => self
                .lines
                .push(format!("refused ({}): {refusal}", refusal.status())),
        }
        if self.body.is_ok() && self.report.replaced.is_empty() {
            self.lines.push("nothing is changed".to_owned());
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

fn whole(status: httparse::Status<usize>) -> Result<usize, RecordedError> {
    match status {
        httparse::Status::Complete(length) => Ok(length),
        httparse::Status::Partial => Err(RecordedError::Head("its head does not end".into())),
    }
}

fn map(lines: &[httparse::Header<'_>]) -> Result<HeaderMap, RecordedError> {
    let bad = |line: &httparse::Header<'_>| RecordedError::Head(format!("header {:?}", line.name));
    let mut map = HeaderMap::new();
    for line in lines {
        let name = HeaderName::try_from(line.name).map_err(|_| bad(line))?;
        let value = HeaderValue::from_bytes(line.value).map_err(|_| bad(line))?;
        map.append(name, value);
    }
    Ok(map)
}

/// The body: in chunks, of a said length, or all that is there.
fn body(headers: &HeaderMap, rest: &[u8]) -> Result<Bytes, RecordedError> {
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let chunked = text(header::TRANSFER_ENCODING).is_some_and(|v| {
        v.rsplit(',')
            .next()
            .is_some_and(|last| last.trim().eq_ignore_ascii_case("chunked"))
    });
    if chunked {
        return chunks(rest).map(Bytes::from).ok_or(RecordedError::Chunks);
    }
    let said = text(header::CONTENT_LENGTH).and_then(|v| v.parse::<usize>().ok());
    match said {
        Some(said) if said > rest.len() => Err(RecordedError::Short {
            has: rest.len(),
            said,
        }),
        Some(said) => Ok(Bytes::copy_from_slice(&rest[..said])),
        None => Ok(Bytes::copy_from_slice(rest)),
    }
}

fn chunks(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let end = memmem::find(rest, b"\n")? + 1;
        let line = [rest[..end].trim_ascii_end(), b"\r\n"].concat();
        let Ok(httparse::Status::Complete((_, size))) = httparse::parse_chunk_size(&line) else {
            return None;
        };
        let size = usize::try_from(size).ok()?;
        rest = &rest[end..];
        if size == 0 {
            return Some(all);
        }
        all.extend_from_slice(rest.get(..size)?);
        rest = &rest[size..];
        rest = rest.strip_prefix(b"\r").unwrap_or(rest).strip_prefix(b"\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Place, Verdict};

    const XML: &str = "<Envelope xmlns='http://schemas.xmlsoap.org/soap/envelope/' xmlns:a='http://www.w3.org/2005/08/addressing'><Header>\
        <a:MessageID>urn:7</a:MessageID><a:ReplyTo><a:Address>http://client/</a:Address></a:ReplyTo></Header><Body><go/></Body></Envelope>";

    fn by_gateway(_: &Place, address: &str) -> Verdict {
        Verdict::With(address.replace("http://client", "http://gw/.hawser/cb"))
    }

    fn account(file: &str) -> Account {
        let rules = Rules {
            query: vec!["cb".into()],
            ..Rules::default()
        };
        Recorded::parse(file.as_bytes())
            .unwrap()
            .account(&rules, &mut by_gateway)
    }

    #[test]
    fn requests_in_all_framings() {
        let chunked = format!(
            "5\r\n{}\r\n{:x};a=b\r\n{}\r\n0\r\n\r\n",
            &XML[..5],
            XML.len() - 5,
            &XML[5..]
        );
        for (field, body) in [
            (format!("Content-Length: {}", XML.len()), format!("{XML}rest")),
            ("X: y".into(), XML.into()),
            ("Transfer-Encoding: chunked".into(), chunked),
        ] {
            let told = account(&format!(
                "POST http://orders.beta.hawser/x?cb=http://client/q HTTP/1.1\r\nHost: orders.beta.hawser\r\nDigest: x\r\n\
                 Content-Type: text/xml\r\n{field}\r\n\r\n{body}"
            ));
            assert_eq!(
                String::from_utf8(told.body.clone().unwrap()).unwrap(),
                XML.replace("http://client", "http://gw/.hawser/cb")
            );
            assert_eq!(
                told.target.as_ref().unwrap(),
                "/x?cb=http%3A%2F%2Fgw%2F.hawser%2Fcb%2Fq"
            );
            let lines = told.to_string();
            for wanted in [
                "POST http://orders.beta.hawser/x",
                "MessageID: urn:7",
                "SOAP 1.1, operation go",
                "replaced: wsa:ReplyTo\n  from http://client/\n  to   http://gw/.hawser/cb/\n",
                "digest would be wrong",
            ] {
                assert!(lines.contains(wanted), "{wanted}: {lines}");
            }
        }
    }

    #[test]
    fn responses_and_refusals() {
        let told = account("HTTP/1.1 200 OK\nContent-Type: text/html\n\n<p>");
        assert_eq!(
            told.lines,
            [
                "200 OK",
                "body: not looked into, no rule asks for text/html",
                "nothing is changed"
            ]
        );
        let told = account("HTTP/1.1 200 OK\nContent-Type: text/xml\n\n<!DOCTYPE a [<!ENTITY b 'c'>]><a/>");
        assert_eq!(told.body, Err(Refusal::Dtd));
        assert!(told.to_string().contains("refused (400)"));
    }

    #[test]
    fn what_is_no_message() {
        let error = |file: &str| Recorded::parse(file.as_bytes()).unwrap_err();
        assert!(matches!(error("<xml/>"), RecordedError::Head(_)));
        assert!(matches!(error("GET / HTTP/1.1\r\n"), RecordedError::Head(_)));
        assert_eq!(
            error("GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nx"),
            RecordedError::Short { has: 1, said: 5 }
        );
        assert_eq!(
            error("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nx"),
            RecordedError::Chunks
        );
    }
}
