use std::io::Write;

use super::super::skeleton::assemble;
use super::*;

/// Unpacks into a new directory; `None`, and said so, without root.
fn unpacked(bytes: &[u8]) -> Option<(tempfile::TempDir, Result<Unpacked, UnpackError>)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: unpacking sets owners, which needs root");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let result = unpack(bytes, &root, &folder.path().join("skeleton"));
    Some((folder, result))
}

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
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("kept"), "here").unwrap();
    let link = outside.path().to_str().unwrap();
    for bad in [
        layer(&[("../evil", EntryType::Regular, "x")]),
        layer(&[("a/../../evil", EntryType::Regular, "x")]),
        layer(&[("hard", EntryType::Link, "../../etc/passwd")]),
        layer(&[(".wh..", EntryType::Regular, "")]),
        layer(&[("d/.wh...", EntryType::Regular, "")]),
        layer(&[(".wh.", EntryType::Regular, "")]),
    ] {
        let Some((_folder, result)) = unpacked(&bad) else { return };
        assert!(matches!(result, Err(UnpackError::Escape(_))), "{result:?}");
    }
    // Through a link a file lands inside, as it would look from within, and so do links, removals
    // and replacements.
    for entries in [
        vec![("out", EntryType::Symlink, link), ("out/evil", EntryType::Regular, "x")],
        vec![("out", EntryType::Symlink, link), ("copy", EntryType::Link, "out/kept")],
        vec![("out", EntryType::Symlink, link), ("out/.wh.kept", EntryType::Regular, "")],
        vec![("out", EntryType::Symlink, link), ("out/kept", EntryType::Directory, "")],
        vec![("out", EntryType::Symlink, "/"), ("out/etc/evil", EntryType::Regular, "x")],
        vec![
            ("a", EntryType::Directory, ""),
            ("a/b", EntryType::Regular, "x"),
            ("a", EntryType::Symlink, link),
            ("a/evil", EntryType::Regular, "x"),
        ],
    ] {
        let Some((folder, _)) = unpacked(&layer(&entries)) else { return };
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1, "{entries:?}");
        assert_eq!(std::fs::read_to_string(outside.path().join("kept")).unwrap(), "here");
        assert!(!folder.path().join("root/copy").exists());
    }
    assert!(!Path::new("/etc/evil").exists());
}

#[test]
fn compressed_or_not_the_digest_is_the_tars() {
    let plain = layer(&[("a/b", EntryType::Regular, "hello"), ("a/c", EntryType::Link, "a/b")]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let zstd = zstd::encode_all(&plain[..], 1).unwrap();
    let mut digests = Vec::new();
    for bytes in [plain, gzip.finish().unwrap(), zstd] {
        let Some((folder, result)) = unpacked(&bytes) else { return };
        let done = result.unwrap();
        let file = folder.path().join("root/a/c");
        assert_eq!(std::fs::read_to_string(file).unwrap(), "hello");
        assert_eq!((done.bytes, done.implied.clone()), (5, vec![PathBuf::from("a")]));
        digests.push((done.digest, done.tar));
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0u8; 4];
    let length = rustix::fs::getxattr(path, "trusted.overlay.opaque", &mut value[..]);
    (length.ok(), value[0]) == (Some(1), b'y')
}

#[test]
fn what_a_layer_removes_is_marked_for_overlayfs() {
    let bytes = layer(&[
        ("d/", EntryType::Directory, ""),
        ("d/.wh..wh..opq", EntryType::Regular, ""),
        (".wh.gone", EntryType::Regular, ""),
        (".wh..wh.plnk", EntryType::Regular, ""),
        // Removed and made anew: nothing of the old directory shows through.
        (".wh.new", EntryType::Regular, ""),
        ("new/", EntryType::Directory, ""),
        (".wh.implied", EntryType::Regular, ""),
        ("implied/file", EntryType::Regular, "x"),
        // The same the other way round, as some builders write it.
        ("late/", EntryType::Directory, ""),
        (".wh.late", EntryType::Regular, ""),
        ("own", EntryType::Regular, "x"),
        (".wh.own", EntryType::Regular, ""),
    ]);
    let Some((folder, result)) = unpacked(&bytes) else { return };
    result.unwrap();
    use std::os::unix::fs::FileTypeExt;
    let root = folder.path().join("root");
    let gone = std::fs::symlink_metadata(root.join("gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for name in ["d", "new", "implied", "late"] {
        assert!(is_opaque(&root.join(name)), "{name}");
    }
    assert_eq!(std::fs::read_to_string(root.join("own")).unwrap(), "x");
    assert!(!root.join(".wh.plnk").exists());
    let fake = layer(&[("fake", EntryType::Char, "")]);
    let Some((_folder, result)) = unpacked(&fake) else { return };
    assert!(result.is_err(), "a device 0:0 is a whiteout in disguise");
}

/// An entry with PAX records before it.
fn with_pax(tar: &mut tar::Builder<Vec<u8>>, records: &[(&str, &[u8])], path: &str, data: &[u8]) {
    tar.append_pax_extensions(records.iter().copied()).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(data.len() as u64);
    header.set_mode(0o4755);
    header.set_uid(1000);
    tar.append_data(&mut header, path, data).unwrap();
}

#[test]
fn attributes_are_kept_and_overlayfs_is_not_spoken_to() {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut tar = tar::Builder::new(Vec::new());
    with_pax(
        &mut tar,
        &[
            ("SCHILY.xattr.security.capability", &capability),
            ("SCHILY.xattr.user.note", b"kept"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("mtime", b"1700000000.25"),
            ("uid", b"3000000"),
        ],
        "program",
        b"code",
    );
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(200));
    with_pax(&mut tar, &[("path", long.as_bytes())], "short", b"long");
    let bytes = tar.into_inner().unwrap();
    let Some((folder, result)) = unpacked(&bytes) else { return };
    result.unwrap();
    let root = folder.path().join("root");
    let program = root.join("program");
    let metadata = std::fs::metadata(&program).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o4755, 3_000_000));
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_700_000_000, 250_000_000));
    let mut value = [0u8; 64];
    let read =
        |name: &str, value: &mut [u8; 64]| rustix::fs::getxattr(&program, name, &mut value[..]);
    assert_eq!(read("security.capability", &mut value), Ok(20));
    assert_eq!(read("trusted.overlay.redirect", &mut value), Err(Errno::NODATA));
    assert!(!is_opaque(&program));
    assert_eq!(std::fs::read_to_string(root.join(long)).unwrap(), "long");
}

