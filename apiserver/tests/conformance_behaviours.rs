//! What upstream's end-to-end suites ask of an API server without nodes, behaviour by behaviour:
//! API machinery, authentication and authorization, instrumentation. What they do with every
//! kind alike is in `lifecycle`, what nodes may do in `http_nodes`.

#[path = "conformance/accounts.rs"]
mod accounts;
#[path = "http/api.rs"]
mod api;
#[path = "conformance/apply.rs"]
mod apply;
#[path = "conformance/certificates.rs"]
mod certificates;
#[path = "conformance/components.rs"]
mod components;
#[path = "conformance/deletion.rs"]
mod deletion;
#[path = "conformance/discovery.rs"]
mod discovery;
#[path = "conformance/events.rs"]
mod events;
#[path = "conformance/flow.rs"]
mod flow;
#[path = "conformance/namespaces.rs"]
mod namespaces;
#[path = "conformance/openapi.rs"]
mod openapi;
#[path = "conformance/pod_security.rs"]
mod pod_security;
#[path = "conformance/quotas.rs"]
mod quotas;
#[path = "conformance/requests.rs"]
mod requests;
#[path = "conformance/reviews.rs"]
mod reviews;
