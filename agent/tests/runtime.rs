//! The runtime with real containers: CRI over gRPC, the results read from /proc, cgroup files and
//! logs. Needs root and a static busybox; without them every test says that it is skipped.

#[path = "runtime/lab.rs"]
mod lab;

#[path = "runtime/lifecycle.rs"]
mod lifecycle;
