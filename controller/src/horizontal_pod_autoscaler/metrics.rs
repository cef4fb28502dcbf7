//! Asks the metrics APIs; answers and errors in upstream's words.
//! <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#support-for-metrics-apis>

use std::time::Duration;

use client::{Client, Error};
use proto::kind::{POD_METRICS, SERVED};
use proto::quantity::Quantity;
use proto::selector::LabelSelector;
use proto::time::Time;
use proto::view::horizontal_pod_autoscaler::{
    CrossVersionReference, MetricIdentifier, MetricSpec, NamedSource, ResourceSource,
};
use serde_json::Value;

use super::decide::{Reading, shown};
use super::replicas::{Sample, Samples};
use crate::options;
use crate::plan::group_of;

const CUSTOM: &str = "custom.metrics.k8s.io";
const EXTERNAL: &str = "external.metrics.k8s.io";
/// Where an answer does not say.
const WINDOW: Duration = Duration::from_secs(60);

/// What a metric says of the pods that `selector` selects, or of its object.
pub(super) async fn read(
    client: &Client,
    namespace: &str,
    selector: &str,
    metric: &MetricSpec,
) -> Result<Reading, String> {
    match metric {
        MetricSpec { resource: Some(source), .. }
        | MetricSpec { container_resource: Some(source), .. } => {
            let samples = resource(client, namespace, selector, source).await;
            samples.map(Reading::Pods)
        }
        MetricSpec { pods: Some(source), .. } => {
            let samples = pods(client, namespace, selector, &source.metric).await;
            samples.map(Reading::Pods)
        }
        MetricSpec { object: Some(source), .. } => object(client, namespace, source).await,
        MetricSpec { external: Some(source), .. } => external(client, namespace, source).await,
        _ => Err("the metric has no source".into()),
    }
}

async fn resource(
    client: &Client,
    namespace: &str,
    selector: &str,
    source: &ResourceSource,
) -> Result<Samples, String> {
    let path = with_query(POD_METRICS.path(namespace, ""), &[("labelSelector", selector)]);
    let answer = client.document(&path).await;
    let answer = answer
        .map_err(|error| format!("unable to fetch metrics from resource metrics API: {error}"))?;
    let items = items(&answer);
    if items.is_empty() {
        return Err("no metrics returned from resource metrics API".into());
    }
    let mut samples = Samples::new();
    for pod in items {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let containers = pod["containers"].as_array().map_or(&[][..], Vec::as_slice);
        let named =
            |one: &&Value| source.container.is_empty() || one["name"] == source.container.as_str();
        if !containers.iter().any(|one| named(&one)) && !source.container.is_empty() {
            return Err(format!(
                "failed to get container metrics: container {} not present in metrics for pod \
                 {namespace}/{name}",
                source.container
            ));
        }
        let used = containers.iter().filter(named).map(|one| quantity(&one["usage"][&source.name]));
        // Where one container is not known the pod is not.
        let Some(used) = used.sum::<Option<i64>>() else { continue };
        let window = pod["window"].as_str().and_then(|text| options::duration(text).ok());
        let sample = Sample { milli: used, at: time(pod), window: window.unwrap_or(WINDOW) };
        samples.insert(name.into(), sample);
    }
    Ok(samples)
}

async fn pods(
    client: &Client,
    namespace: &str,
    selector: &str,
    metric: &MetricIdentifier,
) -> Result<Samples, String> {
    let base = custom(client).await?;
    let path = format!("{base}/namespaces/{namespace}/pods/*/{}", metric.name);
    let labels = text(metric.selector.as_ref());
    let query = [("labelSelector", selector), ("metricLabelSelector", &labels)];
    let answer = client.document(&with_query(path, &query)).await;
    let answer = answer.map_err(custom_failed)?;
    let items = items(&answer);
    if items.is_empty() {
        return Err("no metrics returned from custom metrics API".into());
    }
    let sample = |item: &Value| {
        let name = item["describedObject"]["name"].as_str()?;
        let window = item["windowSeconds"].as_u64().map(Duration::from_secs);
        let (milli, window) = (quantity(&item["value"])?, window.unwrap_or(WINDOW));
        Some((name.to_string(), Sample { milli, at: time(item), window }))
    };
    Ok(items.iter().filter_map(sample).collect())
}

