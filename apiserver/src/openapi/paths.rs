//! The paths of a group and version: one operation per verb, with its parameters.

use proto::kind::Row;
use serde_json::{Map, Value, json};

use super::{DELETE_OPTIONS, PATCH, STATUS, reference, schema_name, subresource_kind};
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
        let make = Make { row, kind: gvk(row), scoped: true };
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
    let other = subresource_kind(subresource);
    let kind = other.map_or_else(
        || gvk(row),
        |[group, version, kind]| json!({ "group": group, "version": version, "kind": kind }),
    );
    let other = other.and_then(|[group, version, kind]| schema::kind(group, version, kind));
    let name = other.map_or_else(|| own.to_string(), |ty| ty.name.to_string());
    let make = Make { row, kind, scoped: true };
    let verbs: &[&str] = match subresource {
        "binding" | "eviction" => &["create"],
        "finalize" => &["update"],
        "log" => &["log"],
        "attach" | "exec" => &["connect"],
        _ => &["get", "update", "patch"],
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
                "connect" => {
                    let connect = || self.operation("connect", &[&EXEC], Body::None, "");
                    operations.insert("post".into(), connect());
                    ("get", connect())
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
            name => json!({ "application/json": { "schema": reference(name) } }),
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
            "parameters": parameters,
            "responses": responses,
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": self.kind,
        });
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

fn query((name, ty, description): &Parameter) -> Value {
    json!({ "name": name, "in": "query", "description": description,
        "schema": { "type": ty, "uniqueItems": true } })
}

/// `apps_v1`, `core_v1`.
fn tag(row: &Row) -> String {
    let group = row.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    format!("{group}_{}", row.version)
}
