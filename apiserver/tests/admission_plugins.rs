//! Admission over HTTP: what each plugin adds and refuses, in Kubernetes' words.

#[path = "admission/accounts.rs"]
mod accounts;
#[path = "http/api.rs"]
mod api;
#[path = "admission/certificates.rs"]
mod certificates;
#[path = "admission/classes.rs"]
mod classes;
#[path = "admission/limits.rs"]
mod limits;
#[path = "admission/nodes.rs"]
mod nodes;
#[path = "admission/pod_security.rs"]
mod pod_security;
#[path = "admission/quotas.rs"]
mod quotas;
#[path = "admission/storage.rs"]
mod storage;
