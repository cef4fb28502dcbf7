//! What drivers are asked to do.

use std::collections::BTreeMap;

use proto::dra::dra_plugin_client::DraPluginClient;
use proto::dra::{Claim, NodePrepareResourcesRequest, NodeUnprepareResourcesRequest};
use tonic::transport::Channel;

use super::{Device, Dra, Held};
use crate::plugins::{CallError, channel};

impl Dra {
    fn driver(&self, name: &str) -> Result<DraPluginClient<Channel>, String> {
        let drivers = self.0.drivers.lock();
        let driver = drivers.get(name);
        let driver = driver.ok_or_else(|| format!("DRA driver {name} is not registered"))?;
        Ok(DraPluginClient::new(channel(&driver.socket)))
    }

    fn named(&self, uids: &[String]) -> Vec<Claim> {
        let claims = self.0.claims.lock();
        let one = |uid: &String| {
            let Held { namespace, name, .. } = claims.get(uid)?;
            Some(Claim { namespace: namespace.clone(), uid: uid.clone(), name: name.clone() })
        };
        uids.iter().filter_map(one).collect()
    }

    /// Has the driver get its devices of these claims ready, and remembers which they are.
    pub(super) async fn call_prepare(&self, driver: &str, uids: &[String]) -> Result<(), String> {
        let request = NodePrepareResourcesRequest { claims: self.named(uids) };
        let answer = self.driver(driver)?.node_prepare_resources(request).await;
        let answer =
            answer.map_err(|status| format!("NodePrepareResources: {}", CallError(status)))?;
        let mut answers: BTreeMap<String, _> = answer.into_inner().claims.into_iter().collect();
        let mut claims = self.0.claims.lock();
        for uid in uids {
            let Some(held) = claims.get_mut(uid) else { continue };
            let Some(answer) = answers.remove(uid) else {
                let name = &held.name;
                return Err(format!("NodePrepareResources left out ResourceClaim {name}"));
            };
            if !answer.error.is_empty() {
                let name = &held.name;
                let why = answer.error;
                return Err(format!("NodePrepareResources failed for ResourceClaim {name}: {why}"));
            }
            let devices = answer.devices.into_iter().map(|device| Device {
                requests: device.request_names,
                pool: device.pool_name,
                device: device.device_name,
                cdi: device.cdi_device_ids,
            });
            held.devices.insert(driver.into(), devices.collect());
        }
        Ok(())
    }

    /// Has the driver take them down again.
    pub(super) async fn call_unprepare(&self, driver: &str, uids: &[String]) -> Result<(), String> {
        let claims = self.named(uids);
        let names: BTreeMap<String, String> =
            claims.iter().map(|claim| (claim.uid.clone(), claim.name.clone())).collect();
        let request = NodeUnprepareResourcesRequest { claims };
        let answer = self.driver(driver)?.node_unprepare_resources(request).await;
        let answer = answer
            .map_err(|status| format!("NodeUnprepareResources: {}", CallError(status)))?
            .into_inner();
        for (uid, name) in names {
            match answer.claims.get(&uid) {
                Some(answer) if answer.error.is_empty() => {}
                Some(answer) => {
                    let why = &answer.error;
                    return Err(format!(
                        "NodeUnprepareResources failed for ResourceClaim {name}: {why}"
                    ));
                }
                None => {
                    return Err(format!("NodeUnprepareResources left out ResourceClaim {name}"));
                }
            }
        }
        Ok(())
    }
}
