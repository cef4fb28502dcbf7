//! Sets of files that change all at once: the files are in a folder named by their content,
//! `..data` is a symlink to it, and each visible name a symlink through `..data`. Readers see the
//! old set or the new one, never a mixture (Kubernetes: Mounted ConfigMaps are updated
//! automatically).

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::payload::{File, Payload};

/// Makes `dir`, which exists, hold exactly `payload`. With a group, the files are its, and it may
/// read them.
pub fn write(dir: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    let version = version(payload, group);
    let data = dir.join("..data");
    let current = fs::read_link(&data).ok();
    if current.as_deref() != Some(Path::new(&version)) {
        let folder = dir.join(&version);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fill(&folder, payload, group)?;
        let next = dir.join("..data_tmp");
        remove_file(&next)?;
        symlink(&version, &next)?;
        fs::rename(&next, &data)?;
    }
    let visible: BTreeSet<&str> =
        payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &visible {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let Some(text) = name.to_str() else { continue };
        if text.starts_with("..") {
            if text != version && text != "..data" {
                fs::remove_dir_all(dir.join(text))?;
            }
        } else if !visible.contains(text) {
            remove_file(&dir.join(text))?;
        }
    }
    Ok(())
}

fn version(payload: &Payload, group: Option<u32>) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{group:?}"));
    for (path, File { content, mode, owner }) in payload {
        hash.update(format!("{path}\0{mode}\0{owner:?}\0{}\0", content.len()));
        hash.update(content);
    }
    format!("..{}", hex::encode(&hash.finalize()[..12]))
}

fn fill(folder: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    let make = |path: &Path| -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))
    };
    make(folder)?;
    for (path, File { content, mode, owner }) in payload {
        let file = folder.join(path);
        if let Some(parent) = file.parent() {
            make(parent)?;
        }
        fs::write(&file, content)?;
        if owner.is_some() || group.is_some() {
            std::os::unix::fs::chown(&file, *owner, group)?;
        }
        let mode = if group.is_some() { mode | 0o440 } else { *mode };
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |(path, text): &(&str, &str)| {
            (path.to_string(), File::new(text.as_bytes().to_vec(), 0o640))
        };
        files.iter().map(file).collect()
    }

    #[test]
    fn swaps_and_cleans() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write(dir, &payload(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
        let mode = fs::metadata(dir.join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let before = fs::read_link(dir.join("..data")).unwrap();
        write(dir, &payload(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!(fs::read_link(dir.join("..data")).unwrap(), before);
        write(dir, &payload(&[("a", "3"), ("c", "4")]), None).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert!(!dir.join("sub").exists() && !dir.join(before).exists());
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with(".."))
            .collect();
        names.sort();
        assert_eq!(names, ["a", "c"]);
    }
}
