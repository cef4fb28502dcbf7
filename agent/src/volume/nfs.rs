//! NFS, version 4, by the kernel's own client: mount(2) wants the server's address and the options
//! as the kernel names them. Older versions need helpers on the node that this one does not have.
//! <https://kubernetes.io/docs/concepts/storage/volumes/#nfs>

use std::ffi::CString;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::Path;

use proto::view::persistent_volume::NfsVolume;
use rustix::mount::MountFlags;

use super::machine::{io_error, make};
use super::{SetUpError, mounts};

/// Mounts the share at `dir`, unless it is.
pub fn mount(
    dir: &Path,
    share: &NfsVolume,
    options: &[String],
    read_only: bool,
) -> Result<(), SetUpError> {
    if dir.exists() && mounts::is_mounted(dir).map_err(io_error("look at", dir))? {
        return Ok(());
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let has = known.lines().any(|line| line.split_whitespace().last() == Some("nfs4"));
    // What can be known to be wrong is said even where the kernel would refuse anyway.
    translated(options, IpAddr::from([0, 0, 0, 0]))?;
    if !has {
        return Err(SetUpError::Kernel("nfs4".into()));
    }
    let bad = || SetUpError::Address(share.server.clone());
    let mut found = (share.server.as_str(), 2049).to_socket_addrs().map_err(|_| bad())?;
    let address = found.next().ok_or_else(bad)?.ip();
    let (mut flags, data) = translated(options, address)?;
    if read_only {
        flags |= MountFlags::RDONLY;
    }
    make(dir, 0o750)?;
    let source = format!("{}:{}", share.server, share.path);
    let data = CString::new(data).map_err(|_| SetUpError::MountOption(options.join(",")))?;
    rustix::mount::mount(source, dir, "nfs4", flags, data.as_c_str())
        .map_err(|error| io_error("mount NFS at", dir)(error.into()))
}

/// The options as flags and as the text that the kernel's client reads.
fn translated(options: &[String], address: IpAddr) -> Result<(MountFlags, String), SetUpError> {
    let (mut flags, mut text) = (MountFlags::empty(), Vec::new());
    let mut version = "4.2".to_string();
    for option in options.iter().flat_map(|line| line.split(',')).filter(|it| !it.is_empty()) {
        if let Some(flag) = mounts::flag(option) {
            flags |= flag;
            continue;
        }
        match option.split_once('=') {
            Some(("nfsvers" | "vers", wanted)) if wanted.starts_with('4') => {
                version = wanted.into();
            }
            Some((
                "rsize" | "wsize" | "timeo" | "retrans" | "port" | "proto" | "sec" | "acregmin"
                | "acregmax" | "acdirmin" | "acdirmax" | "actimeo" | "nconnect" | "lookupcache"
                | "minorversion" | "fsc",
                _,
            )) => text.push(option.to_string()),
            None if [
                "hard",
                "soft",
                "ac",
                "noac",
                "cto",
                "nocto",
                "tcp",
                "resvport",
                "noresvport",
                "migration",
                "nomigration",
                "sharecache",
                "nosharecache",
                "rdirplus",
                "nordirplus",
            ]
            .contains(&option) =>
            {
                text.push(option.to_string())
            }
            _ => return Err(SetUpError::MountOption(option.into())),
        }
    }
    text.insert(0, format!("addr={address}"));
    text.insert(0, format!("vers={version}"));
    Ok((flags, text.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_as_the_kernel_wants_them() {
        let address = IpAddr::from([192, 0, 2, 1]);
        let given = |text: &str| {
            let options: Vec<String> = text.split_whitespace().map(String::from).collect();
            translated(&options, address).map_err(|error| error.to_string())
        };
        for (options, expected) in [
            ("", Ok((MountFlags::empty(), "vers=4.2,addr=192.0.2.1"))),
            ("hard nfsvers=4.1", Ok((MountFlags::empty(), "vers=4.1,addr=192.0.2.1,hard"))),
            (
                "ro,noatime rsize=65536",
                Ok((
                    MountFlags::RDONLY | MountFlags::NOATIME,
                    "vers=4.2,addr=192.0.2.1,rsize=65536",
                )),
            ),
            ("nfsvers=3", Err("mount option \"nfsvers=3\" is not supported here: leave it out")),
            ("bogus", Err("mount option \"bogus\" is not supported here: leave it out")),
        ] {
            let expected = expected.map(|(flags, text)| (flags, text.to_string()));
            assert_eq!(given(options), expected.map_err(String::from), "{options}");
        }
    }
}
