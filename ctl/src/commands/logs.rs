//! `ctl logs`: of a pod, of the pods of a workload, or of all pods with a label.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::Method;
use http_body_util::BodyExt;
use proto::kind;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::commands::wait::parse_duration;
use crate::failure::{Failure, Result};
use crate::resources::{items, text};
use crate::session::{Session, query};
use crate::target::of_words;

#[derive(clap::Args)]
pub struct Logs {
    /// POD or TYPE/NAME, and the container
    #[arg(value_name = "POD", num_args = 0..=2)]
    words: Vec<String>,
    /// Go on as lines are written
    #[arg(short, long)]
    follow: bool,
    /// Of the container's life before this one
    #[arg(short, long)]
    previous: bool,
    /// Which container
    #[arg(short, long)]
    container: Option<String>,
    /// Of all containers of each pod
    #[arg(long)]
    all_containers: bool,
    /// Of all pods with these labels
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: String,
    /// Only the last lines; -1: all (with -l: 10)
    #[arg(long, allow_hyphen_values = true)]
    tail: Option<i64>,
    /// Only lines newer than this, as 5m
    #[arg(long)]
    since: Option<String>,
    /// Only lines after this time (RFC 3339)
    #[arg(long, conflicts_with = "since")]
    since_time: Option<String>,
    /// With the time of each line
    #[arg(long)]
    timestamps: bool,
    /// At most so many bytes
    #[arg(long)]
    limit_bytes: Option<u64>,
    /// With the pod and container before each line
    #[arg(long)]
    prefix: bool,
    /// Streams followed at once at the most
    #[arg(long, default_value_t = 5)]
    max_log_requests: usize,
}

/// One container whose log is wanted.
struct Source {
    namespace: String,
    pod: String,
    container: String,
}

impl Logs {
    pub async fn run(&self, session: &Session) -> Result<()> {
        let sources = self.sources(session).await?;
        if self.follow && sources.len() > self.max_log_requests {
            return Err(Failure::said(format!(
                "you are attempting to follow {} log streams, but maximum allowed concurrency is \
                 {}, use --max-log-requests to increase the limit",
                sources.len(),
                self.max_log_requests
            )));
        }
        if !self.follow {
            for source in &sources {
                self.stream(session, source).await?;
            }
            return Ok(());
        }
        let mut streams: FuturesUnordered<_> =
            sources.iter().map(|source| self.stream(session, source)).collect();
        while let Some(ended) = streams.next().await {
            ended?;
        }
        Ok(())
    }

    async fn sources(&self, session: &Session) -> Result<Vec<Source>> {
        let mut sources = Vec::new();
        for pod in self.pods(session).await? {
            let named = self.container.as_ref().or(self.words.get(1));
            let all: Vec<&str> = ["initContainers", "containers", "ephemeralContainers"]
                .iter()
                .flat_map(|field| items(&pod["spec"][*field]))
                .map(|container| text(&container["name"]))
                .collect();
            let chosen: Vec<&str> = match named {
                Some(name) => vec![name],
                None if self.all_containers => all,
                None => vec![default_container(&pod)],
            };
            let (namespace, name) = (&pod["metadata"]["namespace"], &pod["metadata"]["name"]);
            sources.extend(chosen.into_iter().map(|container| Source {
                namespace: text(namespace).to_string(),
                pod: text(name).to_string(),
                container: container.to_string(),
            }));
        }
        Ok(sources)
    }

    async fn pods(&self, session: &Session) -> Result<Vec<Value>> {
        if !self.selector.is_empty() {
            if !self.words.is_empty() {
                return Err(Failure::said("only a selector (-l) or a POD name is allowed"));
            }
            return pods_of(session, &session.namespace, &self.selector).await;
        }
        let Some(word) = self.words.first() else {
            return Err(Failure::said(
                "expected 'logs [-f] [-p] (POD | TYPE/NAME) [-c CONTAINER]'",
            ));
        };
        Ok(vec![pod_of(session, word).await?])
    }

