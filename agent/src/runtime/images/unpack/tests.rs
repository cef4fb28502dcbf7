use super::*;

fn layer(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, kind, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        // Written raw: the builder refuses the names that are tested.
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        let data: &[u8] = if kind.is_file() { content.as_bytes() } else { b"" };
        if !kind.is_file() && !content.is_empty() {
            header.as_gnu_mut().unwrap().linkname[..content.len()]
                .copy_from_slice(content.as_bytes());
        }
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn nothing_leaves_the_folder() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: unpacking sets owners, which needs root");
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let link = outside.path().to_str().unwrap();
    let dotted = layer(&[("../evil", EntryType::Regular, "x")]);
    let hard = layer(&[("hard", EntryType::Link, "../../etc/passwd")]);
    for bad in [dotted, hard] {
        let error = unpack(&bad[..], &target).unwrap_err();
        assert!(matches!(error, UnpackError::Escape(_)), "{error:?}");
    }
    // Through a link the file lands inside, as it would look from within.
    let linked =
        layer(&[("out", EntryType::Symlink, link), ("out/evil", EntryType::Regular, "x")]);
    let _ = unpack(&linked[..], &target);
    assert!(!outside.path().join("evil").exists());
}

#[test]
fn compressed_or_not_the_digest_is_the_tars() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: unpacking sets owners, which needs root");
        return;
    }
    let plain = layer(&[("a/b", EntryType::Regular, "hello"), ("a/c", EntryType::Link, "a/b")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    let mut digests = Vec::new();
    for bytes in [plain, gzip.finish().unwrap(), zstd] {
        let folder = tempfile::tempdir().unwrap();
        let (digest, size) = unpack(&bytes[..], folder.path()).unwrap();
        assert_eq!(std::fs::read_to_string(folder.path().join("a/c")).unwrap(), "hello");
        digests.push((digest, size));
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
}

#[test]
fn what_a_layer_removes_is_marked_for_overlayfs() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: unpacking sets owners, which needs root");
        return;
    }
    let bytes = layer(&[
        ("d/", EntryType::Directory, ""),
        ("d/.wh..wh..opq", EntryType::Regular, ""),
        (".wh.gone", EntryType::Regular, ""),
    ]);
    let folder = tempfile::tempdir().unwrap();
    unpack(&bytes[..], folder.path()).unwrap();
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let gone = std::fs::symlink_metadata(folder.path().join("gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let mut value = [0u8; 4];
    let length =
        rustix::fs::getxattr(folder.path().join("d"), "trusted.overlay.opaque", &mut value[..]);
    assert_eq!((length.ok(), value[0]), (Some(1), b'y'));
}
