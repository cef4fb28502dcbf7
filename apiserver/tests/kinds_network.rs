//! Kinds of networking.k8s.io, over HTTP: what is refused, what is set, what is shown.

#[path = "http/api.rs"]
mod api;
#[path = "http/rules.rs"]
mod rules;

use api::Api;
use rules::{Case, Kind, with};
use serde_json::{Value, json};

const GROUP: &str = "/apis/networking.k8s.io/v1";

fn changed(pointer: &'static str, value: Value, errors: &'static [&'static str]) -> Case {
    Case { pointer, value, errors }
}

#[tokio::test]
async fn ingresses() {
    let api = Api::start().await;
    let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
    let path = json!({"path": "/", "pathType": "Prefix", "backend": backend});
    let base = json!({"metadata": {"name": "i"}, "spec": {
        "rules": [{"host": "a.example.com", "http": {"paths": [path]}}],
        "tls": [{"hosts": ["*.example.com"], "secretName": "s"}]}});
    let url = format!("{GROUP}/namespaces/default/ingresses");
    let kind = Kind { api: &api, path: &url, base };
    let created = kind.create().await;
    assert_eq!(created["metadata"]["generation"], 1);
    assert_eq!(created["status"], json!({"loadBalancer": {}}));
    const PATH: &str = "/spec/rules/0/http/paths/0";
    assert!(created.pointer(PATH).is_some());
    kind.refuses(&[
        changed("/spec", json!({}), &[
            "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified",
        ]),
        changed("/spec/rules/0/host", json!("1.2.3.4"), &[
            "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
        ]),
        changed("/spec/rules/0/http/paths", json!([]), &[
            "spec.rules[0].http.paths: Required value",
        ]),
        changed("/spec/rules/0/http/paths/0/pathType", Value::Null, &[
            "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
        ]),
        changed("/spec/rules/0/http/paths/0/pathType", json!("Regex"), &[
            "spec.rules[0].http.paths[0].pathType: Unsupported value: \"Regex\": supported values: \
             \"Exact\", \"ImplementationSpecific\", \"Prefix\"",
        ]),
        changed("/spec/rules/0/http/paths/0/path", json!("a//b"), &[
            "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must be an absolute path",
            "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must not contain '//'",
        ]),
        changed("/spec/rules/0/http/paths/0/backend", json!({}), &[
            "spec.rules[0].http.paths[0].backend: Invalid value: \"\": resource or service backend \
             is required",
        ]),
        changed("/spec/rules/0/http/paths/0/backend/service/port/name", json!("http"), &[
            "spec.rules[0].http.paths[0].backend: Invalid value: \"\": cannot set both port name & \
             port number",
        ]),
        changed("/spec/rules/0/http/paths/0/backend/service/port", json!({}), &[
            "spec.rules[0].http.paths[0].backend: Required value: port name or number is required",
        ]),
    ])
    .await;
    let errors = kind.refused("/spec/tls/0/hosts/0", json!("*")).await;
    assert!(errors[0].contains("a wildcard DNS-1123 subdomain must start with '*.'"), "{errors:?}");
    let old = with(
        &kind.base,
        "/metadata",
        json!({"name": "o", "annotations": {
        "kubernetes.io/ingress.class": "nginx"}}),
    );
    let reply = api.post(&url, old).await;
    assert!(reply.warnings()[0].contains("is deprecated, please use 'spec.ingressClassName'"));

    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}});
    let written = api.merge(&format!("{url}/i/status"), status).await.expect(200);
    assert_eq!(written["metadata"]["generation"], 1);
    let bad = json!({"status": {"loadBalancer": {"ingress": [{"hostname": "1.1.1.1"}]}}});
    assert_eq!(
        rules::errors(&api.merge(&format!("{url}/i/status"), bad).await),
        [
            "status.loadBalancer.ingress[0].hostname: Invalid value: \"1.1.1.1\": must be a DNS name, \
         not an IP address",
        ]
    );
    kind.keeps(&[changed("/spec/ingressClassName", json!("c"), &[])]).await;
    assert_eq!(kind.get().await["metadata"]["generation"], 2);
    kind.shows(
        "Name,Class,Hosts,Address,Ports,Age",
        json!(["i", "c", "a.example.com", "10.0.0.1", "80, 443"]),
    )
    .await;
}

#[tokio::test]
async fn ingress_classes() {
    let api = Api::start().await;
    let base = json!({"metadata": {"name": "c"}, "spec": {"controller": "example.com/c",
        "parameters": {"apiGroup": "example.com", "kind": "P", "name": "p", "scope": "Cluster"}}});
    let kind = Kind { api: &api, path: &format!("{GROUP}/ingressclasses"), base };
    kind.create().await;
    kind.refuses(&[
        changed("/spec/controller", json!(""), &["spec.controller: Required value"]),
        changed("/spec/controller", json!("c"), &[
            "spec.controller: Invalid value: \"c\": must be a domain-prefixed path (such as \
             \"acme.io/foo\")",
        ]),
        changed("/spec/parameters/scope", Value::Null, &["spec.parameters.scope: Required value"]),
        changed("/spec/parameters/scope", json!("Namespace"), &[
            "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
        ]),
        changed("/spec/parameters/namespace", json!("n"), &[
            "spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'",
        ]),
    ])
    .await;
    kind.keeps(&[
        changed(
            "/spec/controller",
            json!("example.com/d"),
            &["spec.controller: Invalid value: \"example.com/d\": field is immutable"],
        ),
        changed("/spec/parameters/name", json!("q"), &[]),
    ])
    .await;
    assert_eq!(kind.get().await["metadata"]["generation"], 2);
    kind.shows("Name,Controller,Parameters,Age", json!(["c", "example.com/c", "P.example.com/q"]))
        .await;
}

