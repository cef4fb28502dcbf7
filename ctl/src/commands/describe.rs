//! `ctl describe`: an object as a person reads it, with the events about it. Kinds without a page
//! of their own are shown field by field.

mod environment;
mod node;
mod pod;
mod service;
mod volume;
mod workload;

use client::Clock;
use proto::kind;
use proto::time::Time;
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::output::age::human;
use crate::output::sheet::Sheet;
use crate::resources::{items, text};
use crate::session::{Session, query};
use crate::target::{Names, Target};

#[derive(clap::Args)]
pub struct Describe {
    #[command(flatten)]
    names: Names,
    /// All namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Show the events too
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    show_events: bool,
}

/// What the page of a kind needs beside the object: others, read before.
pub struct Page<'a> {
    pub object: &'a Value,
    pub related: Vec<Value>,
    pub now: Time,
}

impl Describe {
    pub async fn run(&self, session: &Session) -> Result<()> {
        if self.names.is_empty() {
            return Err(Failure::said("You must specify the type of resource to describe."));
        }
        let objects = match self.all_namespaces {
            true => self.names.objects_everywhere(session).await?,
            false => self.names.objects(session).await?,
        };
        if objects.is_empty() {
            anstream::eprintln!("No resources found in {} namespace.", session.namespace);
        }
        for (at, (target, object)) in objects.iter().enumerate() {
            if at > 0 {
                anstream::println!("\n");
            }
            let related = related(session, target, object).await?;
            let page = Page { object, related, now: Clock::system().now() };
            let mut sheet = Sheet::default();
            match &*target.row.kind {
                "Pod" => pod::describe(&page, &mut sheet),
                "Node" => node::describe(&page, &mut sheet),
                "Service" => service::describe(&page, &mut sheet),
                "Deployment" | "ReplicaSet" => workload::describe(&page, &mut sheet),
                _ => generic(object, &mut sheet),
            }
            if self.show_events {
                let events = events(session, object).await?;
                describe_events(&events, page.now, &mut sheet);
            }
            anstream::print!("{}", sheet.text());
        }
        Ok(())
    }
}

/// The objects that a page tells of too.
async fn related(session: &Session, target: &Target, object: &Value) -> Result<Vec<Value>> {
    let path = match &*target.row.kind {
        "Node" => {
            let name = format!("spec.nodeName={}", target.name);
            query(&kind::POD.path("", ""), &[("fieldSelector", &name)])
        }
        "Service" => {
            let name = format!("kubernetes.io/service-name={}", target.name);
            let path = kind::ENDPOINT_SLICE.path(&target.namespace, "");
            query(&path, &[("labelSelector", &name)])
        }
        "Deployment" => kind::REPLICA_SET.path(&target.namespace, ""),
        "ReplicaSet" => {
            let selector = crate::commands::logs::selector_of(object).unwrap_or_default();
            query(&kind::POD.path(&target.namespace, ""), &[("labelSelector", &selector)])
        }
        _ => return Ok(Vec::new()),
    };
    let list = session.get(&path).await?;
    Ok(items(&list["items"]).cloned().collect())
}

async fn events(session: &Session, object: &Value) -> Result<Vec<Value>> {
    let metadata = &object["metadata"];
    let fields = [
        ("involvedObject.name", text(&metadata["name"])),
        ("involvedObject.namespace", text(&metadata["namespace"])),
        ("involvedObject.kind", text(&object["kind"])),
        ("involvedObject.uid", text(&metadata["uid"])),
    ];
    // Events about a node carry its name as uid, as kubelets write them.
    let is_node = object["kind"] == "Node";
    let wanted: Vec<String> = fields
        .iter()
        .filter(|(field, value)| !value.is_empty() && (!is_node || !field.ends_with("uid")))
        .map(|(field, value)| format!("{field}={value}"))
        .collect();
    let path = kind::EVENT.path(text(&metadata["namespace"]), "");
    let list = session.get(&query(&path, &[("fieldSelector", &wanted.join(","))])).await?;
    let mut events: Vec<Value> = items(&list["items"]).cloned().collect();
    events.sort_by_key(last_seen);
    Ok(events)
}

fn last_seen(event: &Value) -> Option<Time> {
    let fields = [
        &event["series"]["lastObservedTime"],
        &event["lastTimestamp"],
        &event["eventTime"],
        &event["metadata"]["creationTimestamp"],
    ];
    fields.into_iter().find_map(|field| text(field).parse().ok())
}

