//! A container's mounts: the pod's own files and what the request asks for.

use std::fs;
use std::path::Path;

use proto::cri::{self, MountPropagation, NamespaceMode};

use super::super::engine::Error;
use super::super::images::Image;
use super::super::plan::{Kind, Mount, Source, attribute};
use super::super::sandbox::namespaces;
use super::super::userns::Mappings;
use super::Inputs;

/// The mounts of a container and what they need.
#[derive(Default)]
pub struct Mounts {
    pub mounts: Vec<Mount>,
    /// User namespaces for mounts with ids of their own, in the order of their extra descriptors,
    /// which follow the pod's.
    pub users: Vec<Mappings>,
    /// Images that are mounted: where meanwhile, and which.
    pub images: Vec<(String, Image)>,
}

/// A request's most: each mount takes a register of the program or two, of which there are 254.
const MOUNTS: usize = 200;
/// Each takes a descriptor on the way to the supervisor.
const MAPPINGS: usize = 16;

/// What may be mounted below /proc: files that tools such as lxcfs replace, and nothing by which a
/// mask could be put out of the way.
const BELOW_PROC: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
    "/proc/uptime",
];

/// The pod's own files, then the request's mounts; these win.
pub fn mounts(
    inputs: &Inputs<'_>,
    config: &cri::ContainerConfig,
    readonly_root: bool,
) -> Result<Mounts, Error> {
    if config.mounts.len() > MOUNTS {
        return Err(Error::Invalid(format!("more than {MOUNTS} mounts")));
    }
    let mut all = Mounts { mounts: own(inputs, config, readonly_root), ..Mounts::default() };
    let mut table = None;
    for mount in &config.mounts {
        check(mount)?;
        let target = clean(&mount.container_path);
        check_target(&target, mount)?;
        let (source, kind) = match &mount.image {
            Some(image) => image_source(inputs, image, mount, &mut all)?,
            None => node_source(mount)?,
        };
        if let (Source::Path(path), true) =
            (&source, mount.propagation() != MountPropagation::PropagationPrivate)
        {
            let read = || fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let table: &String = table.get_or_insert_with(read);
            check_propagation(table, path, mount.propagation()).map_err(Error::Invalid)?;
        }
        let users = all.users_of(inputs.users, mount)?;
        all.mounts.push(Mount {
            source,
            target,
            kind,
            // Of an image there is one copy, for everybody.
            readonly: mount.readonly || mount.image.is_some(),
            recursive_readonly: mount.recursive_read_only || mount.image.is_some(),
            propagation: mount.propagation(),
            attributes: attributes(mount)?,
            users,
        });
    }
    Ok(all)
}

impl Mounts {
    /// The number of the extra descriptor with the ids of a mount.
    fn users_of(
        &mut self,
        pod: Option<&Mappings>,
        mount: &cri::Mount,
    ) -> Result<Option<usize>, Error> {
        if mount.uid_mappings.is_empty() && mount.gid_mappings.is_empty() {
            return Ok(None);
        }
        let wanted = Mappings::new(&mount.uid_mappings, &mount.gid_mappings)
            .map_err(|error| Error::Invalid(format!("mount {}: {error}", mount.container_path)))?;
        // The layers of images have the pod's ids as they are mounted.
        match (&mount.image, pod == Some(&wanted)) {
            (Some(_), true) => return Ok(None),
            (None, true) => return Ok(Some(0)),
            (Some(_), false) => {
                let path = &mount.container_path;
                let why = "an image's ids are its pod's";
                return Err(Error::Invalid(format!("mount {path}: {why}")));
            }
            (None, false) => {}
        }
        let known = self.users.iter().position(|known| *known == wanted);
        let number = known.unwrap_or(self.users.len());
        if known.is_none() {
            if number == MAPPINGS {
                return Err(Error::Invalid(format!(
                    "mounts with more than {MAPPINGS} id mappings"
                )));
            }
            self.users.push(wanted);
        }
        Ok(Some(number + usize::from(pod.is_some())))
    }
}

