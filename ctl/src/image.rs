//! `ctl image`: the images of this machine, which all nodes of all its clusters share in one copy.

use std::path::PathBuf;
use std::process::ExitCode;

use agent::runtime::images::{Image, ImageStore, import};
use client::error::chain;

use crate::cluster::{Place, StateDir, become_root};
use crate::failure::{Failure, Result};
use crate::output::table::Table;

/// Images.
#[derive(Debug, clap::Args)]
pub struct ImageCommand {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make the images of an archive (OCI layout or docker save) known to every node
    Load {
        /// The archive, or the folder of an OCI layout
        file: PathBuf,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Show the images
    Ls {
        #[command(flatten)]
        cluster: Cluster,
    },
}

#[derive(Debug, clap::Args)]
struct Cluster {
    /// The cluster whose nodes are meant; it must exist (default: all, also later ones)
    #[arg(long = "cluster", value_name = "NAME")]
    name: Option<String>,
}

/// Runs one `image` command.
pub fn run(command: ImageCommand) -> Result<ExitCode> {
    let state = StateDir(command.place.state_dir);
    let said = |error: &dyn std::error::Error| Failure::said(chain(error));
    match command.command {
        Command::Load { file, cluster } => {
            become_root(&state, false).map_err(|error| said(&error))?;
            cluster.check(&state)?;
            if !file.exists() {
                return Err(Failure::said(format!("{}: no such file or folder", file.display())));
            }
            let failed = |error| Failure::said(format!("{}: {}", file.display(), chain(&error)));
            for image in import(&state.images(), &file).map_err(failed)? {
                let name = image.tags.first().unwrap_or(&image.id);
                anstream::println!("Loaded image: {}", familiar(name));
            }
        }
        Command::Ls { cluster } => {
            cluster.check(&state)?;
            if !state.images().exists() {
                anstream::eprintln!("No images found");
                return Ok(ExitCode::SUCCESS);
            }
            let store = ImageStore::open(&state.images()).map_err(|error| said(&error))?;
            anstream::print!("{}", list(&store.list().map_err(|error| said(&error))?));
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Cluster {
    fn check(&self, state: &StateDir) -> Result<()> {
        let Some(name) = &self.name else { return Ok(()) };
        match state.cluster(name) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Failure::said(format!("there is no cluster {name:?}"))),
            Err(error) => Err(Failure::said(chain(&error))),
        }
    }
}

fn list(images: &[Image]) -> String {
    let mut table = Table::new(&["IMAGE", "TAG", "IMAGE ID", "SIZE"]);
    for image in images {
        let id = image.id.trim_start_matches("sha256:");
        let id = id[..id.len().min(13)].to_owned();
        let row = |name: &str, tag: &str| {
            vec![familiar(name), tag.to_owned(), id.clone(), size(image.size)]
        };
        for full in &image.tags {
            let (name, tag) = full.rsplit_once(':').unwrap_or((full, "<none>"));
            table.push(row(name, tag));
        }
        if image.tags.is_empty() {
            let name = image.digests.first().and_then(|full| full.split('@').next());
            table.push(row(name.unwrap_or("<none>"), "<none>"));
        }
    }
    table.lines(true)
}

/// As people write it: without the registry and folder that are meant where there is none.
fn familiar(name: &str) -> String {
    let short = name.strip_prefix("docker.io/").unwrap_or(name);
    short.strip_prefix("library/").unwrap_or(short).to_owned()
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes}B"),
        1_000..1_000_000 => format!("{:.1}kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}MB", bytes as f64 / 1e6),
        _ => format!("{:.2}GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sizes_as_people_write_them() {
        assert_eq!(familiar("docker.io/library/my-app:latest"), "my-app:latest");
        assert_eq!(familiar("docker.io/a/b:1"), "a/b:1");
        assert_eq!(familiar("quay.io/a/b:1"), "quay.io/a/b:1");
        assert_eq!([size(12), size(1_234), size(5_600_000)], ["12B", "1.2kB", "5.6MB"]);
    }
}
