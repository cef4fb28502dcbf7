//! The paths of a group and version: one operation per verb, with its parameters.

use proto::kind::Row;
use serde_json::{Map, Value, json};

use super::{DELETE_OPTIONS, PATCH, STATUS, reference, schema_name};
use crate::discovery::Subresource;
use crate::patch::PatchKind;
use crate::schema;

/// A query parameter: name, type, what it does.
type Parameter = (&'static str, &'static str, &'static str);

const DRY_RUN: Parameter =
    ("dryRun", "string", "All: process the request, but do not persist the result.");
const FIELD_MANAGER: Parameter =
    ("fieldManager", "string", "The name of the actor that makes the changes.");
const FIELD_VALIDATION: Parameter = (
    "fieldValidation",
    "string",
    "What to do with unknown and duplicate fields: Ignore, Warn (the default) or Strict.",
);
const SELECT: [Parameter; 2] = [
    ("fieldSelector", "string", "Restricts the objects by their fields."),
    ("labelSelector", "string", "Restricts the objects by their labels."),
];
const LIST: [Parameter; 8] = [
    ("allowWatchBookmarks", "boolean", "Asks for watch events of type BOOKMARK."),
    ("continue", "string", "Goes on where the list with this token ended."),
    ("limit", "integer", "The most objects to return."),
    ("resourceVersion", "string", "The version to read or to watch from."),
    ("resourceVersionMatch", "string", "How resourceVersion is applied to lists."),
    ("sendInitialEvents", "boolean", "Begins a watch with the objects that exist."),
    ("timeoutSeconds", "integer", "How long the list or watch may take."),
    ("watch", "boolean", "Streams changes instead of listing."),
];
const DELETE: [Parameter; 4] = [
    ("gracePeriodSeconds", "integer", "How long the object may take to stop; 0 is at once."),
    (
        "ignoreStoreReadErrorWithClusterBreakingPotential",
        "boolean",
        "Deletes an object that cannot be read.",
    ),
    ("orphanDependents", "boolean", "Deprecated: use propagationPolicy."),
    ("propagationPolicy", "string", "Orphan, Background or Foreground."),
];
const WRITE: [Parameter; 3] = [DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
const FORCE: Parameter =
    ("force", "boolean", "Takes over fields of other managers; only for server-side apply.");
const LOG: [Parameter; 9] = [
    ("container", "string", "The container; may be left out when the pod has one."),
    ("follow", "boolean", "Goes on streaming."),
    ("limitBytes", "integer", "The most bytes to return."),
    ("previous", "boolean", "The logs of the container before its last restart."),
    ("sinceSeconds", "integer", "Only what is younger than this."),
    ("sinceTime", "string", "Only what is younger than this moment."),
    ("stream", "string", "All, Stdout or Stderr."),
    ("tailLines", "integer", "Only this many lines from the end."),
    ("timestamps", "boolean", "Begins each line with its time."),
];
const EXEC: [Parameter; 6] = [
    ("command", "string", "The command and its arguments, one parameter each."),
    ("container", "string", "The container; may be left out when the pod has one."),
    ("stderr", "boolean", "Redirects standard error."),
    ("stdin", "boolean", "Redirects standard input."),
    ("stdout", "boolean", "Redirects standard output."),
    ("tty", "boolean", "Allocates a terminal."),
];

/// What answers may be written in, and what watches stream.
const MEDIA: [&str; 3] =
    ["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];
const STREAMS: [&str; 2] =
    ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];
const PORTS: Parameter = ("ports", "integer", "The ports to forward; only for old clients.");
const PATH: Parameter = ("path", "string", "The path to pass on; it comes after the URL's.");

/// What an operation reads and answers.
enum Body<'a> {
    None,
    Json(&'a str),
    Patch,
}

pub fn paths(rows: &[&Row]) -> Map<String, Value> {
    let mut paths = Map::new();
    for row in rows {
        let Some(name) = schema_name(row) else { continue };
        let namespace = if row.namespaced { "{namespace}" } else { "" };
        let collection = row.path(namespace, "");
        let item = row.path(namespace, "{name}");
        let make = Make { row, kind: gvk(row), scoped: true, subresource: "" };
        paths.insert(collection.clone(), make.collection(&name));
        let has = |verb| row.verbs.iter().any(|known| known == verb);
        if has("get") {
            paths.insert(item.clone(), make.item(&name, &row.verbs));
        }
        if row.namespaced && has("list") {
            let make = Make { scoped: false, ..make };
            let mut all = Map::new();
            all.insert("get".into(), make.list(&name));
            paths.insert(row.path("", ""), Value::Object(make.with_parameters(all, false)));
        }
        for subresource in row.subresources.iter() {
            let path = format!("{item}/{subresource}");
            paths.insert(path, subresource_path(row, subresource, &name));
        }
    }
    paths
}

fn gvk(row: &Row) -> Value {
    json!({ "group": row.group, "version": row.version, "kind": row.kind })
}

fn subresource_path(row: &Row, subresource: &str, own: &str) -> Value {
    let Subresource { group, version, kind, verbs } = Subresource::of(row, subresource);
    let ty = schema::kind(group, version, kind);
    let name = ty.map_or_else(|| own.to_string(), |ty| ty.name.to_string());
    let kind = json!({ "group": group, "version": version, "kind": kind });
    let make = Make { row, kind, scoped: true, subresource };
    let verbs: &[&str] = match subresource {
        "log" => &["log"],
        "attach" => &["attach"],
        "exec" => &["exec"],
        "portforward" => &["portforward"],
        "proxy" => &["proxy"],
        _ => verbs,
    };
    let verbs: Vec<_> = verbs.iter().map(|verb| std::borrow::Cow::from(*verb)).collect();
    make.item(&name, &verbs)
}

/// Makes the operations of one path.
struct Make<'a> {
    row: &'a Row,
    kind: Value,
    /// Below a namespace, where the kind has one.
    scoped: bool,
    /// Empty for the resource itself.
    subresource: &'a str,
}

impl Make<'_> {
    fn collection(&self, name: &str) -> Value {
        let mut operations = Map::new();
        for verb in self.row.verbs.iter() {
            match &**verb {
                "list" => drop(operations.insert("get".into(), self.list(name))),
                "create" => {
                    let post = self.operation("post", &[&WRITE], Body::Json(name), name);
                    operations.insert("post".into(), post);
                }
                "deletecollection" => {
                    let parameters: [&[Parameter]; 4] = [&SELECT, &LIST[..7], &DELETE, &[DRY_RUN]];
                    let body = Body::Json(DELETE_OPTIONS);
                    let delete = self.operation("deletecollection", &parameters, body, STATUS);
                    operations.insert("delete".into(), delete);
                }
                _ => {}
            }
        }
        Value::Object(self.with_parameters(operations, false))
    }

    fn list(&self, name: &str) -> Value {
        self.operation("list", &[&SELECT, &LIST], Body::None, &format!("{name}List"))
    }

    fn item(&self, name: &str, verbs: &[std::borrow::Cow<'static, str>]) -> Value {
        let mut operations = Map::new();
        for verb in verbs {
            let (method, operation) = match &**verb {
                "get" => ("get", self.operation("get", &[], Body::None, name)),
                "create" if verbs.len() == 1 => {
                    ("post", self.operation("post", &[&WRITE], Body::Json(name), name))
                }
                "update" => ("put", self.operation("put", &[&WRITE], Body::Json(name), name)),
                "patch" => {
                    ("patch", self.operation("patch", &[&WRITE, &[FORCE]], Body::Patch, name))
                }
                "delete" => {
                    let body = Body::Json(DELETE_OPTIONS);
                    ("delete", self.operation("delete", &[&DELETE, &[DRY_RUN]], body, STATUS))
                }
                "log" => ("get", self.operation("get", &[&LOG], Body::None, "")),
                "attach" | "exec" | "portforward" | "proxy" => {
                    let (parameters, methods) = connection(verb);
                    for method in methods {
                        let mut connect = self.operation("connect", &[parameters], Body::None, "");
                        let (head, tail) = method.split_at(1);
                        let named = head.to_uppercase() + tail;
                        connect["operationId"] = self.id("connect", &named).into();
                        operations.insert((*method).into(), connect);
                    }
                    continue;
                }
                _ => continue,
            };
            operations.insert(method.into(), operation);
        }
        Value::Object(self.with_parameters(operations, true))
    }

    /// `answer` is a schema's name; empty for plain text.
    fn operation(
        &self,
        action: &str,
        parameters: &[&[Parameter]],
        body: Body<'_>,
        answer: &str,
    ) -> Value {
        let content = match answer {
            "" => json!({ "text/plain": { "schema": { "type": "string" } } }),
            name => {
                let streams: &[&str] = if action == "list" { &STREAMS } else { &[] };
                let media = MEDIA.iter().chain(streams);
                media
                    .map(|media| (media.to_string(), json!({ "schema": reference(name) })))
                    .collect::<Map<String, Value>>()
                    .into()
            }
        };
        let mut responses = Map::new();
        responses.insert("200".into(), json!({ "description": "OK", "content": content }));
        responses.insert("401".into(), json!({ "description": "Unauthorized" }));
        if matches!(action, "post" | "put" | "patch") {
            let created = json!({ "description": "Created", "content": content });
            responses.insert("201".into(), created);
        }
        let parameters: Vec<Value> = parameters.iter().copied().flatten().map(query).collect();
        let mut operation = json!({
            "tags": [tag(self.row)],
            "description": format!("{action} {}", self.row.kind),
            "operationId": self.id(action, ""),
            "responses": responses,
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": self.kind,
        });
        // Go takes what it reads for another than what it writes where a list is there and empty.
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        let request = match body {
            Body::None => return operation,
            Body::Json(name) => json!({ "*/*": { "schema": reference(name) } }),
            Body::Patch => {
                let types = PatchKind::ACCEPTED.split(", ");
                types
                    .map(|media| (media.into(), json!({ "schema": reference(PATCH) })))
                    .collect::<Map<String, Value>>()
                    .into()
            }
        };
        operation["requestBody"] = json!({ "content": request });
        operation
    }

    /// `listCoreV1NamespacedPod`, `connectCoreV1GetNamespacedPodExec`: what generated clients call
    /// the operation.
    fn id(&self, action: &str, method: &str) -> String {
        let (verb, collection) = match action {
            "get" => ("read", ""),
            "post" => ("create", ""),
            "put" => ("replace", ""),
            "deletecollection" => ("delete", "Collection"),
            other => (other, ""),
        };
        let place = format!("{}{}", upper(&api(self.row)), upper(&self.row.version));
        let scope = if self.row.namespaced && self.scoped { "Namespaced" } else { "" };
        let all = if self.row.namespaced && !self.scoped { "ForAllNamespaces" } else { "" };
        let subresource = upper(self.subresource);
        format!("{verb}{place}{collection}{method}{scope}{}{subresource}{all}", self.row.kind)
    }

    /// Adds the parameters of the path itself.
    fn with_parameters(&self, mut path: Map<String, Value>, named: bool) -> Map<String, Value> {
        let in_path = |name: &str| {
            json!({ "name": name, "in": "path", "required": true,
                "schema": { "type": "string", "uniqueItems": true } })
        };
        let mut parameters = Vec::new();
        if named {
            parameters.push(in_path("name"));
        }
        if self.scoped && self.row.namespaced {
            parameters.push(in_path("namespace"));
        }
        parameters.push(query(&("pretty", "string", "Indents the output.")));
        path.insert("parameters".into(), parameters.into());
        path
    }
}

/// The parameters of a subresource that is a connection, and the methods that open it.
fn connection(subresource: &str) -> (&'static [Parameter], &'static [&'static str]) {
    const BOTH: &[&str] = &["get", "post"];
    match subresource {
        "attach" => (&EXEC[1..], BOTH),
        "exec" => (&EXEC, BOTH),
        "portforward" => (&[PORTS], BOTH),
        _ => (&[PATH], &["delete", "get", "head", "options", "patch", "post", "put"]),
    }
}

fn query((name, ty, description): &Parameter) -> Value {
    json!({ "name": name, "in": "query", "description": description,
        "schema": { "type": ty, "uniqueItems": true } })
}

/// `apps_v1`, `core_v1`, `rbacAuthorization_v1`.
fn tag(row: &Row) -> String {
    format!("{}_{}", api(row), row.version)
}

/// The group in one word: `core`, `apps`, `rbacAuthorization`.
fn api(row: &Row) -> String {
    let mut words = row.group.trim_end_matches(".k8s.io").split('.');
    match words.next().unwrap_or_default() {
        "" => "core".into(),
        first => words.fold(first.to_string(), |name, word| name + &upper(word)),
    }
}

fn upper(word: &str) -> String {
    let mut letters = word.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}