fn own(inputs: &Inputs<'_>, config: &cri::ContainerConfig, readonly_root: bool) -> Vec<Mount> {
    let given = |target: &str| {
        config.mounts.iter().any(|mount| mount.container_path.trim_end_matches('/') == target)
    };
    let pod = |name: &str| inputs.sandbox_folder.join(name).display().to_string();
    let sandbox = inputs.sandbox.config.as_ref().map(namespaces).unwrap_or_default();
    let host_ipc = sandbox.ipc() == NamespaceMode::Node;
    let shm = if host_ipc { "/dev/shm".to_owned() } else { pod("shm") };
    let own = [
        (pod("resolv.conf"), "/etc/resolv.conf", Kind::File),
        (pod("hostname"), "/etc/hostname", Kind::File),
        (shm, "/dev/shm", Kind::Folder),
    ];
    own.into_iter()
        .filter(|(_, target, _)| !given(target))
        .map(|(source, target, kind)| Mount {
            source: Source::Path(source),
            target: target.to_owned(),
            kind,
            readonly: readonly_root && kind == Kind::File,
            ..Mount::default()
        })
        .collect()
}

/// What of a mount contradicts itself (CRI v1, Mount).
fn check(mount: &cri::Mount) -> Result<(), Error> {
    let path = &mount.container_path;
    let invalid = |why: String| Err(Error::Invalid(why));
    if !path.starts_with('/') {
        return invalid(format!("mount path \"{path}\" is not absolute"));
    }
    let private = mount.propagation() == MountPropagation::PropagationPrivate;
    if mount.recursive_read_only && !(mount.readonly && private) {
        let why = "recursive read-only needs readonly, and private propagation";
        return invalid(format!("mount {path}: {why}"));
    }
    if mount.image.is_some() {
        if !mount.host_path.is_empty() {
            return invalid(format!("mount {path}: an image and a path of the node"));
        }
        if !private {
            return invalid(format!("mount {path}: an image has nothing to propagate"));
        }
    } else if !mount.image_sub_path.is_empty() {
        return invalid(format!("mount {path}: a sub path of an image, but no image"));
    }
    if mount.selinux_relabel && Path::new("/sys/fs/selinux/enforce").exists() {
        return invalid(format!("mount {path}: relabeling for SELinux is not supported"));
    }
    Ok(())
}

/// Nothing hides the container's root or what is masked of the kernel's file systems.
fn check_target(target: &str, mount: &cri::Mount) -> Result<(), Error> {
    let invalid = |why: &str| Err(Error::Invalid(format!("mount path \"{target}\": {why}")));
    if target == "/" {
        return invalid("the container's root is its image");
    }
    let below = target.strip_prefix("/proc").is_some_and(|rest| rest.starts_with('/'));
    if below && !BELOW_PROC.contains(&target) {
        return invalid("it is inside /proc");
    }
    // The node's own /proc may take its place: it has the files that masks are for.
    if target == "/proc" && clean(&mount.host_path) != "/proc" {
        return invalid("only a proc file system can be there");
    }
    Ok(())
}

fn attributes(mount: &cri::Mount) -> Result<u64, Error> {
    mount.mount_options.iter().try_fold(0, |all, option| {
        let refused = || Error::Invalid(format!("mount option \"{option}\" is not supported"));
        Ok(all | attribute(option).ok_or_else(refused)?)
    })
}

fn node_source(mount: &cri::Mount) -> Result<(Source, Kind), Error> {
    // Resolved here: a link on the node must not be followed within the container.
    let source = fs::canonicalize(&mount.host_path).map_err(|error| {
        Error::Invalid(format!("mount source \"{}\": {error}", mount.host_path))
    })?;
    let kind = if source.is_dir() { Kind::Folder } else { Kind::File };
    Ok((Source::Path(source.display().to_string()), kind))
}

fn image_source(
    inputs: &Inputs<'_>,
    image: &cri::ImageSpec,
    mount: &cri::Mount,
    all: &mut Mounts,
) -> Result<(Source, Kind), Error> {
    let name = &image.image;
    let found = inputs.engine.images.find(name)?;
    let found = found.ok_or_else(|| Error::NotFound { what: "image", id: name.clone() })?;
    let (_, lower) = inputs.engine.images.lower(&found);
    if lower.is_empty() {
        return Err(Error::Invalid(format!("image {name} has no files to mount")));
    }
    let point = inputs.folder.join("images").join(all.images.len().to_string());
    let point = point.display().to_string();
    let inside = clean(&mount.image_sub_path).trim_start_matches('/').to_owned();
    all.images.push((point.clone(), found));
    let kind = if inside.is_empty() { Kind::Folder } else { Kind::Unknown };
    Ok((Source::Image { lower, point, inside }, kind))
}

