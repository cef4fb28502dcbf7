//! The runtime with real containers: CRI over gRPC, the results read from /proc, cgroup files and
//! logs. Needs root and a static busybox; without them every test says that it is skipped.

#[path = "runtime/lab.rs"]
mod lab;

#[path = "runtime/devices.rs"]
mod devices;
#[path = "runtime/escapes.rs"]
mod escapes;
#[path = "runtime/fields.rs"]
mod fields;
#[path = "runtime/handlers.rs"]
mod handlers;
#[path = "runtime/images.rs"]
mod images;
#[path = "runtime/isolation.rs"]
mod isolation;
#[path = "runtime/lifecycle.rs"]
mod lifecycle;
#[path = "runtime/limits.rs"]
mod limits;
#[path = "runtime/logs.rs"]
mod logs;
#[path = "runtime/mounts.rs"]
mod mounts;
#[path = "runtime/network.rs"]
mod network;
#[path = "runtime/profiles.rs"]
mod profiles;
#[path = "runtime/proxies.rs"]
mod proxies;
#[path = "runtime/pulls.rs"]
mod pulls;
#[path = "runtime/random.rs"]
mod random;
#[allow(dead_code)]
#[path = "runtime/registry.rs"]
mod registry;
#[path = "runtime/restart.rs"]
mod restart;
#[path = "runtime/streams.rs"]
mod streams;
#[path = "runtime/user_namespaces.rs"]
mod user_namespaces;
