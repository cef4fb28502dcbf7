//! The hello image: one static program in one layer, as an archive that `docker save` would write.
//! It needs no registry and no image builder, only tar and sha256sum.

use std::fs;
use std::path::PathBuf;

use crate::step::{cargo, command, output, root, run};

/// The only platform that Coracle's runtime is built for.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The names under which the archive is loaded.
const NAMES: &str = r#"["coracle/hello:latest","my-app:latest"]"#;

/// Builds the archive and returns its path.
pub fn build() -> Result<PathBuf, String> {
    let mut build =
        cargo(&["build", "--release", "--quiet", "--package", "hello", "--target", TARGET]);
    build.env("RUSTFLAGS", "-C target-feature=+crt-static");
    run("build the hello web server", build)?;

    let target = target_directory();
    let folder = target.join("hello-image");
    let layer = folder.join("layer");
    fs::create_dir_all(&layer).map_err(|error| format!("create {}: {error}", layer.display()))?;
    let program = target.join(TARGET).join("release/hello");
    fs::copy(&program, layer.join("hello"))
        .map_err(|error| format!("copy {}: {error}", program.display()))?;

    let archive = |name: &str, from: &str, members: &[&str]| {
        let mut tar = command("tar", &["--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
        tar.args(["--mtime=@0", "--create", "--file", name, "--directory", from]).args(members);
        tar.current_dir(&folder);
        output("write the image archive", tar)
    };
    archive("layer.tar", "layer", &["hello"])?;
    let mut sum = command("sha256sum", &["layer.tar"]);
    sum.current_dir(&folder);
    let sum = output("take the layer's digest", sum)?;
    let digest = sum.split_whitespace().next().unwrap_or_default();

    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Entrypoint":["/hello"],"ExposedPorts":{{"80/tcp":{{}}}}}},"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}}}}"#
    );
    let manifest =
        format!(r#"[{{"Config":"config.json","RepoTags":{NAMES},"Layers":["layer.tar"]}}]"#);
    for (name, text) in [("config.json", config), ("manifest.json", manifest)] {
        fs::write(folder.join(name), text).map_err(|error| format!("write {name}: {error}"))?;
    }
    archive("hello.tar", ".", &["manifest.json", "config.json", "layer.tar"])?;
    Ok(folder.join("hello.tar"))
}

/// Where cargo puts what it builds.
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}
