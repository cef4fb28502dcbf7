//! `cargo xtask up`: from a checkout to a cluster that answers.

use crate::image::target_directory;
use crate::step::{cargo, command, is_root, run};
use crate::{image, machine};

/// Builds everything and starts the cluster; further arguments go to `ctl cluster create`.
pub fn up(rest: &[String]) -> Result<(), String> {
    machine::install(&[machine::TO_BUILD, machine::TO_RUN])?;
    build()?;
    let image = image::build()?;
    let image = image.to_string_lossy();
    run("load the hello image", ctl(&["image", "load", &image]))?;
    let mut create = ctl(&["cluster", "create", "--nodes", "3", "-f", "manifests/hello.yaml"]);
    create.args(rest);
    run("start the cluster", create)
}

/// Ends it and removes all it made.
pub fn down() -> Result<(), String> {
    run("delete the cluster", ctl(&["cluster", "delete"]))
}

/// `ctl`, which contains every program, in release.
pub const BUILD: &[&str] = &["build", "--release", "--package", "ctl"];

pub fn build() -> Result<(), String> {
    run("build", cargo(BUILD))
}

/// The CLI that was just built; it goes through sudo where it must be root, keeping $HOME so that
/// the kubeconfig lands with the user.
pub fn ctl(arguments: &[&str]) -> std::process::Command {
    let program = target_directory().join("release/ctl");
    let program = program.to_string_lossy();
    match is_root() {
        true => command(&program, arguments),
        false => {
            command("sudo", &[&["--preserve-env=HOME,KUBECONFIG", &*program], arguments].concat())
        }
    }
}
