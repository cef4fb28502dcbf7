//! `ctl create`: from manifests, or of the kinds that are made often, from words.

use http::Method;
use serde_json::{Map, Value, json};

use super::apply::{Checks, check_namespace};
use crate::failure::{Failure, Result};
use crate::files::Files;
use crate::output::Format;
use crate::resources::text;
use crate::session::{Session, query};
use crate::target::{Target, of_object};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = false, subcommand_negates_reqs = true)]
pub struct Create {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    report: Report,
    #[command(subcommand)]
    generator: Option<Generator>,
}

#[derive(Clone, Debug, clap::Args)]
struct Report {
    #[arg(long, global = true, default_value = "ctl")]
    field_manager: String,
    /// json, yaml, name, jsonpath=TEMPLATE
    #[arg(short, long, global = true)]
    output: Option<String>,
    /// strict (unknown fields are errors), warn, or ignore
    #[arg(long, global = true, default_value = "strict",
          value_parser = ["strict", "warn", "ignore", "true", "false"])]
    validate: String,
    /// client: only print; server: everything but the write; none
    #[arg(long, global = true, default_value = "none", value_parser = ["client", "server", "none"])]
    dry_run: String,
}

#[derive(clap::Subcommand)]
enum Generator {
    /// Make a Deployment
    #[command(visible_alias = "deploy")]
    Deployment {
        name: String,
        /// Image to run; may be repeated
        #[arg(long, required = true)]
        image: Vec<String>,
        #[arg(short, long, default_value_t = 1)]
        replicas: i32,
        /// The port that the container exposes
        #[arg(long)]
        port: Option<u16>,
        /// The container's command, after --
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Make a Namespace
    #[command(visible_alias = "ns")]
    Namespace { name: String },
    /// Make a ServiceAccount
    #[command(visible_alias = "sa")]
    Serviceaccount { name: String },
    /// Make a ConfigMap
    #[command(visible_alias = "cm")]
    Configmap {
        name: String,
        #[command(flatten)]
        data: Data,
    },
    /// Make a Secret
    Secret {
        #[command(subcommand)]
        kind: Secret,
    },
    /// Make a Service for the pods labelled app=NAME
    #[command(visible_alias = "svc")]
    Service {
        #[arg(value_parser = ["clusterip", "nodeport", "loadbalancer"])]
        kind: String,
        name: String,
        /// PORT[:TARGETPORT]; may be repeated
        #[arg(long, required = true)]
        tcp: Vec<String>,
    },
}

#[derive(clap::Subcommand)]
enum Secret {
    /// From literals and files
    Generic {
        name: String,
        #[command(flatten)]
        data: Data,
        /// The Secret's type
        #[arg(long = "type", default_value = "Opaque")]
        kind: String,
    },
}

#[derive(clap::Args)]
struct Data {
    /// KEY=VALUE; may be repeated
    #[arg(long)]
    from_literal: Vec<String>,
    /// [KEY=]FILE; may be repeated
    #[arg(long)]
    from_file: Vec<String>,
}

impl Create {
    pub async fn run(&self, session: &Session) -> Result<()> {
        let format = Format::parse(self.report.output.as_deref())?;
        let objects = match &self.generator {
            Some(generator) => vec![("".to_string(), generator.object()?)],
            None if self.files.is_empty() => {
                return Err(Failure::said("must specify -f, or what to create: ctl create --help"));
            }
            None => {
                let manifests = self.files.read()?.into_iter();
                manifests.map(|manifest| (manifest.source, manifest.object)).collect()
            }
        };
        let mut failed = false;
        for (source, object) in objects {
            match self.create(session, &object).await {
                Ok((target, object)) if self.report.output.is_none() => {
                    anstream::println!("{} created{}", target.title(), self.note());
                    drop(object);
                }
                Ok((_, object)) => anstream::print!("{}", format.object(&object)?),
                Err(error) => {
                    match source.as_str() {
                        "" => error.print(),
                        source => error.when(format!("creating {source:?}")).print(),
                    }
                    failed = true;
                }
            }
        }
        if failed { Err(Failure::Silent) } else { Ok(()) }
    }

    fn note(&self) -> String {
        match self.report.dry_run.as_str() {
            "none" => String::new(),
            "client" => " (dry run)".into(),
            kind => format!(" ({kind} dry run)"),
        }
    }

