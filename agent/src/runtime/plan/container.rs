//! The first half of a container's program: its root file system and everything mounted in it.
//!
//! The new root is entered before anything is mounted below it. From then on the image's own links,
//! whatever they say, lead nowhere but into the container. What comes from the node is picked up as
//! detached mounts before, and moved in after.

use std::collections::BTreeSet;
use std::path::PathBuf;

use proto::cri::MountPropagation;
use rustix::io::Errno;

use super::super::program::{Adjust, Program, Register, SCRATCH};
use super::process::{Process, open_terminal, run};
use super::{AT_FDCWD, adjust_oom_score, join_cgroups};

/// A container before it is compiled.
#[derive(Clone, Debug, Default)]
pub struct Container {
    pub process: Process,
    /// `cgroup.procs` files to enter.
    pub cgroups: Vec<PathBuf>,
    /// The directory that the names of the lower layers are relative to, the lowest first.
    pub layers: PathBuf,
    pub lower: Vec<String>,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// Where the root file system is mounted, in the container's mount namespace alone.
    pub root: PathBuf,
    pub readonly_root: bool,
    pub privileged: bool,
    pub mounts: Vec<Mount>,
    /// Device nodes of the node to bind: where from, where to.
    pub devices: Vec<(String, String)>,
    /// Device nodes to make: where, file mode, device number.
    pub nodes: Vec<(String, u32, u64)>,
    /// Controllers to show below /sys/fs/cgroup; none on v2.
    pub cgroup_controllers: Vec<String>,
    pub cgroup_v2: bool,
    pub masked: Vec<String>,
    pub readonly: Vec<String>,
}

/// One bind mount.
#[derive(Clone, Debug, Default)]
pub struct Mount {
    pub source: String,
    pub target: String,
    pub folder: bool,
    pub readonly: bool,
    /// Mounts below the source become read-only as well.
    pub recursive_readonly: bool,
    pub propagation: MountPropagation,
    pub no_exec: bool,
}

const PLAIN_DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

const OPEN_TREE_CLONE: u64 = 1;
const AT_EMPTY_PATH: u64 = 0x1000;
const AT_RECURSIVE: u64 = 0x8000;
const MOVE_MOUNT_F_EMPTY_PATH: u64 = 4;
const ATTR_RDONLY: u64 = 1;
const ATTR_NODEV: u64 = 4;
const ATTR_NOEXEC: u64 = 8;

/// The whole program of a container. The process must be born in new mount namespaces.
pub fn compile(container: &Container) -> Program {
    let mut plan = Plan { program: Program::default(), container, made: BTreeSet::new() };
    plan.compile();
    plan.program
}

struct Plan<'a> {
    program: Program,
    container: &'a Container,
    /// Directories made already.
    made: BTreeSet<String>,
}

