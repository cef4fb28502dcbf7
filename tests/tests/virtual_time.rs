//! A hundred nodes and a thousand pods in one process. A node falls silent; five virtual minutes
//! later its pods run elsewhere.

use std::time::Duration;

use proto::view::deployment::Deployment;
use proto::view::node::Node;
use proto::view::pod::Pod;
use serde_json::json;
use tests::world::World;

const NODES: usize = 100;
const PODS: usize = 1000;

#[tokio::test(start_paused = true)]
async fn a_lost_node_is_replaced() {
    let world = World::new(7, NODES).await;
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": PODS,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]},
            },
        },
    });
    world.client.create::<Deployment>("default", &deployment).await.unwrap();
    let all_run = || world.running().values().sum::<usize>() == PODS;
    world.until::<Pod>(|_| all_run()).await;
    assert_eq!(world.running().len(), NODES, "every node has its share");

    let lost = "simulated-42";
    let before = world.running()[lost];
    assert!(before > 0);
    world.nodes.stop(lost);
    world.clock.sleep(Duration::from_secs(60)).await;
    let node = world.informers.of::<Node>().get("", lost).unwrap();
    assert!(!node.is_ready(), "it is silent for longer than its grace period");
    assert!(node.spec.taints.iter().any(|taint| taint.key == "node.kubernetes.io/unreachable"));
    assert_eq!(world.running().get(lost), Some(&before), "its pods are tolerated for five minutes");

    world.clock.sleep(Duration::from_secs(300)).await;
    world.until::<Pod>(|_| all_run()).await;
    assert_eq!(world.running().get(lost), None, "its pods run elsewhere");
}
