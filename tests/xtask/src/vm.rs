//! `cargo xtask vm`: the node's tests on a machine that has cgroup v2 and nothing older. Debian's
//! kernel runs in QEMU with the tests, the runtime and busybox on a disk of its own. The kernel is
//! only unpacked here, never installed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::image::target_directory;
use crate::machine;
use crate::step::{cargo, command, find as program, output, run};

/// Its dependency is the kernel of the day.
const KERNEL: &str = "linux-image-cloud-amd64";

/// What the disk and the runtime ask of the kernel and is not built in, in the order of their
/// dependencies.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "overlay",
    "llc",
    "stp",
    "bridge",
    "veth",
    "sch_tbf",
];

/// The agent's tests that need a kernel; each is a program.
const TESTS: &[&str] = &["runtime", "volumes", "csi", "endpoint"];

/// What the tests make must fit on the disk; the file is as large as what was written.
const DISK: &str = "8G";

/// The last word of the machine, before the tests' exit code.
const ENDED: &str = "the tests ended with code ";

/// The first program. The root is a real file system: memory shows its files under other ids only
/// from Linux 6.3 on.
const FIRST: &str = "#!/bin/busybox sh
export PATH=/bin
/bin/busybox mkdir -p /new /dev
/bin/busybox --install -s /bin
for module in /modules/*; do insmod $module; done
mount -t devtmpfs dev /dev
mount -t ext4 /dev/vda /new
exec switch_root /new /bin/second
";

/// Then the mounts that a distribution makes, and the tests.
const SECOND: &str = "#!/bin/busybox sh
export PATH=/bin HOME=/root RUST_BACKTRACE=0
/bin/busybox chown -hR 0:0 /
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /var/tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t securityfs security /sys/kernel/security
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
echo controllers: $(cat /sys/fs/cgroup/cgroup.controllers)
code=0
TESTS
echo ENDED$code
poweroff -f
";

/// Arguments go to the test programs: names of tests, `--skip`, `--test-threads`.
pub fn vm(arguments: &[String]) -> Result<(), String> {
    machine::install(&[machine::TO_BUILD, machine::TO_VIRTUALIZE])?;
    let (kernel, modules) = kernel()?;
    let (runtime, tests) = programs()?;
    let folder = target_directory().join("vm");
    let first = first(&folder.join("first"), &modules)?;
    let disk = disk(&folder.join("disk"), &runtime, &tests, arguments)?;
    boot(&kernel, &first, &disk)
}

/// The kernel's file and the folder of its modules, from Debian's package.
fn kernel() -> Result<(PathBuf, PathBuf), String> {
    let folder = target_directory().join("vm/kernel");
    if find(&folder.join("boot"), "vmlinuz-").is_none() {
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let depends = command("apt-cache", &["depends", "--important", KERNEL]);
        let depends = output("ask for the kernel's package", depends)?;
        let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        let package = package.ok_or(format!("{KERNEL} is unknown here: run apt-get update"))?;
        let mut download = command("apt-get", &["download", "--quiet", package]);
        download.current_dir(&folder);
        run("download a kernel", download)?;
        let archive = find(&folder, "linux-image-").ok_or("apt-get downloaded no kernel")?;
        let (archive, into) = (archive.to_string_lossy(), folder.to_string_lossy());
        run("unpack the kernel", command("dpkg-deb", &["--extract", &archive, &into]))?;
    }
    let kernel = find(&folder.join("boot"), "vmlinuz-").ok_or("the package has no kernel")?;
    let modules = find(&folder.join("lib/modules"), "").ok_or("the package has no modules")?;
    Ok((kernel, modules))
}

/// The runtime and the tests, as `cargo test` builds them.
fn programs() -> Result<(PathBuf, Vec<PathBuf>), String> {
    let mut build = cargo(&["test", "--workspace", "--no-run"]);
    build.args(TESTS.iter().flat_map(|test| ["--test", test]));
    build.arg("--message-format=json-render-diagnostics");
    let told = output("build the runtime and the tests", build)?;
    // Other crates may have tests of the same name.
    let built = told.lines().filter(|line| line.contains("/agent#"));
    let built = built.filter_map(|line| line.split("\"executable\":\"").nth(1));
    let built: Vec<_> = built.filter_map(|rest| rest.split('"').next()).collect();
    let test = |name: &&str| {
        let part = format!("/deps/{name}-");
        let path = built.iter().find(|path| path.contains(&part)).map(PathBuf::from);
        path.ok_or(format!("cargo built no tests of the name {name}"))
    };
    let tests: Vec<_> = TESTS.iter().map(test).collect::<Result<_, _>>()?;
    let profile = tests[0].parent().and_then(Path::parent);
    let profile = profile.ok_or("the tests are in no profile's folder")?;
    Ok((profile.join("runtime"), tests))
}

/// What the kernel unpacks into memory and starts from.
fn first(folder: &Path, modules: &Path) -> Result<PathBuf, String> {
    empty(folder, &["bin", "modules"])?;
    let failed = |error: std::io::Error| format!("lay out {}: {error}", folder.display());
    fs::copy("/bin/busybox", folder.join("bin/busybox")).map_err(failed)?;
    for (number, name) in MODULES.iter().enumerate() {
        let file = format!("{name}.ko");
        let found = output("look for a module", {
            let mut find = command("find", &[]);
            find.arg(modules).args(["-name", &file]);
            find
        })?;
        // A kernel may have it built in.
        if !found.is_empty() {
            fs::copy(found, folder.join(format!("modules/{number:02}-{file}"))).map_err(failed)?;
        }
    }
    script(&folder.join("init"), FIRST)?;
    let pack = "find . | /bin/busybox cpio -o -H newc -R 0:0 >../first.cpio";
    let mut pack = command("sh", &["-c", pack]);
    pack.current_dir(folder);
    run("pack what is started first", pack)?;
    Ok(folder.with_extension("cpio"))
}

/// The machine's disk. Programs lie where they lie here: tests know the runtime by its path.
fn disk(
    folder: &Path,
    runtime: &Path,
    tests: &[PathBuf],
    arguments: &[String],
) -> Result<PathBuf, String> {
    empty(folder, &["bin", "etc"])?;
    let failed = |error: std::io::Error| format!("lay out {}: {error}", folder.display());
    for name in ["passwd", "group", "hosts", "resolv.conf"] {
        fs::write(folder.join("etc").join(name), "").map_err(failed)?;
    }
    fs::copy("/bin/busybox", folder.join("bin/busybox")).map_err(failed)?;
    let parser = program("apparmor_parser").ok_or("there is no apparmor_parser")?;
    for program in tests.iter().map(PathBuf::as_path).chain([runtime, &parser]) {
        let path = program.to_string_lossy();
        for library in output("ask for libraries", command("ldd", &[&path]))?.split_whitespace() {
            if library.starts_with('/') {
                put(Path::new(library), folder, command("cp", &["--dereference"]))?;
            }
        }
        put(program, folder, command("objcopy", &["--strip-all"]))?;
    }
    let words = arguments.iter().map(|word| format!(" '{word}'")).collect::<String>();
    let line = |test: &PathBuf| format!("{}{words} 2>&1 || code=$?\n", test.display());
    let lines: String = tests.iter().map(line).collect();
    let second = SECOND.replace("TESTS\n", &lines).replace("ENDED", ENDED);
    script(&folder.join("bin/second"), &second)?;
    let image = folder.with_extension("ext4");
    if image.exists() {
        fs::remove_file(&image).map_err(failed)?;
    }
    let make = program("mke2fs").ok_or("there is no mke2fs")?;
    let mut make = command(&make.to_string_lossy(), &["-q", "-t", "ext4", "-d"]);
    make.arg(folder).arg(&image).arg(DISK);
    run("make the disk", make)?;
    Ok(image)
}

/// An empty folder with these in it.
fn empty(folder: &Path, names: &[&str]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("lay out {}: {error}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(failed)?;
    }
    names.iter().try_for_each(|name| fs::create_dir_all(folder.join(name)).map_err(failed))
}

/// A text that can be run.
fn script(path: &Path, text: &str) -> Result<(), String> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    let written = fs::write(path, text).and_then(|()| fs::set_permissions(path, mode));
    written.map_err(|error| format!("{}: {error}", path.display()))
}

/// Below `folder`, under its own path: by a program that takes a source and a target.
fn put(file: &Path, folder: &Path, mut program: Command) -> Result<(), String> {
    let target = folder.join(file.strip_prefix("/").unwrap_or(file));
    let parent = target.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    program.arg(file).arg(&target);
    output("put a program onto the disk", program).map(drop)
}

fn boot(kernel: &Path, first: &Path, disk: &Path) -> Result<(), String> {
    // A /dev/kvm that exists may still run no guest of ours.
    let accelerator = std::env::var("CORACLE_VM_ACCEL").unwrap_or_else(|_| "tcg".into());
    let mut machine = command("qemu-system-x86_64", &["-nographic", "-no-reboot", "-nic", "none"]);
    machine.args(["-m", "2G", "-smp", "2", "-cpu", "max", "-accel", &accelerator]);
    machine.args(["-append", "console=ttyS0 quiet panic=-1"]);
    machine.arg("-kernel").arg(kernel).arg("-initrd").arg(first);
    // What is lost when the machine is killed is only this run's.
    let drive = format!("file={},format=raw,if=virtio,cache=unsafe", disk.display());
    machine.args(["-drive", &drive]);
    eprintln!("== boot, and run the tests");
    let started = machine.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut machine = started.map_err(|error| format!("cannot run qemu: {error}"))?;
    let mut code = None;
    let console = machine.stdout.take().map(BufReader::new);
    for line in console.into_iter().flat_map(|console| console.split(b'\n')).map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        println!("{line}");
        code = line.strip_prefix(ENDED).map(str::to_owned).or(code);
    }
    machine.wait().map_err(|error| format!("wait for qemu: {error}"))?;
    match code.as_deref() {
        Some("0") => Ok(()),
        Some(code) => Err(format!("in the virtual machine {ENDED}{code}")),
        None => Err("the virtual machine ended before its tests".into()),
    }
}

/// The first entry of the folder whose name begins so.
fn find(folder: &Path, prefix: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let mut names: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    names.sort();
    names.into_iter().find(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    })
}