impl Plan<'_> {
    fn compile(&mut self) {
        let container = self.container;
        join_cgroups(&mut self.program, &container.cgroups);
        adjust_oom_score(&mut self.program, container.process.oom_score_adj);
        self.program.step("start a session", libc::SYS_setsid, &[]);
        let namespace = libc::CLONE_NEWCGROUP as u64;
        self.program.step("make a cgroup namespace", libc::SYS_unshare, &[namespace]);
        // What the node is to see of the container's mounts must be picked up as a peer of its own.
        let peers: Vec<Option<Register>> = container
            .mounts
            .iter()
            .map(|mount| {
                (mount.propagation == MountPropagation::PropagationBidirectional)
                    .then(|| self.pick_up(mount))
            })
            .collect();
        self.mount("", "/", "", libc::MS_REC | libc::MS_SLAVE, "");
        self.root();
        let picked: Vec<Register> = container
            .mounts
            .iter()
            .zip(peers)
            .map(|(mount, peer)| peer.unwrap_or_else(|| self.pick_up(mount)))
            .collect();
        let mut devices: Vec<(String, String)> = PLAIN_DEVICES
            .iter()
            .map(|name| (format!("/dev/{name}"), format!("/dev/{name}")))
            .collect();
        devices.extend(container.devices.iter().cloned());
        let nodes: Vec<Register> =
            devices.iter().map(|(source, _)| self.open_tree(source, false)).collect();
        self.pivot();
        self.kernel_file_systems();
        for ((_, target), node) in devices.iter().zip(nodes) {
            self.touch(target);
            self.move_mount(node, target);
        }
        for (path, mode, device) in &container.nodes {
            self.folder(path.rsplit_once('/').map_or("/", |(folder, _)| folder));
            let address = self.program.text(path);
            self.program
                .step(
                    format!("make {path}"),
                    libc::SYS_mknodat,
                    &[AT_FDCWD, address, u64::from(*mode), *device],
                )
                .tolerate(&[Errno::EXIST]);
        }
        self.links();
        let mut order: Vec<usize> = (0..picked.len()).collect();
        order.sort_by_key(|index| container.mounts[*index].target.matches('/').count());
        for index in order {
            self.bind(&container.mounts[index], picked[index]);
        }
        if container.process.tty {
            open_terminal(&mut self.program, container.process.user.uid);
            self.touch("/dev/console");
            self.mount("/dev/pts/0", "/dev/console", "", libc::MS_BIND, "");
        }
        self.hide();
        self.folder(&container.process.folder);
        if container.readonly_root {
            self.set_attributes(None, "/", ATTR_RDONLY, 0, 0);
        }
        run(&mut self.program, &container.process);
    }

    /// Mounts the image with the container's own layer over it.
    fn root(&mut self) {
        let container = self.container;
        let layers = container.layers.display().to_string();
        let address = self.program.text(&layers);
        self.program.step(format!("enter {layers}"), libc::SYS_chdir, &[address]);
        let lower: Vec<&str> = container.lower.iter().rev().map(String::as_str).collect();
        let escape = |path: &PathBuf| {
            path.display().to_string().replace('\\', "\\\\").replace(',', "\\,").replace(':', "\\:")
        };
        let options = format!(
            "lowerdir={},upperdir={},workdir={},volatile",
            lower.join(":"),
            escape(&container.upper),
            escape(&container.work)
        );
        // Device nodes that a container makes with CAP_MKNOD open nothing.
        let flags = if container.privileged { 0 } else { libc::MS_NODEV };
        self.mount("overlay", &container.root.display().to_string(), "overlay", flags, &options);
    }

    fn pivot(&mut self) {
        let root = self.container.root.display().to_string();
        let (address, here, top) =
            (self.program.text(&root), self.program.text("."), self.program.text("/"));
        self.program.step("enter the root file system", libc::SYS_chdir, &[address]);
        self.program.step("pivot_root", libc::SYS_pivot_root, &[here, here]);
        self.program.step(
            "leave the node's file system",
            libc::SYS_umount2,
            &[here, libc::MNT_DETACH as u64],
        );
        self.program.step("chdir to \"/\"", libc::SYS_chdir, &[top]);
    }

    /// proc, dev, sys and what belongs into them, except where the request mounts something itself.
    fn kernel_file_systems(&mut self) {
        let (nosuid, nodev, noexec) = (libc::MS_NOSUID, libc::MS_NODEV, libc::MS_NOEXEC);
        let readonly = if self.container.privileged { 0 } else { libc::MS_RDONLY };
        let plain = nosuid | nodev | noexec;
        let device_flags = if self.container.privileged { nosuid } else { nosuid | nodev };
        let table = [
            ("proc", "/proc", "proc", plain, ""),
            ("tmpfs", "/dev", "tmpfs", device_flags | libc::MS_STRICTATIME, "mode=755,size=65536k"),
            (
                "devpts",
                "/dev/pts",
                "devpts",
                nosuid | noexec,
                "newinstance,ptmxmode=0666,mode=0620,gid=5",
            ),
            ("mqueue", "/dev/mqueue", "mqueue", plain, ""),
            ("sysfs", "/sys", "sysfs", plain | readonly, ""),
        ];
        for (source, target, kind, flags, options) in table {
            if self.overridden(target) {
                continue;
            }
            self.folder(target);
            self.mount(source, target, kind, flags, options);
        }
        if self.overridden("/sys") || self.overridden("/sys/fs/cgroup") {
            return;
        }
        if self.container.cgroup_v2 {
            self.mount("cgroup", "/sys/fs/cgroup", "cgroup2", plain | readonly, "");
            return;
        }
        self.mount("tmpfs", "/sys/fs/cgroup", "tmpfs", plain, "mode=755,size=64k");
        for controller in &self.container.cgroup_controllers {
            let target = format!("/sys/fs/cgroup/{controller}");
            self.folder(&target);
            self.mount("cgroup", &target, "cgroup", plain | readonly, controller);
        }
        if readonly != 0 {
            self.set_attributes(None, "/sys/fs/cgroup", ATTR_RDONLY, 0, 0);
        }
    }

    fn overridden(&self, target: &str) -> bool {
        self.container.mounts.iter().any(|mount| mount.target.trim_end_matches('/') == target)
    }

    fn links(&mut self) {
        for (target, path) in LINKS {
            let (target, address) = (self.program.text(target), self.program.text(path));
            self.program
                .step(format!("link {path}"), libc::SYS_symlinkat, &[target, AT_FDCWD, address])
                .tolerate(&[Errno::EXIST]);
        }
    }

    fn pick_up(&mut self, mount: &Mount) -> Register {
        self.open_tree(&mount.source, true)
    }

    fn open_tree(&mut self, source: &str, recursive: bool) -> Register {
        let address = self.program.text(source);
        let flags =
            OPEN_TREE_CLONE | libc::O_CLOEXEC as u64 | if recursive { AT_RECURSIVE } else { 0 };
        self.program.saved(
            format!("find {source}"),
            libc::SYS_open_tree,
            &[AT_FDCWD, address, flags],
        )
    }

    fn bind(&mut self, mount: &Mount, tree: Register) {
        if mount.folder {
            self.folder(&mount.target);
        } else {
            self.touch(&mount.target);
        }
        let mut attributes = if self.container.privileged { 0 } else { ATTR_NODEV };
        attributes |= if mount.no_exec { ATTR_NOEXEC } else { 0 };
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
        self.move_mount(tree, &mount.target);
    }

    /// Of a detached tree, or of what is mounted at `path`.
    fn set_attributes(
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

    fn move_mount(&mut self, tree: Register, target: &str) {
        let (nothing, to) = (self.program.text(""), self.program.text(target));
        let args = [0, nothing, AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH];
        self.program.step(format!("mount {target}"), libc::SYS_move_mount, &args).from(0, tree);
    }

    fn mount(&mut self, source: &str, target: &str, kind: &str, flags: u64, options: &str) {
        let mut address = |text: &str| if text.is_empty() { 0 } else { self.program.text(text) };
        let args = [address(source), address(target), address(kind), flags, address(options)];
        let name = format!(
            "mount {}{target}",
            if kind.is_empty() { String::new() } else { format!("{kind} on ") }
        );
        self.program.step(name, libc::SYS_mount, &args);
    }

    /// Makes a directory with its parents.
    fn folder(&mut self, path: &str) {
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
        }
    }

    /// Makes an empty file with its parents, to mount something on.
    fn touch(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.folder(parent);
        }
        let address = self.program.text(path);
        let flags = (libc::O_CREAT | libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
        self.program.scratch(
            format!("create {path}"),
            libc::SYS_openat,
            &[AT_FDCWD, address, flags, 0o644],
        );
        self.program.step("close", libc::SYS_close, &[0]).from(0, SCRATCH);
    }

    /// Masked paths show nothing; read-only ones are remounted so. What is not there needs neither.
    fn hide(&mut self) {
        for path in &self.container.masked {
            let (address, null) = (self.program.text(path), self.program.text("/dev/null"));
            let (tmpfs, options) = (self.program.text("tmpfs"), self.program.text("size=0k"));
            self.program
                .step(
                    format!("mask {path}"),
                    libc::SYS_mount,
                    &[null, address, 0, libc::MS_BIND, 0],
                )
                .tolerate(&[Errno::NOENT, Errno::NOTDIR])
                .skip(1);
            self.program
                .step(
                    format!("mask {path}"),
                    libc::SYS_mount,
                    &[tmpfs, address, tmpfs, libc::MS_RDONLY, options],
                )
                .tolerate(&[Errno::NOENT, Errno::NOTDIR]);
        }
        for path in &self.container.readonly {
            let address = self.program.text(path);
            // What is not there cannot be bound, and is no mount to change then either.
            let missing = [Errno::NOENT, Errno::NOTDIR, Errno::INVAL];
            let bind = libc::MS_BIND | libc::MS_REC;
            self.program
                .step(format!("protect {path}"), libc::SYS_mount, &[address, address, 0, bind, 0])
                .tolerate(&missing);
            let attributes = self.program.words(&[ATTR_RDONLY, 0, 0, 0]);
            let args = [AT_FDCWD, address, AT_RECURSIVE, attributes, 32];
            self.program
                .step(format!("protect {path}"), libc::SYS_mount_setattr, &args)
                .tolerate(&missing);
        }
    }
}
