//! The device page: its files, built into the program, and the headers they are served with. The page is plain HTML, CSS and ES
//! modules in `page/`; nothing of it is made by a tool, so that what is read there is what runs.

/// The only inline style that the policy lets pass: that of the frame that content is shown in (`page/render.js`).
const FRAME_STYLE: &str = "'sha256-p5wzWWg1cd+3dzw/nMlNjoEW/T5A1+zxdtnVMxdS16A='";

/// A file of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    /// Media type, for `Content-Type`.
    pub content_type: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const MANIFEST: &str = "application/manifest+json";

macro_rules! files {
    ($($path:literal, $name:literal, $content_type:expr;)*) => {
        &[$(($path, File { content_type: $content_type, bytes: include_bytes!(concat!("../page/", $name)) }),)*]
    };
}

/// Every path that the page has. `/enrol` is where enrolment links lead.
const FILES: &[(&str, File)] = files! {
    "/", "index.html", HTML;
    "/enrol", "index.html", HTML;
    "/app.css", "app.css", CSS;
    "/app.js", "app.js", SCRIPT;
    "/boot.js", "boot.js", SCRIPT;
    "/bytes.js", "bytes.js", SCRIPT;
    "/cbor.js", "cbor.js", SCRIPT;
    "/device.js", "device.js", SCRIPT;
    "/dpop.js", "dpop.js", SCRIPT;
    "/enrol.js", "enrol.js", SCRIPT;
    "/envelope.js", "envelope.js", SCRIPT;
    "/hpke.js", "hpke.js", SCRIPT;
    "/icon-maskable.svg", "icon-maskable.svg", SVG;
    "/icon.svg", "icon.svg", SVG;
    "/keys.js", "keys.js", SCRIPT;
    "/ledger.js", "ledger.js", SCRIPT;
    "/manifest.webmanifest", "manifest.webmanifest", MANIFEST;
    "/message.js", "message.js", SCRIPT;
    "/passkey.js", "passkey.js", SCRIPT;
    "/reader.js", "reader.js", SCRIPT;
    "/remote.js", "remote.js", SCRIPT;
    "/render.js", "render.js", SCRIPT;
    "/statement.js", "statement.js", SCRIPT;
    "/store.js", "store.js", SCRIPT;
    "/stream.js", "stream.js", SCRIPT;
    "/sw.js", "sw.js", SCRIPT;
    "/trust.js", "trust.js", SCRIPT;
    "/words.js", "words.js", SCRIPT;
};

/// The file at a path; `None`: there is none.
pub fn file(path: &str) -> Option<File> {
    FILES
        .iter()
        .find(|(known, _)| *known == path)
        .map(|(_, file)| *file)
}

/// Headers of every file, beside `Content-Type`. `mailboxes` are the origins (`https://NAME[:PORT]`) that the page may speak with
/// beside its own; what is no such origin is left out.
pub fn headers(mailboxes: &[&str]) -> Vec<(&'static str, String)> {
    let fixed = [
        ("cache-control", "no-cache"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        (
            "permissions-policy",
            "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
        ),
        ("referrer-policy", "no-referrer"),
        ("x-content-type-options", "nosniff"),
    ];
    let mut all: Vec<_> = fixed
        .into_iter()
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
    all.push(("content-security-policy", policy(mailboxes)));
    all
}

/// Nothing but the page's own files, no script or markup made from text outside `page/trust.js`, and content in a frame that
/// can load nothing.
fn policy(mailboxes: &[&str]) -> String {
    let connect: String = mailboxes
        .iter()
        .filter(|origin| is_origin(origin))
        .map(|origin| format!(" {origin}"))
        .collect();
    format!(
        "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self' {FRAME_STYLE}; img-src 'self' blob: data:; \
         connect-src 'self'{connect}; manifest-src 'self'; frame-src 'none'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types hawser"
    )
}

// What stands in a policy must not be able to end a directive.
fn is_origin(text: &str) -> bool {
    text.strip_prefix("https://").is_some_and(|rest| {
        !rest.is_empty()
            && rest
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn value(headers: &[(&str, String)], name: &str) -> String {
        let found = headers.iter().find(|(known, _)| *known == name);
        found.unwrap().1.clone()
    }

    #[test]
    fn every_file_that_the_page_names_is_served() {
        let html = std::str::from_utf8(file("/").unwrap().bytes).unwrap();
        let named = html
            .split(['"', ' '])
            .filter(|word| word.starts_with('/') && word.len() > 1 && !word.contains('>'));
        for path in named {
            assert!(file(path).is_some(), "{path}");
        }
        for (path, served) in FILES.iter().filter(|(path, _)| path.ends_with(".js")) {
            let text = std::str::from_utf8(served.bytes).unwrap();
            for import in text.split("from \"./").skip(1) {
                let name = import.split('"').next().unwrap();
                assert!(file(&format!("/{name}")).is_some(), "{path}: {name}");
            }
        }
        assert_eq!(file("/enrol"), file("/"));
        assert!(file("/package.json").is_none() && file("/../src/lib.rs").is_none());
    }

    #[test]
    fn the_policy_names_the_mailboxes_and_nothing_else_of_theirs() {
        let headers = headers(&[
            "https://mail.example:8443",
            "https://x; script-src *",
            "http://x",
            "https://",
        ]);
        let policy = value(&headers, "content-security-policy");
        assert!(
            policy.contains("connect-src 'self' https://mail.example:8443;"),
            "{policy}"
        );
        assert!(!policy.contains('*') && !policy.contains("http:"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
    }

    #[test]
    fn the_policy_allows_the_style_of_the_frame() {
        let render = std::str::from_utf8(file("/render.js").unwrap().bytes).unwrap();
        assert!(render.contains(FRAME_STYLE.trim_matches('\'')));
    }
}
