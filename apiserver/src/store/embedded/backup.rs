//! Backups: a store's objects as they are at one revision, as a file of the embedded store that
//! holds nothing else. It can be made of any store that is running, and opened as it is.

use std::path::Path;

use super::file::File;
use super::log::{Batch, Log, Record, place};
use super::unavailable;
use crate::store::{Range, Revision, Store, StoreError};

/// Objects that are read and written at a time.
const PAGE: usize = 1000;

/// How far a restored store's counter lies before the backup's: clients may have seen revisions
/// that came after it, and must not take what is written now for those.
const BUMP: Revision = 1_000_000_000;

/// What a backup holds, or what was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub revision: Revision,
    pub objects: usize,
}

/// Writes what the store holds now to a new file.
pub async fn write(store: &dyn Store, path: &Path) -> Result<Summary, StoreError> {
    let (shown, file) = (path.display().to_string(), path.to_owned());
    let mut log = blocking(move || Ok(Log::open(shown, Box::new(File::lock(&file)?))?.0)).await?;
    let mut summary = Summary { revision: store.revision().await?, objects: 0 };
    let mut range = Range { prefix: "/", at: Some(summary.revision), after: None, limit: PAGE };
    let mut last = None;
    loop {
        let page = store.list(Range { after: last.as_deref(), ..range }).await?;
        range.at = Some(page.revision);
        last = page.items.last().map(|item| item.key.clone());
        // Keys of one revision are told apart by their numbers; which has which does not matter.
        let numbered = page.items.into_iter().zip(summary.objects as u32..);
        let records: Vec<Record> = numbered
            .map(|(item, sub)| Record {
                place: place(item.mod_revision, sub),
                key: item.key,
                create_revision: item.create_revision,
                value: Some(item.value),
            })
            .collect();
        summary.objects += records.len();
        let counters = Some((summary.revision, summary.revision));
        log = blocking(move || {
            log.commit(&Batch { append: &records, forget: &[], counters })?;
            Ok(log)
        })
        .await?;
        if !page.more {
            return Ok(summary);
        }
    }
}

/// Makes a backup the store at `to`, which must not exist. Its counter goes on far behind the
/// backup's and nothing older can be watched, so that clients read everything anew.
pub fn restore(backup: &Path, to: &Path) -> Result<Summary, StoreError> {
    if to.exists() {
        return Err(StoreError::Exists { path: to.display().to_string() });
    }
    // Read first: what is no backup must not become a store.
    open(backup)?;
    let unfinished = to.with_extension("restoring");
    std::fs::copy(backup, &unfinished)
        .map_err(|source| unavailable("copying the backup", source))?;
    let (mut log, summary) = open(&unfinished)?;
    let revision = summary.revision + BUMP;
    log.commit(&Batch { counters: Some((revision, revision)), ..Batch::default() })?;
    drop(log);
    std::fs::rename(&unfinished, to)
        .map_err(|source| unavailable("putting the store in its place", source))?;
    Ok(Summary { revision, ..summary })
}

fn open(path: &Path) -> Result<(Log, Summary), StoreError> {
    if !path.exists() {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(unavailable("opening the backup", source));
    }
    let (log, index) = Log::open(path.display().to_string(), Box::new(File::lock(path)?))?;
    let objects = index.range("", index.revision(), None).count();
    Ok((log, Summary { revision: index.revision(), objects }))
}

/// Nothing of redb runs on an async worker.
async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(run).await.unwrap_or(Err(StoreError::Closed))
}
