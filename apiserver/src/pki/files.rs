//! Writing files that must be whole and private.

use std::{fs, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use super::PkiError;

/// Replaces `path` in one step with a file only its owner may read.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    write(path, content, 0o600)
}

/// The same for what everybody may read (certificates).
pub(super) fn write_public(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    write(path, content, 0o644)
}

pub(super) fn create_private_dir(path: &Path) -> Result<(), PkiError> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| PkiError::Write { path: path.into(), source })
}

/// `None` where there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Read { path: path.into(), source }),
    }
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), PkiError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let step = || {
        // A leftover of a crash may carry other permissions.
        let _ = fs::remove_file(&temporary);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    step().map_err(|source| PkiError::Write { path: path.into(), source })
}
