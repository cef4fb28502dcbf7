//! Pods that come at a steady pace, of an image that is there: how long each takes from its binding to
//! Running, as a client sees both.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use client::kubeconfig::Kubeconfig;
use client::{Client, Clock, DeleteOptions, Informers, Rng};
use proto::view::pod::Pod;
use serde_json::{Value, json};
use tests::cluster::Cluster;

use super::row;

const EACH: Duration = Duration::from_millis(100);
const PODS: usize = 300;

pub fn measure(cluster: &Cluster) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut times = runtime.block_on(paced(cluster));
    times.sort();
    let at = |percent: usize| times[(PODS - 1) * percent / 100].as_secs_f64() * 1000.0;
    row("10 pods a second, bind to Running: p50", at(50), 50.0, "ms");
    row("the same: p99", at(99), 150.0, "ms");
}

async fn paced(cluster: &Cluster) -> Vec<Duration> {
    let kubeconfig = Kubeconfig::read(&cluster.kubeconfig()).expect("a kubeconfig");
    let client = Client::connect(&kubeconfig.config(None).expect("a context")).expect("a client");
    let clock = Clock::system();
    let informer = Informers::new(client.clone(), clock.clone(), Rng::seeded(1)).of::<Pod>();
    informer.synced().await;
    let mut changes = informer.changes();
    let make = async {
        let start = clock.instant();
        for number in 0..PODS {
            client.create::<Pod>("default", &pod(number)).await.expect("a pod");
            let due = EACH * u32::try_from(number + 1).expect("few");
            clock.sleep(due.saturating_sub(start.elapsed())).await;
        }
    };
    let see = async {
        let (mut bound, mut left, mut times) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        left.extend((0..PODS).map(name));
        while !left.is_empty() {
            let Some(pod) = changes.next().await.new else { continue };
            let name = pod.view.metadata.name.clone();
            if pod.view.spec.node_name.is_empty() {
                continue;
            }
            let since = *bound.entry(name.clone()).or_insert_with(|| clock.instant());
            if pod.view.status.phase == "Running" && left.remove(&name) {
                times.push(since.elapsed());
                // The next ones are to have room.
                let client = client.clone();
                tokio::spawn(async move {
                    let options = DeleteOptions::default();
                    client.delete::<Pod>("default", &name, &options).await.expect("it goes");
                });
            }
        }
        times
    };
    tokio::join!(make, see).1
}

fn name(number: usize) -> String {
    format!("paced-{number}")
}

fn pod(number: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name(number)},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "hello", "image": "coracle/hello:latest", "imagePullPolicy": "IfNotPresent"}]}})
}
