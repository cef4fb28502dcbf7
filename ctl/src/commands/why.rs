//! `ctl why pod/X`: why a pod has no node, plugin by plugin and node by node, or why it has the one
//! it has. The verdicts are the scheduler's own: the same plugins on the same objects.

use std::sync::Arc;

use client::{Client, Key, ListOptions, Object, Rng};
use proto::view::csi_driver::CsiDriver;
use proto::view::csi_node::CsiNode;
use proto::view::csi_storage_capacity::CsiStorageCapacity;
use proto::view::device::ResourceSlice;
use proto::view::namespace::Namespace;
use proto::view::node::Node;
use proto::view::persistent_volume::PersistentVolume;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::pod::Pod;
use proto::view::pod_disruption_budget::PodDisruptionBudget;
use proto::view::replica_set::ReplicaSet;
use proto::view::replication_controller::ReplicationController;
use proto::view::resource_claim::{DeviceClass, ResourceClaim};
use proto::view::service::Service;
use proto::view::stateful_set::StatefulSet;
use proto::view::storage_class::StorageClass;
use scheduler::cycle::{Decider, Opinion, opinions};
use scheduler::preemption::Preemption;
use scheduler::profile::Profile;
use scheduler::snapshot::{Kind, PodInfo, Snapshot};

use crate::failure::{Failure, Result};
use crate::output::table::Table;
use crate::session::Session;

#[derive(clap::Args)]
pub struct Why {
    /// pod/NAME or NAME
    pod: String,
}

impl Why {
    pub async fn run(&self, session: &Session) -> Result<()> {
        let name = match self.pod.split_once('/') {
            None => self.pod.as_str(),
            Some(("pod" | "pods" | "po", name)) => name,
            Some((other, _)) => {
                return Err(Failure::said(format!(
                    "why answers for pods, not for {other}: \"ctl describe\" shows the events of others"
                )));
            }
        };
        let pod = session.client.get::<Pod>(&session.namespace, name).await?;
        let key = Key::new(&session.namespace, name);
        let mut info = Arc::new(PodInfo::new(key, Arc::new(pod)));
        let snapshot = snapshot(&session.client, &info).await?;
        let chosen = info.object.spec.node_name.clone();
        match chosen.as_str() {
            "" => anstream::println!("pod/{name} has no node."),
            node => anstream::println!("pod/{name} is on node {node}. As nodes and pods are now:"),
        }
        for gate in &info.object.spec.scheduling_gates {
            anstream::println!("It waits for its scheduling gate {:?} to be removed.", gate.name);
        }
        // Asked as if it had no node yet.
        info = Arc::new(unplaced(&info)?);
        let profile = Profile::default();
        let opinions = opinions(&info, &snapshot, &profile);
        if opinions.is_empty() {
            anstream::println!("no nodes available to schedule pods");
        }
        print(&opinions, &chosen);
        if chosen.is_empty() && opinions.iter().all(|opinion| !opinion.rejections.is_empty()) {
            print_preemption(&info, &snapshot, profile);
        }
        Ok(())
    }
}

/// Who could make room, or why nobody.
fn print_preemption(pod: &Arc<PodInfo>, snapshot: &Snapshot, profile: Profile) {
    let mut decider = Decider::new(Arc::new(profile), Rng::seeded(0));
    let Err(refused) = decider.schedule(pod, snapshot) else { return };
    match refused.preemption {
        Some(Preemption::Found(victims)) => {
            let names: Vec<String> = victims.pods.iter().map(|pod| pod.key.to_string()).collect();
            let (node, names) = (victims.node, names.join(", "));
            anstream::println!("It could take the place of others on node {node}: {names}");
        }
        Some(Preemption::Refused(why)) => anstream::println!("Preemption: {why}"),
        Some(Preemption::Useless { reasons, .. }) => {
            for (reason, count) in reasons {
                anstream::println!("Preemption: {reason} ({count} nodes)");
            }
        }
        None => {}
    }
}

fn unplaced(info: &PodInfo) -> Result<PodInfo> {
    let mut pod = info.object.value();
    pod["spec"]["nodeName"] = "".into();
    let entry = client::Entry::decode(pod.to_string().into()).map_err(Failure::said)?;
    Ok(PodInfo::new(info.key.clone(), Arc::new(entry)))
}

