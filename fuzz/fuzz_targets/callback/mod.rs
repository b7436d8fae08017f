//! What holds of every body that is looked through, whatever it holds and however it is cut: where addresses are kept, it goes out as it
//! came; where they are replaced, the bytes between the replaced values are those that came; the length differs by what is said.

use bytes::Bytes;
use hawser_callback::{Direction, Editor, Overflow, Place, Plan, Refusal, Rules, Verdict};

const ADDRESS: &str = "http://m4rk3r/";

fn rules(overflow: Overflow) -> Rules {
    Rules {
        json: ["/a", "/*/b", "/l/1"]
            .iter()
            .filter_map(|p| p.parse().ok())
            .collect(),
        form: vec!["a".into(), "b c".into()],
        cloudevents: true,
        overflow,
        window: 4096,
        ..Rules::default()
    }
}

/// The body as it goes out, in pieces of `step` bytes.
fn run(kind: &str, rules: &Rules, body: &[u8], step: usize, verdict: &Verdict) -> Result<Vec<u8>, Refusal> {
    let Plan::Edit(mut editor) = Editor::plan(rules, Direction::Request, Some(kind), None, None) else {
        panic!("{kind} is looked into");
    };
    let mut replace = |_: &Place, _: &str| verdict.clone();
    let mut out = Vec::new();
    for piece in body.chunks(step) {
        for bytes in editor.push(Bytes::copy_from_slice(piece), &mut replace)?.out {
            out.extend_from_slice(&bytes);
        }
    }
    let settled = editor.settled();
    for bytes in editor.end(&mut replace)?.out {
        out.extend_from_slice(&bytes);
    }
    let delta = editor.settled().expect("settled at the end");
    assert_eq!(
        i64::try_from(body.len()).expect("short") + delta,
        i64::try_from(out.len()).expect("short")
    );
    assert!(settled.is_none_or(|s| s == delta));
    Ok(out)
}

/// Checks all of it for one body. `written` is how [`ADDRESS`] is written in it.
pub fn check(kind: &str, written: &str, data: &[u8]) {
    let Some((step, body)) = data.split_first() else {
        return;
    };
    let step = usize::from(*step) + 1;
    let pass = rules(Overflow::Pass);
    if let Ok(out) = run(kind, &pass, body, step, &Verdict::Keep) {
        assert_eq!(out, body);
    }
    let replaced = Verdict::With(ADDRESS.into());
    let Ok(out) = run(kind, &rules(Overflow::Refuse), body, step, &replaced) else {
        return;
    };
    let whole = run(kind, &rules(Overflow::Refuse), body, body.len().max(1), &replaced);
    assert_eq!(whole.as_ref(), Ok(&out));
    let (body, out) = (String::from_utf8_lossy(body), String::from_utf8_lossy(&out));
    if body.contains(written) {
        return;
    }
    let mut between = out.split(written);
    let mut rest = between
        .next()
        .and_then(|first| body.strip_prefix(first))
        .expect("the beginning stays");
    for part in between {
        let at = rest.find(part).expect("what stands between values stays");
        rest = &rest[at + part.len()..];
    }
    assert!(body.ends_with(out.rsplit(written).next().unwrap_or_default()));
}
