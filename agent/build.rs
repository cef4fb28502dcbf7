//! Compiles the pod supervisor, a program without libc, so that the runtime can carry it.

use std::{env, path::PathBuf, process::Command};

const SOURCE: &str = "src/runtime/sys/supervisor.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-changed=src/runtime/sys/supervisor");
    println!("cargo::rerun-if-changed=src/runtime/sys/wire.rs");
    let rustc = env::var("RUSTC").expect("cargo sets RUSTC");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("supervisor");
    let mut command = Command::new(rustc);
    command.args([
        "--edition=2024",
        "--crate-name=supervisor",
        "--crate-type=bin",
        "--target",
        &target,
    ]);
    for option in
        ["panic=abort", "opt-level=s", "relocation-model=static", "strip=symbols", "debuginfo=0"]
    {
        command.args(["-C", option]);
    }
    for option in [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-Wl,--build-id=none",
        "-Wl,-z,noseparate-code",
        "-Wl,--gc-sections",
    ] {
        command.arg(format!("-Clink-arg={option}"));
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        command.arg(format!("-Clinker={linker}"));
    }
    command.args(["-A", "dead_code", SOURCE, "-o"]).arg(&out);
    let status = command.status().expect("rustc starts");
    assert!(status.success(), "the supervisor does not compile");
}
