//! What a container mounts beside its root: directories and files of the node, and images. Each is
//! picked up as a detached mount, gets its attributes while nobody can see it, and is moved in.

use proto::cri::MountPropagation;
use rustix::io::Errno;

use super::super::program::{Adjust, Register, SCRATCH};
use super::super::sys::wire::EXTRA_FD;
use super::AT_FDCWD;
use super::container::Plan;

/// One mount.
#[derive(Clone, Debug, Default)]
pub struct Mount {
    pub source: Source,
    pub target: String,
    pub kind: Kind,
    pub readonly: bool,
    /// Mounts below the source become read-only as well.
    pub recursive_readonly: bool,
    pub propagation: MountPropagation,
    /// Further attributes, of [`attribute`].
    pub attributes: u64,
    /// The user namespace that says who its files belong to: the number of an extra descriptor.
    pub users: Option<usize>,
}

/// Where a mount comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A path of the node, without links.
    Path(String),
    /// Layers of an image, the lowest first; where they are mounted meanwhile; what of them is meant,
    /// all if empty.
    Image { lower: Vec<String>, point: String, inside: String },
}

/// What a mount is put on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Kind {
    #[default]
    Folder,
    File,
    /// It shows when it is mounted.
    Unknown,
}

impl Default for Source {
    fn default() -> Source {
        Source::Path(String::new())
    }
}

const OPEN_TREE_CLONE: u64 = 1;
const AT_EMPTY_PATH: u64 = 0x1000;
const AT_REMOVEDIR: u64 = 0x200;
pub const AT_RECURSIVE: u64 = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: u64 = 0x4;
/// The target may be a link: the root is the container's own by then, so that it leads nowhere else.
const MOVE_MOUNT_T_SYMLINKS: u64 = 0x10;
const RESOLVE_IN_ROOT: u64 = 0x10;
pub const ATTR_RDONLY: u64 = 1;
const ATTR_NOSUID: u64 = 2;
const ATTR_NODEV: u64 = 4;
const ATTR_NOEXEC: u64 = 8;
const ATTR_IDMAP: u64 = 0x10_0000;

/// The attribute of a mount option.
pub fn attribute(option: &str) -> Option<u64> {
    match option {
        "nosuid" => Some(ATTR_NOSUID),
        "nodev" => Some(ATTR_NODEV),
        "noexec" => Some(ATTR_NOEXEC),
        _ => None,
    }
}

