//! Pods with a network of their own.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

use proto::cri::{self, NamespaceMode};

use super::lab::{Lab, Setup, script, skipped};

/// A runtime in a network namespace made for it, with a pod network.
pub async fn lab() -> Option<(Lab, OwnedFd)> {
    if skipped() {
        return None;
    }
    let namespace = agent::net::namespace::create().unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    let mut lab = Lab::start_with(Setup { namespace: Some(path), ..Setup::default() }).await?;
    let ready = condition(&mut lab).await;
    assert_eq!((ready.status, ready.reason.as_str()), (false, "NetworkPluginNotReady"));
    let network = cri::NetworkConfig { pod_cidr: "10.252.7.0/24".into() };
    let request = cri::UpdateRuntimeConfigRequest {
        runtime_config: Some(cri::RuntimeConfig { network_config: Some(network) }),
    };
    lab.runtime.update_runtime_config(request).await.unwrap();
    assert!(condition(&mut lab).await.status);
    Some((lab, namespace))
}

async fn condition(lab: &mut Lab) -> cri::RuntimeCondition {
    let status = lab
        .runtime
        .status(cri::StatusRequest::default())
        .await
        .unwrap()
        .into_inner()
        .status
        .unwrap();
    status.conditions.into_iter().find(|condition| condition.r#type == "NetworkReady").unwrap()
}

async fn pod(lab: &mut Lab, name: &str) -> (String, String) {
    let mut config = lab.sandbox_config(name);
    let linux = config.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().namespace_options.as_mut().unwrap().network =
        NamespaceMode::Pod as i32;
    linux.sysctls.insert("net.ipv4.ip_default_ttl".into(), "77".into());
    config.dns_config = Some(cri::DnsConfig {
        servers: vec!["10.96.0.10".into()],
        searches: vec!["default.svc.cluster.local".into(), "svc.cluster.local".into()],
        options: vec!["ndots:5".into()],
    });
    let id = lab.sandbox_of(config).await;
    let ip = address(lab, &id).await;
    (id, ip)
}

async fn address(lab: &mut Lab, id: &str) -> String {
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
    let status =
        lab.runtime.pod_sandbox_status(request).await.unwrap().into_inner().status.unwrap();
    status.network.unwrap().ip
}

#[tokio::test]
async fn pods_reach_each_other_and_know_who_they_are() {
    let Some((mut lab, namespace)) = lab().await else { return };
    let (first, ip) = pod(&mut lab, "first").await;
    let (second, other) = pod(&mut lab, "second").await;
    assert!(ip.starts_with("10.252.7.") && other.starts_with("10.252.7.") && ip != other);
    // An ordinary user listens at a low port.
    let mut serving = script("main", "while :; do echo answer | nc -l -p 80; done");
    super::lab::context(&mut serving).run_as_user = Some(cri::Int64Value { value: 1000 });
    lab.run(&first, serving).await;
    let client = lab.run(&second, script("main", "sleep 1000")).await;
    let ask =
        format!("for i in $(seq 100); do nc {ip} 80 </dev/null && exit 0; sleep 0.1; done; exit 1");
    assert_eq!(lab.output(&client, &ask).await, "answer");
    assert_eq!(lab.output(&client, "hostname; cat /etc/hostname").await, "second\nsecond");
    assert_eq!(lab.output(&client, "cat /proc/sys/net/ipv4/ip_default_ttl").await, "77");
    let resolv = "nameserver 10.96.0.10\nsearch default.svc.cluster.local svc.cluster.local\noptions ndots:5";
    assert_eq!(lab.output(&client, "cat /etc/resolv.conf").await, resolv);
    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: first.clone() };
    let stats = lab.runtime.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap();
    let interface = stats.linux.unwrap().network.unwrap().default_interface.unwrap();
    assert!(interface.name == "eth0" && interface.rx_bytes.unwrap().value > 0);

    // Addresses outlive the runtime.
    lab.kill();
    lab.revive().await;
    assert_eq!(
        (address(&mut lab, &first).await, condition(&mut lab).await.status),
        (ip.clone(), true)
    );
    let (_, third) = pod(&mut lab, "third").await;
    assert!(third != ip && third != other);
    lab.finish().await;
    links_gone(&namespace).await;
}

/// Of a lab's links only the loopback and the bridge are left.
pub async fn links_gone(namespace: &OwnedFd) {
    let node = format!("--net=/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    for _ in 0..500 {
        // The kernel takes links down with their namespaces, in its own time.
        let links =
            Command::new("nsenter").args([&node, "ip", "-o", "link"]).output().unwrap().stdout;
        if String::from_utf8_lossy(&links).lines().count() == 2 {
            return;
        }
        client::Clock::system().sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("links of removed pods are left");
}

#[tokio::test]
async fn sysctls_of_the_node_are_not_the_pods_to_set() {
    let Some((mut lab, _namespace)) = lab().await else { return };
    let mut config = lab.sandbox_config("bad");
    config.linux.as_mut().unwrap().sysctls.insert("vm.swappiness".into(), "1".into());
    let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
    let error = lab.runtime.run_pod_sandbox(request).await.unwrap_err();
    assert!(error.message().contains("vm.swappiness"), "{}", error.message());
    lab.finish().await;
}

#[tokio::test]
async fn pods_are_as_fast_as_their_annotations_say() {
    let Some((mut lab, _namespace)) = lab().await else { return };
    let limited = |lab: &Lab, name: &str, ingress: &str, egress: &str| {
        let mut config = lab.sandbox_config(name);
        let linux = config.linux.as_mut().unwrap();
        linux.security_context.as_mut().unwrap().namespace_options.as_mut().unwrap().network =
            NamespaceMode::Pod as i32;
        let annotation =
            |which: &str, rate: &str| (format!("kubernetes.io/{which}-bandwidth"), rate.to_owned());
        let both = [annotation("ingress", ingress), annotation("egress", egress)];
        config.annotations = both.into_iter().filter(|(_, rate)| !rate.is_empty()).collect();
        config
    };
    let config = limited(&lab, "both", "10M", "4800k");
    let pod = lab.sandbox_of(config).await;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod, verbose: true };
    let info = lab.runtime.pod_sandbox_status(request).await.unwrap().into_inner().info;
    assert_eq!((&*info["ingressBandwidth"], &*info["egressBandwidth"]), ("10000000", "4800000"));
    let config = limited(&lab, "fast", "80G", "");
    let pod = lab.sandbox_of(config).await;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod, verbose: true };
    let info = lab.runtime.pod_sandbox_status(request).await.unwrap().into_inner().info;
    assert_eq!(info["ingressBandwidth"], "80000000000");
    assert!(!info.contains_key("egressBandwidth"));
    for (rate, expected) in
        [("1", "unreasonably small"), ("9E", "unreasonably large"), ("x", "quantities must match")]
    {
        let config = limited(&lab, "wrong", rate, "");
        let request = cri::RunPodSandboxRequest { config: Some(config), ..Default::default() };
        let error = lab.runtime.run_pod_sandbox(request).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        assert!(error.message().contains(expected), "{}", error.message());
    }
    lab.finish().await;
}
