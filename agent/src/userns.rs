//! Which ids of the node a pod's user namespace has (Kubernetes: User Namespaces). Every pod with
//! `hostUsers: false` gets 65536 of its own, beginning at a multiple of that. They are written down in
//! the pod's folder, as the kubelet does it: whoever restarts finds them there, and they are free
//! again when the folder is gone.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use proto::cri::{self, NamespaceMode};
use serde::{Deserialize, Serialize};

use crate::pod::Pod;

/// Ids in one range.
const LENGTH: u32 = 65_536;
const FILE: &str = "userns";
/// Whose subordinate ids are for pods, where the node's administrator says so.
const USER: &str = "kubelet";

/// The ranges of a node and who has them. Cheap to clone; the default has none to give.
#[derive(Clone, Debug, Default)]
pub struct Ranges(Option<Arc<Mutex<Taken>>>);

#[derive(Debug)]
struct Taken {
    /// Numbers of ranges: their first id divided by their length.
    available: Range<u32>,
    /// The file of the pod that has a range.
    pods: BTreeMap<u32, PathBuf>,
}

/// Why a pod has no ids of its own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("user namespaces are not supported on this node")]
    Unsupported,
    #[error("could not find an empty slot to allocate a user namespace")]
    Exhausted,
    #[error("{path}: wrong user namespace mapping: {why}")]
    Wrong { path: String, why: &'static str },
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
}

/// The file's content.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

impl Ranges {
    /// Finds what the pods in the folders of `pods` have. A file that cannot be read is left alone,
    /// and its pod told when it starts.
    pub fn open(pods: &Path, most: i64) -> Ranges {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let available = available(&read("/etc/subuid"), &read("/etc/subgid"), most);
        let mut taken = Taken { available, pods: BTreeMap::new() };
        for entry in fs::read_dir(pods).into_iter().flatten().flatten() {
            let file = entry.path().join(FILE);
            if let Ok(Some(number)) = written(&file) {
                taken.pods.insert(number, file);
            }
        }
        Ranges(Some(Arc::new(Mutex::new(taken))))
    }

    /// The ids of a pod: none of its own, those it has, or new ones.
    pub fn of(&self, pod: &Pod, folder: &Path) -> Result<Option<cri::UserNamespace>, Error> {
        if pod.spec.host_users != Some(false) {
            return Ok(None);
        }
        let mut taken = self.0.as_ref().ok_or(Error::Unsupported)?.lock();
        let file = folder.join(FILE);
        if let Some(number) = written(&file)? {
            taken.pods.insert(number, file);
            return Ok(Some(namespace(number)));
        }
        taken.pods.retain(|_, file| file.exists());
        let number = free(&taken.available, &taken.pods).ok_or(Error::Exhausted)?;
        write(&file, number)?;
        taken.pods.insert(number, file);
        Ok(Some(namespace(number)))
    }
}

/// Puts a pod's ids into the options of its sandbox or of a container.
pub fn enter(options: &mut Option<cri::NamespaceOption>, users: &Option<cri::UserNamespace>) {
    if let Some(users) = users {
        options.get_or_insert_default().userns_options = Some(users.clone());
    }
}

/// Lets a container of a pod see the node's files with the pod's ids.
pub fn map_mounts(mounts: &mut [cri::Mount], users: &Option<cri::UserNamespace>) {
    let Some(users) = users else { return };
    for mount in mounts {
        mount.uid_mappings.clone_from(&users.uids);
        mount.gid_mappings.clone_from(&users.gids);
    }
}

fn namespace(number: u32) -> cri::UserNamespace {
    let range = cri::IdMapping { host_id: number * LENGTH, container_id: 0, length: LENGTH };
    cri::UserNamespace { mode: NamespaceMode::Pod as i32, uids: vec![range], gids: vec![range] }
}

/// The numbers of ranges for pods: the subordinate ids of the user kubelet, or else those above the
/// node's own, one range for each pod there may be.
fn available(subuid: &str, subgid: &str, most: i64) -> Range<u32> {
    let pods = u32::try_from(most).unwrap_or(u32::MAX).clamp(1, u32::MAX / LENGTH - 1);
    let of = |table: &str| {
        table.lines().find_map(|line| {
            let mut fields = line.trim().split(':');
            (fields.next() == Some(USER)).then_some(())?;
            Some((fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?))
        })
    };
    match (of(subuid), of(subgid)) {
        (Some((first, count)), Some(groups)) if groups == (first, count) => {
            let begin = first.div_ceil(LENGTH).max(1);
            begin..(first.saturating_add(count) / LENGTH).max(begin)
        }
        _ => 1..pods + 1,
    }
}

