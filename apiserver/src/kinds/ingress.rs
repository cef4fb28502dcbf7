//! Ingresses and IngressClasses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proto::status::{FieldError, Problem};
use proto::time::Time;
use serde_json::{Value, json};

use super::check::{self, Errors};
use super::described;
use super::lens::Lens;
use super::metadata::{self, sentences};
use super::name;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Context, Strategy, begin};

const SPEC: Path = Path::root("spec");
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

pub struct Ingress;
pub struct IngressClass;

impl Strategy for Ingress {
    fn counted(&self) -> &'static [&'static str] {
        &["/spec"]
    }

    fn prepare_create(&self, new: &mut Value, ctx: &Context) {
        begin(self.counted(), new, ctx);
        new.set("status", json!({"loadBalancer": {}}));
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = self.rules(object, None);
        let annotations = object.at("metadata").at("annotations");
        let class = object.at("spec").at("ingressClassName");
        if annotations.has(CLASS_ANNOTATION)
            && !class.is_null()
            && annotations.at(CLASS_ANNOTATION) != class
        {
            let value = annotations.at(CLASS_ANNOTATION).clone();
            let path = format!("annotations.{CLASS_ANNOTATION}");
            let detail = "must match `ingressClassName` when both are specified";
            errors.push(FieldError::invalid(path, value, detail));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        self.rules(new, Some(old))
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let path = Path::root("status");
        let path = path.field("loadBalancer");
        let path = path.field("ingress");
        let points = new.at("status").at("loadBalancer").items("ingress");
        for (index, point) in points.iter().enumerate() {
            let path = path.index(index);
            if !point.vacant("ip") {
                check::ip(&path.field("ip"), point.text("ip"), &mut errors);
            }
            let host = point.text("hostname");
            if !host.is_empty() {
                check::subdomain(&path.field("hostname"), host, &mut errors);
                no_address(&path.field("hostname"), host, &mut errors);
            }
        }
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let annotated = new.at("metadata").at("annotations").has(CLASS_ANNOTATION);
        if old.is_some() || !annotated || new.at("spec").has("ingressClassName") {
            return Vec::new();
        }
        vec![format!(
            "annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' \
             instead"
        )]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let spec = object.at("spec");
        let points = object.at("status").at("loadBalancer").items("ingress").iter();
        let addresses: BTreeSet<&str> = points
            .map(|point| if point.vacant("ip") { point.text("hostname") } else { point.text("ip") })
            .filter(|address| !address.is_empty())
            .collect();
        vec![
            table::name(object),
            table::or_none(spec.text("ingressClassName")).into(),
            hosts(spec.items("rules")).into(),
            table::list(addresses.into_iter()).into(),
            if spec.vacant("tls") { "80" } else { "80, 443" }.into(),
            table::age(object, now),
        ]
    }
}

impl Ingress {
    /// What was wrong before may stay: names of TLS secrets, rules of wildcard hosts.
    fn rules(&self, object: &Value, old: Option<&Value>) -> Errors {
        let mut errors = Vec::new();
        let spec = object.at("spec");
        if spec.vacant("rules") && !spec.has("defaultBackend") {
            let detail = "either `defaultBackend` or `rules` must be specified";
            errors.push(FieldError::invalid(SPEC, Value::Null, detail));
        }
        if spec.has("defaultBackend") {
            let path = SPEC.field("defaultBackend");
            backend(&path, spec.at("defaultBackend"), &mut errors);
        }
        let had_bad_wildcard = old.is_some_and(bad_wildcard);
        let path = SPEC.field("rules");
        for (index, rule) in spec.items("rules").iter().enumerate() {
            let path = path.index(index);
            let host = rule.text("host");
            if !host.is_empty() {
                no_address(&path.field("host"), host, &mut errors);
                host_name(&path.field("host"), host, &mut errors);
            }
            if !host.contains('*') || !had_bad_wildcard {
                http(&path, rule, &mut errors);
            }
        }
        let had_bad_secret = old.is_some_and(|old| {
            old.at("spec").items("tls").iter().any(|tls| !secret(tls).is_empty())
        });
        let path = SPEC.field("tls");
        for (index, tls) in spec.items("tls").iter().enumerate() {
            let path = path.index(index);
            let path_hosts = path.field("hosts");
            for (index, host) in check::texts(tls, "hosts").enumerate() {
                host_name(&path_hosts.index(index), host, &mut errors);
            }
            if !had_bad_secret {
                let path = path.field("secretName");
                errors.extend(sentences(&path, tls.text("secretName"), secret(tls)));
            }
        }
        if spec.has("ingressClassName") {
            let class = spec.text("ingressClassName");
            check::subdomain(&SPEC.field("ingressClassName"), class, &mut errors);
        }
        errors
    }
}

