//! Requests held against an OpenAPI document.

mod parameter;
mod route;

use serde_json::{Map, Value};

use self::{
    parameter::{Parameter, Style, coerce, pairs},
    route::Route,
};
use super::{
    METHODS, OpenApi, decode, entries,
    schema::{Index, Schema},
    spots::expand,
};
use crate::{
    DescribeError, MAX_NODES,
    error::short,
    tree::{Data, Node},
    validate::{Invalid, Request},
};

/// What a document says of requests, compiled.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    operations: Vec<Operation>,
}

#[derive(Debug, Clone)]
struct Operation {
    method: String,
    /// One for each server.
    routes: Vec<Route>,
    parameters: Vec<Parameter>,
    body: Option<Body>,
}

#[derive(Debug, Clone)]
struct Body {
    required: bool,
    /// By media range in lower case. Without a schema anything is good.
    media: Vec<(String, Option<Schema>)>,
}

impl Api {
    /// Compiles what a document says of requests.
    pub(crate) fn new(api: &OpenApi) -> Result<Self, DescribeError> {
        let index = Index::new(api);
        let mut compile = Compile {
            api,
            index: &index,
            budget: MAX_NODES,
        };
        let mut operations = Vec::new();
        for (template, item) in entries(api.root.get("paths")) {
            if !template.starts_with('/') {
                continue;
            }
            let at = format!("/paths/{}", escaped(template));
            let item = compile.inside(item, &at)?;
            for method in METHODS {
                if let Some(node) = item.get(method) {
                    operations.push(compile.operation(
                        template,
                        item,
                        method,
                        node,
                        &format!("{at}/{method}"),
                    )?);
                }
            }
        }
        Ok(Self { operations })
    }

    /// Holds a request against the document.
    pub(crate) fn request(&self, request: &Request<'_>) -> Result<(), Invalid> {
        let path: Option<Vec<String>> = request.path.split('/').skip(1).map(decode).collect();
        let path = &path.ok_or_else(|| Invalid::Path(short(request.path)))?;
        let found = self.operations.iter().flat_map(|operation| {
            let routes = operation.routes.iter();
            routes.filter_map(move |route| Some((operation, route, route.matches(path)?)))
        });
        let found: Vec<_> = found.collect();
        // Literal segments win over templates (OpenAPI 3.0.4 section 4.7.8.2).
        let Some(best) = found.iter().map(|(_, route, _)| route.literal()).max() else {
            return Err(Invalid::Path(short(request.path)));
        };
        let mut here = found.into_iter().filter(|(_, route, _)| route.literal() == best);
        let preflight =
            request.method == "OPTIONS" && request.headers.contains_key("access-control-request-method");
        let mut allowed = Vec::new();
        for (operation, _, values) in here.by_ref() {
            if operation.method == request.method {
                return operation.request(request, &values);
            }
            if !allowed.contains(&operation.method) {
                allowed.push(operation.method.clone());
            }
        }
        // A browser's question before a request is no operation of anybody's.
        if preflight {
            return Ok(());
        }
        let method = short(request.method);
        Err(Invalid::Method { method, allowed })
    }
}

impl Operation {
    fn request(&self, request: &Request<'_>, path: &[(String, String)]) -> Result<(), Invalid> {
        for parameter in &self.parameters {
            parameter.check(request, path)?;
        }
        self.body.as_ref().map_or(Ok(()), |body| body.check(request))
    }
}

impl Body {
    fn check(&self, request: &Request<'_>) -> Result<(), Invalid> {
        let wrong = |pointer: &str, why: String| Invalid::Body {
            pointer: pointer.into(),
            why,
        };
        if request.body.is_empty() {
            return if self.required {
                Err(wrong("", "it is required".into()))
            } else {
                Ok(())
            };
        }
        let kind = request.header("content-type").unwrap_or_default();
        let kind = kind
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let Some(schema) = self.of_type(&kind) else {
            return Err(Invalid::ContentType {
                found: short(&kind),
                allowed: self.media.iter().map(|(range, _)| range.clone()).collect(),
            });
        };
        let Some(schema) = schema else { return Ok(()) };
        let value = if kind == "application/json" || kind.ends_with("+json") {
            serde_json::from_slice(request.body).map_err(|e| wrong("", format!("no JSON: {e}")))?
        } else if kind == "application/x-www-form-urlencoded" {
            let text = str::from_utf8(request.body).map_err(|_| wrong("", "it is not UTF-8".into()))?;
            form(text, schema)
        } else {
            return Ok(());
        };
        schema
            .check(&value)
            .map_err(|(pointer, why)| wrong(&pointer, why))
    }

    /// The schema of the narrowest media range that the type is in.
    fn of_type(&self, kind: &str) -> Option<&Option<Schema>> {
        let family = kind.split('/').next().unwrap_or_default();
        let ranges = [kind.to_owned(), format!("{family}/*"), "*/*".into()];
        ranges
            .iter()
            .find_map(|range| self.media.iter().find(|(r, _)| r == range))
            .map(|(_, schema)| schema)
    }
}

