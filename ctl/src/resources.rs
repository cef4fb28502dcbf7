//! What the server serves, by discovery, and how a user's words find it: `deploy`,
//! `deployments.apps`, `Deployment`, `all`.

use bytes::Bytes;
use client::Client;
use http::Request;
use http_body_util::BodyExt;
use proto::kind::Row;
use serde_json::Value;

use crate::failure::{Failure, Result};

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// Every served resource, a row each, preferred versions first.
pub struct Resources {
    rows: Vec<Row>,
}

impl Resources {
    pub async fn discover(client: &Client) -> Result<Resources> {
        let mut rows = Vec::new();
        for path in ["/api", "/apis"] {
            let request = Request::get(path)
                .header(http::header::ACCEPT, AGGREGATED)
                .body(Bytes::new())
                .map_err(Failure::said)?;
            let response = client.request(request).await?;
            if response.status().as_u16() >= 400 {
                client.document(path).await?;
            }
            let body = response.into_body().collect().await;
            let body = body.map_err(|error| Failure::said(format!("{path}: {error}")))?.to_bytes();
            let list: Value = serde_json::from_slice(&body)
                .map_err(|error| Failure::said(format!("{path}: {error}")))?;
            if list["kind"] != "APIGroupDiscoveryList" {
                return Err(Failure::said(format!(
                    "{path}: the server does not speak aggregated discovery (Kubernetes 1.30)"
                )));
            }
            rows.extend(items(&list["items"]).flat_map(group));
        }
        Ok(Resources { rows })
    }

    pub fn all(&self) -> &[Row] {
        &self.rows
    }

    /// By the words of a command line.
    pub fn find(&self, word: &str) -> Result<Row> {
        let (name, rest) = word.split_once('.').unwrap_or((word, ""));
        let lower = name.to_lowercase();
        let named = |row: &&Row| {
            row.resource == lower
                || row.singular == lower
                || row.kind.to_lowercase() == lower
                || row.short_names.iter().any(|short| *short == lower)
        };
        let in_group = |row: &&Row| {
            let versioned = format!("{}.{}", row.version, row.group);
            rest.is_empty() || row.group == rest || versioned.trim_end_matches('.') == rest
        };
        let found = self.rows.iter().filter(named).find(in_group);
        found.cloned().ok_or_else(|| {
            Failure::said(format!("the server doesn't have a resource type {word:?}"))
        })
    }

    /// Those of a category, as `all`; empty when there is no such category.
    pub fn category(&self, name: &str) -> Vec<Row> {
        let member = |row: &&Row| row.categories.iter().any(|category| category == name);
        self.rows.iter().filter(member).cloned().collect()
    }

    /// By what a manifest says.
    pub fn of_manifest(&self, object: &Value) -> Result<Row> {
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let found = self.rows.iter().find(|row| row.kind == kind && row.api_version() == version);
        found.cloned().ok_or_else(|| {
            Failure::said(format!(
                "no matches for kind {kind:?} in version {version:?}: is it spelled right, and is \
                 its CustomResourceDefinition installed?"
            ))
        })
    }
}

fn group(group: &Value) -> Vec<Row> {
    let name = text(&group["metadata"]["name"]);
    let of_version = |version: &Value| -> Vec<Row> {
        items(&version["resources"])
            .map(|resource| row(name, text(&version["version"]), resource))
            .collect()
    };
    items(&group["versions"]).flat_map(of_version).collect()
}

fn row(group: &str, version: &str, resource: &Value) -> Row {
    let own = |value: &Value| text(value).to_string().into();
    let list = |value: &Value| items(value).map(own).collect::<Vec<_>>().into();
    let subresources = items(&resource["subresources"]).map(|sub| own(&sub["subresource"]));
    Row {
        group: group.to_string().into(),
        version: version.to_string().into(),
        kind: own(&resource["responseKind"]["kind"]),
        resource: own(&resource["resource"]),
        singular: own(&resource["singularResource"]),
        namespaced: resource["scope"] == "Namespaced",
        short_names: list(&resource["shortNames"]),
        categories: list(&resource["categories"]),
        subresources: subresources.collect::<Vec<_>>().into(),
        verbs: list(&resource["verbs"]),
        storage: own(&resource["resource"]),
    }
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The items of a list; none of anything else.
pub fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