/// The cluster without the pod itself.
async fn snapshot(client: &Client, pod: &PodInfo) -> Result<Snapshot> {
    let everything = ListOptions::default();
    let mut snapshot = Snapshot::default();
    for namespace in client.list::<Namespace>(&everything).await?.items {
        snapshot.put_namespace(&namespace.metadata.name, namespace.metadata.labels.clone());
    }
    storage(client, &mut snapshot).await?;
    devices(client, &mut snapshot).await?;
    groups(client, &mut snapshot).await?;
    for node in client.list::<Node>(&everything).await?.items {
        snapshot.put_node(Arc::new(node));
    }
    for other in client.list::<Pod>(&everything).await?.items {
        let other = PodInfo::new(Key::of(&other.metadata), Arc::new(other));
        let node = other.object.spec.node_name.clone();
        let nominated = other.object.status.nominated_node_name.clone();
        let other = Arc::new(other);
        if other.object.is_terminal() {
            continue;
        }
        if !node.is_empty() && other.uid() != pod.uid() {
            snapshot.place(other, &node);
        } else if node.is_empty() && !nominated.is_empty() {
            snapshot.nominations.put(other, &nominated);
        }
    }
    Ok(snapshot)
}

async fn groups(client: &Client, snapshot: &mut Snapshot) -> Result<()> {
    let everything = ListOptions::default();
    for service in client.list::<Service>(&everything).await?.items {
        snapshot.put_service(&Key::of(&service.metadata), Some(&service.spec.selector));
    }
    controllers::<ReplicaSet>(client, snapshot, Kind::ReplicaSet).await?;
    controllers::<StatefulSet>(client, snapshot, Kind::StatefulSet).await?;
    controllers::<ReplicationController>(client, snapshot, Kind::ReplicationController).await?;
    for budget in client.list::<PodDisruptionBudget>(&everything).await?.items {
        snapshot.budgets.put(&Key::of(&budget.metadata), Some(&Arc::new(budget)));
    }
    Ok(())
}

async fn controllers<T: Object>(
    client: &Client,
    snapshot: &mut Snapshot,
    kind: Kind,
) -> Result<()> {
    for owner in client.list::<T>(&ListOptions::default()).await?.items {
        snapshot.put_controller(kind, &Key::of(owner.meta()), Some(&owner.bytes));
    }
    Ok(())
}

async fn devices(client: &Client, snapshot: &mut Snapshot) -> Result<()> {
    let everything = ListOptions::default();
    for class in client.list::<DeviceClass>(&everything).await?.items {
        let name = class.metadata.name.clone();
        snapshot.devices.put_class(&name, Some(Arc::new(class)));
    }
    for slice in client.list::<ResourceSlice>(&everything).await?.items {
        let name = slice.metadata.name.clone();
        snapshot.devices.put_slice(&name, Some(Arc::new(slice)));
    }
    for claim in client.list::<ResourceClaim>(&everything).await?.items {
        snapshot.devices.put_claim(Key::of(&claim.metadata), Some(Arc::new(claim)));
    }
    Ok(())
}

async fn storage(client: &Client, snapshot: &mut Snapshot) -> Result<()> {
    let everything = ListOptions::default();
    for claim in client.list::<PersistentVolumeClaim>(&everything).await?.items {
        snapshot.storage.put_claim(Key::of(&claim.metadata), Some(Arc::new(claim)));
    }
    for volume in client.list::<PersistentVolume>(&everything).await?.items {
        let name = volume.metadata.name.clone();
        snapshot.storage.put_volume(&name, Some(Arc::new(volume)));
    }
    for drivers in client.list::<CsiNode>(&everything).await?.items {
        let node = drivers.metadata.name.clone();
        snapshot.storage.put_drivers(&node, Some(Arc::new(drivers)));
    }
    for driver in client.list::<CsiDriver>(&everything).await?.items {
        let name = driver.metadata.name.clone();
        snapshot.storage.put_driver(&name, Some(Arc::new(driver)));
    }
    for capacity in client.list::<CsiStorageCapacity>(&everything).await?.items {
        snapshot.storage.put_capacity(Key::of(&capacity.metadata), Some(Arc::new(capacity)));
    }
    for class in client.list::<StorageClass>(&everything).await?.items {
        let name = class.metadata.name.clone();
        snapshot.storage.put_class(&name, Some(Arc::new(class)));
    }
    Ok(())
}

fn print(opinions: &[Opinion], chosen: &str) {
    let mut table = Table::new(&["NODE", "VERDICT", "PLUGIN", "WHY"]);
    for opinion in opinions {
        let mark = if *opinion.node == *chosen { "chosen" } else { "fits" };
        for (plugin, reason) in &opinion.rejections {
            table.push(vec![
                opinion.node.to_string(),
                "excluded".into(),
                plugin.to_string(),
                reason.to_string(),
            ]);
        }
        if opinion.rejections.is_empty() {
            let total: i64 = opinion.scores.iter().map(|(_, score)| score).sum();
            table.push(vec![
                opinion.node.to_string(),
                mark.into(),
                String::new(),
                format!("score {total}"),
            ]);
            for (plugin, score) in &opinion.scores {
                table.push(vec![
                    String::new(),
                    String::new(),
                    plugin.to_string(),
                    format!("+{score}"),
                ]);
            }
        }
    }
    if !table.is_empty() {
        anstream::print!("{}", table.lines(true));
    }
}
