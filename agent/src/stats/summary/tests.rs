use serde_json::json;

use super::*;
use crate::cri::Running;
use crate::stats::disk::Volume;
use crate::stats::machine;

/// A pod `a/p` with a container that runs and one that has ended.
pub fn figures() -> Figures {
    let number = |value: u64| Some(UInt64Value { value });
    let at = 1_700_000_000_500_000_000;
    let container = |id: &str, name: &str| cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: id.into(),
            labels: [(labels::CONTAINER_NAME.to_string(), name.to_string())].into(),
            ..Default::default()
        }),
        cpu: Some(cri::CpuUsage {
            timestamp: at,
            usage_core_nano_seconds: number(1_500_000_000),
            ..Default::default()
        }),
        memory: Some(cri::MemoryUsage {
            timestamp: at,
            working_set_bytes: number(2048),
            usage_bytes: number(4096),
            ..Default::default()
        }),
        writable_layer: Some(cri::FilesystemUsage {
            timestamp: at,
            used_bytes: number(100),
            inodes_used: number(3),
            ..Default::default()
        }),
        swap: Some(cri::SwapUsage {
            timestamp: at,
            swap_usage_bytes: number(7),
            swap_available_bytes: None,
        }),
        ..Default::default()
    };
    let pod = cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: "s1".into(),
            metadata: Some(cri::PodSandboxMetadata {
                name: "p".into(),
                namespace: "a".into(),
                uid: "u1".into(),
                attempt: 0,
            }),
            ..Default::default()
        }),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: container("s1", "").cpu,
            memory: container("s1", "").memory,
            network: Some(cri::NetworkUsage {
                timestamp: at,
                default_interface: Some(cri::NetworkInterfaceUsage {
                    name: "eth0".into(),
                    rx_bytes: number(11),
                    tx_bytes: number(12),
                    ..Default::default()
                }),
                interfaces: Vec::new(),
            }),
            process: Some(cri::ProcessUsage { timestamp: at, process_count: number(4) }),
            containers: vec![container("c1", "main"), container("c2", "ended")],
            ..Default::default()
        }),
        windows: None,
    };
    let running = cri::Container { id: "c1".into(), created_at: at, ..Default::default() };
    let sandbox = cri::PodSandbox { id: "s1".into(), created_at: at, ..Default::default() };
    let fs =
        FileSystem { capacity: 9000, available: 4000, used: 5000, inodes: 90, inodes_free: 40 };
    let usage = Usage { bytes: 30, inodes: 2 };
    let volume = |name: &str, claim: Option<&str>| Volume {
        name: name.into(),
        claim: claim.map(str::to_string),
        usage,
        file_system: fs,
        ephemeral: claim.is_none(),
    };
    let disk = Measured {
        logs: [("main".to_string(), Usage { bytes: 5, inodes: 1 })].into(),
        volumes: vec![volume("cache", None), volume("data", Some("claim"))],
    };
    Figures {
        node: "n".into(),
        now: moment(at),
        machine: Reading {
            cpu_nanoseconds: 9_000_000_000,
            memory: machine::Memory {
                total: 1000,
                usage: 700,
                working_set: 600,
                ..Default::default()
            },
            swap: machine::Swap { total: 50, free: 20 },
            tasks: 5,
            most_tasks: 100,
            ..Reading::default()
        },
        kubepods: None,
        usage: RuntimeUsage {
            pods: vec![pod],
            running: Running {
                sandboxes: [("s1".to_string(), sandbox)].into(),
                containers: [("c1".to_string(), running)].into(),
            },
        },
        node_fs: Some(fs),
        image_fs: None,
        container_fs: Some((cri::FilesystemUsage::default(), fs)),
        disks: [("u1".to_string(), disk)].into(),
        rates: [("c1".to_string(), 250_000_000)].into(),
    }
}

#[test]
fn everything_of_a_pod() {
    let summary = serde_json::to_value(build(&figures(), Scope::Everything)).unwrap();
    let time = "2023-11-14T22:13:20Z";
    let pod = &summary["pods"][0];
    assert_eq!(pod["podRef"], json!({"name": "p", "namespace": "a", "uid": "u1"}));
    let containers = pod["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    let fs = |used: u64, inodes: u64| {
        json!({"time": time, "availableBytes": 4000, "capacityBytes": 9000, "usedBytes": used,
            "inodesFree": 40, "inodes": 90, "inodesUsed": inodes})
    };
    let main = json!({
        "name": "main",
        "startTime": time,
        "cpu": {"time": time, "usageNanoCores": 250_000_000, "usageCoreNanoSeconds": 1_500_000_000},
        "memory": {"time": time, "usageBytes": 4096, "workingSetBytes": 2048},
        "rootfs": fs(100, 3),
        "logs": fs(5, 1),
        "swap": {"time": time, "swapUsageBytes": 7},
    });
    assert_eq!(containers[0], main);
    // The layer, the log, and the volume that is no claim.
    assert_eq!(pod["ephemeral-storage"], fs(135, 6));
    assert_eq!(pod["volume"][1]["pvcRef"], json!({"name": "claim", "namespace": "a"}));
    assert_eq!(pod["volume"][0]["usedBytes"], 30);
    let interface = json!({"name": "eth0", "rxBytes": 11, "txBytes": 12});
    assert_eq!(pod["network"]["interfaces"], json!([interface]));
    assert_eq!(pod["network"]["txBytes"], 12);
    assert_eq!(pod["process_stats"], json!({"process_count": 4}));
    let node = &summary["node"];
    assert_eq!(node["memory"]["availableBytes"], 400);
    assert_eq!(node["rlimit"], json!({"time": time, "maxpid": 100, "curproc": 5}));
    assert_eq!(node["fs"], fs(5000, 50));
    assert_eq!(node["systemContainers"][0]["name"], "kubelet");
}

#[test]
fn compute_alone_is_cpu_and_memory() {
    let summary = serde_json::to_value(build(&figures(), Scope::Compute)).unwrap();
    for absent in ["network", "volume", "ephemeral-storage"] {
        assert_eq!(summary["pods"][0].get(absent), None, "{absent}");
    }
    for absent in ["fs", "network", "runtime", "rlimit"] {
        assert_eq!(summary["node"].get(absent), None, "{absent}");
    }
    let main = summary["pods"][0]["containers"][0].as_object().unwrap();
    let fields: Vec<&str> = main.keys().map(String::as_str).collect();
    assert_eq!(fields, ["cpu", "memory", "name", "startTime", "swap"]);
}