fn free(available: &Range<u32>, taken: &BTreeMap<u32, PathBuf>) -> Option<u32> {
    available.clone().find(|number| !taken.contains_key(number))
}

fn written(file: &Path) -> Result<Option<u32>, Error> {
    let text = match fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(failed("read", file))?,
    };
    let wrong = |why| Error::Wrong { path: file.display().to_string(), why };
    let content: Written = serde_json::from_slice(&text).map_err(|_| wrong("not its JSON"))?;
    match (&content.uid_mappings[..], &content.gid_mappings[..]) {
        ([uids], [gids]) if uids == gids => match uids {
            Mapping { host_id, container_id: 0, length: LENGTH } if host_id % LENGTH == 0 => {
                Ok(Some(host_id / LENGTH))
            }
            _ => Err(wrong("not 65536 ids from a multiple of that")),
        },
        _ => Err(wrong("not one mapping for users and groups alike")),
    }
}

fn write(file: &Path, number: u32) -> Result<(), Error> {
    let range = Mapping { host_id: number * LENGTH, container_id: 0, length: LENGTH };
    let content = Written { uid_mappings: vec![range], gid_mappings: vec![range] };
    let text = serde_json::to_vec(&content).expect("plain data becomes JSON");
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).map_err(failed("create", folder))?;
    }
    // As a whole: half a file would keep the pod from ever starting.
    let new = file.with_extension("new");
    fs::write(&new, text).map_err(failed("write", &new))?;
    fs::rename(&new, file).map_err(failed("replace", file))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(host_users: Option<bool>) -> Pod {
        let mut pod = Pod::default();
        pod.spec.host_users = host_users;
        pod
    }

    fn first(users: Option<cri::UserNamespace>) -> u32 {
        let users = users.unwrap();
        assert_eq!(users.uids, users.gids);
        users.uids[0].host_id
    }

    #[test]
    fn pods_keep_their_ids_until_they_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let pods = folder.path();
        let ranges = Ranges::open(pods, 2);
        let of = |ranges: &Ranges, name: &str| ranges.of(&pod(Some(false)), &pods.join(name));
        assert!(ranges.of(&pod(None), &pods.join("host")).unwrap().is_none());
        let (a, b) = (first(of(&ranges, "a").unwrap()), first(of(&ranges, "b").unwrap()));
        assert!(a != b && a % LENGTH == 0 && a >= LENGTH);
        assert_eq!(first(of(&ranges, "a").unwrap()), a);
        // A restart knows them, and gives to nobody what somebody has.
        let ranges = Ranges::open(pods, 2);
        assert!(matches!(of(&ranges, "c"), Err(Error::Exhausted)));
        assert_eq!(first(of(&ranges, "b").unwrap()), b);
        fs::remove_dir_all(pods.join("a")).unwrap();
        assert_eq!(first(of(&ranges, "c").unwrap()), a);
        // The file is the kubelet's.
        let text = fs::read_to_string(pods.join("b/userns")).unwrap();
        let range = format!(r#"[{{"hostId":{b},"containerId":0,"length":65536}}]"#);
        assert_eq!(text, format!(r#"{{"uidMappings":{range},"gidMappings":{range}}}"#));
        fs::write(pods.join("b/userns"), "{}").unwrap();
        assert!(matches!(of(&ranges, "b"), Err(Error::Wrong { .. })));
        assert!(matches!(of(&Ranges::default(), "b"), Err(Error::Unsupported)));
    }

    #[test]
    fn administrators_say_which_ids() {
        let table = "root:1:5\nkubelet:131072:262144\n";
        assert_eq!(available(table, table, 110), 2..6);
        assert_eq!(available(table, "", 110), 1..111);
        assert_eq!(available("kubelet:70000:131072", "kubelet:70000:131072", 110), 2..3);
    }
}
