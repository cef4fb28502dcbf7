//! kube-rs: requests, watchers, a reflector, a controller, server-side apply, election by Lease.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy, ResourceExt,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{DynamicObject, GroupVersionKind, Status};
use kube::runtime::controller::Action;
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::{Controller, WatchStreamExt, wait, watcher};
use kube::{Client, Config, Resource};
use serde_json::{Value, json};
use tests::server::Server;

async fn connect() -> (Server, Client) {
    let server = Server::start(&["--ephemeral"]);
    let kubeconfig = Kubeconfig::read_from(server.kubeconfig()).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    (server, Client::try_from(config).unwrap())
}

/// Of the Kubernetes type, from what a manifest would say.
fn object<T: serde::de::DeserializeOwned>(manifest: Value) -> T {
    serde_json::from_value(manifest).unwrap()
}

fn map(name: &str, labels: Value) -> ConfigMap {
    object(json!({"metadata": {"name": name, "labels": labels}, "data": {"a": "b"}}))
}

fn deployment(name: &str) -> Deployment {
    object(json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    }))
}

#[track_caller]
fn refused<T: std::fmt::Debug>(answer: kube::Result<T>) -> Box<Status> {
    match answer {
        Err(kube::Error::Api(status)) => status,
        other => panic!("should have been refused: {other:?}"),
    }
}

fn names<T: Resource>(objects: &[T]) -> Vec<String> {
    objects.iter().map(ResourceExt::name_any).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests() {
    let (_server, client) = connect().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let post = PostParams::default();
    let made = maps.create(&post, &map("a", json!({"part": "one"}))).await.unwrap();
    assert!(made.uid().is_some() && made.creation_timestamp().is_some());
    assert_eq!(refused(maps.create(&post, &map("a", json!({}))).await).reason, "AlreadyExists");
    for name in ["b", "c", "d"] {
        maps.create(&post, &map(name, json!({"part": "two"}))).await.unwrap();
    }
    assert_eq!(refused(maps.get("none").await).code, 404);
    assert!(maps.get_opt("none").await.unwrap().is_none());
    let metadata = maps.get_metadata("a").await.unwrap();
    assert_eq!(metadata.labels()["part"], "one");

    let maps = &maps;
    let by = |params: ListParams| async move { names(&maps.list(&params).await.unwrap().items) };
    assert_eq!(by(ListParams::default().labels("part=two")).await, ["b", "c", "d"]);
    assert_eq!(by(ListParams::default().labels("part notin (two),part")).await, ["a"]);
    assert_eq!(by(ListParams::default().fields("metadata.name=c")).await, ["c"]);
    let page = maps.list(&ListParams::default().labels("part=two").limit(2)).await.unwrap();
    let token = page.metadata.continue_.unwrap();
    let rest = ListParams::default().labels("part=two").continue_token(&token);
    assert_eq!(by(rest).await, ["d"]);

    let mut stale = made.clone();
    stale.metadata.resource_version = Some("1".into());
    assert_eq!(refused(maps.replace("a", &post, &stale).await).reason, "Conflict");
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    maps.create(&dry, &map("dry", json!({}))).await.unwrap();
    assert!(maps.get_opt("dry").await.unwrap().is_none());
    let labelled = ListParams::default().labels("part");
    maps.delete_collection(&DeleteParams::default(), &labelled).await.unwrap();
    assert!(by(ListParams::default().labels("part")).await.is_empty());
    let spaces: Api<Namespace> = Api::all(client.clone());
    let space: Namespace = object(json!({"metadata": {"name": "space"}}));
    spaces.create(&post, &space).await.unwrap();
    Api::<ConfigMap>::namespaced(client, "space")
        .create(&post, &map("a", json!({})))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_and_subresources() {
    let (_server, client) = connect().await;
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    deployments.create(&PostParams::default(), &deployment("d")).await.unwrap();
    let params = PatchParams::apply("me");
    let two =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "two", "image": "i"}]}}}});
    let plain = PatchParams::default();
    let patched = deployments.patch("d", &plain, &Patch::Strategic(&two)).await.unwrap();
    let containers = |object: &Deployment| {
        let spec = object.spec.clone().unwrap().template.spec.unwrap();
        spec.containers.into_iter().map(|container| container.name).collect::<Vec<_>>()
    };
    assert_eq!(containers(&patched), ["two", "c"]);
    let patched = deployments.patch("d", &plain, &Patch::Merge(&two)).await.unwrap();
    assert_eq!(containers(&patched), ["two"]);

    let replicas = |count: i32| json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": count}});
    let conflict = deployments.patch("d", &params, &Patch::Apply(replicas(1))).await;
    let conflict = refused(conflict);
    assert_eq!((conflict.code, &*conflict.reason), (409, "Conflict"));
    let params = params.force();
    let forced = deployments.patch("d", &params, &Patch::Apply(replicas(1))).await.unwrap();
    let fields = forced.metadata.managed_fields.unwrap();
    assert!(fields.iter().any(|entry| entry.manager.as_deref() == Some("me")));

    let scale = deployments.get_scale("d").await.unwrap();
    assert_eq!(scale.spec.unwrap().replicas, Some(1));
    let scale = json!({"spec": {"replicas": 0}});
    deployments.patch_scale("d", &plain, &Patch::Merge(&scale)).await.unwrap();
    let status = json!({"spec": {"replicas": 7}, "status": {"collisionCount": 3}});
    let patched = deployments.patch_status("d", &plain, &Patch::Merge(&status)).await.unwrap();
    assert_eq!(patched.spec.unwrap().replicas, Some(0));
    assert_eq!(patched.status.unwrap().collision_count, Some(3));

    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    pods.create(&PostParams::default(), &object(pod)).await.unwrap();
    assert_eq!(pods.logs("p", &Default::default()).await.unwrap(), "", "it waits for a node");
    assert!(pods.exec("p", ["true"], &Default::default()).await.is_err());

    let kind = GroupVersionKind::gvk("apps", "v1", "Deployment");
    let (kind, _) = kube::discovery::pinned_kind(&client, &kind).await.unwrap();
    let dynamic: Api<DynamicObject> = Api::default_namespaced_with(client, &kind);
    assert_eq!(dynamic.get("d").await.unwrap().data["status"]["collisionCount"], 3);
}