impl Strategy for IngressClass {
    fn counted(&self) -> &'static [&'static str] {
        &["/spec"]
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = object.at("spec");
        controller(&SPEC.field("controller"), spec.text("controller"), &mut errors);
        if spec.has("parameters") {
            parameters(&SPEC.field("parameters"), spec.at("parameters"), &mut errors);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (before, after) = (old.at("spec").at("controller"), new.at("spec").at("controller"));
        metadata::immutable(&SPEC.field("controller"), after, before, &mut errors);
        errors.extend(self.validate(new));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                table::NAME,
                column("Controller", "string", 0, described::CLASS_CONTROLLER),
                column("Parameters", "string", 0, described::CLASS_PARAMETERS),
                table::AGE,
            ]
        }
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let spec = object.at("spec");
        let parameters = spec.at("parameters");
        let shown = match (parameters.is_null(), parameters.has("apiGroup")) {
            (true, _) => "<none>".to_string(),
            (_, false) => format!("{}/{}", parameters.text("kind"), parameters.text("name")),
            (_, true) => {
                let (kind, group) = (parameters.text("kind"), parameters.text("apiGroup"));
                format!("{kind}.{group}/{}", parameters.text("name"))
            }
        };
        vec![
            table::name(object),
            spec.text("controller").into(),
            shown.into(),
            table::age(object, now),
        ]
    }
}

fn host_name(path: &Path, host: &str, errors: &mut Errors) {
    let problems = if host.contains('*') { name::wildcard(host) } else { name::subdomain(host) };
    errors.extend(sentences(path, host, problems));
}

fn no_address(path: &Path, host: &str, errors: &mut Errors) {
    if host.parse::<IpAddr>().is_ok() {
        let detail = "must be a DNS name, not an IP address";
        errors.push(FieldError::invalid(path, host, detail));
    }
}

fn secret(tls: &Value) -> Vec<String> {
    match tls.text("secretName") {
        "" => Vec::new(),
        name => name::subdomain(name),
    }
}

fn bad_wildcard(ingress: &Value) -> bool {
    ingress.at("spec").items("rules").iter().any(|rule| {
        let mut errors = Vec::new();
        http(&SPEC, rule, &mut errors);
        rule.text("host").contains('*') && !errors.is_empty()
    })
}

fn http(path: &Path, rule: &Value, errors: &mut Errors) {
    if !rule.has("http") {
        return;
    }
    let (path, http) = (path.field("http"), rule.at("http"));
    check::required(&path, http, "paths", errors);
    let path = path.field("paths");
    for (index, one) in http.items("paths").iter().enumerate() {
        let path = path.index(index);
        let (path_text, text) = (path.field("path"), one.text("path"));
        let mut refuse = |detail: String| {
            errors.push(FieldError::invalid(path_text, text, detail));
        };
        match one.text("pathType") {
            "Exact" | "Prefix" => {
                if !text.starts_with('/') {
                    refuse("must be an absolute path".into());
                }
                let banned = ["//", "/./", "/../", "%2f", "%2F"].into_iter();
                banned
                    .filter(|banned| text.contains(banned))
                    .for_each(|banned| refuse(format!("must not contain '{banned}'")));
                let endings = ["/..", "/."].into_iter();
                endings
                    .filter(|ending| text.ends_with(ending))
                    .for_each(|ending| refuse(format!("cannot end with '{ending}'")));
            }
            "ImplementationSpecific" => {
                if !text.is_empty() && !text.starts_with('/') {
                    refuse("must be an absolute path".into());
                }
            }
            _ if !one.has("pathType") => {
                let detail = "pathType must be specified";
                errors.push(FieldError::required(path.field("pathType"), detail));
                continue;
            }
            other => {
                let types = ["Exact", "ImplementationSpecific", "Prefix"];
                let path = path.field("pathType");
                errors.push(FieldError::not_supported(path, other, &types));
            }
        }
        backend(&path.field("backend"), one.at("backend"), errors);
    }
}

