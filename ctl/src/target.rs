//! Which objects a command is about: `pod web`, `pod/web svc/db`, `pods,services`, `-l app=web`,
//! `-f web.yaml`.

use proto::kind::Row;
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::files::Files;
use crate::resources::{Resources, text};
use crate::session::{Session, query};

/// One object, or all of a kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    pub row: Row,
    pub namespace: String,
    /// Empty: the collection.
    pub name: String,
}

/// The words and flags that name objects.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Names {
    /// TYPE [NAME…] or TYPE/NAME…
    #[arg(value_name = "TYPE[/NAME] NAME")]
    pub words: Vec<String>,
    #[command(flatten)]
    pub files: Files,
    /// Label selector, as app=web,tier!=cache
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    pub selector: String,
}

impl Target {
    pub fn path(&self) -> String {
        self.row.path(&self.namespace, &self.name)
    }

    /// `deployment.apps/web`, as commands report what they did.
    pub fn title(&self) -> String {
        format!("{}/{}", singular(&self.row), self.name)
    }
}

/// `deployment.apps`, or `pod`.
pub fn singular(row: &Row) -> String {
    proto::status::qualified(&row.group, &row.singular)
}

impl Names {
    pub fn is_empty(&self) -> bool {
        self.words.is_empty() && self.files.is_empty()
    }

    /// Resolves words and files; collections stay collections.
    pub async fn targets(&self, session: &Session) -> Result<Vec<Target>> {
        let resources = session.resources().await?;
        let mut targets = of_words(resources, &self.words, &session.namespace)?;
        if !self.files.is_empty() {
            for manifest in self.files.read()? {
                targets.push(of_object(resources, &manifest.object, &session.namespace)?);
            }
        }
        Ok(targets)
    }

    /// The same with collections replaced by the objects in them, each read.
    pub async fn objects(&self, session: &Session) -> Result<Vec<(Target, Value)>> {
        self.read(session, self.targets(session).await?).await
    }

    /// The same over all namespaces.
    pub async fn objects_everywhere(&self, session: &Session) -> Result<Vec<(Target, Value)>> {
        let mut targets = self.targets(session).await?;
        targets.iter_mut().for_each(|target| target.namespace.clear());
        self.read(session, targets).await
    }

    async fn read(&self, session: &Session, targets: Vec<Target>) -> Result<Vec<(Target, Value)>> {
        let mut objects = Vec::new();
        for target in targets {
            if !target.name.is_empty() {
                let object = session.get(&target.path()).await?;
                objects.push((target, object));
                continue;
            }
            let path = query(&target.path(), &[("labelSelector", &self.selector)]);
            let list = session.get(&path).await?;
            for item in crate::resources::items(&list["items"]) {
                let mut item = item.clone();
                item["apiVersion"] = target.row.api_version().into();
                item["kind"] = target.row.kind.as_ref().into();
                let (namespace, name) = (&item["metadata"]["namespace"], &item["metadata"]["name"]);
                let (namespace, name) = (text(namespace).to_string(), text(name).to_string());
                objects.push((Target { row: target.row.clone(), namespace, name }, item));
            }
        }
        Ok(objects)
    }
}

/// The object that a manifest describes.
pub fn of_object(resources: &Resources, object: &Value, namespace: &str) -> Result<Target> {
    let row = resources.of_manifest(object)?;
    let own = text(&object["metadata"]["namespace"]);
    let namespace = if own.is_empty() { namespace } else { own };
    let namespace = if row.namespaced { namespace } else { "" };
    let name = text(&object["metadata"]["name"]).to_string();
    Ok(Target { row, namespace: namespace.to_string(), name })
}

/// The words of a command line, in the forms that kubectl knows.
pub fn of_words(resources: &Resources, words: &[String], namespace: &str) -> Result<Vec<Target>> {
    let target = |row: Row, name: &str| Target {
        namespace: if row.namespaced { namespace.to_string() } else { String::new() },
        row,
        name: name.to_string(),
    };
    if words.iter().any(|word| word.contains('/')) {
        return words
            .iter()
            .map(|word| {
                let (kind, name) = word.split_once('/').ok_or_else(|| {
                    Failure::said("there is no need to specify a resource type as a separate \
                        argument when passing arguments in resource/name form (e.g. 'ctl get \
                        resource/<resource_name>' instead of 'ctl get resource resource/<resource_name>'")
                })?;
                if kind.is_empty() || name.is_empty() || name.contains('/') {
                    return Err(Failure::said(format!(
                        "arguments in resource/name form must have a single resource and name: {word:?}"
                    )));
                }
                Ok(target(resources.find(kind)?, name))
            })
            .collect();
    }
    let Some((kinds, names)) = words.split_first() else { return Ok(Vec::new()) };
    let mut targets = Vec::new();
    for kind in kinds.split(',') {
        let rows = match resources.category(kind) {
            rows if rows.is_empty() => vec![resources.find(kind)?],
            rows => rows,
        };
        for row in rows {
            match names {
                [] => targets.push(target(row, "")),
                names => targets.extend(names.iter().map(|name| target(row.clone(), name))),
            }
        }
    }
    Ok(targets)
}