    async fn create(&self, session: &Session, object: &Value) -> Result<(Target, Value)> {
        let mut target = of_object(session.resources().await?, object, &session.namespace)?;
        check_namespace(object, session, &target.row)?;
        if self.report.dry_run == "client" {
            return Ok((target, object.clone()));
        }
        let path = query(
            &target.row.path(&target.namespace, ""),
            &[
                ("fieldManager", &self.report.field_manager),
                ("fieldValidation", Checks::validation(&self.report.validate)),
                ("dryRun", if self.report.dry_run == "server" { "All" } else { "" }),
            ],
        );
        let made = session.send(Method::POST, &path, "application/json", Some(object)).await?;
        target.name = text(&made["metadata"]["name"]).to_string();
        Ok((target, made))
    }
}

impl Generator {
    /// The object that the words describe.
    fn object(&self) -> Result<Value> {
        let simple = |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
        Ok(match self {
            Generator::Namespace { name } => simple("Namespace", name),
            Generator::Serviceaccount { name } => simple("ServiceAccount", name),
            Generator::Configmap { name, data } => {
                let mut object = simple("ConfigMap", name);
                for (key, bytes) in data.read()? {
                    match String::from_utf8(bytes) {
                        Ok(text) => object["data"][key] = text.into(),
                        Err(binary) => {
                            object["binaryData"][key] = base64(binary.as_bytes()).into();
                        }
                    }
                }
                object
            }
            Generator::Secret { kind: Secret::Generic { name, data, kind } } => {
                let mut object = simple("Secret", name);
                object["type"] = kind.as_str().into();
                for (key, bytes) in data.read()? {
                    object["data"][key] = base64(&bytes).into();
                }
                object
            }
            Generator::Service { kind, name, tcp } => service(kind, name, tcp)?,
            Generator::Deployment { name, image, replicas, port, command } => {
                deployment(name, image, *replicas, *port, command)
            }
        })
    }
}

impl Data {
    fn read(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut entries = Vec::new();
        for literal in &self.from_literal {
            let (key, value) = literal.split_once('=').ok_or_else(|| {
                Failure::said(format!("invalid literal source {literal}, expected key=value"))
            })?;
            entries.push((key.to_string(), value.as_bytes().to_vec()));
        }
        for source in &self.from_file {
            let path = source.split_once('=').map_or(source.as_str(), |(_, path)| path);
            let bytes = std::fs::read(path)
                .map_err(|error| Failure::said(format!("cannot read {path}: {error}")))?;
            let base = path.rsplit('/').next().unwrap_or(path);
            let key = source.split_once('=').map_or(base, |(key, _)| key);
            entries.push((key.to_string(), bytes));
        }
        Ok(entries)
    }
}

fn deployment(
    name: &str,
    images: &[String],
    replicas: i32,
    port: Option<u16>,
    command: &[String],
) -> Value {
    let containers: Vec<Value> = images
        .iter()
        .map(|image| {
            let base = image.rsplit('/').next().unwrap_or(image);
            let base = base.split([':', '@']).next().unwrap_or(base).replace('_', "-");
            let mut container = Map::from_iter([
                ("name".to_string(), base.into()),
                ("image".to_string(), image.as_str().into()),
            ]);
            if let Some(port) = port {
                container.insert("ports".into(), json!([{ "containerPort": port }]));
            }
            if !command.is_empty() {
                container.insert("command".into(), command.into());
            }
            container.into()
        })
        .collect();
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": containers}},
        },
    })
}

fn service(kind: &str, name: &str, tcp: &[String]) -> Result<Value> {
    let kinds =
        [("clusterip", "ClusterIP"), ("nodeport", "NodePort"), ("loadbalancer", "LoadBalancer")];
    let kind = kinds.iter().find(|(word, _)| *word == kind).map_or("", |(_, kind)| *kind);
    let port = |text: &String| -> Result<Value> {
        let (port, target) = text.split_once(':').unwrap_or((text, text));
        let number: u16 = port
            .parse()
            .map_err(|_| Failure::said(format!("{text:?} is not PORT[:TARGETPORT]")))?;
        let target: Value = target.parse::<u16>().map_or_else(|_| target.into(), Value::from);
        let name = text.replace(':', "-");
        Ok(json!({"name": name, "port": number, "protocol": "TCP", "targetPort": target}))
    };
    let ports: Vec<Value> = tcp.iter().map(port).collect::<Result<_>>()?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"type": kind, "selector": {"app": name}, "ports": ports},
    }))
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
