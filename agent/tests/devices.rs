//! Plugins of devices over their real sockets: how they make themselves known, what is counted, who gets
//! what, and what is left of it after a restart. With containers: tests/tests/devices.rs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agent::devices::{Devices, Registrar};
use agent::plugins::{Handler, Registry};
use agent::pod::Pod;
use client::Clock;
use parking_lot::Mutex;
use proto::registration::registration_server::{Registration, RegistrationServer};
use proto::registration::*;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

#[path = "devices/plugin.rs"]
mod plugin;

use plugin::Plugin;

const RESOURCE: &str = "example.com/thing";

/// The part of an agent that has to do with devices.
struct Bench {
    dir: tempfile::TempDir,
    devices: Devices,
    clock: Clock,
    tasks: Vec<AbortOnDropHandle<()>>,
}

impl Bench {
    fn new() -> Bench {
        Bench::at(tempfile::tempdir().unwrap())
    }

    fn at(dir: tempfile::TempDir) -> Bench {
        let devices = Devices::open(&dir.path().join("device-plugins"));
        let clock = Clock::system();
        let registrar = Registrar { devices: devices.clone(), clock: clock.clone() };
        let registry = Registry {
            clock: clock.clone(),
            folder: dir.path().join("plugins_registry"),
            handlers: vec![Arc::new(registrar.clone()) as Arc<dyn Handler>],
        };
        let tasks = vec![
            AbortOnDropHandle::new(tokio::spawn(registrar.serve())),
            AbortOnDropHandle::new(tokio::spawn(registry.keep())),
        ];
        Bench { dir, devices, clock, tasks }
    }

    /// As after `kill -9`, with a new agent on the same disk.
    fn restarted(self) -> Bench {
        drop((self.devices, self.tasks));
        Bench::at(self.dir)
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("device-plugins")
    }

    /// A plugin that has registered, with so many devices of which so many are well.
    async fn plugin(&self, devices: &str, counted: (i64, i64)) -> Plugin {
        self.plugin_that(devices, counted, |_| {}).await
    }

    /// The same of one that was told what to do before.
    async fn plugin_that(
        &self,
        devices: &str,
        counted: (i64, i64),
        tell: impl FnOnce(&Plugin),
    ) -> Plugin {
        let agent = self.folder().join("kubelet.sock");
        // The folder is the agent's to make.
        while !agent.exists() {
            tokio::task::yield_now().await;
        }
        let plugin = Plugin::start(&self.folder(), "thing.sock", devices);
        tell(&plugin);
        plugin.register(&agent, RESOURCE).await.unwrap();
        self.until(counted).await;
        plugin
    }

    fn amounts(&self) -> Option<(i64, i64)> {
        self.devices.amounts(self.clock.now()).get(RESOURCE).copied()
    }

    async fn until(&self, counted: (i64, i64)) {
        let mut changes = self.devices.changes();
        while self.amounts() != Some(counted) {
            changes.changed().await.unwrap();
        }
    }

    async fn allocate(&self, pod: &Pod) -> Result<(), String> {
        self.devices.allocate(pod).await.map_err(|error| error.to_string())
    }

    fn held(&self, pod: &str, container: &str) -> String {
        let held = self.devices.held(pod, container);
        held.into_iter().map(|item| item.id).collect::<Vec<_>>().join(",")
    }
}

fn asks(name: &str, count: i64) -> Value {
    json!({"name": name, "resources": {"limits": {RESOURCE: count.to_string()}}})
}

fn pod(uid: &str, spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": spec})).unwrap()
}

fn simple(uid: &str, count: i64) -> Pod {
    pod(uid, json!({"containers": [asks("c", count)]}))
}