fn describe_events(events: &[Value], now: Time, sheet: &mut Sheet) {
    if events.is_empty() {
        sheet.field("Events", "<none>");
        return;
    }
    sheet.section("Events", |sheet| {
        sheet.row(&["Type", "Reason", "Age", "From", "Message"]);
        sheet.row(&["----", "------", "----", "----", "-------"]);
        for event in events {
            let ago = |time: Option<Time>| {
                time.map_or("<unknown>".to_string(), |time| human(now.since(time)))
            };
            let count = event["series"]["count"].as_i64().or(event["count"].as_i64()).unwrap_or(1);
            let first = text(&event["firstTimestamp"]).parse().ok();
            let age = match count {
                ..=1 => ago(last_seen(event)),
                count => format!(
                    "{} (x{count} over {})",
                    ago(last_seen(event)),
                    ago(first.or_else(|| text(&event["eventTime"]).parse().ok()))
                ),
            };
            let source = text(&event["source"]["component"]);
            let from = if source.is_empty() { text(&event["reportingComponent"]) } else { source };
            let message = text(&event["message"]).trim();
            sheet.row(&[text(&event["type"]), text(&event["reason"]), &age, from, message]);
        }
    });
}

/// `k=v` of labels or annotations.
pub fn pairs(map: &Value) -> Vec<String> {
    let pairs = map.as_object().into_iter().flatten();
    pairs.map(|(key, value)| format!("{key}={}", text(value))).collect()
}

/// `k: v` of annotations.
pub fn annotations(map: &Value) -> Vec<String> {
    let pairs = map.as_object().into_iter().flatten();
    pairs
        .filter(|(key, _)| *key != "kubectl.kubernetes.io/last-applied-configuration")
        .map(|(key, value)| format!("{key}: {}", text(value)))
        .collect()
}

/// `Fri, 20 Nov 2026 11:40:00 +0000`, as kubectl writes times here.
pub fn date(time: &Value) -> String {
    match text(time).parse::<Time>() {
        Ok(time) => time.0.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string(),
        Err(_) => String::new(),
    }
}

/// A value for a line: text bare, `<none>` for nothing.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<none>".into(),
        Value::String(text) if text.is_empty() => "<none>".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Name, namespace, labels, annotations.
pub fn head(object: &Value, sheet: &mut Sheet) {
    let metadata = &object["metadata"];
    sheet.field("Name", text(&metadata["name"]));
    sheet.optional("Namespace", text(&metadata["namespace"]));
    sheet.list("Labels", &pairs(&metadata["labels"]));
    sheet.list("Annotations", &annotations(&metadata["annotations"]));
}

fn generic(object: &Value, sheet: &mut Sheet) {
    head(object, sheet);
    sheet.field("API Version", text(&object["apiVersion"]));
    sheet.field("Kind", text(&object["kind"]));
    let mut object = crate::output::without_managed_fields(object.clone());
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for known in ["name", "namespace", "labels", "annotations"] {
            metadata.remove(known);
        }
    }
    // A Secret's values are not for the screen; their sizes are.
    if object["kind"] == "Secret"
        && let Some(data) = object["data"].as_object_mut()
    {
        for value in data.values_mut() {
            let bytes = text(value).trim_end_matches('=').len() * 3 / 4;
            *value = format!("{bytes} bytes").into();
        }
    }
    for (key, value) in object.as_object().into_iter().flatten() {
        if !matches!(key.as_str(), "apiVersion" | "kind") {
            tree(key, value, sheet);
        }
    }
}

fn tree(key: &str, value: &Value, sheet: &mut Sheet) {
    let title = title(key);
    match value {
        Value::Object(map) => sheet.section(&title, |sheet| {
            map.iter().for_each(|(key, value)| tree(key, value, sheet));
        }),
        Value::Array(list) => sheet.section(&title, |sheet| {
            for item in list {
                match item.as_object() {
                    Some(map) => map.iter().for_each(|(key, value)| tree(key, value, sheet)),
                    None => sheet.row(&[&shown(item)]),
                }
            }
        }),
        value => sheet.field(&title, shown(value)),
    }
}

/// `creationTimestamp` as `Creation Timestamp`; keys that are no field names stay.
fn title(key: &str) -> String {
    if key.contains(['.', '/', '-', '_']) {
        return key.to_string();
    }
    let mut title = String::new();
    for (at, letter) in key.chars().enumerate() {
        if at == 0 {
            title.extend(letter.to_uppercase());
        } else {
            if letter.is_uppercase() && !title.ends_with(char::is_uppercase) {
                title.push(' ');
            }
            title.push(letter);
        }
    }
    title
}
