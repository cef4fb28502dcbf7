//! What the API server serves: the kinds whose objects can be listed, watched and deleted.

use client::{Client, Error};
use proto::kind::Row;
use serde::Deserialize;
use serde_json::Value;

/// The kinds served, and the groups that could not say.
pub struct Discovery {
    pub rows: Vec<Row>,
    pub failures: Vec<(String, Error)>,
}

#[derive(Deserialize)]
struct GroupList {
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    name: String,
    preferred_version: Version,
}

#[derive(Deserialize)]
struct Version {
    version: String,
}

#[derive(Deserialize)]
struct ResourceList {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    kind: String,
    namespaced: bool,
    #[serde(default)]
    verbs: Vec<String>,
}

/// Asks for every group in its preferred version.
pub async fn discover(client: &Client) -> Result<Discovery, Error> {
    let groups: GroupList = read(client, "/apis").await?;
    let mut versions = vec![(String::new(), "v1".to_string())];
    versions.extend(
        groups.groups.into_iter().map(|group| (group.name, group.preferred_version.version)),
    );
    let mut discovery = Discovery { rows: Vec::new(), failures: Vec::new() };
    for (group, version) in versions {
        match kinds(client, &group, &version).await {
            Ok(rows) => discovery.rows.extend(rows),
            Err(error) => discovery.failures.push((format!("{group}/{version}"), error)),
        }
    }
    Ok(discovery)
}

/// The kinds that are served of one group and version.
pub async fn kinds(client: &Client, group: &str, version: &str) -> Result<Vec<Row>, Error> {
    let path = format!("/{}", place(group, version));
    let list: ResourceList = read(client, &path).await?;
    let whole = list.resources.into_iter().filter(|resource| !resource.name.contains('/'));
    Ok(whole.map(|resource| row(group, version, resource)).collect())
}

/// The schemas of one group and version (OpenAPI v3).
pub async fn schemas(client: &Client, group: &str, version: &str) -> Result<Value, Error> {
    client.document(&format!("/openapi/v3/{}", place(group, version))).await
}

/// `api/v1`, `apis/apps/v1`.
fn place(group: &str, version: &str) -> String {
    match group {
        "" => format!("api/{version}"),
        group => format!("apis/{group}/{version}"),
    }
}

async fn read<T: for<'de> Deserialize<'de>>(client: &Client, path: &str) -> Result<T, Error> {
    let document = client.document(path).await?;
    serde_json::from_value(document)
        .map_err(|source| Error::Decode { path: path.to_string(), source })
}

fn row(group: &str, version: &str, resource: Resource) -> Row {
    Row {
        group: group.to_string().into(),
        version: version.to_string().into(),
        kind: resource.kind.into(),
        singular: resource.name.clone().into(),
        storage: resource.name.clone().into(),
        resource: resource.name.into(),
        namespaced: resource.namespaced,
        short_names: Vec::new().into(),
        categories: Vec::new().into(),
        subresources: Vec::new().into(),
        verbs: resource.verbs.into_iter().map(Into::into).collect::<Vec<_>>().into(),
    }
}

/// Whether all these verbs are served.
pub fn serves(row: &Row, verbs: &[&str]) -> bool {
    verbs.iter().all(|verb| row.verbs.iter().any(|served| served == verb))
}
