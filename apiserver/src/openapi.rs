//! OpenAPI: version 3 as an index with hashes and one document per group and version, version 2 as
//! one document of everything; made from the kind table and the schema table. Documents are large
//! and rarely asked for: the edge makes them when asked and keeps them compressed.

use bytes::Bytes;
use proto::kind::Row;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::schema;

mod gnostic;
mod paths;
mod schemas;
mod v2;

/// The version of Kubernetes that the documents describe.
const VERSION: &str = "v1.36.0";

/// `/openapi/v3`: where each document is, with its hash.
pub fn v3_index(rows: &[&Row]) -> Bytes {
    let mut paths = Map::new();
    for row in rows {
        let place = place(&row.group, &row.version);
        if !paths.contains_key(&place) {
            let hash = v3_hash(&row.group, &row.version, rows);
            let url = format!("/openapi/v3/{place}?hash={hash}");
            paths.insert(place, json!({ "serverRelativeURL": url }));
        }
    }
    json!({ "paths": paths }).to_string().into()
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/apps/v1`: paths and schemas of the rows of one group and
/// version; `None` when there is none.
pub fn v3_document(group: &str, version: &str, rows: &[&Row]) -> Option<Bytes> {
    v3_value(group, version, rows).map(|document| document.to_string().into())
}

/// The same as protobuf (openapi.v3.Document of gnostic).
pub fn v3_protobuf(group: &str, version: &str, rows: &[&Row]) -> Option<Bytes> {
    v3_value(group, version, rows).map(|document| gnostic::encode_v3(&document).into())
}

/// `/openapi/v2` as JSON.
pub fn v2_document(rows: &[&Row]) -> Bytes {
    v2::document(rows).to_string().into()
}

/// `/openapi/v2` as the protobuf that client-go reads (openapi.v2.Document of gnostic).
pub fn v2_protobuf(rows: &[&Row]) -> Bytes {
    gnostic::encode(&v2::document(rows)).into()
}

fn v3_value(group: &str, version: &str, rows: &[&Row]) -> Option<Value> {
    let rows = of(group, version, rows);
    if rows.is_empty() {
        return None;
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": VERSION },
        "paths": paths::paths(&rows),
        "components": {
            "schemas": schemas::schemas(&rows),
            "securitySchemes": { "BearerToken": {
                "type": "apiKey",
                "description": "Bearer Token authentication",
                "name": "authorization",
                "in": "header",
            }},
        },
    }))
}

/// What changes when the document does: a hash of everything it is made from.
pub fn v3_hash(group: &str, version: &str, rows: &[&Row]) -> String {
    hash("v3", &of(group, version, rows))
}

/// The same of version 2, JSON or protobuf.
pub fn v2_hash(form: &str, rows: &[&Row]) -> String {
    hash(form, rows)
}

fn hash(form: &str, rows: &[&Row]) -> String {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(VERSION);
    hash.update(form);
    schema::sources().iter().for_each(|source| hash.update(source));
    rows.iter().for_each(|row| hash.update(format!("{row:?}")));
    hex::encode_upper(hash.finalize())
}

fn of<'a>(group: &str, version: &str, rows: &[&'a Row]) -> Vec<&'a Row> {
    rows.iter().filter(|row| row.group == group && row.version == version).copied().collect()
}

/// `api/v1`, `apis/apps/v1`.
fn place(group: &str, version: &str) -> String {
    match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    }
}

/// The name of a row's own schema.
fn schema_name(row: &Row) -> Option<String> {
    schema::of(row).map(|ty| ty.name.to_string())
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const WATCH_EVENT: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
