//! The images that tests load: the workspace's own web server, and a shell.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::run;

/// The archive, as `cargo xtask image` makes it.
pub fn hello() -> PathBuf {
    if let Some(path) = std::env::var_os("CORACLE_HELLO_IMAGE") {
        return path.into();
    }
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let mut image = Command::new(env!("CARGO"));
    image.args(["xtask", "image"]).current_dir(root);
    run(&mut image).ok().trim().into()
}

/// Names under which the shell image has its busybox.
const TOOLS: &[&str] = &[
    "cat", "echo", "httpd", "ln", "mkdir", "nc", "pgrep", "ps", "sh", "sleep", "stat", "stty",
    "tail", "tar", "test", "tty",
];

/// An archive in `folder` of an image `test/shell:1` with a static busybox under some of its
/// names, and with further static programs.
pub fn shell(folder: &Path, busybox: &Path, programs: &[(&str, &Path)]) -> PathBuf {
    archive(folder, "shell", r#"["/bin/sh"]"#, busybox, programs)
}

/// The same as `test/pause:1`, whose command only waits: what other runtimes hold a sandbox with.
pub fn pause(folder: &Path, busybox: &Path) -> PathBuf {
    archive(folder, "pause", r#"["/bin/sleep","2147483647"]"#, busybox, &[])
}

fn archive(
    folder: &Path,
    name: &str,
    command: &str,
    busybox: &Path,
    programs: &[(&str, &Path)],
) -> PathBuf {
    let folder = folder.join(name);
    let bin = folder.join("layer/bin");
    std::fs::create_dir_all(&bin).expect("a folder of our own");
    for (name, path) in [&[("busybox", busybox)][..], programs].concat() {
        std::fs::copy(path, bin.join(name)).expect("the program can be read");
    }
    for name in TOOLS {
        std::os::unix::fs::symlink("busybox", bin.join(name)).expect("a name of its own");
    }
    let tar = |name: &str, from: &str, members: &[&str]| {
        let mut tar = Command::new("tar");
        tar.args(["--owner=0", "--group=0", "--numeric-owner", "--create", "--file", name]);
        run(tar.args(["--directory", from]).args(members).current_dir(&folder)).ok();
    };
    tar("layer.tar", "layer", &["bin"]);
    let mut sum = Command::new("sha256sum");
    let sum = run(sum.arg("layer.tar").current_dir(&folder)).ok();
    let digest = sum.split_whitespace().next().unwrap_or_default();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":{command},"Env":["PATH=/bin"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}}}}"#
    );
    let manifest = format!(
        r#"[{{"Config":"config.json","RepoTags":["test/{name}:1"],"Layers":["layer.tar"]}}]"#
    );
    for (name, text) in [("config.json", config), ("manifest.json", manifest)] {
        std::fs::write(folder.join(name), text).expect("a folder of our own");
    }
    tar("image.tar", ".", &["manifest.json", "config.json", "layer.tar"]);
    folder.join("image.tar")
}