impl Plan<'_> {
    /// Makes the directory of layers the current one; with the pod's ids, if it has its own.
    pub fn enter_layers(&mut self) {
        let container = self.container;
        let mut layers = container.layers.display().to_string();
        if container.users.is_some() {
            let tree = self.open_tree(&layers, false);
            self.map_ids(tree, EXTRA_FD as u64, &layers);
            layers = container.mapped_layers.display().to_string();
            self.move_mount(tree, &layers);
        }
        let address = self.program.text(&layers);
        self.program.step(format!("enter {layers}"), libc::SYS_chdir, &[address]);
    }

    /// Mounts the images that are volumes, where only this container's process sees it. The current
    /// directory is that of the layers.
    pub fn images(&mut self) {
        for mount in &self.container.mounts {
            let Source::Image { lower, point, .. } = &mount.source else { continue };
            match &lower[..] {
                [only] => self.mount(only, point, "", libc::MS_BIND, ""),
                several => {
                    let names: Vec<&str> = several.iter().rev().map(String::as_str).collect();
                    let options = format!("lowerdir={}", names.join(":"));
                    let flags = libc::MS_RDONLY | libc::MS_NODEV;
                    self.mount("overlay", point, "overlay", flags, &options);
                }
            }
        }
    }

    /// A detached mount that is as it is to be.
    pub fn pick_up(&mut self, mount: &Mount) -> Register {
        let (tree, name) = match &mount.source {
            Source::Path(path) => (self.open_tree(path, true), path),
            Source::Image { point, inside, .. } => (self.open_within(point, inside), point),
        };
        if let Some(number) = mount.users {
            self.map_ids(tree, (EXTRA_FD as usize + number) as u64, name);
        }
        let mut attributes = if self.container.privileged { 0 } else { ATTR_NODEV };
        attributes |= mount.attributes;
        let propagation = match mount.propagation {
            MountPropagation::PropagationPrivate => libc::MS_PRIVATE,
            MountPropagation::PropagationHostToContainer => libc::MS_SLAVE,
            MountPropagation::PropagationBidirectional => libc::MS_SHARED,
        };
        let readonly = if mount.readonly { ATTR_RDONLY } else { 0 };
        let (everywhere, top) = match mount.recursive_readonly {
            true => (attributes | readonly, 0),
            false => (attributes, readonly),
        };
        self.set_attributes(Some(tree), &mount.target, everywhere, propagation, AT_RECURSIVE);
        if top != 0 {
            self.set_attributes(Some(tree), &mount.target, top, 0, 0);
        }
        tree
    }

    /// Puts a mount where it belongs.
    pub fn bind(&mut self, mount: &Mount, tree: Register) {
        match mount.kind {
            Kind::Folder => self.folder(&mount.target),
            Kind::File => self.touch(&mount.target),
            Kind::Unknown => {
                self.folder(&mount.target);
                let moved = self.program.next();
                self.move_mount(tree, &mount.target);
                // A file cannot be put on a directory.
                self.program.last().tolerate(&[Errno::NOTDIR, Errno::INVAL]);
                let address = self.program.text(&mount.target);
                let args = [AT_FDCWD, address, AT_REMOVEDIR];
                self.program.step(format!("replace {}", mount.target), libc::SYS_unlinkat, &args);
                self.touch(&mount.target);
                self.move_mount(tree, &mount.target);
                self.program.skip_from(moved);
                return;
            }
        }
        self.move_mount(tree, &mount.target);
    }

    pub fn open_tree(&mut self, source: &str, recursive: bool) -> Register {
        let address = self.program.text(source);
        let flags =
            OPEN_TREE_CLONE | libc::O_CLOEXEC as u64 | if recursive { AT_RECURSIVE } else { 0 };
        self.program.saved(
            format!("find {source}"),
            libc::SYS_open_tree,
            &[AT_FDCWD, address, flags],
        )
    }

    /// A path of a mount, none of whose links lead out of it.
    fn open_within(&mut self, point: &str, inside: &str) -> Register {
        if inside.is_empty() {
            return self.open_tree(point, false);
        }
        let flags = (libc::O_PATH | libc::O_CLOEXEC) as u64;
        let (point, path) = (self.program.text(point), self.program.text(inside));
        let how = self.program.words(&[flags, 0, RESOLVE_IN_ROOT]);
        let name = format!("find \"{inside}\" in the image");
        let args = [AT_FDCWD, point, flags | libc::O_DIRECTORY as u64];
        self.program.scratch(name.clone(), libc::SYS_openat, &args);
        let found = self.program.saved(name.clone(), libc::SYS_openat2, &[0, path, how, 24]);
        self.program.last().from(0, SCRATCH);
        self.program.step("close", libc::SYS_close, &[0]).from(0, SCRATCH);
        let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as u64 | AT_EMPTY_PATH;
        let nothing = self.program.text("");
        let tree = self.program.saved(name, libc::SYS_open_tree, &[0, nothing, flags]);
        self.program.last().from(0, found);
        tree
    }

    /// Shows the files of a detached mount with the ids of a user namespace.
    fn map_ids(&mut self, tree: Register, namespace: u64, path: &str) {
        let attributes = self.program.words(&[ATTR_IDMAP, 0, 0, namespace]);
        let nothing = self.program.text("");
        let name =
            format!("map the ids of {path}, whose file system may not have id-mapped mounts");
        let args = [0, nothing, AT_EMPTY_PATH, attributes, 32];
        self.program.step(name, libc::SYS_mount_setattr, &args).from(0, tree);
    }

    /// Of a detached tree, or of what is mounted at `path`.
    pub fn set_attributes(
        &mut self,
        tree: Option<Register>,
        path: &str,
        set: u64,
        propagation: u64,
        flags: u64,
    ) {
        let attributes = self.program.words(&[set, 0, propagation, 0]);
        let name = format!("set the attributes of {path}");
        let at = self.program.text(if tree.is_some() { "" } else { path });
        let flags = flags | if tree.is_some() { AT_EMPTY_PATH } else { 0 };
        let step = self.program.step(
            name,
            libc::SYS_mount_setattr,
            &[AT_FDCWD, at, flags, attributes, 32],
        );
        if let Some(tree) = tree {
            step.from(0, tree);
        }
    }

    pub fn move_mount(&mut self, tree: Register, target: &str) {
        let (nothing, to) = (self.program.text(""), self.program.text(target));
        let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS;
        let args = [0, nothing, AT_FDCWD, to, flags];
        self.program.step(format!("mount {target}"), libc::SYS_move_mount, &args).from(0, tree);
    }

    pub fn mount(&mut self, source: &str, target: &str, kind: &str, flags: u64, options: &str) {
        let mut address = |text: &str| if text.is_empty() { 0 } else { self.program.text(text) };
        let args = [address(source), address(target), address(kind), flags, address(options)];
        let name = format!(
            "mount {}{target}",
            if kind.is_empty() { String::new() } else { format!("{kind} on ") }
        );
        self.program.step(name, libc::SYS_mount, &args);
    }

    /// Makes a directory with its parents. What is new belongs to the container's root.
    pub fn folder(&mut self, path: &str) {
        let mut made = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            made = format!("{made}/{part}");
            if !self.made.insert(made.clone()) {
                continue;
            }
            let address = self.program.text(&made);
            self.program
                .step(format!("create {made}"), libc::SYS_mkdirat, &[AT_FDCWD, address, 0o755])
                .tolerate(&[Errno::EXIST]);
            if let Some(users) = self.container.users {
                self.program.last().skip(1);
                self.program.jump(1);
                let (uid, gid) = users.root;
                let nofollow = libc::AT_SYMLINK_NOFOLLOW as u64;
                let args = [AT_FDCWD, address, u64::from(uid), u64::from(gid), nofollow];
                self.program.step(format!("own {made}"), libc::SYS_fchownat, &args);
            }
        }
    }

    /// Makes an empty file with its parents, to mount something on.
    pub fn touch(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
        let address = self.program.text(path);
        let name = format!("create {path}");
        let flags = (libc::O_CREAT | libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
        let args = [AT_FDCWD, address, flags, 0o644];
        self.program.scratch(name.clone(), libc::SYS_openat, &args);
        // A link that leads nowhere, as images have them for resolv.conf, gives way.
        self.program.last().tolerate(&[Errno::NOENT]).skip(2);
        self.program.step(name.clone(), libc::SYS_unlinkat, &[AT_FDCWD, address, 0]);
        self.program.scratch(name, libc::SYS_openat, &args);
        self.program.step("close", libc::SYS_close, &[0]).from(0, SCRATCH);
    }
}
