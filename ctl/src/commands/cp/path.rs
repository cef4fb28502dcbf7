//! What stands on the command line of `ctl cp`, and paths as text: those of a container must not
//! be looked up here.

use crate::failure::{Failure, Result};

/// A path, and where it is.
#[derive(Debug, PartialEq)]
pub struct Spec {
    /// `None`: here.
    pub place: Option<Place>,
    pub path: String,
}

#[derive(Debug, PartialEq)]
pub struct Place {
    /// Empty where it is not named.
    pub namespace: String,
    pub pod: String,
}

impl Spec {
    /// `PATH`, `POD:PATH` or `NAMESPACE/POD:PATH`.
    pub fn parse(text: &str) -> Result<Spec> {
        const FORMAT: &str =
            "filespec must match the canonical format: [[namespace/]pod:]file/path";
        let Some((place, path)) = text.split_once(':') else {
            return Ok(Spec { place: None, path: without_slash(text).into() });
        };
        let place = match place.split('/').collect::<Vec<_>>()[..] {
            [""] => return Err(Failure::said(FORMAT)),
            [pod] => Place { namespace: String::new(), pod: pod.into() },
            [namespace, pod] => Place { namespace: namespace.into(), pod: pod.into() },
            _ => return Err(Failure::said(FORMAT)),
        };
        Ok(Spec { place: Some(place), path: without_slash(path).replace('\\', "/") })
    }
}

fn without_slash(path: &str) -> &str {
    if path == "/" { path } else { path.strip_suffix('/').unwrap_or(path) }
}

/// The shortest path of the same meaning, by its text alone; `.` for none.
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, path) => format!("/{path}"),
        (false, path) if path.is_empty() => ".".into(),
        (false, path) => path,
    }
}

/// The last part of a clean path.
pub fn base(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some((_, "")) => "/",
        Some((_, name)) => name,
        None => path,
    }
}

/// What the path is in.
pub fn folder(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((folder, _)) => clean(&format!("{folder}/")),
        None => ".".into(),
    }
}

pub fn join(folder: &str, name: &str) -> String {
    clean(&format!("{folder}/{name}"))
}

/// How the names in an archive of this path begin: tar leaves the first slash out, and whoever
/// asks for more than the root gets the root.
pub fn stored(path: &str) -> String {
    let path = clean(path.trim_start_matches(['/', '\\']));
    let path = path.trim_start_matches("../");
    if matches!(path, "." | "..") { String::new() } else { path.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_command_line() {
        let place = |namespace: &str, pod: &str| {
            Some(Place { namespace: namespace.into(), pod: pod.into() })
        };
        for (text, wanted, path) in [
            ("/tmp/a", None, "/tmp/a"),
            ("a/", None, "a"),
            ("/", None, "/"),
            ("web:/tmp/a/", place("", "web"), "/tmp/a"),
            ("ns/web:a", place("ns", "web"), "a"),
            ("web:", place("", "web"), ""),
            ("web:C:\\a", place("", "web"), "C:/a"),
        ] {
            let spec = Spec::parse(text).unwrap();
            assert_eq!(spec, Spec { place: wanted, path: path.into() }, "{text}");
        }
        for text in [":/tmp", "a/b/c:/tmp"] {
            let said = Spec::parse(text).unwrap_err().to_string();
            let format = "[[namespace/]pod:]file/path";
            assert_eq!(
                said,
                format!("error: filespec must match the canonical format: {format}"),
                "{text}"
            );
        }
    }

    #[test]
    fn paths_as_text() {
        for (path, cleaned, in_folder, in_archive) in [
            ("a", "a", ".", "a"),
            ("/a", "/a", "/", "a"),
            ("/a/b", "/a/b", "/a", "a/b"),
            ("a//b/./c", "a/b/c", "a/b", "a/b/c"),
            ("../a", "../a", "..", "a"),
            ("/../../a", "/a", "/", "a"),
            ("/a/../../b", "/b", "/", "b"),
            ("a/..", ".", "a", ""),
            (".", ".", ".", ""),
            ("..", "..", ".", ""),
            ("/", "/", "/", ""),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
            assert_eq!(folder(path), in_folder, "{path}");
            assert_eq!(stored(path), in_archive, "{path}");
        }
        assert_eq!((base("/a/b"), base("b"), base("/")), ("b", "b", "/"));
        assert_eq!(join("/a", "b"), "/a/b");
        assert_eq!(join("a", "."), "a");
    }
}
