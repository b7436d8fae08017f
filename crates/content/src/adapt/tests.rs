#![allow(clippy::unwrap_used)]
use std::collections::BTreeMap;

use ::image::{DynamicImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};
use hawser_proto::broker::api::Profile;
use proptest::prelude::*;

use super::*;

const RICH: &str = "text/html, text/markdown;q=0.8, text/plain;q=0.5, image/*";
const LIMITS: Limits = Limits {
    body: 64 * 1024,
    rest_can_be_fetched: true,
};

fn event(kind: &str, data: impl Into<Vec<u8>>) -> Event {
    Event {
        id: "1".into(),
        source: "/test".into(),
        event_type: "example.test".into(),
        subject: Some("A subject".into()),
        time: None,
        datacontenttype: Some(kind.into()),
        dataschema: None,
        data: data.into(),
        extensions: BTreeMap::new(),
    }
}

fn class(accept: &str) -> Class {
    let profile = Profile {
        accept: accept.into(),
        screen: Some((640, 640)),
        ..Profile::default()
    };
    Class::of(&profile).unwrap()
}

fn shown(kind: &str, data: &str, accept: &str) -> String {
    let adapted = adapt(&event(kind, data), &class(accept), &LIMITS);
    String::from_utf8(adapted.body).unwrap()
}

const MAIL: &str = r#"<html><head><title>x</title><style>p{color:red}</style></head><body>
<div style="display: none">preview</div>
<h1>Order <i>42</i></h1><p onclick="evil()">Dear <b>Ann</b>,<br>see <a href="https://shop.example/o?a=1&amp;b=2" onmouseover=x>the shop</a>.
<ul><li>one<li>two <ol start=3><li>deep</ol></ul><script>alert(1)</script><img src="https://spy.example/p.gif" alt="logo">
<table><tr><th>Name<th>Price</tr><tr><td>Tea<td>3 | 4</table>
<blockquote>quoted</blockquote><pre>a
  b</pre><a href="javascript:alert(1)">bad</a></body></html>"#;

#[test]
fn one_mail_comes_as_html_markdown_and_text() {
    let html = shown("text/html", MAIL, RICH);
    assert!(
        html.contains("<h1>Order <em>42</em></h1><p>Dear <strong>Ann</strong>,<br>see "),
        "{html}"
    );
    assert!(
        html.contains(
            r#"<a href="https://shop.example/o?a=1&amp;b=2" rel="noopener noreferrer">the shop</a>"#
        ),
        "{html}"
    );
    assert!(html.contains("<ol start=\"3\"><li>deep</li></ol>"), "{html}");
    assert!(html.contains("[logo]"), "{html}");
    for bad in [
        "script",
        "alert",
        "onclick",
        "style",
        "spy",
        "preview",
        "javascript",
        "<title",
    ] {
        assert!(!html.contains(bad), "{bad} in {html}");
    }
    let markdown = shown("text/html", MAIL, "text/markdown, text/plain;q=0.5");
    assert!(
        markdown.starts_with("# Order *42*\n\nDear **Ann**,  \nsee [the shop]"),
        "{markdown}"
    );
    assert!(
        markdown.contains("[the shop](https://shop.example/o?a=1&amp;b=2)"),
        "{markdown}"
    );
    assert!(
        markdown.contains("|Name|Price|\n|----|-----|\n|Tea|3 \\| 4|"),
        "{markdown}"
    );
    let text = shown("text/html", MAIL, "text/plain");
    assert_eq!(
        text,
        "Order 42\n\nDear Ann,\nsee the shop (https://shop.example/o?a=1&b=2).\n\n- one\n- two\n  3. deep\n\n[logo]\n\n\
         Name | Price\nTea | 3 | 4\n\n> quoted\n\na\n  b\n\nbad"
    );
}

