//! The house rules that no compiler checks: who may depend on whom, that the lints are on
//! everywhere, how long files and functions may be, and where `unsafe` lives.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

const FILE_LINES: usize = 800;
const FUNCTION_LINES: usize = 80;

/// What each crate of the house may depend on, of the house.
const GRAPH: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("client", &["proto"]),
    ("apiserver", &["proto", "client"]),
    ("scheduler", &["proto", "client"]),
    ("controller", &["proto", "client"]),
    ("agent", &["proto", "client"]),
    ("ctl", &["proto", "client", "apiserver", "scheduler", "controller", "agent"]),
    ("tests", &["proto", "client", "apiserver", "scheduler", "controller", "agent", "ctl"]),
    ("hello", &[]),
    ("xtask", &[]),
];

/// Crates that no product binary may contain: they serve as oracles and clients in tests.
const ONLY_IN_TESTS: &[&str] = &["k8s-openapi", "kube", "jsonschema"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the checkout is there")
}

fn metadata() -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// Every Rust source file of the checkout, with its path from the root.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("folder is readable").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() && name != "target" && name != ".git" {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    walk(&root, &mut found);
    found.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).expect("source is readable");
        (path.strip_prefix(&root).expect("below the root").display().to_string(), text)
    };
    found.into_iter().map(read).collect()
}

fn is_test(path: &str) -> bool {
    let below =
        |folder| path.contains(&format!("/{folder}/")) || path.starts_with(&format!("{folder}/"));
    below("tests")
        || below("benches")
        || below("examples")
        || below("fuzz")
        || path.ends_with("tests.rs")
}

#[test]
fn crates_depend_only_downwards() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        GRAPH.iter().map(|(name, list)| (*name, list.iter().copied().collect())).collect();
    let metadata = metadata();
    let packages = metadata["packages"].as_array().expect("packages");
    assert_eq!(packages.len(), allowed.len(), "GRAPH names every crate of the workspace");
    for package in packages {
        let name = package["name"].as_str().expect("name");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = dependency["name"].as_str().expect("name");
            let product = dependency["kind"].is_null() && name != "tests";
            assert!(!(product && ONLY_IN_TESTS.contains(&to)), "{name} must not contain {to}");
            if allowed.contains_key(to) && dependency["kind"].is_null() {
                assert!(allowed[name].contains(to), "{name} must not depend on {to}");
            }
        }
    }
}

#[test]
fn every_crate_has_the_lints_on() {
    for package in metadata()["packages"].as_array().expect("packages") {
        let manifest = package["manifest_path"].as_str().expect("path");
        let text = std::fs::read_to_string(manifest).expect("manifest is readable");
        assert!(
            text.contains("[lints]\nworkspace = true"),
            "{manifest} does not opt into the lints"
        );
        assert!(
            !text.contains("version = \""),
            "{manifest}: versions live in the workspace's table"
        );
    }
}

#[test]
fn files_and_functions_are_short() {
    let mut found = Vec::new();
    for (path, text) in sources() {
        if is_test(&path) {
            continue;
        }
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > FILE_LINES {
            found.push(format!("{path}: {} lines", lines.len()));
        }
        for (start, length) in functions(&lines) {
            if length > FUNCTION_LINES {
                found.push(format!("{path}:{}: a function of {length} lines", start + 1));
            }
        }
    }
    assert!(found.is_empty(), "too long:\n{}", found.join("\n"));
}

/// First line and number of lines of every function. Sources are formatted, so that a function
/// ends at the first `}` that stands as deep as its head.
fn functions(lines: &[&str]) -> Vec<(usize, usize)> {
    let depth = |line: &str| line.len() - line.trim_start().len();
    let is_head = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().take(5).collect();
        words.contains(&"fn") && !line.trim_start().starts_with("//") && !line.contains(';')
    };
    lines
        .iter()
        .enumerate()
        .filter(|(_, line)| is_head(line))
        .filter_map(|(start, head)| {
            let end = lines[start..].iter().position(|line| {
                depth(line) == depth(head) && line.trim_start().starts_with('}')
            })?;
            Some((start, end + 1))
        })
        .collect()
}

#[test]
fn the_kernel_is_behind_one_door() {
    for (path, text) in sources() {
        // The last two stand in for the kernel, as a day of chaos has no other randomness than its
        // own, and for nothing but it, as what a benchmark is compared with.
        let doors = [
            "agent/src/runtime/sys",
            "tests/tests/tidy.rs",
            "tests/tests/chaos/entropy.rs",
            "agent/examples/bench_runtime/bare.rs",
        ];
        if doors.iter().any(|door| path.starts_with(door)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let has = code.contains("unsafe {")
                || code.contains("unsafe fn")
                || code.contains("unsafe impl");
            assert!(!has, "{path}:{}: unsafe belongs into agent/src/runtime/sys", number + 1);
        }
    }
}

#[test]
fn modules_are_named_for_what_they_do() {
    const VAGUE: &[&str] =
        &["mod", "common", "utils", "util", "helpers", "helper", "misc", "manager2"];
    for (path, _) in sources() {
        let stem = Path::new(&path).file_stem().expect("a file has a name").to_string_lossy();
        assert!(!VAGUE.contains(&&*stem), "{path}: name it for what it does");
    }
}
