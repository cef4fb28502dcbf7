//! What is served, as clients ask for it: the legacy documents (`/api`, `/apis`, …) and the
//! aggregated ones. All derive from the rows; the documents are made once and served as bytes.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use proto::{kind::Row, status::Status};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::http::accept::medias;

mod subresource;

pub use subresource::Subresource;

/// A document and its ETag.
#[derive(Clone, Debug)]
pub struct Document {
    pub body: Bytes,
    pub etag: Arc<str>,
    pub content_type: &'static str,
}

/// Which of the root documents an `Accept` header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Legacy,
    Aggregated(&'static str),
}

const JSON: &str = "application/json";
const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const V2BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// Every discovery document of one set of rows.
pub struct Discovery {
    documents: HashMap<String, Document>,
}

impl Discovery {
    pub fn new(rows: &[&Row], server_address: &str) -> Discovery {
        let mut documents = HashMap::new();
        let mut add = |path: String, content_type: &'static str, value: Value| {
            documents.insert(path, Document::new(content_type, Bytes::from(value.to_string())));
        };
        let groups = groups(rows);
        add("/api".into(), JSON, legacy_versions(server_address));
        add("/apis".into(), JSON, group_list(&groups));
        for group in &groups {
            let name = group.name;
            if !name.is_empty() {
                add(format!("/apis/{name}"), JSON, with_kind("APIGroup", group.document()));
            }
            for (version, rows) in &group.versions {
                let path = match name {
                    "" => format!("/api/{version}"),
                    name => format!("/apis/{name}/{version}"),
                };
                add(path, JSON, resource_list(rows));
            }
        }
        for (version, content_type) in [("v2", V2), ("v2beta1", V2BETA1)] {
            let (core, named): (Vec<&Group>, Vec<&Group>) =
                groups.iter().partition(|group| group.name.is_empty());
            add(format!("/api#{version}"), content_type, aggregated(version, &core));
            add(format!("/apis#{version}"), content_type, aggregated(version, &named));
        }
        Discovery { documents }
    }

    /// `/api` or `/apis` in the form asked for.
    pub fn root(&self, path: &str, accept: Option<&str>) -> Result<&Document, Status> {
        match form(accept.unwrap_or(JSON))? {
            Form::Legacy => self.document(path),
            Form::Aggregated(version) => self.document(&format!("{path}#{version}")),
        }
    }

    /// Every path of a legacy document.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        self.documents.keys().filter(|path| !path.contains('#')).cloned()
    }

    /// A legacy document, as `/apis/apps/v1`.
    pub fn document(&self, path: &str) -> Result<&Document, Status> {
        self.documents.get(path).ok_or_else(Status::no_such_path)
    }
}

impl Document {
    /// With the hash of its bytes as its ETag.
    pub fn new(content_type: &'static str, body: Bytes) -> Document {
        let etag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&body)));
        Document { body, etag: etag.into(), content_type }
    }
}

struct Group<'a> {
    name: &'a str,
    versions: Vec<(&'a str, Vec<&'a Row>)>,
}

impl Group<'_> {
    fn document(&self) -> Value {
        let versions: Vec<Value> = self
            .versions
            .iter()
            .map(|(version, _)| {
                json!({"groupVersion": format!("{}/{version}", self.name), "version": version})
            })
            .collect();
        json!({"name": self.name, "preferredVersion": versions[0], "versions": versions})
    }
}

/// In the order of the rows.
fn groups<'a>(rows: &[&'a Row]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group> = Vec::new();
    for row in rows {
        let index = match groups.iter().position(|group| group.name == row.group) {
            Some(index) => index,
            None => {
                groups.push(Group { name: &row.group, versions: Vec::new() });
                groups.len() - 1
            }
        };
        let versions = &mut groups[index].versions;
        match versions.iter_mut().find(|(version, _)| *version == row.version) {
            Some((_, rows)) => rows.push(row),
            None => versions.push((&row.version, vec![row])),
        }
    }
    groups
}

fn form(accept: &str) -> Result<Form, Status> {
    for media in medias(accept) {
        if !matches!(media.name, "application/json" | "*/*" | "application/*") {
            continue;
        }
        match (media.param("as"), media.param("g"), media.param("v")) {
            (None, ..) => return Ok(Form::Legacy),
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2")) => {
                return Ok(Form::Aggregated("v2"));
            }
            (Some("APIGroupDiscoveryList"), Some("apidiscovery.k8s.io"), Some("v2beta1")) => {
                return Ok(Form::Aggregated("v2beta1"));
            }
            _ => {}
        }
    }
    Err(Status::not_acceptable(JSON))
}

fn with_kind(kind: &str, mut value: Value) -> Value {
    value["kind"] = kind.into();
    value["apiVersion"] = "v1".into();
    value
}

fn legacy_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [
            {"clientCIDR": "0.0.0.0/0", "serverAddress": server_address},
        ],
    })
}

fn group_list(groups: &[Group]) -> Value {
    let named = groups.iter().filter(|group| !group.name.is_empty());
    let groups: Vec<Value> = named.map(Group::document).collect();
    with_kind("APIGroupList", json!({"groups": groups}))
}