/// Both ways to begin: a list, and `sendInitialEvents`.
#[tokio::test(flavor = "multi_thread")]
async fn watchers_and_reflectors() {
    let (_server, client) = connect().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let post = PostParams::default();
    maps.create(&post, &map("old", json!({"seen": "y"}))).await.unwrap();
    maps.create(&post, &map("other", json!({}))).await.unwrap();
    for (round, config) in
        [watcher::Config::default(), watcher::Config::default().streaming_lists()]
            .into_iter()
            .enumerate()
    {
        let (reader, writer) = reflector::store();
        let stream = watcher(maps.clone(), config.labels("seen"));
        let stream = stream.default_backoff().reflect(writer).touched_objects();
        let mut stream = std::pin::pin!(stream);
        let first = stream.try_next().await.unwrap().unwrap();
        assert_eq!(first.name_any(), "old");
        let name = format!("new-{round}");
        maps.create(&post, &map(&name, json!({"seen": "y"}))).await.unwrap();
        assert_eq!(stream.try_next().await.unwrap().unwrap().name_any(), name);
        assert!(reader.get(&ObjectRef::new(&name).within("default")).is_some());
        assert!(reader.get(&ObjectRef::new("other").within("default")).is_none());
        maps.delete(&name, &DeleteParams::default()).await.unwrap();
    }
}

/// A ConfigMap for each Deployment, made by server-side apply, made again when someone deletes it,
/// and collected with its owner.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller() {
    let (_server, client) = connect().await;
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let controller = Controller::new(deployments.clone(), watcher::Config::default())
        .owns(maps.clone(), watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_secs(1)), Arc::new(maps.clone()))
        .for_each(|_| std::future::ready(()));
    let controller = tokio::spawn(controller);

    let exists = |object: Option<&ConfigMap>| object.is_some();
    deployments.create(&PostParams::default(), &deployment("d")).await.unwrap();
    wait::await_condition(maps.clone(), "of-d", exists).await.unwrap();
    let first = maps.get("of-d").await.unwrap().uid().unwrap();
    maps.delete("of-d", &DeleteParams::default()).await.unwrap();
    let again =
        move |object: Option<&ConfigMap>| object.is_some_and(|map| map.uid().unwrap() != first);
    wait::await_condition(maps.clone(), "of-d", again).await.unwrap();

    let made = maps.get("of-d").await.unwrap();
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..DeleteParams::default()
    };
    deployments.delete("d", &params).await.unwrap();
    let uid = made.uid().unwrap();
    let gone = wait::conditions::is_deleted(&uid);
    wait::await_condition(maps, "of-d", gone).await.unwrap();
    controller.abort();
}

async fn reconcile(
    owner: Arc<Deployment>,
    maps: Arc<Api<ConfigMap>>,
) -> Result<Action, kube::Error> {
    if owner.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let name = format!("of-{}", owner.name_any());
    let wanted = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "ownerReferences": [owner.controller_owner_ref(&())]},
        "data": {"generation": owner.metadata.generation.unwrap_or_default().to_string()},
    });
    maps.patch(&name, &PatchParams::apply("copier").force(), &Patch::Apply(wanted)).await?;
    Ok(Action::await_change())
}

/// Eight candidates for one Lease: one creates it, and of those that take it over at the same
/// revision one wins.
#[tokio::test(flavor = "multi_thread")]
async fn one_leader() {
    let (_server, client) = connect().await;
    let leases: Api<Lease> = Api::default_namespaced(client);
    type Attempt = fn(Api<Lease>, String) -> futures::future::BoxFuture<'static, bool>;
    let candidates = |attempt: Attempt| {
        let leases = leases.clone();
        let all = (0..8).map(move |n| attempt(leases.clone(), format!("candidate-{n}")));
        async { futures::future::join_all(all).await.into_iter().filter(|won| *won).count() }
    };
    let created = candidates(|leases, name| {
        Box::pin(async move {
            let lease = json!({
                "metadata": {"name": "leader"},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": 15,
                         "renewTime": "2026-01-01T00:00:00.000000Z"},
            });
            leases.create(&PostParams::default(), &object(lease)).await.is_ok()
        })
    });
    assert_eq!(created.await, 1);
    let taken_over = candidates(|leases, name| {
        Box::pin(async move {
            let mut lease = leases.get("leader").await.unwrap();
            let spec = lease.spec.as_mut().unwrap();
            if spec.lease_transitions.is_some() {
                return false; // Another was faster.
            }
            spec.holder_identity = Some(name);
            spec.lease_transitions = Some(1);
            leases.replace("leader", &PostParams::default(), &lease).await.is_ok()
        })
    });
    assert_eq!(taken_over.await, 1);
}
