//! What of a container is made before its process: directories, groups, record, program. Blocks on the
//! disk and the kernel.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use proto::cri;

use super::super::blueprint::{self, Blueprint, Inputs, limits};
use super::super::cdi;
use super::super::cgroup::Entry;
use super::super::cgroup::devices::Rule;
use super::super::engine::{Engine, Error, Sandbox};
use super::super::images::Image;
use super::super::plan;
use super::super::program::Names;
use super::super::sandbox::{PodUsers, step};
use super::super::state::{self, ContainerRecord};
use super::super::sys::make_user_namespace;
use super::super::userns::Mappings;

/// A container between its preparation and its process.
pub struct Prepared {
    pub record: ContainerRecord,
    pub exit: fs::File,
    pub log: fs::File,
    pub cgroup: Option<OwnedFd>,
    /// User namespaces that the program names.
    pub namespaces: Vec<OwnedFd>,
    pub program: OwnedFd,
    pub size: u64,
    pub names: Names,
}

impl Engine {
    pub fn prepare(
        &self,
        id: &str,
        sandbox: &Sandbox,
        config: cri::ContainerConfig,
        image: &Image,
    ) -> Result<Prepared, Error> {
        let sandbox_record = sandbox.record.lock().clone();
        let folder = self.root.container(id);
        let users = self.pod_users(sandbox)?;
        make_folders(&folder, users.as_ref())?;
        let inputs = Inputs {
            engine: self,
            sandbox: &sandbox_record,
            sandbox_folder: self.root.sandbox(&sandbox.id),
            folder: folder.clone(),
            image,
            users: users.as_ref().map(|users| &users.mappings),
        };
        let mut record = ContainerRecord {
            id: id.to_owned(),
            sandbox: sandbox.id.clone(),
            image_id: image.id.clone(),
            image_ref: image.digests.first().unwrap_or(&image.id).clone(),
            key: self.rng.u64() | 1 << 63,
            created_at: self.now(),
            cgroup: format!("{}/{id}", sandbox_record.cgroup),
            ..ContainerRecord::default()
        };
        let Blueprint { mut container, users: others, images, devices } =
            blueprint::container(&inputs, &cdi::applied(&config)?, &mut record)?;
        let logs = sandbox_record.config.map(|config| config.log_directory).unwrap_or_default();
        if !config.log_path.is_empty() && !logs.is_empty() {
            record.log_path = Path::new(&logs).join(&config.log_path).display().to_string();
        }
        let resources = config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        let entry = self.make_group(&record.cgroup, resources, devices.as_deref())?;
        container.cgroups = entry.procs;
        let namespaces = namespaces(users, &others)?;
        for (number, (point, image)) in images.iter().enumerate() {
            fs::create_dir_all(point).map_err(state::failed("create", Path::new(point)))?;
            self.images.pin(&pin_of(id, number), &image.id, &folder)?;
        }
        self.images.pin(id, &image.id, &folder)?;
        record.config = Some(config);
        self.root.save_container(&record)?;
        let exit = folder.join("exit");
        let exit = fs::File::create(&exit).map_err(state::failed("create", &exit))?;
        let (program, size, names) =
            plan::container(&container).finish().map_err(step("write the program"))?;
        Ok(Prepared {
            log: open_log(&record.log_path)?,
            record,
            exit,
            cgroup: entry.unified,
            namespaces,
            program,
            size,
            names,
        })
    }

    /// A group with its limits and device rules, and the way into it.
    fn make_group(
        &self,
        path: &str,
        resources: Option<&cri::LinuxContainerResources>,
        devices: Option<&[Rule]>,
    ) -> Result<Entry, Error> {
        self.cgroups.create(path)?;
        if let Some(resources) = resources {
            self.cgroups.limit(path, &limits(resources)?)?;
        }
        let mut entry = self.cgroups.entry(path)?;
        if let Some(rules) = devices {
            entry.procs.extend(self.cgroups.allow_devices(path, &self.cgroup_parent, rules)?);
        }
        Ok(entry)
    }
}

/// The name under which a container keeps an image that is a volume of it.
pub fn pin_of(container: &str, number: usize) -> String {
    format!("{container}.{number}")
}

/// Opens the log to append to, with the directories above it; without a path, /dev/null.
pub fn open_log(path: &str) -> Result<fs::File, Error> {
    let path = PathBuf::from(if path.is_empty() { "/dev/null" } else { path });
    let open = || {
        use std::os::unix::fs::OpenOptionsExt;
        fs::File::options().create(true).append(true).mode(0o640).open(&path)
    };
    let file = match (open(), path.parent()) {
        (Err(error), Some(folder)) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::create_dir_all(folder).map_err(state::failed("create", folder))?;
            open()
        }
        (result, _) => result,
    };
    Ok(file.map_err(state::failed("open", &path))?)
}

/// The container's own layer belongs to the pod's root.
fn make_folders(folder: &Path, users: Option<&PodUsers>) -> Result<(), Error> {
    for part in ["upper", "work", "rootfs"] {
        fs::create_dir_all(folder.join(part)).map_err(state::failed("create", folder))?;
    }
    if let Some(PodUsers { mappings, .. }) = users {
        fs::create_dir_all(folder.join("layers")).map_err(state::failed("create", folder))?;
        let upper = folder.join("upper");
        std::os::unix::fs::chown(&upper, mappings.uid(0), mappings.gid(0))
            .map_err(state::failed("change the owner of", &upper))?;
    }
    Ok(())
}

/// The pod's user namespace, if it has its own, and those of mounts with other ids.
fn namespaces(pod: Option<PodUsers>, others: &[Mappings]) -> Result<Vec<OwnedFd>, Error> {
    let mut namespaces: Vec<OwnedFd> = pod.into_iter().map(|users| users.namespace).collect();
    for mappings in others {
        let made = make_user_namespace(0, &mappings.uid_map(), &mappings.gid_map());
        namespaces.push(made.map_err(step("make a mount's user namespace"))?.user);
    }
    Ok(namespaces)
}