#[tokio::test]
async fn network_policies() {
    let api = Api::start().await;
    let base = json!({"metadata": {"name": "p"}, "spec": {"podSelector": {"matchLabels": {"a": "b"}},
        "egress": [{"ports": [{"port": 53}], "to": [{"ipBlock": {"cidr": "10.0.0.0/8",
            "except": ["10.1.0.0/16"]}}]}]}});
    let url = format!("{GROUP}/namespaces/default/networkpolicies");
    let kind = Kind { api: &api, path: &url, base };
    let created = kind.create().await;
    assert_eq!(created["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(created["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
    kind.refuses(&[
        changed("/spec/egress/0/ports/0/endPort", json!(52), &[
            "spec.egress[0].ports[0].endPort: Invalid value: 52: must be greater than or equal to \
             `port`",
        ]),
        changed("/spec/egress/0/ports/0", json!({"port": "dns", "endPort": 9}), &[
            "spec.egress[0].ports[0].endPort: Invalid value: 9: may not be specified when `port` \
             is non-numeric",
        ]),
        changed("/spec/egress/0/to/0", json!({}), &[
            "spec.egress[0].to[0]: Required value: must specify a peer",
        ]),
        changed("/spec/egress/0/to/0/podSelector", json!({}), &[
            "spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer",
        ]),
        changed("/spec/egress/0/to/0/ipBlock/except/0", json!("11.0.0.0/16"), &[
            "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a \
             strict subset of `cidr`",
        ]),
        changed("/spec/egress/0/to/0/ipBlock/cidr", json!("x"), &[
            "spec.egress[0].to[0].ipBlock.cidr: Invalid value: \"x\": must be a valid CIDR value, \
             (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        ]),
        changed("/spec/policyTypes", json!(["Sideways"]), &[
            "spec.policyTypes[0]: Unsupported value: \"Sideways\": supported values: \"Ingress\", \
             \"Egress\"",
        ]),
    ])
    .await;
    let odd = with(&kind.base, "/spec/egress/0/to/0/ipBlock", json!({"cidr": "10.0.0.1/8"}));
    let reply = api.put(&format!("{url}/p"), odd).await;
    assert!(reply.warnings()[0].contains("is ambiguous in this context"), "{:?}", reply.warnings());
    kind.shows("Name,Pod-Selector,Age", json!(["p", "a=b"])).await;
}

#[tokio::test]
async fn service_ranges_and_addresses() {
    let api = Api::start().await;
    let base = json!({"metadata": {"name": "r"}, "spec": {"cidrs": ["10.0.0.0/24"]}});
    let kind = Kind { api: &api, path: &format!("{GROUP}/servicecidrs"), base };
    kind.create().await;
    kind.refuses(&[
        changed(
            "/spec/cidrs",
            json!([]),
            &["spec.cidrs: Required value: at least one CIDR required"],
        ),
        changed(
            "/spec/cidrs",
            json!(["10.0.0.1/24"]),
            &["spec.cidrs[0]: Invalid value: \"10.0.0.1/24\": must not have bits set beyond the \
             prefix length"],
        ),
        changed(
            "/spec/cidrs",
            json!(["10.0.0.0/24", "10.0.1.0/24"]),
            &["spec.cidrs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more \
             than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"],
        ),
    ])
    .await;
    kind.keeps(&[
        changed(
            "/spec/cidrs/0",
            json!("10.1.0.0/24"),
            &["spec.cidrs[0]: Invalid value: \"10.1.0.0/24\": field is immutable"],
        ),
        changed("/spec/cidrs", json!(["10.0.0.0/24", "fd00::/112"]), &[]),
        changed(
            "/spec/cidrs",
            json!(["10.0.0.0/24"]),
            &["spec.cidrs: Invalid value: [\"10.0.0.0/24\"]: field is immutable"],
        ),
    ])
    .await;
    kind.shows("Name,CIDRs,Age", json!(["r", "10.0.0.0/24,fd00::/112"])).await;

    let parent = json!({"resource": "services", "namespace": "n", "name": "s"});
    let base = json!({"metadata": {"name": "10.0.0.9"}, "spec": {"parentRef": parent}});
    let kind = Kind { api: &api, path: &format!("{GROUP}/ipaddresses"), base };
    kind.create().await;
    kind.refuses(&[
        changed("/metadata/name", json!("a"), &[
            "metadata.name: Invalid value: \"a\": must be a valid IP address, (e.g. 10.9.8.7 or \
             2001:db8::ffff)",
        ]),
        changed("/metadata/name", json!("fd00:0::1"), &[
            "metadata.name: Invalid value: \"fd00:0::1\": must be in canonical form (\"fd00::1\")",
        ]),
    ])
    .await;
    let errors = kind.update("/spec/parentRef/name", json!("t")).await;
    assert!(errors[0].ends_with(": field is immutable"), "{errors:?}");
    kind.shows("Name,ParentRef,Age", json!(["10.0.0.9", "services/n/s"])).await;
}
