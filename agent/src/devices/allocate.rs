//! Giving a pod its devices: chosen here, or by their plugin where it likes some better, and handed over
//! by the plugin.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use proto::device_plugin::device_plugin_client::DevicePluginClient;
use proto::device_plugin::{
    AllocateRequest, ContainerAllocateRequest, ContainerAllocateResponse,
    ContainerPreferredAllocationRequest, PreferredAllocationRequest,
};

use super::choose::{Candidates, Choice, Refusal, Request, Stock, choose};
use super::{Allotment, Devices, Owner, checkpoint};
use crate::plugins::{CallError, channel};
use crate::pod::{Container, Pod};

/// Why a pod does not get its devices; in the kubelet's words.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("endpoint of {0} has been stopped")]
    Stopped(String),
    #[error("device plugin GetPreferredAllocation rpc failed with err: {0}")]
    Preferred(CallError),
    #[error("{0}")]
    Allocate(CallError),
    #[error("no containers return in allocation response of {0}")]
    Empty(String),
    #[error("failed to write checkpoint file {file:?}: {source}", file = checkpoint::FILE)]
    Write { source: checkpoint::Error },
}

type Ids = BTreeSet<String>;

impl Devices {
    /// Gives a pod that is to be taken all the devices that its containers ask for, or none. What it
    /// has already it keeps.
    pub async fn allocate(&self, pod: &Pod) -> Result<(), Error> {
        if !self.is_asked_by(pod) {
            return Ok(());
        }
        let _turn = self.0.turn.lock().await;
        let given = self.give(pod).await;
        if given.is_err() {
            self.release(&pod.metadata.uid);
        }
        given
    }

    /// Does any container of the pod ask for something that plugins offer?
    fn is_asked_by(&self, pod: &Pod) -> bool {
        let mut containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
        containers.any(|container| !self.asked(pod, container).is_empty())
    }

    /// What it has by a claim is not asked of plugins.
    fn asked(&self, pod: &Pod, container: &Container) -> Vec<(String, usize)> {
        let state = self.0.state.lock();
        let limits = container.resources.limits.iter();
        let asked =
            limits.filter(|(name, _)| state.resources.contains_key(*name) && !pod.is_claimed(name));
        let asked = asked.map(|(name, count)| {
            (name.clone(), usize::try_from(count.value()).unwrap_or_default())
        });
        asked.filter(|(_, count)| *count > 0).collect()
    }

    /// Init containers first: what they have, but for sidecars, is for the others afterwards.
    async fn give(&self, pod: &Pod) -> Result<(), Error> {
        let mut reusable: BTreeMap<String, Ids> = BTreeMap::new();
        let spec = &pod.spec;
        let init = spec.init_containers.iter().map(|it| (it, !it.is_sidecar()));
        for (container, passes) in init.chain(spec.containers.iter().map(|it| (it, false))) {
            for (resource, count) in self.asked(pod, container) {
                let owner = Owner {
                    pod: pod.metadata.uid.clone(),
                    container: container.name.clone(),
                    resource: resource.clone(),
                };
                let reusable = reusable.entry(resource).or_default();
                let ids = self.give_one(owner, count, reusable).await?;
                match passes {
                    true => reusable.extend(ids),
                    false => reusable.retain(|id| !ids.contains(id)),
                }
            }
        }
        Ok(())
    }

    /// The devices that the container has now.
    async fn give_one(&self, owner: Owner, count: usize, reusable: &Ids) -> Result<Ids, Error> {
        let (choice, held) = {
            let state = self.0.state.lock();
            let held = state.held.get(&owner).map(Allotment::ids).unwrap_or_default();
            let others = state.held.iter().filter(|(other, _)| other.resource == owner.resource);
            let healthy = state.resources.get(&owner.resource);
            let stock = Stock {
                healthy: healthy.into_iter().flat_map(|it| it.healthy()).cloned().collect(),
                used: others.flat_map(|(_, allotment)| allotment.ids()).collect(),
            };
            let Owner { pod, container, resource } = &owner;
            let request = Request { pod, container, resource, count };
            (choose(request, &held, reusable, &stock)?, held)
        };
        let candidates = match choice {
            Choice::Kept => return Ok(held),
            Choice::New(candidates) => candidates,
        };
        let (socket, likes) = self.plugin(&owner.resource)?;
        let mut client = DevicePluginClient::new(channel(&socket));
        let preferred = match likes && candidates.more > 0 {
            true => preferred(&mut client, &candidates).await?,
            false => Vec::new(),
        };
        let ids = candidates.take(&preferred);
        let request = ContainerAllocateRequest { devices_ids: ids.iter().cloned().collect() };
        let request = AllocateRequest { container_requests: vec![request] };
        let answer = client.allocate(request).await;
        let answer = answer.map_err(|status| Error::Allocate(CallError(status)))?.into_inner();
        let answer = answer.container_responses.into_iter().next();
        let answer = answer.ok_or_else(|| Error::Empty(owner.resource.clone()))?;
        self.hand_over(owner, &ids, answer)?;
        Ok(ids)
    }

    /// Where the resource's plugin is, and whether it likes some devices better than others.
    fn plugin(&self, resource: &str) -> Result<(PathBuf, bool), Error> {
        let state = self.0.state.lock();
        let known = state.resources.get(resource);
        let plugin = known.and_then(|known| Some((known, known.plugin.as_ref()?)));
        let (known, plugin) = plugin.ok_or_else(|| Error::Stopped(resource.into()))?;
        Ok((plugin.socket.clone(), known.options.get_preferred_allocation_available))
    }

    fn hand_over(
        &self,
        owner: Owner,
        ids: &Ids,
        answer: ContainerAllocateResponse,
    ) -> Result<(), Error> {
        let mut state = self.0.state.lock();
        let mut devices: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for id in ids {
            let known = state.resources.get(&owner.resource).and_then(|it| it.devices.get(id));
            let nodes = known.map(|device| device.nodes.as_slice()).unwrap_or_default();
            let nodes = if nodes.is_empty() { &[-1][..] } else { nodes };
            for node in nodes {
                devices.entry(*node).or_default().push(id.clone());
            }
        }
        state.held.insert(owner, Allotment { devices, answer });
        self.save(&state).map_err(|source| Error::Write { source })
    }
}

async fn preferred(
    client: &mut DevicePluginClient<tonic::transport::Channel>,
    candidates: &Candidates,
) -> Result<Vec<String>, Error> {
    let Candidates { certain, free, more } = candidates;
    let request = ContainerPreferredAllocationRequest {
        available_device_i_ds: free.union(certain).cloned().collect(),
        must_include_device_i_ds: certain.iter().cloned().collect(),
        allocation_size: i32::try_from(certain.len() + more).unwrap_or(i32::MAX),
    };
    let request = PreferredAllocationRequest { container_requests: vec![request] };
    let answer = client.get_preferred_allocation(request).await;
    let answer = answer.map_err(|status| Error::Preferred(CallError(status)))?.into_inner();
    let first = answer.container_responses.into_iter().next();
    Ok(first.map(|answer| answer.device_i_ds).unwrap_or_default())
}
