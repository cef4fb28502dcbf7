//! How drivers make themselves known: in the folder of plugins. What a driver has offered on this node is
//! taken back for it when it has been gone for a while.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use client::{Client, Clock, DeleteOptions, ListOptions};
use proto::registration::PluginInfo;
use proto::view::device::ResourceSlice;
use tokio_util::task::AbortOnDropHandle;

use super::health::Listener;
use super::{Dra, Driver};
use crate::plugins::{Error, Handler};

/// What a driver serves that can be used.
const SERVICE: &str = "v1.DRAPlugin";

/// How long a driver may be gone, as for an update (kubelet: 30 s).
const GRACE: Duration = Duration::from_secs(30);

/// Takes drivers.
#[derive(Clone)]
pub struct Registrar {
    pub dra: Dra,
    pub client: Client,
    pub clock: Clock,
    pub node: String,
}

impl Registrar {
    /// Unless the driver comes back in time.
    async fn withdraw(self, driver: String) {
        loop {
            self.clock.sleep(GRACE).await;
            if self.dra.0.drivers.lock().contains_key(&driver) {
                return;
            }
            match self.wipe(&driver).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(driver, %error, "cannot withdraw its devices"),
            }
        }
    }

    async fn wipe(&self, driver: &str) -> Result<(), client::Error> {
        let field_selector = format!("spec.nodeName={},spec.driver={driver}", self.node);
        let options = ListOptions { field_selector, ..ListOptions::default() };
        for slice in self.client.list::<ResourceSlice>(&options).await?.items {
            let meta = &slice.metadata;
            let only = DeleteOptions::uid(&meta.uid);
            match self.client.delete::<ResourceSlice>("", &meta.name, &only).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Handler for Registrar {
    fn kind(&self) -> &'static str {
        "DRAPlugin"
    }

    fn refusal(&self, info: &PluginInfo) -> Option<String> {
        let serves = info.supported_versions.iter().any(|service| service == SERVICE);
        (!serves).then(|| {
            let services = info.supported_versions.join(" ");
            format!(
                "none of the services [{services}] of the DRA driver {:?} is supported: {SERVICE} is",
                info.name
            )
        })
    }

    async fn take(&self, info: &PluginInfo, endpoint: &Path) -> Result<(), Error> {
        let (name, socket) = (&info.name, endpoint.to_path_buf());
        let listener = Listener::new(&self.dra, self.clock.clone(), name);
        let task = AbortOnDropHandle::new(tokio::spawn(listener.follow(socket.clone())));
        let driver = Driver { socket, _health: task };
        self.dra.0.drivers.lock().insert(name.clone(), driver);
        Ok(())
    }

    async fn gone(&self, name: &str) -> Result<(), Error> {
        let gone = self.dra.0.drivers.lock().remove(name);
        drop(gone);
        if self.dra.0.health.lock().remove(name).is_some() {
            self.dra.0.changed.send_replace(());
        }
        tokio::spawn(self.clone().withdraw(name.into()));
        Ok(())
    }
}