#[tokio::test]
async fn what_is_there_is_counted() {
    let bench = Bench::new();
    let plugin = bench.plugin("a b -c", (3, 2)).await;
    bench.allocate(&simple("u", 1)).await.unwrap();
    let health = |bench: &Bench| {
        let all = bench.devices.health("u")["c"][RESOURCE].clone();
        all.into_iter().map(|it| (it.id, it.health)).collect::<Vec<_>>()
    };
    assert_eq!(health(&bench), [("a".to_string(), "Healthy")]);
    plugin.offer("-a b@1 c -d");
    bench.until((4, 2)).await;
    assert_eq!(health(&bench), [("a".to_string(), "Unhealthy")]);
    let can_be_had = bench.devices.allocatable();
    let can_be_had: Vec<_> = can_be_had.iter().map(|it| (it.id.as_str(), &it.nodes[..])).collect();
    assert_eq!(can_be_had, [("b", &[1][..]), ("c", &[])]);
    // A plugin that has ended leaves devices that nobody can have, and after a while none.
    drop(plugin);
    bench.until((4, 0)).await;
    assert_eq!(health(&bench), [("a".to_string(), "Unknown")]);
    let later = bench.clock.now().plus(Duration::from_secs(300));
    assert_eq!(bench.devices.amounts(later)[RESOURCE], (0, 0));
    let error = bench.allocate(&simple("v", 1)).await.unwrap_err();
    let none = format!("no healthy devices present; cannot allocate unhealthy devices {RESOURCE}");
    assert_eq!(error, none);
}

#[tokio::test]
async fn who_may_not_register() {
    let bench = Bench::new();
    let plugin = bench.plugin("a", (1, 1)).await;
    let agent = bench.folder().join("kubelet.sock");
    let table = [
        (
            RESOURCE,
            "v1alpha",
            "requested API version \"v1alpha\" is not supported by kubelet. Supported version is \
             [\"v1beta1\"]",
        ),
        ("cpu", "v1beta1", "the ResourceName \"cpu\" is invalid"),
    ];
    for (resource, version, message) in table {
        let status = plugin.register_as(&agent, resource, version).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (tonic::Code::Unknown, message));
    }
    assert_eq!(bench.amounts(), Some((1, 1)), "the one that registered before is not harmed");
}

#[tokio::test]
async fn who_gets_what() {
    let bench = Bench::new();
    let tell = |plugin: &Plugin| {
        plugin.wants(true, true);
        plugin.prefers("e a");
    };
    let plugin = bench.plugin_that("a b c d e -f", (6, 5), tell).await;
    let uses =
        json!({"initContainers": [asks("i", 2)], "containers": [asks("c", 1), asks("d", 2)]});
    let first = pod("first", uses);
    bench.allocate(&first).await.unwrap();
    // What the init container had is used again; no plugin need be asked what it prefers of it.
    let expected = [
        "prefer 2 of a,b,c,d,e with []",
        "allocate a,e",
        "allocate a",
        "prefer 2 of b,c,d,e with [e]",
        "allocate b,e",
    ];
    assert_eq!(plugin.calls(), expected);
    assert_eq!(["i", "c", "d"].map(|name| bench.held("first", name)), ["a,e", "a", "b,e"]);
    // What it has it keeps, whatever the plugin prefers by now.
    bench.allocate(&first).await.unwrap();
    assert_eq!(plugin.calls(), Vec::<String>::new());
    let error = bench.allocate(&simple("second", 3)).await.unwrap_err();
    let few = format!(
        "requested number of devices unavailable for {RESOURCE}. Requested: 3, Available: 2"
    );
    assert_eq!(error, few);
    assert_eq!(bench.held("second", "c"), "");
    bench.allocate(&simple("second", 2)).await.unwrap();
    assert_eq!(bench.held("second", "c"), "c,d");
    let given = bench.devices.given("second", "c", &bench.clock).await.unwrap();
    assert_eq!(given.environment["DEVICES"], "c,d");
    assert_eq!(plugin.calls().last().unwrap(), "prepare c,d");
    bench.devices.release("first");
    bench.allocate(&simple("third", 3)).await.unwrap();
    assert_eq!(bench.held("third", "c"), "a,b,e");
}

