//! The archives that `ctl cp` makes and takes apart. Nothing in an archive is taken at its word:
//! its names lead nowhere but below the target, and its links are not made.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use tar::{Archive, Builder, Entry, EntryType, Header};

use super::path::clean;

/// Writes what is at `source` as `name`: a file, a link, or a folder with all that is in it.
pub fn pack(source: &Path, name: &str, to: impl Write) -> io::Result<()> {
    let mut archive = Builder::new(to);
    add(&mut archive, source, Path::new(name))?;
    archive.into_inner()?.flush()
}

fn add(archive: &mut Builder<impl Write>, source: &Path, name: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(source)?;
    let kind = metadata.file_type();
    let mut header = Header::new_gnu();
    header.set_metadata(&metadata);
    if kind.is_dir() {
        let mut names: Vec<_> =
            fs::read_dir(source)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
        names.sort();
        if names.is_empty() {
            header.set_size(0);
            return archive.append_data(&mut header, name, io::empty());
        }
        return names
            .into_iter()
            .try_for_each(|inner| add(archive, &source.join(&inner), &name.join(&inner)));
    }
    if kind.is_symlink() {
        header.set_size(0);
        return archive.append_link(&mut header, name, fs::read_link(source)?);
    }
    if !kind.is_file() {
        let why = format!("{}: neither a file nor a folder nor a link", source.display());
        return Err(io::Error::other(why));
    }
    archive.append_data(&mut header, name, Exactly::open(source, &metadata)?)
}

/// As many bytes as the header has promised, though the file may grow or shrink meanwhile.
struct Exactly {
    file: File,
    path: PathBuf,
    left: u64,
}

impl Exactly {
    fn open(path: &Path, metadata: &Metadata) -> io::Result<Exactly> {
        Ok(Exactly { file: File::open(path)?, path: path.into(), left: metadata.len() })
    }
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (&mut self.file).take(self.left).read(buffer)?;
        self.left -= count as u64;
        if count == 0 && self.left > 0 && !buffer.is_empty() {
            let why = format!("{} became shorter while it was copied", self.path.display());
            return Err(io::Error::other(why));
        }
        Ok(count)
    }
}

/// What is to be done with an archive from a container.
pub struct Unpack {
    /// With which all names in it must begin.
    pub prefix: String,
    /// What stands for the prefix here.
    pub target: PathBuf,
    /// The command for what is left out.
    pub instead: String,
}

impl Unpack {
    /// Reads to the end, so that whoever writes does not wait for ever.
    pub fn run(&self, mut from: impl Read) -> io::Result<()> {
        let mut archive = Archive::new(&mut from);
        let mut warned = false;
        for entry in archive.entries()? {
            self.entry(&mut entry?, &mut warned)?;
        }
        io::copy(&mut from, &mut io::sink()).map(drop)
    }

    fn entry(&self, entry: &mut Entry<impl Read>, warned: &mut bool) -> io::Result<()> {
        let name = entry.path_bytes().into_owned();
        let Some(rest) = name.strip_prefix(self.prefix.as_bytes()) else {
            return Err(io::Error::other("tar contents corrupted"));
        };
        let Some(path) = self.place(rest) else {
            let outside = self.target.join(String::from_utf8_lossy(rest).trim_start_matches('/'));
            anstream::eprintln!(
                "warning: file {:?} is outside target destination, skipping",
                clean(&outside.to_string_lossy())
            );
            return Ok(());
        };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match entry.header().entry_type() {
            EntryType::Directory => fs::create_dir_all(path),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                io::copy(entry, &mut File::create(path)?).map(drop)
            }
            kind => {
                let what = if kind.is_symlink() { "symlink" } else { "special file" };
                let link = entry.link_name()?.unwrap_or_default();
                let hint = match std::mem::replace(warned, true) {
                    false => format!(" (consider using {:?})", Quoted(&self.instead)),
                    true => String::new(),
                };
                anstream::eprintln!("warning: skipping {what}: {path:?} -> {link:?}{hint}");
                Ok(())
            }
        }
    }

    /// Where a name belongs; `None` outside of the target.
    fn place(&self, rest: &[u8]) -> Option<PathBuf> {
        // As kubectl: a container may be one whose paths have backslashes.
        let rest: Vec<u8> =
            rest.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect();
        let mut depth = 0_usize;
        let mut path = self.target.clone();
        for part in rest.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    depth = depth.checked_sub(1)?;
                    path.pop();
                }
                part => {
                    depth += 1;
                    path.push(std::ffi::OsStr::from_bytes(part));
                }
            }
        }
        Some(path)
    }
}

/// As kubectl quotes it: without marks of what is within.
struct Quoted<'a>(&'a str);

