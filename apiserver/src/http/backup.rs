//! `GET /coracle/backup`: the whole store as a file, for `ctl server backup`. Only who may do
//! everything may ask for it. Encrypted values stay encrypted.

use std::{path::PathBuf, sync::Arc};

use axum::{body::Body, response::Response};
use client::Rng;
use futures::stream;
use http::{HeaderValue, header};
use proto::status::Status;
use tokio::io::AsyncReadExt;

use crate::{
    registry::store_status,
    store::{Store, embedded::backup},
};

/// Where it is asked for.
pub const PATH: &str = "/coracle/backup";

pub struct Backup {
    /// Below encryption.
    store: Arc<dyn Store>,
    /// The file is made here and is gone from the folder before it is sent.
    folder: PathBuf,
    rng: Rng,
}

impl Backup {
    pub fn new(store: Arc<dyn Store>, folder: PathBuf, rng: Rng) -> Backup {
        Backup { store, folder, rng }
    }

    pub(super) async fn answer(&self) -> Result<Response, Status> {
        let path = self.folder.join(format!("backup-{}", self.rng.uuid()));
        let written = backup::write(&*self.store, &path).await;
        let opened = tokio::fs::File::open(&path).await;
        // Whatever came of it: nothing of it stays.
        let _ = tokio::fs::remove_file(&path).await;
        let summary = written.map_err(store_status)?;
        let failed = |error| Status::internal(format!("reading the backup: {error}"));
        let file = opened.map_err(failed)?;
        let length = file.metadata().await.map_err(failed)?.len();
        tracing::info!(summary.revision, summary.objects, "a backup was made");
        let mut response = Response::new(Body::from_stream(stream::unfold(file, piece)));
        let headers = response.headers_mut();
        let binary = HeaderValue::from_static("application/octet-stream");
        headers.insert(header::CONTENT_TYPE, binary);
        headers.insert(header::CONTENT_LENGTH, length.into());
        headers.insert("coracle-revision", summary.revision.into());
        headers.insert("coracle-objects", summary.objects.into());
        Ok(response)
    }
}

const PIECE: usize = 256 << 10;

async fn piece(mut file: tokio::fs::File) -> Option<(std::io::Result<Vec<u8>>, tokio::fs::File)> {
    let mut piece = Vec::with_capacity(PIECE);
    match (&mut file).take(PIECE as u64).read_to_end(&mut piece).await {
        Ok(0) => None,
        Ok(_) => Some((Ok(piece), file)),
        Err(error) => Some((Err(error), file)),
    }
}
