//! `cargo xtask test`: everything a change must pass. The tests run in the dev profile, whose checks
//! of arithmetic and invariants find more; the test of the README's commands builds and runs what
//! ships.

use crate::step::{Beside, cargo, command, find, is_root, run};
use crate::{clients, image, machine, up};

/// Arguments, if any, are names of tests to run instead of all.
pub fn test(names: &[String]) -> Result<(), String> {
    machine::install(&[machine::TO_BUILD, machine::TO_RUN, machine::TO_TEST])?;
    if !is_root() {
        eprintln!("!! not root: the tests that start containers or networks will be skipped");
    }
    let image = image::build()?;
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"]);
    tests.env("CORACLE_HELLO_IMAGE", &image);
    if !names.is_empty() {
        clients::install();
        tests.arg("--").args(names);
        return run("test", tests);
    }
    let programs = programs()?;
    run("format", cargo(&["fmt", "--all", "--check"]))?;
    deny()?;
    run("clippy", {
        let mut clippy = cargo(&["clippy", "--workspace", "--all-targets", "--quiet"]);
        clippy.args(["--", "--deny", "warnings"]);
        clippy
    })?;
    clients::install();
    run("build the tests", cargo(&["test", "--workspace", "--no-run"]))?;
    run("test", tests)?;
    programs.finish()
}

/// What ships, for the test of the README's commands: built from the start with the time that the
/// checks and tests leave, which wait for one crate, or for a container, as often as they compute.
fn programs() -> Result<Beside, String> {
    let mut build = command("nice", &["-n", "19"]);
    build.arg(cargo(&[]).get_program()).args(up::BUILD).arg("--quiet");
    Beside::start("build the programs in release", build)
}

/// Licences, bans and sources need no network; advisories need their database.
fn deny() -> Result<(), String> {
    if find("cargo-deny").is_none() {
        eprintln!(
            "!! cargo-deny is not installed: dependencies are not checked \
                   (cargo install cargo-deny --locked)"
        );
        return Ok(());
    }
    run("dependencies", cargo(&["deny", "check", "licenses", "bans", "sources"]))?;
    let database = "https://github.com/rustsec/advisory-db";
    let mut reach = command("git", &["ls-remote", "--quiet", "--exit-code", database, "HEAD"]);
    reach.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    match reach.status() {
        Ok(status) if status.success() => {
            run("advisories", cargo(&["deny", "check", "advisories"]))
        }
        _ => {
            eprintln!("!! the advisory database is out of reach: advisories are not checked");
            Ok(())
        }
    }
}
