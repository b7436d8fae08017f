//! The few pages that visitors may see of a login: short texts without script, style or anything from elsewhere. Without I/O.

use hawser_proto::Fault;
use hawser_session::full;
use http::{
    HeaderName, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY},
};

use crate::{headers::value, seam::Body};

/// What a page offers.
pub(super) enum Next<'a> {
    /// Links, with their words.
    Links(&'a [(&'a str, &'a str)]),
    /// A button that sends a form without fields.
    Button(&'a str, &'a str),
}

/// A page that tells of a fault.
pub(super) fn fault(fault: &Fault, next: &Next<'_>) -> Response<Body> {
    let status = StatusCode::from_u16(fault.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let title = status.canonical_reason().unwrap_or("Error");
    let text = format!("{}. What to do: {}.", capital(&fault.detail), fault.advice);
    page(status, title, &text, next)
}

/// A page.
pub(super) fn page(status: StatusCode, title: &str, text: &str, next: &Next<'_>) -> Response<Body> {
    let (title, text) = (escape(title), escape(text));
    let next: String = match next {
        Next::Links(all) => all
            .iter()
            .map(|(to, words)| format!("<p><a href=\"{}\">{}</a></p>\n", escape(to), escape(words)))
            .collect(),
        Next::Button(to, words) => format!(
            "<form method=\"post\" action=\"{}\"><button>{}</button></form>\n",
            escape(to),
            escape(words)
        ),
    };
    let mut response = Response::new(full(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title}</title>\n<main>\n<h1>{title}</h1>\n<p>{text}</p>\n{next}</main>\n</html>\n"
    )));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value| drop(headers.insert(name, HeaderValue::from_static(value)));
    set(CONTENT_TYPE, "text/html; charset=utf-8");
    set(CACHE_CONTROL, "no-store");
    set(REFERRER_POLICY, "no-referrer");
    set(
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    );
    response
}

/// Sends the browser elsewhere, to ask with GET.
pub(super) fn redirect(to: &str) -> Option<Response<Body>> {
    let to = HeaderValue::try_from(to).ok()?;
    let mut response = Response::new(crate::problem::empty());
    *response.status_mut() = StatusCode::SEE_OTHER;
    let headers = response.headers_mut();
    headers.insert(LOCATION, to);
    headers.insert(CACHE_CONTROL, value("no-store"));
    headers.insert(REFERRER_POLICY, value("no-referrer"));
    Some(response)
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn nothing_that_is_shown_is_markup() {
        let odd = "<script>\"'&";
        let r = page(StatusCode::FORBIDDEN, odd, odd, &Next::Links(&[(odd, odd)]));
        let text = r.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap();
        assert!(
            !text.contains("<script") && text.contains("&lt;script&gt;&quot;&#39;&amp;"),
            "{text}"
        );
        assert!(redirect("/a\nb").is_none());
    }
}
