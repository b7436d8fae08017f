//! What of a recorded exchange is not for anybody's eyes: values of headers, query parameters, form fields, JSON members and XML
//! elements that hold secrets. They become [`MASK`]. Bodies are read leniently, since they may be cut off; what says that it is text of
//! a kind and cannot be read as that is not shown at all.

mod text;

use hawser_callback::JsonPointer;
use http::HeaderName;

use crate::config::InspectPlan;

/// What stands in the place of a secret.
pub(crate) const MASK: &str = "***";

/// Headers with one of these in their names hold secrets.
const HEADERS: [&str; 8] = [
    "authorization",
    "cookie",
    "token",
    "secret",
    "password",
    "api-key",
    "apikey",
    "authentication-info",
];
/// Names of fields that hold secrets, in lower case, without `_`, `-` and `.`.
const FIELDS: [&str; 17] = [
    "passwd",
    "pwd",
    "passphrase",
    "authorization",
    "credential",
    "credentials",
    "privatekey",
    "jwt",
    "otp",
    "sig",
    "assertion",
    "clientassertion",
    "samlresponse",
    "sessionid",
    "xamzsignature",
    "xamzcredential",
    "codeverifier",
];
/// The same, as ends of names.
const FIELD_ENDS: [&str; 5] = ["password", "secret", "token", "apikey", "accesskey"];

/// What is masked in the exchanges of a service.
#[derive(Debug, Default)]
pub(crate) struct Masks {
    headers: Vec<HeaderName>,
    fields: Vec<String>,
    json: Vec<JsonPointer>,
}

/// A body that must not be shown, and why.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Withheld(pub(crate) &'static str);

impl Masks {
    /// What any of these say, besides what is always masked.
    pub(crate) fn of<'a>(plans: impl IntoIterator<Item = &'a InspectPlan>) -> Self {
        let mut masks = Self::default();
        for plan in plans {
            masks.headers.extend(plan.headers.iter().cloned());
            masks.fields.extend(plan.fields.iter().map(|f| plain(f)));
            masks.json.extend(plan.json.iter().cloned());
        }
        masks
    }

    /// A header's value. An address in it keeps all but the secrets of its query.
    pub(crate) fn header(&self, name: &HeaderName, value: &[u8]) -> String {
        let text = name.as_str();
        if HEADERS.iter().any(|h| text.contains(h)) || self.headers.contains(name) {
            return MASK.into();
        }
        self.target(&String::from_utf8_lossy(value))
    }

    /// A target or an address, with the secrets of its query and its fragment masked.
    pub(crate) fn target(&self, target: &str) -> String {
        match target.split_once('?') {
            None => target.into(),
            Some((path, query)) => {
                let parts: Vec<_> = query.split('#').map(|part| self.form(part)).collect();
                format!("{path}?{}", parts.join("#"))
            }
        }
    }

    /// A body, decoded, whose Content-Type this is.
    pub(crate) fn body(&self, kind: &str, body: Vec<u8>) -> Result<Vec<u8>, Withheld> {
        let essence = kind.split(';').next().unwrap_or_default().trim();
        let essence = essence.to_ascii_lowercase();
        if essence == "multipart/form-data" {
            return text::multipart(self, kind, &body);
        }
        let said = ["json", "xml", "x-www-form-urlencoded", "text/", "javascript"];
        let said = said.iter().any(|k| essence.contains(k));
        let whole = match std::str::from_utf8(&body) {
            Ok(text) => text,
            // Cut off within a character.
            Err(e) if e.error_len().is_none() => {
                std::str::from_utf8(&body[..e.valid_up_to()]).unwrap_or_default()
            }
            Err(_) if said => {
                return Err(Withheld(
                    "it is not in UTF-8, so that its secrets cannot be found",
                ));
            }
            Err(_) => return Ok(body),
        };
        let masked = if essence.ends_with("x-www-form-urlencoded") {
            self.form(whole)
        } else if essence.contains("json") {
            text::json(self, whole)
        } else {
            match whole.trim_start().chars().next() {
                Some('<') => text::xml(self, whole),
                Some('{' | '[' | '"') => text::json(self, whole),
                _ if whole.contains('=') && !whole.contains(char::is_whitespace) => self.form(whole),
                _ => text::json(self, whole),
            }
        };
        Ok(masked.into_bytes())
    }

    /// `name=value&...`.
    fn form(&self, form: &str) -> String {
        let masked = form.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) if self.is_secret(&unescaped(name)) => format!("{name}={MASK}"),
            _ => pair.to_owned(),
        });
        masked.collect::<Vec<_>>().join("&")
    }

    /// Whether a field of this name holds a secret. `a[password]` is one of `password`.
    fn is_secret(&self, name: &str) -> bool {
        let is = |name: &str| {
            let name = plain(name);
            FIELDS.contains(&name.as_str())
                || FIELD_ENDS.iter().any(|end| name.ends_with(end))
                || self.fields.contains(&name)
        };
        is(name) || name.split(['[', ']']).any(|part| !part.is_empty() && is(part))
    }

    fn is_at<'a>(&self, path: impl ExactSizeIterator<Item = &'a str> + Clone) -> bool {
        self.json.iter().any(|pointer| pointer.leads_to(path.clone()))
    }
}

