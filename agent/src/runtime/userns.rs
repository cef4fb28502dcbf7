//! The ids of a pod that has a user namespace: what CRI says of them, checked, and what an id in the
//! pod is on the node. Pure.

use proto::cri::{self, NamespaceMode};

use super::engine::Error;

/// The maps of a user namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Mappings {
    uids: Vec<cri::IdMapping>,
    gids: Vec<cri::IdMapping>,
}

/// The kernel's limit of lines in a map.
const LINES: usize = 340;

impl Mappings {
    /// Those of a pod; `None` is the node's own user namespace.
    pub fn of_pod(options: &cri::NamespaceOption) -> Result<Option<Mappings>, Error> {
        let Some(users) = &options.userns_options else { return Ok(None) };
        match users.mode() {
            NamespaceMode::Node if users.uids.is_empty() && users.gids.is_empty() => Ok(None),
            NamespaceMode::Node => {
                Err(Error::Invalid("the node's user namespace takes no id mappings".to_owned()))
            }
            NamespaceMode::Pod => {
                // The node's network is no power over it: that takes the node's root.
                let shared = [(options.pid(), "PID"), (options.ipc(), "IPC")];
                if let Some((_, kind)) =
                    shared.iter().find(|(mode, _)| *mode == NamespaceMode::Node)
                {
                    return Err(Error::Invalid(format!(
                        "a pod with a user namespace cannot use the node's {kind} namespace"
                    )));
                }
                Mappings::new(&users.uids, &users.gids).map(Some)
            }
            mode => Err(Error::Invalid(format!(
                "user namespaces of mode {} are not supported",
                mode.as_str_name()
            ))),
        }
    }

    pub fn new(uids: &[cri::IdMapping], gids: &[cri::IdMapping]) -> Result<Mappings, Error> {
        for (what, ranges) in [("uid", uids), ("gid", gids)] {
            check(ranges).map_err(|why| Error::Invalid(format!("{what} mappings: {why}")))?;
        }
        Ok(Mappings { uids: uids.to_vec(), gids: gids.to_vec() })
    }

    /// The node's id of a user of the pod.
    pub fn uid(&self, id: u32) -> Option<u32> {
        find(&self.uids, id)
    }

    /// The node's id of a group of the pod.
    pub fn gid(&self, id: u32) -> Option<u32> {
        find(&self.gids, id)
    }

    /// As `/proc/PID/uid_map` takes it.
    pub fn uid_map(&self) -> String {
        lines(&self.uids)
    }

    /// As `/proc/PID/gid_map` takes it.
    pub fn gid_map(&self) -> String {
        lines(&self.gids)
    }
}

fn check(ranges: &[cri::IdMapping]) -> Result<(), String> {
    if ranges.is_empty() {
        return Err("none are given".into());
    }
    if ranges.len() > LINES {
        return Err(format!("more than {LINES}"));
    }
    for range in ranges {
        let (host, container) = (range.host_id, range.container_id);
        if range.length == 0
            || host.checked_add(range.length).is_none()
            || container.checked_add(range.length).is_none()
        {
            return Err(format!("{container} {host} {} is no range", range.length));
        }
    }
    let overlap = |start: fn(&cri::IdMapping) -> u32| {
        let mut sorted: Vec<_> = ranges.iter().map(|r| (start(r), r.length)).collect();
        sorted.sort_unstable();
        sorted.windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0)
    };
    if overlap(|range| range.host_id) || overlap(|range| range.container_id) {
        return Err("ranges overlap".into());
    }
    if find(ranges, 0).is_none() {
        return Err("0 is not mapped".into());
    }
    Ok(())
}

fn find(ranges: &[cri::IdMapping], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = id.checked_sub(range.container_id)?;
        (offset < range.length).then(|| range.host_id + offset)
    })
}

fn lines(ranges: &[cri::IdMapping]) -> String {
    let line = |range: &cri::IdMapping| {
        format!("{} {} {}\n", range.container_id, range.host_id, range.length)
    };
    ranges.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(container_id: u32, host_id: u32, length: u32) -> cri::IdMapping {
        cri::IdMapping { container_id, host_id, length }
    }

    #[test]
    fn ids_are_mapped() {
        let ranges = [range(0, 65_536, 1000), range(2000, 200_000, 10)];
        let mappings = Mappings::new(&ranges, &ranges[..1]).unwrap();
        for (id, expected) in
            [(0, Some(65_536)), (999, Some(66_535)), (1000, None), (2009, Some(200_009))]
        {
            assert_eq!(mappings.uid(id), expected, "{id}");
        }
        assert_eq!(mappings.gid(2000), None);
        assert_eq!(mappings.uid_map(), "0 65536 1000\n2000 200000 10\n");
    }

    #[test]
    fn what_is_no_map_is_refused() {
        let table: [(&[cri::IdMapping], &str); 5] = [
            (&[], "none are given"),
            (&[range(0, 1, 0)], "no range"),
            (&[range(0, u32::MAX, 2)], "no range"),
            (&[range(0, 100, 10), range(20, 105, 10)], "overlap"),
            (&[range(1, 100, 10)], "0 is not mapped"),
        ];
        for (ranges, expected) in table {
            let error = Mappings::new(ranges, &[range(0, 1, 1)]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn only_pods_of_their_own_have_users_of_their_own() {
        let users = |mode: NamespaceMode| cri::UserNamespace {
            mode: mode as i32,
            uids: vec![range(0, 65_536, 65_536)],
            gids: vec![range(0, 65_536, 65_536)],
        };
        let mut options = cri::NamespaceOption {
            userns_options: Some(users(NamespaceMode::Pod)),
            ..Default::default()
        };
        assert!(Mappings::of_pod(&options).unwrap().is_some());
        options.network = NamespaceMode::Node as i32;
        assert!(Mappings::of_pod(&options).unwrap().is_some());
        options.pid = NamespaceMode::Node as i32;
        assert!(Mappings::of_pod(&options).unwrap_err().to_string().contains("PID"));
        options.userns_options = Some(users(NamespaceMode::Container));
        assert!(Mappings::of_pod(&options).unwrap_err().to_string().contains("CONTAINER"));
        options.userns_options = None;
        assert_eq!(Mappings::of_pod(&options).unwrap(), None);
    }
}
