//! Parameters: where they are, how they are written, and what they have to be.

use percent_encoding::percent_decode_str;
use serde_json::{Number, Value};

use crate::{
    openapi::schema::Schema,
    tree::{Data, Node},
    validate::{Invalid, Request},
};

/// A parameter of an operation.
#[derive(Debug, Clone)]
pub(super) struct Parameter {
    pub(super) name: String,
    pub(super) required: bool,
    pub(super) style: Style,
    /// Whether its text is JSON.
    pub(super) json: bool,
    /// Without one anything is good.
    pub(super) schema: Option<Schema>,
}

/// Where a parameter is, and how an array is written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Path(char),
    Header,
    Cookie,
    /// The name again for each item.
    Query,
    /// Items with this between them.
    Joined(char),
    /// An object with a name for each of its members: not looked into.
    Deep,
}

impl Style {
    /// `None` for what is no parameter of requests, or is the business of others (OpenAPI 3.0.4 section 4.7.12.2).
    pub(super) fn of(place: &str, parameter: &Node) -> Option<Self> {
        let style = parameter.get("style").and_then(Node::text);
        let name = parameter.get("name").and_then(Node::text).unwrap_or_default();
        let explode = match parameter.get("explode").map(|n| &n.data) {
            Some(Data::Bool(explode)) => *explode,
            _ => style.is_none_or(|style| style == "form"),
        };
        let common = ["accept", "content-type", "authorization"];
        Some(match (place, style) {
            ("path", Some("label")) => Self::Path('.'),
            ("path", Some("matrix")) => Self::Path(';'),
            ("path", _) => Self::Path(','),
            ("header", _) if common.contains(&name.to_ascii_lowercase().as_str()) => return None,
            ("header", _) => Self::Header,
            ("cookie", _) => Self::Cookie,
            ("query", Some("deepObject")) => Self::Deep,
            ("query", _) if explode => Self::Query,
            ("query", Some("spaceDelimited")) => Self::Joined(' '),
            ("query", Some("pipeDelimited")) => Self::Joined('|'),
            ("query", _) => Self::Joined(','),
            _ => return None,
        })
    }

    pub(super) fn place(self) -> &'static str {
        match self {
            Self::Path(_) => "path",
            Self::Header => "header",
            Self::Cookie => "cookie",
            Self::Query | Self::Joined(_) | Self::Deep => "query",
        }
    }
}

impl Parameter {
    /// Whether it is there if it has to be, and fits. `path` has the values of the path's template.
    pub(super) fn check(&self, request: &Request<'_>, path: &[(String, String)]) -> Result<(), Invalid> {
        let found = self.found(request, path);
        if found.is_empty() {
            let object = self
                .schema
                .as_ref()
                .is_some_and(|s| is(s.follow(s.root()), "object"));
            // The members of an object stand there under their own names.
            return if self.required && !(self.style == Style::Query && object) {
                Err(self.wrong("it is required".into()))
            } else {
                Ok(())
            };
        }
        let Some(schema) = &self.schema else { return Ok(()) };
        let root = schema.follow(schema.root());
        let value = if self.json {
            serde_json::from_str(&found[0]).map_err(|e| self.wrong(format!("no JSON: {e}")))?
        } else if is(root, "array") {
            let items = root.get("items").unwrap_or(&Value::Null);
            let texts = found.iter().flat_map(|text| match self.style {
                Style::Query => vec![text.as_str()],
                Style::Joined(between) => text.split(between).collect(),
                _ => text.split(',').map(str::trim).collect(),
            });
            texts.map(|text| coerce(schema, items, text)).collect()
        } else if is(root, "object")
            || self.style == Style::Deep
            || matches!(self.style, Style::Path('.' | ';'))
        {
            return Ok(());
        } else if found.len() > 1 && self.style != Style::Header {
            return Err(self.wrong("it occurs more than once".into()));
        } else {
            coerce(schema, root, &found[0])
        };
        schema.check(&value).map_err(|(_, why)| self.wrong(why))
    }

    /// The texts under its name.
    fn found(&self, request: &Request<'_>, path: &[(String, String)]) -> Vec<String> {
        let named = |pairs: Vec<(String, String)>| {
            let mine = pairs.into_iter().filter(|(name, _)| *name == self.name);
            mine.map(|(_, value)| value).collect()
        };
        match self.style {
            Style::Path(_) => named(path.to_vec()),
            Style::Header => {
                let values = request.headers.get_all(&self.name).iter();
                values
                    .filter_map(|value| value.to_str().ok())
                    .map(Into::into)
                    .collect()
            }
            Style::Cookie => {
                let cookies = request.headers.get_all("cookie").iter();
                let cookies = cookies
                    .filter_map(|value| value.to_str().ok())
                    .flat_map(|c| c.split(';'));
                let pairs = cookies.filter_map(|c| c.trim().split_once('='));
                named(pairs.map(|(name, value)| (name.into(), value.into())).collect())
            }
            Style::Query | Style::Joined(_) => named(pairs(request.query)),
            Style::Deep => {
                let start = format!("{}[", self.name);
                let pairs = pairs(request.query)
                    .into_iter()
                    .filter(|(name, _)| name.starts_with(&start));
                pairs.map(|(_, value)| value).collect()
            }
        }
    }

    fn wrong(&self, why: String) -> Invalid {
        Invalid::Parameter {
            place: self.style.place(),
            name: self.name.clone(),
            why,
        }
    }
}

/// Names and values of a query or a form.
pub(super) fn pairs(text: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect()
}

/// A text as the value that a schema wants, if it can be read as one.
pub(super) fn coerce(schema: &Schema, of: &Value, text: &str) -> Value {
    let of = schema.follow(of);
    let untyped = of.get("type").is_none() && of.get("enum").is_none() && of.get("const").is_none();
    let number = || text.parse::<Number>().ok().map(Value::Number);
    let boolean = || text.parse::<bool>().ok().map(Value::Bool);
    let listed = || {
        let value: Value = serde_json::from_str(text).ok()?;
        let values = of.get("enum").and_then(Value::as_array).into_iter().flatten();
        let found = values.chain(of.get("const")).any(|v| *v == value);
        found.then_some(value)
    };
    let text = || Value::String(text.into());
    if is(of, "integer") || is(of, "number") {
        return number().unwrap_or_else(text);
    }
    if is(of, "boolean") {
        return boolean().unwrap_or_else(text);
    }
    if of.get("type").is_none() && !untyped {
        return listed().unwrap_or_else(text);
    }
    // A choice of several schemas: as what it looks like, if they take that, else as text.
    if untyped && of.as_object().is_some_and(|o| !o.is_empty()) {
        let looks_like = number().or_else(boolean);
        return looks_like
            .filter(|v| schema.check(v).is_ok())
            .unwrap_or_else(text);
    }
    text()
}

/// Whether a schema names this type, alone or among others.
pub(super) fn is(schema: &Value, kind: &str) -> bool {
    match schema.get("type") {
        Some(Value::String(one)) => one == kind,
        Some(Value::Array(many)) => many.iter().any(|one| one == kind),
        _ => false,
    }
}
