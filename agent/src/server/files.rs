//! `/logs/`: the node's own log files and folders of them. Only what is below the folder of logs,
//! wherever symbolic links lead.

use std::path::{Path as File, PathBuf};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use tokio_util::io::ReaderStream;

use super::{Shared, refuse};

pub(super) async fn root(State(shared): State<Shared>) -> Response {
    answer(&shared.logs, "").await
}

pub(super) async fn get(State(shared): State<Shared>, Path(path): Path<String>) -> Response {
    answer(&shared.logs, &path).await
}

async fn answer(root: &File, path: &str) -> Response {
    let missing = || refuse(StatusCode::NOT_FOUND, "404 page not found\n");
    let Some(file) = find(root, path) else { return missing() };
    if file.is_dir() {
        return ([(CONTENT_TYPE, "text/html; charset=utf-8")], listing(&file)).into_response();
    }
    // A pipe or a device would never end.
    if !file.is_file() {
        return missing();
    }
    match tokio::fs::File::open(&file).await {
        Ok(open) => {
            let body = Body::from_stream(ReaderStream::new(open));
            ([(CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
        }
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            refuse(StatusCode::FORBIDDEN, "403 Forbidden\n")
        }
        Err(_) => missing(),
    }
}

/// The real path, if it is within `root`.
fn find(root: &File, path: &str) -> Option<PathBuf> {
    let root = root.canonicalize().ok()?;
    let file = root.join(path.trim_matches('/')).canonicalize().ok()?;
    file.starts_with(&root).then_some(file)
}

/// The names in a folder, as links; folders end in a slash.
fn listing(folder: &File) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let slash = if entry.path().is_dir() { "/" } else { "" };
            name + slash
        })
        .collect();
    names.sort();
    let mut page = String::from(
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n",
    );
    for name in names {
        let url: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
        let url = url.replace('+', "%20").replace("%2F", "/");
        let shown = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        page += &format!("<a href=\"{url}\">{shown}</a>\n");
    }
    page + "</pre>\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_of_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("log");
        std::fs::create_dir_all(root.join("pods")).unwrap();
        std::fs::write(root.join("a&b.log"), "x").unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
        std::os::unix::fs::symlink("a&b.log", root.join("own")).unwrap();
        for found in ["", "pods", "pods/", "a&b.log", "own"] {
            assert!(find(&root, found).is_some(), "{found}");
        }
        for absent in ["../secret", "link", "nothing", "pods/../../secret"] {
            assert_eq!(find(&root, absent), None, "{absent}");
        }
        let page = listing(&root);
        assert!(page.contains("<a href=\"a%26b.log\">a&amp;b.log</a>\n"), "{page}");
        assert!(page.contains("<a href=\"pods/\">pods/</a>\n"), "{page}");
    }
}
