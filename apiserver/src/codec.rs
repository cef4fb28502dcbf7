//! Request bodies: JSON, YAML and protobuf into a JSON value checked against its schema. Everything
//! here reads bytes from strangers: it must not panic, recurse without bound, or allocate much more
//! than it was sent.

use proto::kind::Row;
use proto::status::Status;
use serde_json::Value;

use crate::schema;

pub mod duration;
mod json;
pub mod protobuf;
pub mod yaml;

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
    Protobuf,
}

/// A body that was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// What `fieldValidation=Strict` refuses: `unknown field "spec.foo"`, `duplicate field "a"`.
    pub strict: Vec<String>,
}

/// What a body is expected to be.
#[derive(Clone, Copy, Debug)]
struct Expected<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

impl Format {
    /// By media type, parameters ignored; no media type means JSON.
    pub fn of(content_type: &str) -> Option<Format> {
        let media = content_type.split(';').next().unwrap_or("").trim();
        Some(match media.to_ascii_lowercase().as_str() {
            "" | "application/json" => Format::Json,
            "application/yaml" | "text/yaml" | "application/x-yaml" => Format::Yaml,
            "application/vnd.kubernetes.protobuf" => Format::Protobuf,
            _ => return None,
        })
    }
}

/// Reads an object of a kind, or of any kind without a row; checked against its schema where there
/// is one. `apiVersion` and `kind` are filled in where the body has none. Errors are 400.
pub fn decode(format: Format, body: &[u8], row: Option<&Row>) -> Result<Decoded, Status> {
    match row {
        Some(row) => {
            let (group, version, kind) = (&row.group, &row.version, &row.kind);
            read(format, body, Some(Expected { group, version, kind }))
        }
        None => read(format, body, None),
    }
}

/// [`decode`] for what has no row: `("", "v1", "DeleteOptions")`, `("autoscaling", "v1", "Scale")`,
/// `("", "v1", "Binding")`, `("policy", "v1", "Eviction")`.
pub fn decode_kind(
    format: Format,
    body: &[u8],
    (group, version, kind): (&str, &str, &str),
) -> Result<Decoded, Status> {
    read(format, body, Some(Expected { group, version, kind }))
}

/// Reads JSON or YAML without looking for a kind, as patches are. The error is the parser's.
pub fn parse(format: Format, body: &[u8]) -> Result<Decoded, String> {
    match format {
        Format::Json => json::parse(body),
        Format::Yaml => yaml::parse(body),
        Format::Protobuf => Err("protobuf needs a schema".into()),
    }
}

/// `strict decoding error: unknown field "spec.foo", duplicate field "spec.replicas"`: the answer
/// of `fieldValidation=Strict`.
pub fn strict_error(kind: &str, version: &str, problems: &[String]) -> Status {
    let list = problems.join(", ");
    cannot_be_handled(kind, version, kind, &format!("strict decoding error: {list}"))
}

/// What a warning says of a strict problem: duplicates of YAML one by one.
pub fn warnings(problem: &str) -> Vec<String> {
    match problem.strip_prefix(yaml::DUPLICATES) {
        Some(lines) => lines.lines().map(|line| line.trim().to_string()).collect(),
        None => vec![problem.to_string()],
    }
}

/// `Deployment in version "v1" cannot be handled as a Deployment: json: cannot unmarshal …`.
pub fn cannot_be_handled(kind: &str, version: &str, wanted: &str, why: &str) -> Status {
    Status::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {wanted}: {why}"
    ))
}

