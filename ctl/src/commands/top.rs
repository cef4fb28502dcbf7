//! `ctl top`: what nodes and pods use at the moment, by the resource metrics API.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use proto::kind::{NODE, NODE_METRICS, POD, POD_METRICS};
use proto::quantity::Quantity;
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::output::table::Table;
use crate::resources::{items, text};
use crate::session::{Session, query};

#[derive(clap::Args)]
pub struct Top {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// What nodes use, and how much that is of what they offer
    #[command(visible_aliases = ["nodes", "no"])]
    Node(Nodes),
    /// What pods use, or their containers
    #[command(visible_aliases = ["pods", "po"])]
    Pod(Pods),
}

#[derive(clap::Args)]
struct Common {
    /// Only the object of this name
    name: Option<String>,
    /// Only objects with these labels
    #[arg(short = 'l', long, conflicts_with = "name")]
    selector: Option<String>,
    /// The largest first: cpu or memory
    #[arg(long, value_parser = ["cpu", "memory"])]
    sort_by: Option<String>,
    #[arg(long)]
    no_headers: bool,
}

#[derive(clap::Args)]
struct Nodes {
    #[command(flatten)]
    common: Common,
    /// Of all that the node has, not of what pods may use
    #[arg(long)]
    show_capacity: bool,
}

#[derive(clap::Args)]
struct Pods {
    #[command(flatten)]
    common: Common,
    /// Of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Each container for itself
    #[arg(long)]
    containers: bool,
    /// Only pods with these fields
    #[arg(long)]
    field_selector: Option<String>,
    /// The sum at the end
    #[arg(long)]
    sum: bool,
}

/// What something uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Used {
    cpu: Quantity,
    memory: Quantity,
}

/// A line, before it is words.
struct Line {
    names: Vec<String>,
    used: Used,
}

impl Top {
    pub async fn run(&self, session: &Session) -> Result<()> {
        match &self.what {
            What::Node(nodes) => nodes.run(session).await,
            What::Pod(pods) => pods.run(session).await,
        }
    }
}

impl Used {
    fn of(usage: &Value) -> Used {
        let amount = |name: &str| text(&usage[name]).parse().unwrap_or_default();
        Used { cpu: amount("cpu"), memory: amount("memory") }
    }

    fn plus(self, other: Used) -> Used {
        Used { cpu: self.cpu + other.cpu, memory: self.memory + other.memory }
    }

    /// As kubectl writes them: thousandths of a core, and whole mebibytes.
    fn cells(self) -> [String; 2] {
        [format!("{}m", self.cpu.milli()), format!("{}Mi", self.memory.value() >> 20)]
    }
}

impl Common {
    async fn metrics(&self, session: &Session, path: &str, fields: &str) -> Result<Vec<Value>> {
        if self.name.is_some() {
            return Ok(vec![session.get(path).await?]);
        }
        let labels = self.selector.as_deref().unwrap_or_default();
        let path = query(path, &[("labelSelector", labels), ("fieldSelector", fields)]);
        let mut list = session.get(&path).await?;
        match list["items"].take() {
            Value::Array(items) => Ok(items),
            _ => Ok(Vec::new()),
        }
    }

    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    fn sort(&self, lines: &mut [Line]) {
        lines.sort_by(|a, b| a.names.cmp(&b.names));
        match self.sort_by.as_deref() {
            Some("cpu") => lines.sort_by_key(|line| Reverse(line.used.cpu)),
            Some(_) => lines.sort_by_key(|line| Reverse(line.used.memory)),
            None => {}
        }
    }
}

impl Nodes {
    async fn run(&self, session: &Session) -> Result<()> {
        let common = &self.common;
        let path = NODE_METRICS.path("", common.name());
        let metrics = common.metrics(session, &path, "").await?;
        if metrics.is_empty() {
            return Err(Failure::said("metrics not available yet"));
        }
        let nodes = common.metrics(session, &NODE.path("", common.name()), "").await?;
        let field = if self.show_capacity { "capacity" } else { "allocatable" };
        let mut offered: BTreeMap<String, Used> =
            nodes.iter().map(|node| (name_of(node), Used::of(&node["status"][field]))).collect();
        let mut lines: Vec<Line> = metrics
            .iter()
            .map(|one| Line { names: vec![name_of(one)], used: Used::of(&one["usage"]) })
            .collect();
        common.sort(&mut lines);
        let heads = ["NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)"];
        let mut table = Table::new(&heads);
        for Line { names, used } in lines {
            let offered = offered.remove(&names[0]).unwrap_or_default();
            let [cpu, memory] = used.cells();
            let (of_cpu, of_memory) =
                (percent(used.cpu, offered.cpu), percent(used.memory, offered.memory));
            table.push(vec![names[0].clone(), cpu, of_cpu, memory, of_memory]);
        }
        // Nodes that do not say what they use.
        for name in offered.into_keys() {
            let unknown = || "<unknown>".to_string();
            table.push(vec![name, unknown(), unknown(), unknown(), unknown()]);
        }
        anstream::print!("{}", table.lines(!common.no_headers));
        Ok(())
    }
}

