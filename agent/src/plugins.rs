//! Programs beside the agent that give its node something: storage drivers, devices. Each makes a socket
//! in the folder `plugins_registry`; it is asked there who it is, and told whether it was taken. What
//! becomes of it is the affair of its kind's [`Handler`].

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::Clock;
use hyper_util::rt::TokioIo;
use proto::registration::registration_client::RegistrationClient;
use proto::registration::{InfoRequest, PluginInfo, RegistrationStatus};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::logs::Watcher;

/// After a plugin or an API server that did not answer.
const RETRY: Duration = Duration::from_secs(2);
/// As long as the kubelet waits for a plugin.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a plugin did not do. Worded as the kubelet's events are.
#[derive(Debug, thiserror::Error)]
#[error("rpc error: code = {:?} desc = {}", .0.code(), .0.message())]
pub struct CallError(pub tonic::Status);

/// Why a plugin could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is told so, and not asked again.
    #[error("ask {0} who it is")]
    Ask(PathBuf, #[source] CallError),
    /// It is tried again.
    #[error("tell the API of the plugin {0}")]
    Tell(String, #[source] client::Error),
}

/// What is done with plugins of one kind.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// `CSIPlugin`, `DevicePlugin`.
    fn kind(&self) -> &'static str;
    /// Why such a plugin cannot be taken, if so.
    fn refusal(&self, info: &PluginInfo) -> Option<String>;
    /// The plugin itself listens on `endpoint`.
    async fn take(&self, info: &PluginInfo, endpoint: &Path) -> Result<(), Error>;
    /// The socket of a plugin that was taken is gone.
    async fn gone(&self, name: &str) -> Result<(), Error>;
}

/// Follows the folder.
pub struct Registry {
    pub clock: Clock,
    /// `<root>/plugins_registry`.
    pub folder: PathBuf,
    pub handlers: Vec<Arc<dyn Handler>>,
}

/// A plugin that was taken: by whom, and its name.
type Taken = (Arc<dyn Handler>, String);

impl Registry {
    /// For ever.
    pub async fn keep(self) {
        let watch = || -> io::Result<_> {
            std::fs::create_dir_all(&self.folder)?;
            let watcher = Watcher::new()?;
            let changed = watcher.watch(&self.folder)?;
            Ok((watcher, changed))
        };
        let (_watcher, changed) = match watch() {
            Ok(watch) => watch,
            Err(error) => {
                let folder = self.folder.display().to_string();
                tracing::error!(folder, %error, "without this folder there are no plugins");
                return std::future::pending().await;
            }
        };
        let mut known: BTreeMap<PathBuf, Option<Taken>> = BTreeMap::new();
        loop {
            let failed = self.look(&mut known).await;
            match failed {
                true => drop(self.clock.timeout(RETRY, changed.notified()).await),
                false => changed.notified().await,
            }
        }
    }

    /// Takes new plugins and forgets those whose socket is gone; true where one is to be tried
    /// again.
    async fn look(&self, known: &mut BTreeMap<PathBuf, Option<Taken>>) -> bool {
        let sockets = sockets(&self.folder);
        let mut failed = false;
        let gone: Vec<PathBuf> =
            known.keys().filter(|socket| !sockets.contains(socket)).cloned().collect();
        for socket in gone {
            let Some((handler, name)) = known.remove(&socket).flatten() else { continue };
            if let Err(error) = handler.gone(&name).await {
                let error = client::error::chain(&error);
                tracing::warn!(plugin = name, error, "cannot say that a plugin is gone");
                failed = true;
            }
        }
        for socket in sockets {
            if known.contains_key(&socket) {
                continue;
            }
            match self.take(&socket).await {
                // One that was not taken has been told why: trying again would be no better.
                Ok(taken) => drop(known.insert(socket, taken)),
                Err(error) => {
                    let error = client::error::chain(&error);
                    tracing::warn!(error, "cannot take a plugin");
                    failed = true;
                }
            }
        }
        failed
    }

    async fn take(&self, socket: &Path) -> Result<Option<Taken>, Error> {
        let ask = |status| Error::Ask(socket.into(), CallError(status));
        let mut client = RegistrationClient::new(channel(socket));
        let info = client.get_info(InfoRequest {}).await.map_err(ask)?.into_inner();
        let endpoint = match info.endpoint.as_str() {
            "" => socket.to_path_buf(),
            endpoint => PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint)),
        };
        let outcome = match self.handler(&info) {
            Err(why) => Err(why),
            Ok(handler) => match handler.take(&info, &endpoint).await {
                Ok(()) => Ok(handler.clone()),
                Err(error @ Error::Tell(..)) => return Err(error),
                Err(error) => Err(client::error::chain(&error)),
            },
        };
        let answer = RegistrationStatus {
            plugin_registered: outcome.is_ok(),
            error: outcome.as_ref().err().cloned().unwrap_or_default(),
        };
        client.notify_registration_status(answer).await.map_err(ask)?;
        match outcome {
            Ok(handler) => {
                tracing::info!(plugin = info.name, kind = handler.kind(), "plugin taken");
                Ok(Some((handler, info.name)))
            }
            Err(error) => {
                tracing::warn!(plugin = info.name, error, "plugin not taken");
                Ok(None)
            }
        }
    }

    /// Who takes such a plugin, or why nobody does.
    fn handler(&self, info: &PluginInfo) -> Result<&Arc<dyn Handler>, String> {
        let kind = &info.r#type;
        let handler =
            self.handlers.iter().find(|handler| handler.kind() == kind).ok_or_else(|| {
                format!("plugins of type {kind:?} are not supported by this node")
            })?;
        handler.refusal(info).map_or(Ok(handler), Err)
    }
}

/// The sockets in a folder.
pub fn sockets(folder: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sockets = all.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    sockets.map(|entry| entry.path()).collect()
}

/// To a plugin that answers within two minutes. It connects when it is first used.
pub fn channel(socket: &Path) -> Channel {
    connect(endpoint().timeout(PATIENCE), socket)
}

/// To a plugin that may take its time, as for a stream of news.
pub fn patient_channel(socket: &Path) -> Channel {
    connect(endpoint(), socket)
}

fn endpoint() -> Endpoint {
    // The authority is never resolved; HTTP/2 wants one.
    Endpoint::from_static("http://localhost")
}

fn connect(endpoint: Endpoint, socket: &Path) -> Channel {
    let socket = socket.to_path_buf();
    let connect = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(socket).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    endpoint.connect_with_connector_lazy(connect)
}
