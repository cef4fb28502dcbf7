//! `ctl image`: the images of this machine, which all nodes of all its clusters share in one copy.

mod progress;

use std::fs::File;
use std::io::{BufWriter, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agent::images::credentials::of_node;
use agent::reference::{Reference, as_id};
use agent::runtime::images::{
    Credentials, Image, ImageStore, Mirror, Proxies, Puller, import, save,
};
use agent::runtime::{CONCURRENT_LAYERS, REGISTRIES};
use client::Clock;
use client::error::chain;
use serde_json::{Value, json};

use self::progress::Bars;
use crate::cluster::{Place, StateDir, become_root, home};
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
    /// Fetch images from their registries, so that nodes need not
    Pull(Pull),
    /// Make the images of an archive (OCI layout or docker save) known to every node
    Load {
        /// The archive, or the folder of an OCI layout
        file: PathBuf,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Write images into an archive that load, docker load and ctr import read
    Save {
        /// Names or ids
        #[arg(required = true)]
        images: Vec<String>,
        /// The archive; standard output where absent
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Show the images
    Ls {
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Take names of images away; an image without a name goes with the last container that uses it
    Rm {
        /// Names or ids
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Remove all images that no container uses, and what broken pulls have left
    Prune,
    /// Show all about images as JSON
    Inspect {
        /// Names or ids
        #[arg(required = true)]
        images: Vec<String>,
    },
}

#[derive(Debug, clap::Args)]
struct Pull {
    /// Names, with tags or digests
    #[arg(required = true)]
    images: Vec<String>,
    /// Directory of the registries' configuration
    #[arg(long, value_name = "DIR", default_value = REGISTRIES)]
    registry_config_path: PathBuf,
    /// Pull images of HOST from URL; may be repeated
    #[arg(long = "registry-mirror", value_name = "HOST=URL")]
    registry_mirrors: Vec<Mirror>,
    /// Where docker login has put credentials [default: ~/.docker/config.json]
    #[arg(long, value_name = "FILE")]
    docker_config: Option<PathBuf>,
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
    match command.command {
        Command::Pull(pull) => {
            become_root(&state, false).map_err(said)?;
            pull.run(&open(&state)?)?;
        }
        Command::Load { file, cluster } => {
            become_root(&state, false).map_err(said)?;
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
        Command::Save { images, output } => {
            become_root(&state, false).map_err(said)?;
            write(&open(&state)?, &images, output.as_deref())?;
        }
        Command::Ls { cluster } => {
            cluster.check(&state)?;
            if !state.images().exists() {
                anstream::eprintln!("No images found");
                return Ok(ExitCode::SUCCESS);
            }
            anstream::print!("{}", list(&open(&state)?.list().map_err(said)?));
        }
        Command::Rm { images } => {
            become_root(&state, false).map_err(said)?;
            return remove(&open(&state)?, &images);
        }
        Command::Prune => {
            become_root(&state, false).map_err(said)?;
            let freed = open(&state)?.prune(Clock::system().now()).map_err(said)?;
            for image in &freed.images {
                anstream::println!("Deleted: {}", familiar(name(image)));
            }
            anstream::println!("Total reclaimed space: {}", size(freed.bytes));
        }
        Command::Inspect { images } => {
            let store = open(&state)?;
            let shown = images.iter().map(|image| inspected(&store, image));
            let shown = Value::Array(shown.collect::<Result<_>>()?);
            let text = serde_json::to_string_pretty(&shown).expect("values are JSON");
            anstream::println!("{text}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn said(error: impl std::error::Error) -> Failure {
    Failure::said(chain(&error))
}

fn open(state: &StateDir) -> Result<ImageStore> {
    ImageStore::open(&state.images()).map_err(said)
}

/// The image of a name or of the beginning of an id as `ls` shows it, and by what it is found.
fn look_up(store: &ImageStore, text: &str) -> Result<Option<(Image, String)>> {
    let named = store.find(text).map_err(said)?;
    if let Some(image) = named {
        return Ok(Some((image, text.to_owned())));
    }
    let id = format!("sha256:{text}");
    let found = if as_id(&id).is_some() { store.find(&id).map_err(said)? } else { None };
    Ok(found.map(|image| (image, id)))
}

impl Pull {
    fn run(&self, store: &ImageStore) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|error| Failure::said(format!("cannot start: {error}")))?;
        let puller = Puller::new(
            store.clone(),
            self.registry_config_path.clone(),
            self.registry_mirrors.clone(),
            Proxies::new(|name| std::env::var(name).ok()),
            CONCURRENT_LAYERS,
            Clock::system(),
        );
        for image in &self.images {
            let reference: Reference = image.parse().map_err(said)?;
            let credentials = self.credentials(&reference)?;
            anstream::eprintln!("Pulling {}", familiar(&reference.to_string()));
            let bars = Bars::new(std::io::stderr().is_terminal());
            let pulled = runtime.block_on(puller.pull(&reference, &credentials, &bars));
            bars.finish();
            let image = pulled.map_err(said)?;
            anstream::println!("Pulled image: {} ({})", familiar(&reference.to_string()), image.id);
        }
        Ok(())
    }

    /// What `docker login` knows of the registry.
    fn credentials(&self, image: &Reference) -> Result<Credentials> {
        let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
        let home = || Some(home()?.join(".docker"));
        let default = || folder.or_else(home).map(|folder| folder.join("config.json"));
        let path = self.docker_config.clone().or_else(default);
        let bytes = match path.as_ref().map(std::fs::read) {
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) if self.docker_config.is_some() => {
                let path = path.unwrap_or_default();
                return Err(Failure::said(format!("read {}: {error}", path.display())));
            }
            _ => return Ok(Credentials::Anonymous),
        };
        let best = of_node(image, bytes).into_iter().next();
        let auth = best.map(|credential| credential.auth).unwrap_or_default();
        Credentials::new(auth, &image.registry).map_err(said)
    }
}

fn write(store: &ImageStore, images: &[String], output: Option<&Path>) -> Result<()> {
    let keys = |name: &String| match look_up(store, name)? {
        Some((_, key)) => Ok(key),
        None => Err(Failure::said(format!("no such image: {name}"))),
    };
    let images = &images.iter().map(keys).collect::<Result<Vec<_>>>()?;
    let Some(path) = output else {
        if std::io::stdout().is_terminal() {
            return Err(Failure::said("an archive is nothing for a terminal: name a file with -o"));
        }
        return save(store, images, BufWriter::new(std::io::stdout().lock())).map_err(said);
    };
    let failed = |error| Failure::said(format!("write {}: {error}", path.display()));
    let file = File::create(path).map_err(failed)?;
    save(store, images, BufWriter::new(file)).map_err(|error| {
        // Half an archive would only mislead.
        let _ = std::fs::remove_file(path);
        said(error)
    })
}

fn remove(store: &ImageStore, images: &[String]) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for text in images {
        let Some((image, key)) = look_up(store, text)? else {
            anstream::eprintln!("error: no such image: {text}");
            code = ExitCode::FAILURE;
            continue;
        };
        let left = store.untag(&key).map_err(said)?.unwrap_or_default();
        anstream::println!("Untagged: {text}");
        if left.is_empty() && !store.in_use(&image.id).map_err(said)? {
            anstream::println!("Deleted: {}", image.id);
        }
    }
    Ok(code)
}

/// As `docker image inspect`, as far as it is known.
fn inspected(store: &ImageStore, text: &str) -> Result<Value> {
    let missing = || Failure::said(format!("no such image: {text}"));
    let (image, _) = look_up(store, text)?.ok_or_else(missing)?;
    let config = store.config_of(&image.id).map_err(said)?.unwrap_or_else(|| b"{}".to_vec());
    let config: Value = serde_json::from_slice(&config)
        .map_err(|error| Failure::said(format!("read the configuration of {text}: {error}")))?;
    Ok(json!({
        "Id": image.id,
        "RepoTags": image.tags.iter().map(|tag| familiar(tag)).collect::<Vec<_>>(),
        "RepoDigests": image.digests.iter().map(|name| familiar(name)).collect::<Vec<_>>(),
        "Created": config["created"],
        "Architecture": config["architecture"],
        "Os": config["os"],
        "Size": image.size,
        "Config": config["config"],
        "RootFS": { "Type": "layers", "Layers": image.layers },
        "InUse": store.in_use(&image.id).map_err(said)?,
    }))
}

fn name(image: &Image) -> &str {
    image.tags.first().or(image.digests.first()).unwrap_or(&image.id)
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

pub fn size(bytes: u64) -> String {
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
