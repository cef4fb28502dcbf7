//! File descriptors: a connection takes one, and without any left nobody is answered at all.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::tls::SPARE;

/// For the store, etcd, nodes, webhooks, logs.
const OTHERS: usize = 256;

/// How many connections there is room for, at most `wanted`. Raises this process's own limit as far
/// as that takes and the machine lets it.
pub(super) fn room(wanted: usize) -> usize {
    let beside = SPARE + OTHERS;
    let needed = (wanted + beside) as u64;
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    if current >= needed {
        return wanted;
    }
    let raised = limit.maximum.map_or(needed, |most| most.min(needed)).max(current);
    let new = Rlimit { current: Some(raised), maximum: limit.maximum };
    let files = if setrlimit(Resource::Nofile, new).is_ok() { raised } else { current };
    let room = wanted.min((files as usize).saturating_sub(beside).max(files as usize / 2));
    if room < wanted {
        tracing::warn!(
            files,
            room,
            wanted,
            "the limit of open files leaves room for fewer connections"
        );
    }
    room
}