async fn object(client: &Client, namespace: &str, source: &NamedSource) -> Result<Reading, String> {
    let CrossVersionReference { kind, name, .. } = &source.described_object;
    let metric = &source.metric.name;
    let failed = |error: String| {
        format!("unable to get metric {metric}: {kind} on {namespace} {name}/{error}")
    };
    let base = custom(client).await.map_err(failed)?;
    let path = match kind.as_str() {
        "Namespace" => format!("{base}/namespaces/{name}/metrics/{metric}"),
        _ => {
            let resource = resource_of(client, &source.described_object).await.map_err(failed)?;
            format!("{base}/namespaces/{namespace}/{resource}/{name}/{metric}")
        }
    };
    let labels = text(source.metric.selector.as_ref());
    let answer = client.document(&with_query(path, &[("metricLabelSelector", &labels)])).await;
    let answer = answer.map_err(|error| failed(custom_failed(error)))?;
    let value = items(&answer).first().and_then(|item| quantity(&item["value"]));
    let none = || failed("no metrics returned from custom metrics API".into());
    value.map(Reading::Total).ok_or_else(none)
}

async fn external(
    client: &Client,
    namespace: &str,
    source: &NamedSource,
) -> Result<Reading, String> {
    let metric = &source.metric.name;
    let failed = |error: String| {
        let selector = shown(source.metric.selector.as_ref());
        format!("unable to get external metric {namespace}/{metric}/{selector}: {error}")
    };
    let path = format!("/apis/{EXTERNAL}/v1beta1/namespaces/{namespace}/{metric}");
    let labels = text(source.metric.selector.as_ref());
    let answer = client.document(&with_query(path, &[("labelSelector", &labels)])).await;
    let answer = answer.map_err(|error| {
        failed(format!("unable to fetch metrics from external metrics API: {error}"))
    })?;
    let items = items(&answer);
    if items.is_empty() {
        return Err(failed("no metrics returned from external metrics API".into()));
    }
    Ok(Reading::Total(items.iter().filter_map(|item| quantity(&item["value"])).sum()))
}

/// Where the custom metrics API is served.
async fn custom(client: &Client) -> Result<String, String> {
    match client.document(&format!("/apis/{CUSTOM}")).await {
        Ok(group) => {
            let version = group["preferredVersion"]["groupVersion"].as_str();
            Ok(format!("/apis/{}", version.unwrap_or("custom.metrics.k8s.io/v1beta2")))
        }
        Err(error) if error.status().is_some_and(|status| status.code == 404) => {
            Err(custom_failed(format!("no custom metrics API ({CUSTOM}) registered")))
        }
        Err(error) => Err(custom_failed(error)),
    }
}

fn custom_failed(error: impl std::fmt::Display) -> String {
    format!("unable to fetch metrics from custom metrics API: {error}")
}

/// `deployments.apps`, `services`.
async fn resource_of(client: &Client, object: &CrossVersionReference) -> Result<String, String> {
    let group = group_of(&object.api_version);
    let known = SERVED.iter().find(|row| row.group == group && row.kind == object.kind);
    if let Some(row) = known {
        return Ok(row.qualified());
    }
    let name = plural(client, &object.api_version, &object.kind).await?;
    Ok(proto::status::qualified(group, &name))
}

/// The name under which a kind is served.
pub(super) async fn plural(
    client: &Client,
    api_version: &str,
    kind: &str,
) -> Result<String, String> {
    let unknown = || match group_of(api_version) {
        "" => format!("no matches for kind {kind:?} in version {api_version:?}"),
        group => format!("no matches for kind {kind:?} in group {group:?}"),
    };
    let path = match api_version.contains('/') {
        true => format!("/apis/{api_version}"),
        false => format!("/api/{api_version}"),
    };
    let document = match client.document(&path).await {
        Ok(document) => document,
        Err(Error::Status(status)) if status.code == 404 => return Err(unknown()),
        Err(error) => return Err(error.to_string()),
    };
    let resources = document["resources"].as_array().map_or(&[][..], Vec::as_slice);
    let named = |one: &&Value| {
        one["kind"] == kind && one["name"].as_str().is_some_and(|name| !name.contains('/'))
    };
    let found = resources.iter().find(named).and_then(|one| one["name"].as_str());
    found.map(str::to_string).ok_or_else(unknown)
}

fn items(answer: &Value) -> &[Value] {
    answer["items"].as_array().map_or(&[][..], Vec::as_slice)
}

fn quantity(value: &Value) -> Option<i64> {
    let amount: Quantity = value.as_str()?.parse().ok()?;
    Some(amount.milli())
}

fn time(item: &Value) -> Time {
    let time = item["timestamp"].as_str().and_then(|text| text.parse().ok());
    time.unwrap_or(Time::from_unix(0))
}

/// As a query has it.
fn text(selector: Option<&LabelSelector>) -> String {
    let selector = selector.and_then(|selector| selector.selector().ok());
    selector.map_or_else(String::new, |selector| selector.to_string())
}

fn with_query(path: String, parameters: &[(&str, &str)]) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        query.append_pair(name, value);
    }
    match query.finish().as_str() {
        "" => path,
        query => format!("{path}?{query}"),
    }
}
