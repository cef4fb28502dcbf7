//! Where a node's static pods come from, put together.

use client::Clock;

use super::Manifest;
use super::folder::{self, Source};
use super::page::{self, Page};
use crate::options::Options;

/// A folder, a page, both or neither.
#[derive(Default)]
pub struct Sources {
    folder: Option<Source>,
    page: Option<Page>,
    files: Vec<Manifest>,
    /// None until the page has answered.
    fetched: Option<Vec<Manifest>>,
}

/// The static pods of a node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    pub pods: Vec<Manifest>,
    /// There are no others: every source has spoken.
    pub complete: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Folder(#[from] folder::Error),
    #[error("ask --manifest-url")]
    Page(#[from] rustls::Error),
}

impl Sources {
    pub fn open(options: &Options, node: &str, clock: &Clock) -> Result<Sources, Error> {
        let folder = options.pod_manifest_path.as_ref();
        let folder = folder.map(|path| Source::open(path, node, clock.clone())).transpose()?;
        let page = options.manifest_url.as_ref().map(|url| {
            // Of one name there may be several.
            let headers = options.manifest_url_header.iter().cloned().collect();
            let every = options.http_check_frequency;
            Page::new(page::Config { url: url.clone(), headers, every }, node, clock.clone())
        });
        let page = page.transpose()?;
        let fetched = page.is_none().then(Vec::new);
        Ok(Sources { folder, page, files: Vec::new(), fetched })
    }

    /// What there is without waiting for anybody.
    pub fn first(&mut self) -> Wanted {
        self.files = self.folder.as_mut().map(Source::read).unwrap_or_default();
        self.wanted()
    }

    /// What there is once something has changed.
    pub async fn changed(&mut self) -> Wanted {
        let files = async {
            match &self.folder {
                Some(folder) => folder.changed().await,
                None => std::future::pending().await,
            }
        };
        let page = async {
            match &mut self.page {
                Some(page) => page.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = files => return self.first(),
            pods = page => self.fetched = Some(pods),
        }
        self.wanted()
    }

    fn wanted(&self) -> Wanted {
        let pods = self.files.iter().chain(self.fetched.iter().flatten()).cloned().collect();
        Wanted { pods, complete: self.fetched.is_some() }
    }
}