/// `access_token`, `accessToken` and `Access-Token` are one name.
fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| !['_', '-', '.'].contains(c))
        .flat_map(char::to_lowercase)
        .collect()
}

/// Undoes `%XX` and `+`.
fn unescaped(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'+', _) => out.push(b' '),
            (b'%', [high, low, left @ ..]) => {
                let digit = |d: u8| char::from(d).to_digit(16);
                match (digit(*high), digit(*low)) {
                    (Some(high), Some(low)) => {
                        out.push((high * 16 + low) as u8);
                        rest = left;
                    }
                    _ => out.push(b'%'),
                }
            }
            (other, _) => out.push(*other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masks() -> Masks {
        let plan = InspectPlan {
            headers: vec![HeaderName::from_static("x-seat")],
            fields: vec!["Pin_Code".into()],
            json: vec!["/cards/*/number".parse().unwrap(), "/note".parse().unwrap()],
            ..InspectPlan::default()
        };
        Masks::of([&plan])
    }

    fn body(kind: &str, text: &str) -> String {
        String::from_utf8(masks().body(kind, text.into()).unwrap()).unwrap()
    }

    #[test]
    fn headers_and_queries() {
        let shown = |name: &'static str, value: &str| {
            masks().header(&HeaderName::from_static(name), value.as_bytes())
        };
        for secret in [
            "authorization",
            "proxy-authorization",
            "cookie",
            "set-cookie",
            "x-api-key",
            "x-auth-token",
            "x-amz-security-token",
            "x-seat",
        ] {
            assert_eq!(shown(secret, "s3cret"), MASK, "{secret}");
        }
        assert_eq!(shown("accept", "text/html;q=1"), "text/html;q=1");
        assert_eq!(
            shown(
                "location",
                "https://x/cb?a=1&access_token=s3cret#id_token=s3cret&b=2"
            ),
            "https://x/cb?a=1&access_token=***#id_token=***&b=2"
        );
        assert_eq!(
            masks().target("/p?pass%77ord=s3cret&pinCode=s3cret&q=%20&token"),
            "/p?pass%77ord=***&pinCode=***&q=%20&token"
        );
    }

    #[test]
    fn json_whole_and_cut_off() {
        assert_eq!(
            body(
                "application/json",
                r#"{"a": 1.50, "pass\u0077ord": "s3\"cret", "note": {"x": ["s3cret"]}, "cards": [{"number": 4711, "on": true}]}"#
            ),
            r#"{"a": 1.50, "pass\u0077ord": "***", "note": "***", "cards": [{"number": "***", "on": true}]}"#
        );
        assert_eq!(
            body("application/json", r#"{"b": [{"token": ["s3cret", {"#),
            r#"{"b": [{"token": "***""#
        );
        assert_eq!(
            body("application/problem+json", r#"{"token": "s3cr"#),
            r#"{"token": "***""#
        );
        assert_eq!(
            body(
                "text/event-stream",
                "data: {\"secret\":\"s3cret\",\"n\":1}\n\ndata: x\n"
            ),
            "data: {\"secret\":\"***\",\"n\":1}\n\ndata: x\n"
        );
        let deep = format!("{}{{\"password\":\"s3cret\"}}", "[".repeat(100_000));
        assert!(!body("application/json", &deep).contains("s3cret"));
    }

    #[test]
    fn forms_and_xml() {
        assert_eq!(
            body(
                "application/x-www-form-urlencoded",
                "user=eve&user[password]=s3cret"
            ),
            "user=eve&user[password]=***"
        );
        let soap = "<a:E xmlns:a=\"u\"><a:Password Type='x>y'>s3cret</a:Password><b token=\"s3cret\" c='1'/><d>ok</d><secret>s3";
        assert_eq!(
            body("text/xml", soap),
            "<a:E xmlns:a=\"u\"><a:Password Type='x>y'>***</a:Password><b token=\"***\" c='1'/><d>ok</d><secret>***"
        );
        let parts = "--B\r\nContent-Disposition: form-data; name=\"password\"\r\n\r\ns3cret\r\n--B\r\n\
                     Content-Disposition: form-data; name=\"other\"\r\n\r\nok\r\n--B--\r\n";
        let shown = body("multipart/form-data; boundary=B", parts);
        assert!(!shown.contains("s3cret") && shown.contains("ok"), "{shown}");
        assert!(masks().body("multipart/form-data", parts.into()).is_err());
    }

    #[test]
    fn bytes_are_shown_unless_they_claim_to_be_text() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(
            masks().body("application/octet-stream", bytes.clone()),
            Ok(bytes.clone())
        );
        assert!(masks().body("application/json", bytes).is_err());
    }
}
