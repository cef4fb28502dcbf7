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
use super::super::sys::wire::EXTRA_FD;
use super::mounts::{AT_RECURSIVE, ATTR_RDONLY, Mount};
use super::process::{Process, open_terminal, run};
use super::users::{Users, enter};
use super::{AT_FDCWD, adjust_oom_score, join_cgroups};

/// A container before it is compiled.
#[derive(Clone, Debug, Default)]
pub struct Container {
    pub process: Process,
    /// `cgroup.procs` files to enter.
    pub cgroups: Vec<PathBuf>,
    /// The directory that the names of layers are relative to.
    pub layers: PathBuf,
    /// Where the layers are mounted with the pod's ids, if it has its own.
    pub mapped_layers: PathBuf,
    /// The image's layers, the lowest first.
    pub lower: Vec<String>,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// Where the root file system is mounted, in the container's mount namespace alone.
    pub root: PathBuf,
    pub readonly_root: bool,
    pub privileged: bool,
    /// The pod's user namespace, the first extra descriptor.
    pub users: Option<Users>,
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

const PLAIN_DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// The whole program of a container. The process must be born in new mount namespaces.
pub fn compile(container: &Container) -> Program {
    let mut plan = Plan { program: Program::default(), container, made: BTreeSet::new() };
    plan.compile();
    plan.program
}

pub struct Plan<'a> {
    pub program: Program,
    pub container: &'a Container,
    /// Directories made already.
    pub made: BTreeSet<String>,
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
        self.images();
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
        let user = container.users.map_or(container.process.user.uid, |users| users.user);
        if container.process.tty {
            open_terminal(&mut self.program, user);
            self.touch("/dev/console");
            self.mount("/dev/pts/0", "/dev/console", "", libc::MS_BIND, "");
        }
        self.hide();
        self.folder(&container.process.folder);
        if container.readonly_root {
            self.set_attributes(None, "/", ATTR_RDONLY, 0, 0);
        }
        if let Some(users) = &container.users {
            enter(&mut self.program, users, EXTRA_FD, &container.process.pipes);
            // A copy of all mounts that belongs to the user namespace. What was mounted until here is
            // locked in it: nothing read-only becomes writable, nothing masked is uncovered.
            let namespace = libc::CLONE_NEWNS as u64;
            self.program.step("make a mount namespace", libc::SYS_unshare, &[namespace]);
        }
        run(&mut self.program, &container.process);
    }

    /// Mounts the image with the container's own layer over it.
    fn root(&mut self) {
        let container = self.container;
        self.enter_layers();
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
        let users = self.container.users;
        let dev = match users {
            Some(Users { root: (uid, gid), .. }) => {
                format!("mode=755,size=65536k,uid={uid},gid={gid}")
            }
            None => "mode=755,size=65536k".to_owned(),
        };
        let terminals = match users.map(|users| users.terminals) {
            None => ",gid=5".to_owned(),
            Some(group) => group.map_or(String::new(), |group| format!(",gid={group}")),
        };
        let pts = format!("newinstance,ptmxmode=0666,mode=0620{terminals}");
        let table = [
            ("proc", "/proc", "proc", plain, ""),
            ("tmpfs", "/dev", "tmpfs", device_flags | libc::MS_STRICTATIME, dev.as_str()),
            ("devpts", "/dev/pts", "devpts", nosuid | noexec, pts.as_str()),
            ("mqueue", "/dev/mqueue", "mqueue", plain, ""),
            ("sysfs", "/sys", "sysfs", plain | readonly, ""),
        ];
        for (source, target, kind, flags, options) in table {
            if self.overridden(target) {
                continue;
            }
            self.folder(target);
            if matches!(target, "/proc" | "/dev" | "/sys") {
                self.check_folder(target);
            }
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

    /// An image must not decide where these are: what is masked later would be looked for elsewhere.
    fn check_folder(&mut self, path: &str) {
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let address = self.program.text(path);
        self.program.scratch(
            format!("use the image: its {path} is no directory"),
            libc::SYS_openat,
            &[AT_FDCWD, address, flags as u64],
        );
        self.program.step("close", libc::SYS_close, &[0]).from(0, SCRATCH);
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
