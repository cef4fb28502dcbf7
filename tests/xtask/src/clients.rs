//! Other people's clients, for the tests that prove the API with them: into `target/clients`, in the
//! versions that `tests/clients` pins. Where they cannot be had, those tests say so and are skipped.

use std::path::{Path, PathBuf};

use crate::step::{command, find, root, run};

/// What the list names, into the folder.
type Install = fn(&Path, &Path) -> Result<(), String>;

/// Installs what is not there yet. Never an error: a machine may have no way to a package index.
pub fn install() {
    let pinned = root().join("tests/clients");
    let steps: [(&str, &str, Install); 2] =
        [("requirements.txt", "python", python), ("package.json", "javascript", javascript)];
    for (list, folder, install) in steps {
        let (list, folder) = (pinned.join(list), target().join("clients").join(folder));
        let stamp = folder.join("installed");
        let wanted = std::fs::read_to_string(&list).unwrap_or_default();
        if std::fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
            continue;
        }
        let done = install(&list, &folder).and_then(|()| {
            std::fs::write(&stamp, &wanted).map_err(|error| format!("{}: {error}", stamp.display()))
        });
        if let Err(why) = done {
            eprintln!("!! {why}: the tests with these clients will be skipped");
        }
    }
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn python(list: &Path, folder: &Path) -> Result<(), String> {
    let text = folder.to_string_lossy();
    run("make a Python environment", command("python3", &["-m", "venv", "--clear", &text]))?;
    let pip = folder.join("bin/pip").to_string_lossy().into_owned();
    let list = list.to_string_lossy();
    run("install Python clients", command(&pip, &["install", "--quiet", "--requirement", &list]))
}

fn javascript(list: &Path, folder: &Path) -> Result<(), String> {
    if find("npm").is_none() {
        return Err("npm is not installed".into());
    }
    let copy = folder.join("package.json");
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::copy(list, &copy).map(drop))
        .map_err(|error| format!("{}: {error}", copy.display()))?;
    let prefix = folder.to_string_lossy();
    let arguments = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", &prefix];
    run("install JavaScript clients", command("npm", &arguments))
}