#[test]
fn markdown_is_rendered_or_written_anew_without_its_html() {
    let source = "# Title\n\nSome *text* <script>alert(1)</script> and [a](javascript:x) [b](https://b.example)\n\n- x\n- y\n";
    let html = shown("text/markdown", source, RICH);
    assert!(html.starts_with("<h1>Title</h1>"), "{html}");
    let markdown = shown("text/markdown", source, "text/markdown");
    assert!(
        markdown.contains("Some *text*") && markdown.contains("[b](https://b.example)"),
        "{markdown}"
    );
    assert!(
        !html.contains("alert") && !markdown.contains("alert") && !markdown.contains("javascript"),
        "{markdown}"
    );
    assert!(shown("text/markdown", source, "text/plain").starts_with("Title\n\nSome text"));
}

#[test]
fn json_is_shown_readably() {
    let source =
        r#"{"caller":"+49 30 1","missed":true,"tries":[1,2],"note":"a\n# b","none":null,"deep":{"x":{}}}"#;
    assert_eq!(
        shown("application/json", source, "text/plain"),
        "- caller: +49 30 1\n- missed: yes\n- tries:\n  - 1\n  - 2\n- note: a\n  # b\n- none: –\n- deep:\n  - x: –"
    );
    let html = shown("application/problem+json", source, "text/html");
    assert!(
        html.contains("<li><strong>caller</strong>: +49 30 1</li>"),
        "{html}"
    );
    assert!(shown("application/json", source, "text/markdown").contains("**caller**: +49 30 1"));
    assert_eq!(
        shown("application/json", source, "application/json, text/plain;q=0.5"),
        source
    );
    assert_eq!(shown("application/json", "{broken", "text/plain"), "{broken");
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let adapted = adapt(&event("application/json", deep), &class("text/plain"), &LIMITS);
    assert!(adapted.truncated);
}

#[test]
fn text_is_decoded_cleaned_and_escaped() {
    let latin = adapt(
        &event("text/plain; charset=iso-8859-1", b"Gr\xfc\xdfe".to_vec()),
        &class("text/plain"),
        &LIMITS,
    );
    assert_eq!(latin.body, "Grüße".as_bytes());
    assert_eq!((latin.variant, latin.truncated), (Variant::Text, false));
    let broken = adapt(
        &event("text/plain", b"a\xff\x1b[31mb\0".to_vec()),
        &class("text/plain"),
        &LIMITS,
    );
    assert_eq!(broken.body, "a\u{fffd}[31mb\u{fffd}".as_bytes());
    assert_eq!(
        shown("text/plain", "a < b\nc\n\nd", "text/html"),
        "<p>a &lt; b<br>c</p><p>d</p>"
    );
    assert_eq!(shown("text/plain", "", RICH), "");
    assert_eq!(shown("application/xml", "<a>1</a>", "text/plain"), "<a>1</a>");
}

#[test]
fn what_text_says_is_no_markup_in_markdown() {
    for text in [
        "# a", "1. a", "- a", "> a", "*a*", "[a](b)", "`a`", "a | b", "---", "+ x", "1) a", "&amp;", "<b>",
        "~~x~~", "    a", "==",
    ] {
        let markdown = shown("text/plain", text, "text/markdown");
        let html = shown("text/markdown", &markdown, "text/html");
        assert_eq!(
            html,
            format!("<p>{}</p>", text::escape(text.trim())),
            "{markdown:?}"
        );
    }
}

#[test]
fn quality_values_choose_the_form() {
    let variant = |kind: &str, accept: &str| adapt(&event(kind, "x"), &class(accept), &LIMITS).variant;
    assert_eq!(variant("text/html", "text/html;q=0.5, text/plain"), Variant::Text);
    assert_eq!(variant("text/html", "text/html;q=0.9, text/plain"), Variant::Html);
    assert_eq!(variant("text/markdown", "text/*"), Variant::Html);
    assert_eq!(variant("text/plain", "*/*"), Variant::Text);
    assert_eq!(
        variant("application/pdf", "application/pdf, text/plain"),
        Variant::Original
    );
    assert_eq!(variant("application/pdf", "text/plain"), Variant::SafeText);
    assert_eq!(variant("application/x-java-archive", "*/*"), Variant::SafeText);
    assert_eq!(variant("text/html", "image/png"), Variant::SafeText);
}