    async fn stream(&self, session: &Session, source: &Source) -> Result<()> {
        let seconds = match &self.since {
            Some(since) => parse_duration(since)?.as_secs().max(1).to_string(),
            None => String::new(),
        };
        let tail = match self.tail {
            Some(-1) => String::new(),
            Some(lines) => lines.to_string(),
            None if self.selector.is_empty() => String::new(),
            None => "10".into(),
        };
        let flag = |set: bool| if set { "true" } else { "" };
        let limit = self.limit_bytes.map(|bytes| bytes.to_string()).unwrap_or_default();
        let path = query(
            &format!("{}/log", kind::POD.path(&source.namespace, &source.pod)),
            &[
                ("container", &source.container),
                ("follow", flag(self.follow)),
                ("previous", flag(self.previous)),
                ("timestamps", flag(self.timestamps)),
                ("tailLines", &tail),
                ("sinceSeconds", &seconds),
                ("sinceTime", self.since_time.as_deref().unwrap_or_default()),
                ("limitBytes", &limit),
            ],
        );
        let response = session.client.open(Method::GET, &path, "", Bytes::new()).await?;
        let mut body = response.into_body();
        let prefix = format!("[pod/{}/{}] ", source.pod, source.container);
        let mut line = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|why| Failure::said(format!("the log broke off: {why}")))?;
            let data = frame.data_ref().map(AsRef::as_ref).unwrap_or_default();
            // Whole lines only, so that the lines of several pods do not mix.
            line.extend_from_slice(data);
            if let Some(end) = line.iter().rposition(|byte| *byte == b'\n') {
                let rest = line.split_off(end + 1);
                self.print(&line, &prefix).await?;
                line = rest;
            }
        }
        self.print(&line, &prefix).await
    }

    async fn print(&self, lines: &[u8], prefix: &str) -> Result<()> {
        let mut out = Vec::with_capacity(lines.len());
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            if self.prefix {
                out.extend_from_slice(prefix.as_bytes());
            }
            out.extend_from_slice(line);
        }
        let mut stdout = tokio::io::stdout();
        let written = async {
            stdout.write_all(&out).await?;
            stdout.flush().await
        };
        // Whoever reads may stop reading, as `head` does.
        written.await.map_err(|_| Failure::Silent)
    }
}

/// The container that commands mean when none is named.
pub fn default_container(pod: &Value) -> &str {
    let annotation = &pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"];
    let first = text(&pod["spec"]["containers"][0]["name"]);
    let annotated = text(annotation);
    let several = items(&pod["spec"]["containers"]).count() > 1;
    if annotated.is_empty() {
        if several {
            let all: Vec<&str> =
                items(&pod["spec"]["containers"]).map(|one| text(&one["name"])).collect();
            anstream::eprintln!("Defaulted container {first:?} out of: {}", all.join(", "));
        }
        first
    } else {
        annotated
    }
}

/// The pod of a word: `web-1`, `pod/web-1`, or the first pod of a workload, `deploy/web`.
pub async fn pod_of(session: &Session, word: &str) -> Result<Value> {
    let Some((kind, _)) = word.split_once('/') else {
        return session.get(&kind::POD.path(&session.namespace, word)).await;
    };
    let resources = session.resources().await?;
    let targets = of_words(resources, &[word.to_string()], &session.namespace)?;
    let target = targets.into_iter().next().ok_or(Failure::Silent)?;
    let object = session.get(&target.path()).await?;
    if target.row.kind == "Pod" {
        return Ok(object);
    }
    let selector = selector_of(&object)
        .ok_or_else(|| Failure::said(format!("{kind} {} selects no pods", target.name)))?;
    let mut pods = pods_of(session, &target.namespace, &selector).await?;
    let ready = |pod: &Value| {
        items(&pod["status"]["conditions"])
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    pods.sort_by_key(|pod| !ready(pod));
    match pods.len() {
        0 => Err(Failure::said(format!("no pods found for {}", target.title()))),
        1 => Ok(pods.swap_remove(0)),
        several => {
            let first = pods.swap_remove(0);
            let name = text(&first["metadata"]["name"]).to_string();
            anstream::eprintln!("Found {several} pods, using pod/{name}");
            Ok(first)
        }
    }
}

/// The label selector of a workload or Service, as text.
pub fn selector_of(object: &Value) -> Option<String> {
    let selector = &object["spec"]["selector"];
    let plain = selector.as_object()?;
    if plain.values().all(Value::is_string) && !plain.is_empty() {
        let pairs: Vec<String> =
            plain.iter().map(|(key, value)| format!("{key}={}", text(value))).collect();
        return Some(pairs.join(","));
    }
    let selector: proto::selector::LabelSelector = serde_json::from_value(selector.clone()).ok()?;
    Some(selector.selector().ok()?.to_string())
}

async fn pods_of(session: &Session, namespace: &str, selector: &str) -> Result<Vec<Value>> {
    let path = query(&kind::POD.path(namespace, ""), &[("labelSelector", selector)]);
    let list = session.get(&path).await?;
    let pods: Vec<Value> = items(&list["items"]).cloned().collect();
    if pods.is_empty() {
        anstream::eprintln!("No resources found in {namespace} namespace.");
    }
    Ok(pods)
}