#[test]
fn holes_stay_holes() {
    // Two parts of one file of 10 MiB: the map, padded to a block, then the data.
    let mut data = b"2\n0\n3\n10485755\n5\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"abctail!");
    let mut tar = tar::Builder::new(Vec::new());
    with_pax(
        &mut tar,
        &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.realsize", b"10485760"),
        ],
        "GNUSparseFile.1/sparse",
        &data,
    );
    let bytes = tar.into_inner().unwrap();
    let Some((folder, result)) = unpacked(&bytes) else { return };
    let done = result.unwrap();
    let path = folder.path().join("root/sparse");
    let content = std::fs::read(&path).unwrap();
    assert_eq!(
        (content.len(), &content[..3], &content[10_485_755..]),
        (10 << 20, &b"abc"[..], &b"tail!"[..])
    );
    assert!(content[3..10_485_755].iter().all(|byte| *byte == 0));
    assert!(std::fs::metadata(&path).unwrap().blocks() * 512 < 1 << 20);
    assert_eq!(reassembled(&folder, &done).as_deref(), Ok(&bytes[..]));
    let mut old = tar::Builder::new(Vec::new());
    with_pax(&mut old, &[("GNU.sparse.size", b"10"), ("GNU.sparse.numblocks", b"1")], "x", b"a");
    let Some((_folder, result)) = unpacked(&old.into_inner().unwrap()) else { return };
    assert!(result.is_err(), "the format 0.0 is refused");
}

fn reassembled(folder: &tempfile::TempDir, done: &Unpacked) -> Result<Vec<u8>, String> {
    let mut tar = Vec::new();
    let root = folder.path().join("root");
    let open = |path: &Path| File::open(root.join(path));
    assemble(&folder.path().join("skeleton"), open, &mut tar).map_err(|error| error.to_string())?;
    assert_eq!(super::super::stream::digest_of(&tar), done.digest);
    Ok(tar)
}

#[test]
fn a_layer_becomes_the_same_tar_again() {
    use std::os::unix::ffi::OsStrExt;
    let big = "0123456789abcdef".repeat(20_000);
    let mut bytes = layer(&[
        ("a/", EntryType::Directory, ""),
        ("a/empty", EntryType::Regular, ""),
        ("a/file", EntryType::Regular, &big),
        ("a/link", EntryType::Symlink, "file"),
        ("hard", EntryType::Link, "a/file"),
        (".wh.gone", EntryType::Regular, ""),
        ("pipe", EntryType::Fifo, ""),
    ]);
    // What comes after the end belongs to it too.
    bytes.extend_from_slice(&[0; 5000]);
    let Some((folder, result)) = unpacked(&bytes) else { return };
    assert_eq!(reassembled(&folder, &result.unwrap()).as_deref(), Ok(&bytes[..]));
    let size = std::fs::metadata(folder.path().join("skeleton")).unwrap().len();
    assert!(size < 2000, "{size}");

    // Names are bytes.
    let mut odd = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    header.as_gnu_mut().unwrap().name[..4].copy_from_slice(b"\xff\xfe\x01z");
    header.set_cksum();
    odd.append(&header, &b"x"[..]).unwrap();
    let odd = odd.into_inner().unwrap();
    let Some((folder, result)) = unpacked(&odd) else { return };
    assert_eq!(reassembled(&folder, &result.unwrap()).as_deref(), Ok(&odd[..]));
    let name = OsStr::from_bytes(b"\xff\xfe\x01z");
    assert!(folder.path().join("root").join(name).exists());
}

#[test]
fn a_header_without_end_takes_no_memory() {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();
    let endless = io::Read::chain(io::Cursor::new(header.as_bytes().to_vec()), io::repeat(b'a'));
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let error = unpack(endless, &root, &folder.path().join("skeleton")).unwrap_err();
    assert!(matches!(error, UnpackError::Read(_)), "{error:?}");
}
