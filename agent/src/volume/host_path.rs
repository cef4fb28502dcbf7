//! Folders and files of the node itself, where a pod asks for them by path.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use super::SetUpError;
use super::machine::{io_error, make};
use crate::pod::volume::HostPath;

/// Kubernetes: hostPath volume types.
pub fn check(host: &HostPath) -> Result<(), SetUpError> {
    let path = Path::new(&host.path);
    let kind = fs::metadata(path).map(|metadata| metadata.file_type());
    let is = |wanted: &'static str, matches: bool| match matches {
        true => Ok(()),
        false => Err(SetUpError::HostPath { path: host.path.clone(), wanted }),
    };
    match (host.kind.as_str(), &kind) {
        ("", _) => Ok(()),
        ("DirectoryOrCreate", Err(_)) => make(path, 0o755),
        ("FileOrCreate", Err(_)) => {
            fs::File::create(path).map_err(io_error("make", path))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644))
                .map_err(io_error("chmod", path))
        }
        ("Directory" | "DirectoryOrCreate", kind) => {
            is("a directory", kind.as_ref().is_ok_and(|kind| kind.is_dir()))
        }
        ("File" | "FileOrCreate", kind) => {
            is("a file", kind.as_ref().is_ok_and(|kind| kind.is_file()))
        }
        ("Socket", kind) => is("a socket file", kind.as_ref().is_ok_and(|kind| kind.is_socket())),
        ("CharDevice", kind) => {
            is("a character device", kind.as_ref().is_ok_and(|kind| kind.is_char_device()))
        }
        ("BlockDevice", kind) => {
            is("a block device", kind.as_ref().is_ok_and(|kind| kind.is_block_device()))
        }
        (kind, _) => Err(SetUpError::Unsupported(format!("hostPath of type {kind}"))),
    }
}