impl Pods {
    async fn run(&self, session: &Session) -> Result<()> {
        let common = &self.common;
        if self.all_namespaces && common.name.is_some() {
            return Err(Failure::said(
                "a resource cannot be retrieved by name across all namespaces",
            ));
        }
        let namespace = if self.all_namespaces { "" } else { session.namespace.as_str() };
        let fields = self.field_selector.as_deref().unwrap_or_default();
        let path = POD_METRICS.path(namespace, common.name());
        let metrics = common.metrics(session, &path, fields).await?;
        if metrics.is_empty() {
            return self.nothing(session, namespace, fields).await;
        }
        let mut lines = self.lines(&metrics);
        common.sort(&mut lines);
        let mut heads = if self.all_namespaces { vec!["NAMESPACE"] } else { Vec::new() };
        heads.extend(if self.containers { vec!["POD", "NAME"] } else { vec!["NAME"] });
        let places = heads.len();
        heads.extend(["CPU(cores)", "MEMORY(bytes)"]);
        let mut table = Table::new(&heads);
        let sum = lines.iter().fold(Used::default(), |sum, line| sum.plus(line.used));
        for Line { names, used } in lines {
            table.push(names.into_iter().chain(used.cells()).collect());
        }
        if self.sum {
            let blank = vec![String::new(); places - 1];
            let rule = |width: usize| "_".repeat(width);
            let head = blank.iter().cloned().chain([String::new(), rule(8), rule(8)]);
            table.push(head.collect());
            table.push(blank.into_iter().chain([String::new()]).chain(sum.cells()).collect());
        }
        anstream::print!("{}", table.lines(!common.no_headers));
        Ok(())
    }

    fn lines(&self, metrics: &[Value]) -> Vec<Line> {
        let mut lines = Vec::new();
        for pod in metrics {
            let mut names = Vec::new();
            if self.all_namespaces {
                names.push(text(&pod["metadata"]["namespace"]).to_string());
            }
            names.push(name_of(pod));
            let containers = items(&pod["containers"]);
            if !self.containers {
                let used = containers.map(|one| Used::of(&one["usage"]));
                lines.push(Line { names, used: used.fold(Used::default(), Used::plus) });
                continue;
            }
            for one in containers {
                let name = text(&one["name"]).to_string();
                let names = names.iter().cloned().chain([name]).collect();
                lines.push(Line { names, used: Used::of(&one["usage"]) });
            }
        }
        lines
    }

    /// Without metrics there may be no pods, or none that was measured.
    async fn nothing(&self, session: &Session, namespace: &str, fields: &str) -> Result<()> {
        let path = POD.path(namespace, "");
        if !self.common.metrics(session, &path, fields).await?.is_empty() {
            return Err(Failure::said("metrics not available yet"));
        }
        match namespace {
            "" => anstream::eprintln!("No resources found"),
            namespace => anstream::eprintln!("No resources found in {namespace} namespace."),
        }
        Ok(())
    }
}

fn name_of(object: &Value) -> String {
    text(&object["metadata"]["name"]).to_string()
}

fn percent(used: Quantity, offered: Quantity) -> String {
    match offered.milli() {
        0 => "<unknown>".into(),
        all => format!("{}%", (used.milli() as f64 / all as f64 * 100.0) as i64),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn as_kubectl_writes_them() {
        let used = Used::of(&json!({"cpu": "1500001n", "memory": "3200Ki"}));
        assert_eq!(used.cells(), ["2m", "3Mi"]);
        assert_eq!(used.plus(used).cells(), ["4m", "6Mi"]);
        assert_eq!(Used::of(&json!({})).cells(), ["0m", "0Mi"]);
        let quantity = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(percent(quantity("250m"), quantity("2")), "12%");
        assert_eq!(percent(quantity("1"), Quantity::ZERO), "<unknown>");
    }
}
