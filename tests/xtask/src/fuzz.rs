//! `cargo xtask fuzz`: each parser of strangers' bytes under libFuzzer, for a while.

use crate::machine;
use crate::step::{cargo, root, run};

/// As in `tests/src/fuzz.rs`.
const TARGETS: &[&str] = &[
    "json", "yaml", "protobuf", "patch", "apply", "selector", "quantity", "request", "continue",
    "spdy", "metrics", "time",
];

/// All targets, or those that are named, for so many seconds each. A finding does not keep the
/// other targets from their turn.
pub fn fuzz(rest: &[String]) -> Result<(), String> {
    let (seconds, names) = match rest {
        [flag, seconds, names @ ..] if flag == "--seconds" => (seconds.as_str(), names),
        names => ("600", names),
    };
    if let Some(unknown) = names.iter().find(|name| !TARGETS.contains(&name.as_str())) {
        return Err(format!("there is no target {unknown}; there are: {}", TARGETS.join(", ")));
    }
    machine::install(&[machine::TO_BUILD, machine::TO_FUZZ])?;
    if run("cargo fuzz --version", cargo(&["fuzz", "--version"])).is_err() {
        run("install cargo-fuzz", cargo(&["install", "cargo-fuzz", "--locked"]))?;
    }
    let wanted = |name: &&&str| names.is_empty() || names.iter().any(|wanted| wanted == **name);
    let found: Vec<String> =
        TARGETS.iter().filter(wanted).filter_map(|name| one(name, seconds).err()).collect();
    match found.is_empty() {
        true => Ok(()),
        false => Err(found.join("\n")),
    }
}

fn one(name: &str, seconds: &str) -> Result<(), String> {
    let root = root();
    let target = root.join("target/fuzz");
    let corpus = target.join("corpus").join(name);
    std::fs::create_dir_all(&corpus).map_err(|error| format!("{}: {error}", corpus.display()))?;
    // Without a sanitizer it builds with the stable toolchain; the code is safe Rust.
    let mut fuzz = cargo(&["fuzz", "run", "--fuzz-dir", "tests/fuzz", "--sanitizer", "none"]);
    fuzz.arg("--target-dir").arg(&target).arg("any").arg(&corpus);
    // Time enough for a machine that has other things to do.
    fuzz.args(["--", "-rss_limit_mb=2048", "-timeout=30", "-print_final_stats=1"]);
    fuzz.arg(format!("-max_total_time={seconds}"));
    fuzz.arg(format!("-artifact_prefix={}/{name}-", target.display()));
    fuzz.current_dir(&root).env("CORACLE_FUZZ", name).env("CORACLE_CORPUS", &corpus);
    run(name, fuzz)
}