#[tokio::test]
async fn a_plugin_that_fails_costs_nothing() {
    let bench = Bench::new();
    let plugin = bench.plugin("a b", (2, 2)).await;
    plugin.answers(|ids| match ids {
        [one] if one == "a" => Ok(Default::default()),
        _ => Err(Status::unavailable("the bus is stuck")),
    });
    let both = pod("u", json!({"containers": [asks("c", 1), asks("d", 1)]}));
    let error = bench.allocate(&both).await.unwrap_err();
    assert_eq!(error, "rpc error: code = Unavailable desc = the bus is stuck");
    assert!(bench.devices.holders().is_empty(), "half a pod is none");
    bench.allocate(&simple("v", 1)).await.unwrap();
    assert_eq!(bench.held("v", "c"), "a");
}

#[tokio::test]
async fn a_restart_forgets_nothing() {
    let bench = Bench::new();
    assert!(bench.devices.is_new());
    let plugin = bench.plugin("a b c", (3, 3)).await;
    bench.allocate(&simple("stays", 2)).await.unwrap();
    bench.allocate(&simple("goes", 1)).await.unwrap();
    let bench = bench.restarted();
    assert!(!bench.devices.is_new());
    assert_eq!(bench.amounts(), Some((0, 0)), "until the plugin comes");
    assert_eq!(bench.held("stays", "c"), "a,b");
    let stays = &bench.devices.health("stays")["c"][RESOURCE][0];
    assert_eq!((stays.id.as_str(), stays.health), ("a", "Unknown"));
    // A container that starts again needs no plugin for it.
    let given = bench.devices.given("stays", "c", &bench.clock).await.unwrap();
    assert_eq!(given.environment["DEVICES"], "a,b");
    let error = bench.allocate(&simple("new", 1)).await.unwrap_err();
    let none = format!("no healthy devices present; cannot allocate unhealthy devices {RESOURCE}");
    assert_eq!(error, none);
    // The plugin sees that its socket is gone.
    while plugin.socket.exists() {
        tokio::task::yield_now().await;
    }
    drop(plugin);
    let plugin = bench.plugin("a b c", (3, 3)).await;
    assert!(bench.allocate(&simple("new", 1)).await.is_err(), "all are taken");
    bench.devices.retain(|pod| pod == "stays");
    bench.allocate(&simple("new", 1)).await.unwrap();
    assert_eq!(bench.held("new", "c"), "c");
    assert_eq!(plugin.calls(), ["allocate c"]);
}

/// A plugin in the folder of all plugins.
#[derive(Clone, Default)]
struct Known {
    endpoint: String,
    told: Arc<Mutex<Option<RegistrationStatus>>>,
    registered: Arc<Notify>,
}

#[tonic::async_trait]
impl Registration for Known {
    async fn get_info(
        &self,
        _: tonic::Request<InfoRequest>,
    ) -> Result<tonic::Response<PluginInfo>, Status> {
        Ok(tonic::Response::new(PluginInfo {
            r#type: "DevicePlugin".into(),
            name: RESOURCE.into(),
            endpoint: self.endpoint.clone(),
            supported_versions: vec!["v1beta1".into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: tonic::Request<RegistrationStatus>,
    ) -> Result<tonic::Response<RegistrationStatusResponse>, Status> {
        *self.told.lock() = Some(request.into_inner());
        self.registered.notify_one();
        Ok(tonic::Response::new(RegistrationStatusResponse {}))
    }
}

#[tokio::test]
async fn plugins_are_found_in_their_folder_too() {
    let bench = Bench::new();
    let plugin = Plugin::start(bench.dir.path(), "thing.sock", "a");
    let known = Known { endpoint: plugin.socket.display().to_string(), ..Known::default() };
    let folder = bench.dir.path().join("plugins_registry");
    std::fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("thing-reg.sock");
    let listener = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
    let service = RegistrationServer::new(known.clone());
    let router = tonic::transport::Server::builder().add_service(service);
    let _server = AbortOnDropHandle::new(tokio::spawn(router.serve_with_incoming(listener)));
    known.registered.notified().await;
    let told = known.told.lock().clone().unwrap();
    assert!(told.plugin_registered, "{}", told.error);
    bench.until((1, 1)).await;
    bench.allocate(&simple("u", 1)).await.unwrap();
    assert_eq!(plugin.calls(), ["allocate a"]);
    std::fs::remove_file(&socket).unwrap();
    bench.until((1, 0)).await;
}