fn backend(path: &Path, backend: &Value, errors: &mut Errors) {
    let mut refuse = |detail: &str| errors.push(FieldError::invalid(path, "", detail));
    match (backend.has("resource"), backend.has("service")) {
        (true, true) => refuse("cannot set both resource and service backends"),
        (false, false) => refuse("resource or service backend is required"),
        (true, false) => {
            let (path, resource) = (path.field("resource"), backend.at("resource"));
            group(&path, resource, errors);
            check::segment(&path, resource, "kind", errors);
            check::segment(&path, resource, "name", errors);
        }
        (false, true) => service(path, backend.at("service"), errors),
    }
}

/// The backend's path is that of the errors about its port.
fn service(path: &Path, service: &Value, errors: &mut Errors) {
    let path_service = path.field("service");
    let name = service.text("name");
    check::required(&path_service, service, "name", errors);
    if !name.is_empty() {
        errors.extend(sentences(&path_service.field("name"), name, name::dns1035(name)));
    }
    let port = service.at("port");
    let path_port = path_service.field("port");
    match (port.text("name"), port.int("number").unwrap_or(0)) {
        ("", 0) => errors.push(FieldError::required(path, "port name or number is required")),
        ("", number) => check::port_number(&path_port.field("number"), number, errors),
        (name, 0) => errors.extend(sentences(&path_port.field("name"), name, name::port(name))),
        _ => errors.push(FieldError::invalid(path, "", "cannot set both port name & port number")),
    }
}

fn group(path: &Path, reference: &Value, errors: &mut Errors) {
    if reference.has("apiGroup") {
        check::subdomain(&path.field("apiGroup"), reference.text("apiGroup"), errors);
    }
}

fn parameters(path: &Path, parameters: &Value, errors: &mut Errors) {
    group(path, parameters, errors);
    check::segment(path, parameters, "kind", errors);
    check::segment(path, parameters, "name", errors);
    let path_namespace = path.field("namespace");
    match parameters.text("scope") {
        _ if !parameters.has("scope") => {
            errors.push(FieldError::required(path.field("scope"), ""));
        }
        "Namespace" if !parameters.has("namespace") => {
            let detail = "`parameters.scope` is set to 'Namespace'";
            errors.push(FieldError::required(path_namespace, detail));
        }
        "Namespace" => check::label(&path_namespace, parameters.text("namespace"), errors),
        "Cluster" if parameters.has("namespace") => {
            let detail = "`parameters.scope` is set to 'Cluster'";
            errors.push(FieldError::forbidden(path_namespace, detail));
        }
        "Cluster" => {}
        other => {
            let scopes = ["Cluster", "Namespace"];
            errors.push(FieldError::not_supported(path.field("scope"), other, &scopes));
        }
    }
}

/// A domain-prefixed path, as `acme.io/ingress-controller`.
fn controller(path: &Path, text: &str, errors: &mut Errors) {
    if text.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    check::length(path, text, 250, errors);
    let Some((domain, rest)) = text.split_once('/').filter(|(a, b)| !a.is_empty() && !b.is_empty())
    else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(FieldError::new(path, Problem::Invalid(text.into()), detail));
        return;
    };
    check::subdomain(path, domain, errors);
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    if !rest.bytes().all(fine) {
        let detail = "Invalid path (regex used for validation is \
                      '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.push(FieldError::invalid(path, rest, detail));
    }
}

/// At most three hosts, and how many rules more.
fn hosts(rules: &[Value]) -> String {
    const MOST: usize = 3;
    let mut hosts: Vec<&str> = Vec::new();
    let mut more = false;
    for rule in rules {
        if hosts.len() == MOST {
            more = true;
        } else if !rule.vacant("host") {
            hosts.push(rule.text("host"));
        }
    }
    match hosts.join(",") {
        shown if shown.is_empty() => "*".into(),
        shown if more => format!("{shown} + {} more...", rules.len() - MOST),
        shown => shown,
    }
}

const COLUMNS: &[Column] = &[
    table::NAME,
    column(
        "Class",
        "string",
        0,
        "The name of the IngressClass resource that should be used for additional configuration",
    ),
    column(
        "Hosts",
        "string",
        0,
        "Hosts that incoming requests are matched against before the ingress rule",
    ),
    column(
        "Address",
        "string",
        0,
        "Address is a list containing ingress points for the load-balancer",
    ),
    column("Ports", "string", 0, "Ports of TLS configurations that open"),
    table::AGE,
];
