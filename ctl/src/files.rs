//! Manifests: from files, folders and stdin to objects. YAML as kubectl reads it, JSON too, many
//! documents in one file, and `kind: List` taken apart.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::failure::{Failure, Result};

/// A manifest larger than this is a mistake; the server's own limit is smaller.
const MOST_BYTES: u64 = 64 << 20;

/// Where manifests come from.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Files {
    /// Manifest file, folder, or - for stdin; may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// Look into the folders of a folder too
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// An object and the file it came from.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub source: String,
    pub object: Value,
}

impl Files {
    pub fn is_empty(&self) -> bool {
        self.filename.is_empty()
    }

    /// All objects, in order.
    pub fn read(&self) -> Result<Vec<Manifest>> {
        let mut manifests = Vec::new();
        for path in &self.filename {
            if path.as_os_str() == "-" {
                let text = read_limited(std::io::stdin().lock(), "standard input")?;
                manifests.extend(parse("STDIN", &text)?);
                continue;
            }
            for file in self.files(path)? {
                let source = file.display().to_string();
                let opened = std::fs::File::open(&file)
                    .map_err(|error| Failure::said(format!("cannot read {source}: {error}")))?;
                manifests.extend(parse(&source, &read_limited(opened, &source)?)?);
            }
        }
        if manifests.is_empty() {
            return Err(Failure::said("no objects passed to apply: the input holds no manifest"));
        }
        Ok(manifests)
    }

    /// The path itself, or the manifests of a folder in the order of their names.
    fn files(&self, path: &Path) -> Result<Vec<PathBuf>> {
        let text = path.to_string_lossy();
        if text.starts_with("http://") || text.starts_with("https://") {
            return Err(Failure::said(format!(
                "{text}: manifests are not fetched; download it and name the file"
            )));
        }
        if !path.exists() {
            return Err(Failure::said(format!("the path {text:?} does not exist")));
        }
        if !path.is_dir() {
            return Ok(vec![path.to_path_buf()]);
        }
        let unreadable = |error| Failure::said(format!("cannot read folder {text}: {error}"));
        let mut entries: Vec<PathBuf> = std::fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
            .map_err(unreadable)?;
        entries.sort();
        let mut files = Vec::new();
        for entry in entries {
            let extension = entry.extension().and_then(|extension| extension.to_str());
            if entry.is_dir() && self.recursive {
                files.extend(self.files(&entry)?);
            } else if matches!(extension, Some("yaml" | "yml" | "json")) {
                files.push(entry);
            }
        }
        Ok(files)
    }
}

fn read_limited(source: impl Read, name: &str) -> Result<String> {
    let mut text = String::new();
    source
        .take(MOST_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::said(format!("cannot read {name}: {error}")))?;
    if text.len() as u64 > MOST_BYTES {
        return Err(Failure::said(format!("{name} is larger than {} MiB", MOST_BYTES >> 20)));
    }
    Ok(text)
}

/// The objects of one text.
pub fn parse(source: &str, text: &str) -> Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for document in documents(text) {
        let decoded = apiserver::codec::yaml::parse(document.as_bytes())
            .map_err(|why| Failure::said(format!("error parsing {source}: {why}")))?;
        if let Some(why) = decoded.strict.first() {
            return Err(Failure::said(format!("error parsing {source}: {why}")));
        }
        flatten(source, decoded.value, &mut manifests)?;
    }
    Ok(manifests)
}

fn flatten(source: &str, object: Value, manifests: &mut Vec<Manifest>) -> Result<()> {
    match &object {
        Value::Null => Ok(()),
        Value::Object(map) if map.get("kind").is_some_and(|kind| kind == "List") => {
            let items = map.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
            items.into_iter().try_for_each(|item| flatten(source, item, manifests))
        }
        Value::Object(map) => {
            for field in ["apiVersion", "kind"] {
                if map.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
                    return Err(Failure::said(format!(
                        "error validating {source:?}: {field} not set"
                    )));
                }
            }
            manifests.push(Manifest { source: source.to_string(), object });
            Ok(())
        }
        _ => Err(Failure::said(format!(
            "error parsing {source}: a manifest is a mapping, as in \"kind: Pod\""
        ))),
    }
}

/// Cuts a YAML stream at its `---` lines. A document of comments only is none.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        let separates = line == "---" || line.starts_with("--- ") || line.trim_end() == "---";
        if separates {
            let rest = line.trim_start_matches("---").trim();
            documents.push(if rest.starts_with('#') { String::new() } else { rest.to_string() });
            continue;
        }
        if let Some(document) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    let has_content = |document: &String| {
        document.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
    };
    documents.into_iter().filter(has_content).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_lists_and_mistakes() {
        let text = "# only a comment\n---\napiVersion: v1\nkind: Pod\n--- # next\n\
                    apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Node}\n---\n";
        let kinds: Vec<String> = parse("x", text)
            .unwrap()
            .iter()
            .map(|manifest| manifest.object["kind"].as_str().unwrap().to_string())
            .collect();
        assert_eq!(kinds, ["Pod", "Node"]);
        for (text, said) in [
            ("kind: Pod", "error: error validating \"x\": apiVersion not set"),
            ("apiVersion: v1\nkind: [", "error: error parsing x: "),
            ("just words", "error: error parsing x: a manifest is a mapping"),
        ] {
            let error = parse("x", text).unwrap_err().to_string();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
