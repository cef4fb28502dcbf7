//! The image that tests load: the workspace's own web server.

use std::path::PathBuf;
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
