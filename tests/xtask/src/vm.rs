//! `cargo xtask vm`: the runtime's tests with real containers on a machine that has cgroup v2 and
//! nothing older. Debian's kernel runs in QEMU with the tests, the runtime and busybox as its whole
//! disk. The kernel is only unpacked here, never installed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::image::target_directory;
use crate::machine;
use crate::step::{cargo, command, output, run};

/// Its dependency is the kernel of the day.
const KERNEL: &str = "linux-image-cloud-amd64";

/// What the runtime asks of the kernel and is not built in, in the order of their dependencies.
const MODULES: &[&str] = &["overlay", "llc", "stp", "bridge", "veth"];

/// The last word of the machine, before the tests' exit code.
const ENDED: &str = "the tests ended with code ";

/// The first program: a root of plain memory cannot be pivoted away from, a mounted one can.
const FIRST: &str = "#!/bin/busybox sh
/bin/busybox mkdir /new
/bin/busybox mount -t tmpfs -o size=75% root /new
/bin/busybox cp -a /bin /etc /modules /disk/* /new/
exec /bin/busybox switch_root /new /bin/second
";

/// Then the mounts that a distribution makes, and the tests.
const SECOND: &str = "#!/bin/busybox sh
export PATH=/bin HOME=/root RUST_BACKTRACE=0
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root /var/tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
for module in /modules/*; do insmod $module; done
ip link set lo up
echo controllers: $(cat /sys/fs/cgroup/cgroup.controllers)
TESTS 2>&1
echo ENDED$?
poweroff -f
";

/// Arguments go to the test binary: names of tests, `--skip`, `--test-threads`.
pub fn vm(arguments: &[String]) -> Result<(), String> {
    machine::install(&[machine::TO_BUILD, machine::TO_VIRTUALIZE])?;
    let (kernel, modules) = kernel()?;
    let (runtime, tests) = programs()?;
    let folder = target_directory().join("vm/disk");
    let disk = lay_out(&folder, &modules, &[&runtime, &tests], arguments)?;
    boot(&kernel, &disk)
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

/// The runtime and the tests of it, as `cargo test` builds them.
fn programs() -> Result<(PathBuf, PathBuf), String> {
    let build = ["test", "--workspace", "--test", "runtime", "--no-run"];
    let mut build = cargo(&build);
    build.arg("--message-format=json-render-diagnostics");
    let told = output("build the runtime and its tests", build)?;
    let built = |part: &str| {
        let paths = told.lines().filter_map(|line| line.split("\"executable\":\"").nth(1));
        let mut paths = paths.filter_map(|rest| rest.split('"').next());
        paths.find(|path| path.contains(part)).map(PathBuf::from)
    };
    let tests = built("/deps/runtime-").ok_or("cargo built no tests of the runtime")?;
    let runtime = tests.parent().and_then(Path::parent).map(|folder| folder.join("runtime"));
    Ok((runtime.ok_or("the tests are in no profile's folder")?, tests))
}

/// The disk as an archive that the kernel unpacks. Programs lie where they lie here: tests know the
/// runtime by its path.
fn lay_out(
    folder: &Path,
    modules: &Path,
    programs: &[&PathBuf],
    arguments: &[String],
) -> Result<PathBuf, String> {
    let failed = |error: std::io::Error| format!("lay out {}: {error}", folder.display());
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(failed)?;
    }
    for name in ["bin", "etc", "modules", "disk"] {
        fs::create_dir_all(folder.join(name)).map_err(failed)?;
    }
    for name in ["passwd", "group", "hosts", "resolv.conf"] {
        fs::write(folder.join("etc").join(name), "").map_err(failed)?;
    }
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
            fs::copy(found, folder.join(format!("modules/{number}-{file}"))).map_err(failed)?;
        }
    }
    for program in programs {
        let path = program.to_string_lossy();
        for library in output("ask for libraries", command("ldd", &[&path]))?.split_whitespace() {
            if library.starts_with('/') {
                put(Path::new(library), folder, command("cp", &["--dereference"]))?;
            }
        }
        put(program, folder, command("objcopy", &["--strip-all"]))?;
    }
    let words = arguments.iter().map(|word| format!(" '{word}'")).collect::<String>();
    let tests = format!("{}{words}", programs[1].display());
    let second = SECOND.replace("TESTS", &tests).replace("ENDED", ENDED);
    for (name, text) in [("init", FIRST), ("bin/second", second.as_str())] {
        fs::write(folder.join(name), text).map_err(failed)?;
    }
    run("mark the first programs", command("chmod", &["-R", "0755", &folder.to_string_lossy()]))?;
    let pack = "find . | /bin/busybox cpio -o -H newc -R 0:0 >../disk.cpio";
    let mut pack = command("sh", &["-c", pack]);
    pack.current_dir(folder);
    run("pack the disk", pack)?;
    Ok(folder.with_extension("cpio"))
}

/// Below `disk`, under its own path: by a program that takes a source and a target.
fn put(file: &Path, folder: &Path, mut program: Command) -> Result<(), String> {
    let target = folder.join("disk").join(file.strip_prefix("/").unwrap_or(file));
    let parent = target.parent().unwrap_or(folder);
    fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    program.arg(file).arg(&target);
    output("put a program onto the disk", program).map(drop)
}

fn boot(kernel: &Path, disk: &Path) -> Result<(), String> {
    // A /dev/kvm that exists may still run no guest of ours.
    let accelerator = std::env::var("CORACLE_VM_ACCEL").unwrap_or_else(|_| "tcg".into());
    let mut machine = command("qemu-system-x86_64", &["-nographic", "-no-reboot", "-nic", "none"]);
    machine.args(["-m", "2G", "-smp", "2", "-cpu", "max", "-accel", &accelerator]);
    machine.args(["-append", "console=ttyS0 quiet panic=-1"]);
    machine.arg("-kernel").arg(kernel).arg("-initrd").arg(disk);
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
