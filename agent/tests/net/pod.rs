use std::net::Ipv4Addr;

use agent::net::netlink::Netlink;
use agent::net::pod::{NetworkConfig, PodNetwork};

use super::lab::{Host, root};

/// The pod network of a namespace that plays a node.
pub async fn open(node: &Host, pod_cidr: &str, state_dir: &std::path::Path) -> PodNetwork {
    let config = NetworkConfig {
        bridge: "cor0".into(),
        pod_cidr: pod_cidr.parse().unwrap(),
        state_dir: state_dir.to_owned(),
        mtu: 1500,
    };
    node.run(move || futures::executor::block_on(PodNetwork::open(config)).unwrap()).await
}

/// Attaches a new namespace as a pod.
pub async fn pod(node: &Host, network: &PodNetwork, name: &str) -> (Host, Ipv4Addr) {
    let pod = Host::new();
    let (network, id) = (network.clone(), name.to_owned());
    let fd = pod.fd().try_clone_to_owned().unwrap();
    let address = node
        .run(move || {
            use std::os::fd::AsFd;
            futures::executor::block_on(network.attach(&id, fd.as_fd())).unwrap()
        })
        .await;
    (pod, address.ip)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_node_reach_each_other_and_the_node() {
    if !root() {
        return;
    }
    let (node, directory) = (Host::new(), tempfile::tempdir().unwrap());
    let network = open(&node, "10.77.1.0/24", directory.path()).await;
    let (a, a_ip) = pod(&node, &network, "a").await;
    let (b, b_ip) = pod(&node, &network, "b").await;
    assert_eq!([a_ip.octets()[3], b_ip.octets()[3]], [2, 3]);
    b.serve(80, "b").await;
    node.serve(81, "node").await;
    assert_eq!(a.ask((b_ip, 80)).await.unwrap(), format!("b {a_ip}"));
    assert_eq!(a.ask(("10.77.1.1".parse().unwrap(), 81)).await.unwrap(), format!("node {a_ip}"));
    assert_eq!(node.ask((b_ip, 80)).await.unwrap(), "b 10.77.1.1");
    assert_eq!(b.ask((Ipv4Addr::LOCALHOST, 80)).await.unwrap(), "b 127.0.0.1");

    // Opened again, as after a restart: nothing changes, and the same sandbox may be attached again.
    let network = open(&node, "10.77.1.0/24", directory.path()).await;
    assert_eq!(network.address("b").unwrap().ip, b_ip);
    assert_eq!(a.ask((b_ip, 80)).await.unwrap(), format!("b {a_ip}"));
    network.detach("a").await.unwrap();
    assert_eq!(network.address("a"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_go_with_the_namespace() {
    if !root() {
        return;
    }
    let (node, directory) = (Host::new(), tempfile::tempdir().unwrap());
    let network = open(&node, "10.77.1.0/24", directory.path()).await;
    let started = client::Clock::system().instant();
    let mut pods = Vec::new();
    for number in 0..50 {
        pods.push(pod(&node, &network, &number.to_string()).await);
    }
    eprintln!("namespace and link: {:?} per pod", started.elapsed() / 50);
    let links = || node.run(|| Netlink::open().unwrap().links().unwrap().len());
    let full = links().await;
    assert!(full >= 52, "{full}");
    drop(pods);
    let clock = client::Clock::system();
    let deadline = clock.instant() + std::time::Duration::from_secs(20);
    while links().await > full - 50 {
        assert!(clock.instant() < deadline, "links stayed behind");
        tokio::task::yield_now().await;
    }
}