#[test]
fn long_texts_end_at_a_sensible_place_and_say_so() {
    let sentence = "This is a sentence with some words in it. ";
    for (kind, accept) in [
        ("text/plain", "text/plain"),
        ("text/plain", "text/html"),
        ("text/plain", "text/markdown"),
        ("text/html", "text/html"),
        ("text/html", "text/plain"),
        ("text/markdown", "text/markdown"),
    ] {
        let text = format!("{}\n\n", sentence.repeat(5)).repeat(40);
        let limits = Limits {
            body: 1000,
            rest_can_be_fetched: true,
        };
        let adapted = adapt(&event(kind, text), &class(accept), &limits);
        let body = String::from_utf8(adapted.body).unwrap();
        assert!(adapted.truncated && adapted.total > 8000, "{kind} {accept}");
        assert!(
            (600..=1000).contains(&body.len()),
            "{kind} {accept} {}",
            body.len()
        );
        assert!(
            body.contains("Shortened; ") && body.contains("the rest can be fetched"),
            "{body}"
        );
        let before = body
            .split("Shortened")
            .next()
            .unwrap()
            .trim_end_matches(['[', '\\', '*', '\n', ' ']);
        let before = before
            .trim_end_matches("<em>")
            .trim_end_matches("<p>")
            .trim_end_matches("</p>");
        assert!(before.ends_with("in it."), "{before}");
    }
}

fn png(image: &DynamicImage) -> Vec<u8> {
    let mut out = std::io::Cursor::new(Vec::new());
    image.write_to(&mut out, ImageFormat::Png).unwrap();
    out.into_inner()
}

fn photo(width: u32, height: u32) -> DynamicImage {
    let pixel = |x: u32, y: u32| Rgb([x, y, x * y].map(|v| u8::try_from(v % 251).unwrap()));
    DynamicImage::ImageRgb8(RgbImage::from_fn(width, height, pixel))
}

#[test]
fn images_are_scaled_and_encoded_for_the_device() {
    let adapted = adapt(&event("image/png", png(&photo(1600, 800))), &class(RICH), &LIMITS);
    assert_eq!(
        (adapted.content_type.as_str(), adapted.variant),
        ("image/jpeg", Variant::Image)
    );
    assert!(adapted.truncated && adapted.body.len() <= 64 * 1024);
    let decoded = ::image::load_from_memory(&adapted.body).unwrap();
    assert!(
        decoded.width() <= 640 && decoded.width() == 2 * decoded.height(),
        "{:?}",
        decoded.width()
    );

    let drawing = DynamicImage::ImageRgba8(RgbaImage::from_pixel(100, 50, Rgba([255, 0, 0, 128])));
    let adapted = adapt(&event("image/png", png(&drawing)), &class(RICH), &LIMITS);
    assert_eq!(
        (adapted.content_type.as_str(), adapted.truncated),
        ("image/png", false)
    );
    let adapted = adapt(&event("image/png", png(&drawing)), &class("image/jpeg"), &LIMITS);
    let flat = ::image::load_from_memory(&adapted.body).unwrap().to_rgb8();
    let [r, g, b] = flat.get_pixel(50, 25).0;
    assert!(
        r > 245 && g.abs_diff(127) < 10 && b.abs_diff(127) < 10,
        "{r} {g} {b}"
    );
    let tiny = Limits {
        body: 700,
        rest_can_be_fetched: false,
    };
    let adapted = adapt(&event("image/png", png(&photo(300, 300))), &class(RICH), &tiny);
    assert!(adapted.body.len() <= 700, "{}", adapted.body.len());
}