impl std::fmt::Debug for Quoted<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(formatter, "\"{}\"", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files below a folder, and the ends of links.
    fn found(folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_path_buf()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
                let name = entry.path().strip_prefix(folder).unwrap().display().to_string();
                let kind = entry.file_type().unwrap();
                found.push(match (kind.is_dir(), kind.is_symlink()) {
                    (true, _) => format!("{name}/"),
                    (_, true) => {
                        format!("{name} -> {}", fs::read_link(entry.path()).unwrap().display())
                    }
                    _ => format!("{name}={}", fs::read_to_string(entry.path()).unwrap()),
                });
                if kind.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn there_and_back() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        fs::create_dir_all(tree.join("deep/empty")).unwrap();
        fs::write(tree.join("a"), "one").unwrap();
        let long = format!("deep/{}", "n".repeat(180));
        fs::write(tree.join(&long), "two").unwrap();
        std::os::unix::fs::symlink("a", tree.join("link")).unwrap();
        let mut packed = Vec::new();
        pack(&tree, "box", &mut packed).unwrap();
        // What a container would have.
        let there = folder.path().join("there");
        Archive::new(&packed[..]).unpack(&there).unwrap();
        let long = format!("box/{long}=two");
        let all = ["box/", "box/a=one", "box/deep/", "box/deep/empty/", &*long, "box/link -> a"];
        assert_eq!(found(&there), all);
        let back = folder.path().join("back");
        let unpack = Unpack { prefix: "box".into(), target: back.clone(), instead: String::new() };
        unpack.run(&packed[..]).unwrap();
        let files = ["a=one", "deep/", "deep/empty/", long.trim_start_matches("box/")];
        assert_eq!(found(&back), files);
    }

    #[test]
    fn a_file_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "text").unwrap();
        let mut packed = Vec::new();
        pack(&file, "new", &mut packed).unwrap();
        let target = folder.path().join("to/copy");
        let unpack = Unpack { prefix: "new".into(), target, instead: String::new() };
        unpack.run(&packed[..]).unwrap();
        assert_eq!(found(&folder.path().join("to")), ["copy=text"]);
        let nothing = pack(&folder.path().join("none"), "x", Vec::new()).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::NotFound);
    }

    /// One file of this name, and how it ends.
    fn hostile(prefix: &str, name: &str, kind: EntryType) -> (Result<(), String>, Vec<String>) {
        let mut archive = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        // Past the checks of whoever writes honestly.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(if kind == EntryType::Regular { 4 } else { 0 });
        header.as_gnu_mut().unwrap().linkname[..4].copy_from_slice(b"/etc");
        header.set_mode(0o644);
        header.set_cksum();
        let text: &[u8] = if kind == EntryType::Regular { b"evil" } else { b"" };
        archive.append(&header, text).unwrap();
        let packed = archive.into_inner().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("to");
        fs::create_dir(&target).unwrap();
        let unpack = Unpack { prefix: prefix.into(), target, instead: String::new() };
        let result = unpack.run(&packed[..]).map_err(|error| error.to_string());
        (result, found(folder.path()))
    }

    #[test]
    fn nothing_gets_out() {
        let file = EntryType::Regular;
        let corrupted = Err("tar contents corrupted".to_string());
        let within = |path: &str| vec!["to/".to_string(), format!("to/{path}=evil")];
        let nothing = || vec!["to/".to_string()];
        for (prefix, name, kind, expected) in [
            ("a", "a/b", file, (Ok(()), within("b"))),
            ("a", "a/./b", file, (Ok(()), within("b"))),
            ("a", "a/x/../b", file, (Ok(()), within("b"))),
            ("", "b", file, (Ok(()), within("b"))),
            ("", "/b", file, (Ok(()), within("b"))),
            ("a", "a/../b", file, (Ok(()), nothing())),
            ("a", "a/../../b", file, (Ok(()), nothing())),
            ("a", "a/x/../../to2/b", file, (Ok(()), nothing())),
            ("a", "a\\..\\..\\b", file, (Ok(()), nothing())),
            ("", "../b", file, (Ok(()), nothing())),
            ("a", "b", file, (corrupted.clone(), nothing())),
            ("a", "/a/b", file, (corrupted.clone(), nothing())),
            ("a", "../a/b", file, (corrupted, nothing())),
            ("a", "a/link", EntryType::Symlink, (Ok(()), nothing())),
            ("a", "a/link", EntryType::Link, (Ok(()), nothing())),
            ("a", "a/device", EntryType::Char, (Ok(()), nothing())),
        ] {
            assert_eq!(hostile(prefix, name, kind), expected, "{prefix} {name} {kind:?}");
        }
    }

    #[test]
    fn what_breaks_off_is_no_success() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, vec![b'x'; 4096]).unwrap();
        let mut packed = Vec::new();
        pack(&file, "a", &mut packed).unwrap();
        let target = folder.path().join("to");
        let unpack = Unpack { prefix: "a".into(), target, instead: String::new() };
        assert!(unpack.run(&packed[..2000]).is_err());
    }
}
