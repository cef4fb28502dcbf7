//! Quotas and protected storage in a whole cluster under virtual time: what is given back is
//! counted, and what is in use stays.

use std::time::Duration;

use client::DeleteOptions;
use proto::view::config_map::ConfigMap;
use proto::view::deployment::Deployment;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::pod::Pod;
use proto::view::resource_quota::ResourceQuota;
use serde_json::{Value, json};
use tests::world::World;

fn used(quotas: &client::Informer<ResourceQuota>, resource: &str) -> Option<i64> {
    let quota = quotas.get("default", "q")?;
    quota.status.used.get(resource).map(|amount| amount.value())
}

async fn scale(world: &World, replicas: usize) {
    let patch = client::Patch::Merge(json!({"spec": {"replicas": replicas}}));
    world.client.patch::<Deployment>("default", "web", "", &patch).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn quotas_converge() {
    let world = World::new(11, 2).await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard":
        {"pods": "3", "requests.cpu": "1", "count/configmaps": "9", "count/deployments.apps": "1"}}});
    world.client.create::<ResourceQuota>("default", &quota).await.unwrap();
    let counted = |quotas: &client::Informer<ResourceQuota>| used(quotas, "pods") == Some(0);
    world.until::<ResourceQuota>(counted).await;

    let container =
        json!({"name": "c", "image": "i:1", "resources": {"requests": {"cpu": "200m"}}});
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 5,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [container]},
            },
        },
    });
    world.client.create::<Deployment>("default", &deployment).await.unwrap();
    world.until::<Pod>(|_| world.running().values().sum::<usize>() == 3).await;
    world.clock.sleep(Duration::from_secs(120)).await;
    assert_eq!(world.informers.of::<Pod>().snapshot().len(), 3, "no more than the quota allows");
    let quotas = world.informers.of::<ResourceQuota>();
    let all = |resource: &str| used(&quotas, resource);
    assert_eq!((all("pods"), all("count/deployments.apps")), (Some(3), Some(1)));

    scale(&world, 1).await;
    world.until::<ResourceQuota>(|quotas| used(quotas, "pods") == Some(1)).await;
    let milli = quotas.get("default", "q").unwrap().status.used["requests.cpu"].milli();
    assert_eq!(milli, 200);
    scale(&world, 3).await;
    world.until::<Pod>(|_| world.running().values().sum::<usize>() == 3).await;
    world.until::<ResourceQuota>(|quotas| used(quotas, "pods") == Some(3)).await;

    let before = used(&quotas, "count/configmaps").unwrap();
    let map = |name: &str| json!({"metadata": {"name": name}});
    for name in ["a", "b"] {
        world.client.create::<ConfigMap>("default", &map(name)).await.unwrap();
    }
    let options = DeleteOptions::default();
    world.client.delete::<ConfigMap>("default", "a", &options).await.unwrap();
    let one_more = |quotas: &client::Informer<ResourceQuota>| {
        used(quotas, "count/configmaps") == Some(before + 1)
    };
    world.until::<ResourceQuota>(one_more).await;

    let revision = |quotas: &client::Informer<ResourceQuota>| {
        quotas.get("default", "q").unwrap().metadata.revision()
    };
    world.clock.sleep(Duration::from_secs(60)).await;
    let rest = revision(&quotas);
    world.clock.sleep(Duration::from_secs(600)).await;
    assert_eq!(revision(&quotas), rest, "at rest nothing is written");
}

#[tokio::test(start_paused = true)]
async fn claims_in_use_stay() {
    let world = World::new(12, 1).await;
    let claim = json!({"metadata": {"name": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    world.client.create::<PersistentVolumeClaim>("default", &claim).await.unwrap();
    let pod: Value = json!({"metadata": {"name": "p"}, "spec": {
        "nodeName": "simulated-1",
        "containers": [{"name": "c", "image": "i:1"}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
    }});
    world.client.create::<Pod>("default", &pod).await.unwrap();
    let options = DeleteOptions::default();
    world.client.delete::<PersistentVolumeClaim>("default", "c", &options).await.unwrap();
    world.clock.sleep(Duration::from_secs(60)).await;
    let claims = world.informers.of::<PersistentVolumeClaim>();
    claims.synced().await;
    let waiting = claims.get("default", "c").expect("it is in use");
    assert!(waiting.metadata.deletion_timestamp.is_some());
    world.client.delete::<Pod>("default", "p", &options).await.unwrap();
    world.until::<PersistentVolumeClaim>(|claims| claims.get("default", "c").is_none()).await;
}