#[test]
fn what_cannot_be_shown_is_described() {
    let adapted = adapt(
        &event("image/png", png(&photo(30, 20))),
        &class("text/plain"),
        &LIMITS,
    );
    assert_eq!(adapted.variant, Variant::SafeText);
    let text = String::from_utf8(adapted.body).unwrap();
    assert!(
        text.starts_with("[Image, 30×20 pixels, ")
            && text.ends_with("this device shows no images.]\nA subject"),
        "{text}"
    );
    assert_eq!(adapted.reason.as_deref(), Some("this device shows no images"));
    let broken = adapt(&event("image/png", "no image"), &class(RICH), &LIMITS);
    assert_eq!(broken.reason.as_deref(), Some("the image is of no known format"));
    let mut cut = png(&photo(30, 20));
    cut.truncate(100);
    assert_eq!(
        adapt(&event("image/png", cut), &class(RICH), &LIMITS)
            .reason
            .as_deref(),
        Some("the image is damaged")
    );
}

const DRAWING: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" width="100" height="50"><title>Chart</title>
<script>alert(1)</script><rect width="50" height="50" fill="#00f"/><use href="#c"/><circle id="c" cx="75" cy="25" r="10" fill="red"/>
<image href="/etc/passwd" width="10" height="10"/></svg>"##;

#[test]
fn svg_is_drawn() {
    let adapted = adapt(&event("image/svg+xml", DRAWING), &class(RICH), &LIMITS);
    assert_eq!(
        (adapted.content_type.as_str(), adapted.variant),
        ("image/png", Variant::Image)
    );
    let drawn = ::image::load_from_memory(&adapted.body).unwrap().to_rgba8();
    assert_eq!(drawn.dimensions(), (200, 100));
    assert_eq!(drawn.get_pixel(20, 20).0, [0, 0, 255, 255]);
    assert_eq!(drawn.get_pixel(150, 50).0, [255, 0, 0, 255]);
    assert_eq!(drawn.get_pixel(199, 0).0[3], 0);
    let text = shown("image/svg+xml", DRAWING, "text/plain");
    assert!(text.ends_with("A subject\nChart"), "{text}");
}

#[test]
fn summaries_are_made_of_the_subject_not_of_the_content() {
    let mut event = event("text/plain", "secret");
    assert_eq!(summary(&event), "A subject");
    event.subject = Some("  a\t\tb  ".into());
    assert_eq!(summary(&event), "a b");
    event.subject = None;
    assert_eq!(summary(&event), "example.test from /test");
    event.subject = Some("word ".repeat(100));
    assert!(summary(&event).chars().count() <= MAX_SUMMARY + 1 && summary(&event).ends_with('…'));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_document_is_adapted_within_its_limit(
        data in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..500),
            "(<(p|b|a href=http://x|table|tr|td|ul|li|svg|/p|/b|/a|/table|/td|br|script|pre|/pre)>|[a-z &;]{0,9}){0,60}"
                .prop_map(String::into_bytes),
            "([-*>#`|_ \\[\\]()!0-9.a-z\n]|\n\n){0,120}".prop_map(String::into_bytes),
        ],
        kind in prop::sample::select(vec!["text/html", "text/markdown", "text/plain", "application/json", "image/svg+xml", "image/gif"]),
        accept in prop::sample::select(vec!["text/html", "text/markdown", "text/plain", "*/*"]),
        body in 64_usize..1000,
    ) {
        let limits = Limits { body, rest_can_be_fetched: true };
        let adapted = adapt(&event(kind, data), &class(accept), &limits);
        prop_assert!(adapted.body.len() <= body, "{} over {body}", adapted.body.len());
        if adapted.content_type.starts_with("text/") {
            let text = String::from_utf8(adapted.body).unwrap();
            prop_assert!(!text.contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
            if adapted.variant == Variant::Html {
                // What comes out is a fixed point of the sanitiser.
                prop_assert_eq!(html::clean(&text), text);
            }
        }
    }
}
