//! `ctl server backup` and `restore`: the whole of an embedded store as one file.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use apiserver::http::BACKUP;
use apiserver::store::embedded::backup;
use client::error::chain;
use http_body_util::BodyExt;

use crate::failure::{Failure, Result};
use crate::session::Connection;

#[derive(Clone, Debug, clap::Subcommand)]
pub enum Keep {
    /// Write everything that a running server has stored to a file
    Backup {
        /// It must not exist
        file: PathBuf,
    },
    /// Make a server's store from a backup; the server must not run
    Restore {
        file: PathBuf,
        /// The data directory of the server, which has no store yet
        #[arg(long, value_name = "DIR", default_value = "/var/lib/coracle/server")]
        data_dir: PathBuf,
    },
}

impl Keep {
    pub fn run(self, connection: &Connection) -> Result<ExitCode> {
        match self {
            Keep::Backup { file } => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime =
                    runtime.map_err(|why| Failure::said(format!("cannot start: {why}")))?;
                runtime.block_on(save(&file, connection))?;
            }
            Keep::Restore { file, data_dir } => restore(&file, &data_dir)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The file has its name only when it is whole.
async fn save(file: &Path, connection: &Connection) -> Result<()> {
    let failed = |why: &dyn std::fmt::Display| {
        Failure::said(format!("cannot write the backup {}: {why}", file.display()))
    };
    if file.exists() {
        return Err(failed(&"the file exists"));
    }
    let response = connection.open()?.get_as(BACKUP, "*/*").await?;
    let text = |name: &str| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_string()
    };
    let (revision, objects) = (text("coracle-revision"), text("coracle-objects"));
    let announced: Option<u64> = text("content-length").parse().ok();
    let unfinished = file.with_added_extension("unfinished");
    let mut options = std::fs::OpenOptions::new();
    // It holds Secrets.
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut to = options.open(&unfinished).map_err(|why| failed(&why))?;
    let (mut body, mut written) = (response.into_body(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|why| failed(&format!("the server broke off: {why}")))?;
        let bytes = frame.data_ref().map(AsRef::as_ref).unwrap_or_default();
        to.write_all(bytes).map_err(|why| failed(&why))?;
        written += bytes.len() as u64;
    }
    if announced.is_some_and(|announced| announced != written) {
        return Err(failed(&"the server broke off"));
    }
    to.sync_all().map_err(|why| failed(&why))?;
    std::fs::rename(&unfinished, file).map_err(|why| failed(&why))?;
    anstream::println!("{}: {objects} objects at revision {revision}", file.display());
    Ok(())
}

fn restore(file: &Path, data_dir: &Path) -> Result<()> {
    std::fs::create_dir_all(data_dir)
        .map_err(|why| Failure::said(format!("cannot make {}: {why}", data_dir.display())))?;
    let store = data_dir.join("store.redb");
    let restored = backup::restore(file, &store).map_err(|error| {
        Failure::said(format!("cannot restore {}: {}", file.display(), chain(&error)))
    })?;
    anstream::println!(
        "{}: {} objects; clients that watch will read everything anew",
        store.display(),
        restored.objects
    );
    Ok(())
}