fn read(format: Format, body: &[u8], expected: Option<Expected<'_>>) -> Result<Decoded, Status> {
    let wanted = expected.map_or("", |expected| expected.kind);
    let unrecognized = |why: String| {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {wanted}): {why} ({})",
            summary(body)
        ))
    };
    let mut decoded = match format {
        Format::Json => json::parse(body).map_err(|e| {
            unrecognized(format!("couldn't get version/kind; json parse error: {e}"))
        })?,
        Format::Yaml => yaml::parse(body).map_err(|e| {
            unrecognized(format!("couldn't get version/kind; json parse error: {e}"))
        })?,
        Format::Protobuf => {
            let found = protobuf::decode(body, |group, version, kind| match (&expected, kind) {
                (Some(Expected { group, version, kind }), "") => schema::kind(group, version, kind),
                _ => schema::kind(group, version, kind).or_else(|| foreign(&expected, kind)),
            });
            Decoded {
                value: found.map_err(|error| unrecognized(error.to_string()))?,
                strict: vec![],
            }
        }
    };
    let Value::Object(map) = &mut decoded.value else {
        let found = "json: cannot unmarshal array into Go value of type struct";
        return Err(unrecognized(format!("couldn't get version/kind; json parse error: {found}")));
    };
    for name in ["apiVersion", "kind"] {
        if map.get(name).is_some_and(|value| !value.is_string() && !value.is_null()) {
            let found =
                format!("json: cannot unmarshal into Go struct field .{name} of type string");
            return Err(unrecognized(format!(
                "couldn't get version/kind; json parse error: {found}"
            )));
        }
    }
    let Some(expected) = expected else { return Ok(decoded) };
    let ty = expected.agree(map)?;
    let Some(ty) = ty else { return Ok(decoded) };
    match schema::check_type(&ty, &mut decoded.value) {
        Ok(mut problems) => {
            // Go's YAML reader meets duplicates before it looks for fields.
            match format {
                Format::Yaml => decoded.strict.append(&mut problems),
                Format::Json | Format::Protobuf => {
                    problems.append(&mut decoded.strict);
                    decoded.strict = problems;
                }
            }
            Ok(decoded)
        }
        Err(why) => Err(cannot_be_handled(expected.kind, expected.version, expected.kind, &why)),
    }
}

/// DeleteOptions are accepted in the version of whatever group they are sent to.
fn foreign(expected: &Option<Expected<'_>>, kind: &str) -> Option<schema::TypeRef> {
    let expected = expected.as_ref().filter(|expected| expected.any_version(kind))?;
    schema::kind(expected.group, expected.version, expected.kind)
}

impl Expected<'_> {
    fn any_version(&self, kind: &str) -> bool {
        kind == self.kind && kind == "DeleteOptions"
    }

    /// Fills in what is missing, refuses what differs, and finds the schema.
    fn agree(
        &self,
        map: &mut serde_json::Map<String, Value>,
    ) -> Result<Option<schema::TypeRef>, Status> {
        let text = |name: &str| map.get(name).and_then(Value::as_str).unwrap_or("");
        let wanted = match self.group {
            "" => self.version.to_string(),
            group => format!("{group}/{}", self.version),
        };
        let (api_version, kind) = (text("apiVersion").to_string(), text("kind").to_string());
        if kind.is_empty() {
            map.insert("kind".into(), self.kind.into());
        } else if kind != self.kind {
            let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
            let why = match schema::kind(group, version, &kind) {
                Some(ty) => {
                    format!(
                        "converting ({}) to ({version}.{}): unknown conversion",
                        ty.go(),
                        self.kind
                    )
                }
                None => format!("no kind {kind:?} is registered for version {api_version:?}"),
            };
            return Err(cannot_be_handled(&kind, version, self.kind, &why));
        }
        if api_version.is_empty() || self.any_version(&kind) {
            map.insert("apiVersion".into(), wanted.into());
        } else if api_version != wanted {
            return Err(Status::bad_request(format!(
                "the API version in the data ({api_version}) does not match the expected API \
                 version ({wanted})"
            )));
        }
        Ok(schema::kind(self.group, self.version, self.kind))
    }
}

/// The beginning of a body, for error messages: text when it is JSON, else hexadecimal.
fn summary(body: &[u8]) -> String {
    const LENGTH: usize = 30;
    let more = if body.len() > LENGTH { " ..." } else { "" };
    let head = &body[..body.len().min(LENGTH)];
    match body.first() {
        None => "<empty>".into(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(head)),
        Some(_) => format!("{}{more}", hex::encode(head)),
    }
}