fn resource_list(rows: &[&Row]) -> Value {
    let mut resources = Vec::new();
    for row in rows {
        let mut resource = json!({
            "name": row.resource,
            "singularName": row.singular,
            "namespaced": row.namespaced,
            "kind": row.kind,
            "verbs": row.verbs,
        });
        if row.is_stored() {
            resource["storageVersionHash"] = storage_hash(row).into();
        }
        add_names(row, &mut resource);
        resources.push(resource);
        for name in row.subresources.iter() {
            let subresource = Subresource::of(row, name);
            let mut resource = json!({
                "name": format!("{}/{name}", row.resource),
                "singularName": "",
                "namespaced": row.namespaced,
                "kind": subresource.kind,
                "verbs": subresource.verbs,
            });
            if (subresource.group, subresource.version) != (&*row.group, &*row.version) {
                resource["group"] = subresource.group.into();
                resource["version"] = subresource.version.into();
            }
            resources.push(resource);
        }
    }
    let group_version = rows.first().map(|row| row.api_version()).unwrap_or_default();
    let list = json!({"groupVersion": group_version, "resources": resources});
    with_kind("APIResourceList", list)
}

fn add_names(row: &Row, resource: &mut Value) {
    if !row.short_names.is_empty() {
        resource["shortNames"] = json!(row.short_names);
    }
    if !row.categories.is_empty() {
        resource["categories"] = json!(row.categories);
    }
}

fn aggregated(version: &str, groups: &[&Group]) -> Value {
    let items: Vec<Value> = groups
        .iter()
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|(version, rows)| {
                    let resources: Vec<Value> = rows.iter().map(|row| discovered(row)).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = match group.name {
                "" => json!({"creationTimestamp": null}),
                name => json!({"name": name, "creationTimestamp": null}),
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn discovered(row: &Row) -> Value {
    let mut resource = json!({
        "resource": row.resource,
        "responseKind": {"group": row.group, "version": row.version, "kind": row.kind},
        "scope": if row.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": row.singular,
        "verbs": row.verbs,
    });
    add_names(row, &mut resource);
    let subresources: Vec<Value> = row
        .subresources
        .iter()
        .map(|name| {
            let Subresource { group, version, kind, verbs } = Subresource::of(row, name);
            let kind = json!({"group": group, "version": version, "kind": kind});
            json!({"subresource": name, "responseKind": kind, "verbs": verbs})
        })
        .collect();
    if !subresources.is_empty() {
        resource["subresources"] = subresources.into();
    }
    resource
}

fn storage_hash(row: &Row) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let name = format!("{}/{}/{}", row.group, row.version, row.kind);
    BASE64_STANDARD.encode(&Sha256::digest(name.as_bytes())[..8])
}

#[cfg(test)]
mod tests {
    use proto::kind::ROWS;

    use super::*;

    fn parsed(document: &Document) -> Value {
        serde_json::from_slice(&document.body).unwrap()
    }

    #[test]
    fn the_version_asked_for_is_answered() {
        let discovery = Discovery::new(ROWS, "127.0.0.1:6443");
        let cases = [
            (None, JSON, "APIGroupList"),
            (Some("application/json"), JSON, "APIGroupList"),
            (Some(V2), V2, "APIGroupDiscoveryList"),
            (Some(V2BETA1), V2BETA1, "APIGroupDiscoveryList"),
            (
                Some(
                    "application/json;g=apidiscovery.k8s.io;v=v3;as=APIGroupDiscoveryList,application/json",
                ),
                JSON,
                "APIGroupList",
            ),
        ];
        for (accept, content_type, kind) in cases {
            let document = discovery.root("/apis", accept).unwrap();
            assert_eq!(document.content_type, content_type);
            assert_eq!(parsed(document)["kind"], kind, "{accept:?}");
        }
        assert_eq!(discovery.root("/apis", Some("text/html")).unwrap_err().code, 406);
        assert_eq!(discovery.document("/apis/nothing").unwrap_err().code, 404);
    }

    /// Every resource of ours is served as upstream serves it.
    #[test]
    fn as_upstream_describes_them() {
        let below = "shared/data/kubernetes-1.36/api-resources.json";
        let mut above = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        let Some(path) = above.find_map(|dir| Some(dir.join(below)).filter(|path| path.exists()))
        else {
            eprintln!("skipped: the table of upstream's resources is absent");
            return;
        };
        let text = std::fs::read_to_string(path).unwrap();
        let upstream: Vec<Value> = serde_json::from_str(&text).unwrap();
        let discovery = Discovery::new(ROWS, "");
        let mut compared = 0;
        for row in ROWS {
            let document = discovery.document(row.path("", "").rsplit_once('/').unwrap().0);
            for mut resource in parsed(document.unwrap())["resources"].as_array().unwrap().clone() {
                let object = resource.as_object_mut().unwrap();
                object.remove("storageVersionHash");
                object.insert("groupVersion".into(), row.api_version().into());
                let name = &resource["name"];
                let theirs = upstream.iter().find(|theirs| {
                    theirs["name"] == *name && theirs["groupVersion"] == resource["groupVersion"]
                });
                assert_eq!(Some(&resource), theirs, "{name}");
                compared += 1;
            }
        }
        assert!(compared > ROWS.len());
    }
}
