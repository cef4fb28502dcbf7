//! What the machine must have, and installing what it lacks with Debian's packages.

use crate::step::{command, find, is_root, run};

/// A file or program that must be there, and the package that brings it.
pub struct Need {
    program: &'static str,
    package: &'static str,
}

const fn need(program: &'static str, package: &'static str) -> Need {
    Need { program, package }
}

/// To build: a C compiler for the TLS library, protoc and its well-known types for etcd's client.
pub const TO_BUILD: &[Need] = &[
    need("cc", "gcc"),
    need("ld", "binutils"),
    need("protoc", "protobuf-compiler"),
    need("/usr/include/google/protobuf/descriptor.proto", "libprotobuf-dev"),
    need("/usr/include/stdlib.h", "libc6-dev"),
];

/// libFuzzer is C++.
pub const TO_FUZZ: &[Need] = &[need("c++", "g++")];

/// To run a cluster on this machine.
pub const TO_RUN: &[Need] =
    &[need("nft", "nftables"), need("ip", "iproute2"), need("conntrack", "conntrack")];

/// What only the tests use: references and peers.
pub const TO_TEST: &[Need] = &[
    need("etcd", "etcd-server"),
    need("crun", "crun"),
    need("docker-registry", "docker-registry"),
    need("curl", "curl"),
    need("openssl", "openssl"),
    need("/bin/busybox", "busybox-static"),
    need("containerd", "containerd"),
    need("runc", "runc"),
    need("/usr/lib/cni/bridge", "containernetworking-plugins"),
];

/// To boot a machine of another kind.
pub const TO_VIRTUALIZE: &[Need] = &[
    need("qemu-system-x86_64", "qemu-system-x86"),
    need("dpkg-deb", "dpkg"),
    need("mke2fs", "e2fsprogs"),
    need("apparmor_parser", "apparmor"),
    need("/bin/busybox", "busybox-static"),
];

/// Installs the packages of what is missing, as root or through sudo.
pub fn install(needs: &[&[Need]]) -> Result<(), String> {
    let missing: Vec<&str> = needs
        .iter()
        .flat_map(|needs| needs.iter())
        .filter(|need| {
            let absolute = need.program.starts_with('/');
            !(absolute && std::path::Path::new(need.program).exists()
                || !absolute && find(need.program).is_some())
        })
        .map(|need| need.package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if find("apt-get").is_none() {
        let list = missing.join(" ");
        return Err(format!("install these first, with this machine's package manager: {list}"));
    }
    let what = format!("install {}", missing.join(" "));
    // A fresh machine has no package lists; one that has them needs no update.
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(missing);
    if run(&what, apt(&install)).is_ok() {
        return Ok(());
    }
    run("refresh the package lists", apt(&["update"]))?;
    run(&what, apt(&install))
}

fn apt(arguments: &[&str]) -> std::process::Command {
    let mut apt = if is_root() {
        command("apt-get", arguments)
    } else {
        command("sudo", &[&["apt-get"], arguments].concat())
    };
    // A package that brings a daemon would start it; the tests start their own.
    apt.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").arg("-q");
    apt
}