/// A form as an object, each field as its schema wants it.
fn form(text: &str, schema: &Schema) -> Value {
    let mut fields = Map::new();
    let properties = schema.follow(schema.root()).get("properties");
    for (name, value) in pairs(text) {
        let of = properties.and_then(|p| p.get(&name)).unwrap_or(&Value::Null);
        let of = schema.follow(of);
        if parameter::is(of, "array") {
            let item = coerce(schema, of.get("items").unwrap_or(&Value::Null), &value);
            let list = fields.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(list) = list {
                list.push(item);
            }
        } else {
            fields.insert(name, coerce(schema, of, &value));
        }
    }
    Value::Object(fields)
}

/// A token of a JSON pointer.
fn escaped(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

struct Compile<'a> {
    api: &'a OpenApi,
    index: &'a Index<'a>,
    budget: usize,
}

impl<'a> Compile<'a> {
    /// What a reference leads to.
    ///
    /// # Errors
    /// It leads to another document, or nowhere.
    fn inside(&self, node: &'a Node, at: &str) -> Result<&'a Node, DescribeError> {
        let found = self.api.follow(node);
        match found.get("$ref").and_then(Node::text) {
            Some(reference) => Err(DescribeError::Missing {
                missing: format!("{at}: {:?}", short(reference)),
            }),
            None => Ok(found),
        }
    }

    fn operation(
        &mut self,
        template: &str,
        item: &'a Node,
        method: &str,
        node: &'a Node,
        at: &str,
    ) -> Result<Operation, DescribeError> {
        let servers = [node, item, &self.api.root]
            .into_iter()
            .find_map(|n| n.get("servers"));
        let mut bases = vec![];
        for server in servers.map_or(&[][..], Node::items) {
            let url = server.get("url").and_then(Node::text).unwrap_or_default();
            for url in [expand(url, server.get("variables")), url.into()] {
                let base = base(&url);
                if !bases.contains(&base) {
                    bases.push(base);
                }
            }
        }
        if bases.is_empty() {
            bases.push(String::new());
        }
        let body = match node.get("requestBody") {
            Some(body) => Some(self.body(body, &format!("{at}/requestBody"))?),
            None => None,
        };
        Ok(Operation {
            method: method.to_ascii_uppercase(),
            routes: bases
                .iter()
                .map(|base| Route::new(&format!("{base}{template}")))
                .collect(),
            parameters: self.parameters(item, node, at)?,
            body,
        })
    }

    /// Those of the operation, and those of the path that it does not declare anew.
    fn parameters(
        &mut self,
        item: &'a Node,
        node: &'a Node,
        at: &str,
    ) -> Result<Vec<Parameter>, DescribeError> {
        let mut all: Vec<Parameter> = Vec::new();
        for list in [node.get("parameters"), item.get("parameters")]
            .into_iter()
            .flatten()
        {
            for (n, parameter) in list.items().iter().enumerate() {
                let at = format!("{at}/parameters/{n}");
                let parameter = self.inside(parameter, &at)?;
                let text = |key| parameter.get(key).and_then(Node::text).unwrap_or_default();
                let Some(style) = Style::of(text("in"), parameter) else {
                    continue;
                };
                let name = text("name").to_owned();
                if all
                    .iter()
                    .any(|p| p.name == name && p.style.place() == style.place())
                {
                    continue;
                }
                let schema = match content(parameter).or_else(|| parameter.get("schema")) {
                    Some(schema) => Some(Schema::new(self.index, schema, &at, &mut self.budget)?),
                    None => None,
                };
                all.push(Parameter {
                    required: flag(parameter, "required"),
                    json: content(parameter).is_some(),
                    name,
                    style,
                    schema,
                });
            }
        }
        Ok(all)
    }

    fn body(&mut self, node: &'a Node, at: &str) -> Result<Body, DescribeError> {
        let node = self.inside(node, at)?;
        let media = entries(node.get("content")).iter().map(|(range, media)| {
            let range = range
                .split(';')
                .next()
                .unwrap_or_default()
                .trim()
                .to_ascii_lowercase();
            let at = format!("{at}/content/{}", escaped(&range));
            let schema = media.get("schema");
            let schema = schema.map(|schema| Schema::new(self.index, schema, &at, &mut self.budget));
            Ok((range, schema.transpose()?))
        });
        Ok(Body {
            media: media.collect::<Result<_, DescribeError>>()?,
            required: flag(node, "required"),
        })
    }
}

/// The schema of a parameter that is JSON in itself.
fn content(parameter: &Node) -> Option<&Node> {
    let (_, media) = entries(parameter.get("content"))
        .iter()
        .find(|(range, _)| range.contains("json"))?;
    media.get("schema")
}

fn flag(node: &Node, key: &str) -> bool {
    matches!(node.get(key).map(|n| &n.data), Some(Data::Bool(true)))
}

/// The path of a server's URL without a slash at its end. Of a relative one what can be known.
fn base(url: &str) -> String {
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
        None => url.trim_start_matches('.'),
    };
    let path = path
        .split(['?', '#'])
        .next()
        .unwrap_or_default()
        .trim_matches('/');
    if path.is_empty() {
        String::new()
    } else {
        format!("/{path}")
    }
}
