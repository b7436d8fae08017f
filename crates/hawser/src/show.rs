//! Status documents as text for people: keys with their values, lists of like things as tables.

use std::collections::BTreeSet;

use hawser_proto::UnixTime;
use serde_json::{Map, Value};

use crate::{
    table::{Rows, printable},
    when,
};

/// Keys whose numbers are times.
const TIMES: [&str; 5] = ["since", "at", "ends", "certificate_ends", "next_attempt"];

/// An object, each line indented by two spaces.
pub(crate) fn indented(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(o) => object(o, 1, &mut text),
        other => line(1, &scalar("", other), &mut text),
    }
    text
}

fn object(o: &Map<String, Value>, depth: usize, text: &mut String) {
    let width = o
        .iter()
        .filter(|(_, v)| is_scalar(v))
        .map(|(k, _)| k.len())
        .max()
        .unwrap_or(0)
        + 2;
    for (key, value) in o.iter().filter(|(_, v)| is_scalar(v)) {
        line(
            depth,
            &format!("{:width$}{}", words(key), scalar(key, value)),
            text,
        );
    }
    for (key, value) in o.iter().filter(|(_, v)| !is_scalar(v)) {
        match value {
            Value::Object(below) => {
                line(depth, &words(key), text);
                object(below, depth + 1, text);
            }
            Value::Array(items) => {
                line(depth, &format!("{} ({})", words(key), items.len()), text);
                if items.iter().any(Value::is_object) {
                    table(items).lines().for_each(|row| line(depth + 1, row, text));
                } else {
                    items
                        .iter()
                        .for_each(|item| line(depth + 1, &scalar("", item), text));
                }
            }
            _ => {}
        }
    }
}

fn table(items: &[Value]) -> String {
    let columns: BTreeSet<&String> = items
        .iter()
        .filter_map(Value::as_object)
        .flat_map(Map::keys)
        .collect();
    // In the order of the first item, then whatever others have besides.
    let mut order: Vec<&String> = items
        .iter()
        .find_map(Value::as_object)
        .map(|o| o.keys().collect())
        .unwrap_or_default();
    order.extend(
        columns
            .iter()
            .filter(|c| !order.contains(*c))
            .copied()
            .collect::<Vec<_>>(),
    );
    let mut rows = Rows::new(order.iter().map(|c| words(c).to_uppercase()).collect());
    for item in items {
        match item {
            Value::Object(o) => {
                rows.push(
                    order
                        .iter()
                        .map(|c| o.get(*c).map(|v| scalar(c, v)).unwrap_or_default())
                        .collect(),
                );
            }
            other => rows.push(vec![scalar("", other)]),
        }
    }
    rows.to_string()
}

fn is_scalar(value: &Value) -> bool {
    match value {
        Value::Object(_) => false,
        // Sentences get a line each.
        Value::Array(a) => a
            .iter()
            .all(|v| v.as_str().is_some_and(|s| !s.contains(' ')) || v.is_number()),
        _ => true,
    }
}

fn scalar(key: &str, value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Number(n) => match n.as_u64() {
            Some(t) if TIMES.contains(&key) => {
                format!("{} ({})", when::date(UnixTime(t)), when::relative(UnixTime(t)))
            }
            _ => n.to_string(),
        },
        Value::String(s) => printable(s),
        Value::Array(a) => a.iter().map(|v| scalar(key, v)).collect::<Vec<_>>().join(" "),
        Value::Object(_) => value.to_string(),
    }
}

fn words(key: &str) -> String {
    printable(key.replace('_', " "))
}

fn line(depth: usize, content: &str, text: &mut String) {
    for _ in 0..depth {
        text.push_str("  ");
    }
    text.push_str(content.trim_end());
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn status_reads_like_a_page() {
        let text = super::indented(&json!({
            "id": "spiffe://acme/gateway/gw1",
            "hubs": [{"hub": "h:1", "connected": true}, {"hub": "h:22", "connected": false}],
            "limits": {"max_sessions": 3},
        }));
        let wanted = "  id  spiffe://acme/gateway/gw1\n  hubs (2)\n    HUB   CONNECTED\n    h:1   yes\n    h:22  no\n  limits\n    max sessions  3\n";
        assert_eq!(text, wanted);
    }
}