/// What is to travel between node and container must be in a mount of the node that lets it.
fn check_propagation(
    mountinfo: &str,
    path: &str,
    propagation: MountPropagation,
) -> Result<(), String> {
    let mut best: Option<(&str, bool, bool)> = None;
    for line in mountinfo.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let Some(point) = fields.get(4) else { continue };
        if !Path::new(path).starts_with(unescape(point)) {
            continue;
        }
        if best.is_none_or(|(known, ..)| point.len() >= known.len()) {
            let optional: Vec<&&str> =
                fields.iter().skip(6).take_while(|field| **field != "-").collect();
            let has = |prefix: &str| optional.iter().any(|field| field.starts_with(prefix));
            best = Some((point, has("shared:"), has("master:")));
        }
    }
    let (point, shared, slave) = best.unwrap_or(("/", false, false));
    let told = |what: &str| {
        Err(format!("path \"{path}\" is mounted on \"{point}\" but it is not a {what} mount"))
    };
    match propagation {
        MountPropagation::PropagationBidirectional if !shared => told("shared"),
        MountPropagation::PropagationHostToContainer if !shared && !slave => {
            told("shared or slave")
        }
        _ => Ok(()),
    }
}

/// Mount points are told with spaces and the like in octal.
fn unescape(point: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(point.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// Without empty parts, `.` and `..`, which a path within a container has no use for.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in [("/a//b/./c/", "/a/b/c"), ("/a/../../b", "/b"), ("/", "/")] {
            assert_eq!(clean(path), expected);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let mount = |change: fn(&mut cri::Mount)| {
            let mut mount = cri::Mount { container_path: "/data".into(), ..Default::default() };
            change(&mut mount);
            check(&mount)
                .and_then(|()| check_target(&clean(&mount.container_path), &mount))
                .err()
                .map(|error| error.to_string())
                .unwrap_or_default()
        };
        let table: [(fn(&mut cri::Mount), &str); 9] = [
            (|_| {}, ""),
            (|m| m.container_path = "data".into(), "not absolute"),
            (|m| m.container_path = "/a/..".into(), "root is its image"),
            (|m| m.container_path = "/proc/sys".into(), "inside /proc"),
            (|m| m.container_path = "/proc/uptime".into(), ""),
            (|m| m.container_path = "/proc".into(), "only a proc"),
            (|m| m.recursive_read_only = true, "needs readonly"),
            (|m| m.image_sub_path = "a".into(), "no image"),
            (
                |m| {
                    m.image = Some(cri::ImageSpec::default());
                    m.host_path = "/x".into();
                },
                "an image and a path",
            ),
        ];
        for (change, expected) in table {
            let told = mount(change);
            assert!(told.contains(expected) && told.is_empty() == expected.is_empty(), "{told}");
        }
    }

    #[test]
    fn propagation_needs_a_mount_that_propagates() {
        let table = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            30 27 0:5 / /shared rw shared:4 - tmpfs x rw\n\
            31 27 0:6 / /slave rw master:4 - tmpfs x rw\n\
            32 30 0:7 / /shared/with\\040space rw - tmpfs x rw\n";
        let (both, down) = (
            MountPropagation::PropagationBidirectional,
            MountPropagation::PropagationHostToContainer,
        );
        let told = |path, propagation| check_propagation(table, path, propagation).err();
        assert_eq!(told("/shared/a", both), None);
        assert_eq!(told("/slave", down), None);
        assert_eq!(
            told("/slave/b", both).unwrap(),
            "path \"/slave/b\" is mounted on \"/slave\" but it is not a shared mount"
        );
        assert!(told("/data", down).unwrap().contains("on \"/\" but it is not a shared or slave"));
        assert!(told("/shared/with space/x", down).is_some());
    }
}
