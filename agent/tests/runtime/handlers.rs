//! Runtime handlers, and what the runtime tells of itself and its metrics.

use proto::cri;

use super::lab::{Lab, Setup, script};

#[tokio::test]
async fn handlers_have_names_and_features() {
    let arguments = ["--handler", "plain=recursive-read-only", "--handler", "runc"];
    let setup = Setup { arguments: arguments.map(str::to_owned).to_vec(), ..Setup::default() };
    let Some(mut lab) = Lab::start_with(setup).await else { return };
    let status = lab.runtime.status(cri::StatusRequest::default()).await.unwrap().into_inner();
    let handler = |name: &str| {
        status.runtime_handlers.iter().find(|handler| handler.name == name).unwrap().features
    };
    assert_eq!(status.runtime_handlers.len(), 3);
    assert_eq!(handler(""), handler("runc"));
    assert!(handler("").unwrap().recursive_read_only_mounts);
    assert!(!handler("plain").unwrap().user_namespaces);
    assert!(status.features.unwrap().supplemental_groups_policy);

    let run = |lab: &Lab, name: &str, handler: &str| cri::RunPodSandboxRequest {
        config: Some(lab.sandbox_config(name)),
        runtime_handler: handler.to_owned(),
    };
    let request = run(&lab, "known", "runc");
    let id = lab.runtime.run_pod_sandbox(request).await.unwrap().into_inner().pod_sandbox_id;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id, verbose: false };
    let sandbox = lab.runtime.pod_sandbox_status(request).await.unwrap().into_inner();
    assert_eq!(sandbox.status.unwrap().runtime_handler, "runc");
    let request = run(&lab, "unknown", "kata");
    let error = lab.runtime.run_pod_sandbox(request).await.unwrap_err();
    assert_eq!(
        error.message(),
        "failed to get sandbox runtime: no runtime for \"kata\" is configured"
    );
    let mut request = run(&lab, "users", "plain");
    let range = cri::IdMapping { host_id: 65_536, container_id: 0, length: 65_536 };
    let linux = request.config.as_mut().unwrap().linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().namespace_options = Some(cri::NamespaceOption {
        userns_options: Some(cri::UserNamespace {
            mode: cri::NamespaceMode::Pod as i32,
            uids: vec![range],
            gids: vec![range],
        }),
        ..Default::default()
    });
    let error = lab.runtime.run_pod_sandbox(request).await.unwrap_err();
    assert!(
        error.message().contains("\"plain\" does not support user namespaces"),
        "{}",
        error.message()
    );
    lab.finish().await;
}

#[tokio::test]
async fn metrics_have_the_names_that_dashboards_know() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let mut config = script("main", "sleep 1000");
    config.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    });
    let id = lab.run(&pod, config).await;
    let descriptors = lab
        .runtime
        .list_metric_descriptors(cri::ListMetricDescriptorsRequest {})
        .await
        .unwrap()
        .into_inner()
        .descriptors;
    let metrics = lab
        .runtime
        .list_pod_sandbox_metrics(cri::ListPodSandboxMetricsRequest {})
        .await
        .unwrap()
        .into_inner()
        .pod_metrics;
    assert_eq!(metrics.len(), 1);
    assert_eq!(metrics[0].pod_sandbox_id, pod);
    let container = &metrics[0].container_metrics[0];
    assert_eq!(container.container_id, id);
    let value = |name: &str| {
        let metric = container.metrics.iter().find(|metric| metric.name == name);
        metric.unwrap_or_else(|| panic!("no {name}")).value.unwrap().value
    };
    assert!(value("container_memory_working_set_bytes") > 0);
    assert_eq!(value("container_spec_memory_limit_bytes"), 64 << 20);
    assert_eq!((value("container_oom_events_total"), value("container_processes")), (0, 1));
    assert!(value("container_start_time_seconds") <= value("container_last_seen"));
    for metric in &container.metrics {
        let described = descriptors.iter().find(|one| one.name == metric.name).unwrap();
        assert_eq!(described.label_keys.len(), metric.label_values.len(), "{}", metric.name);
    }
    let request = cri::CheckpointContainerRequest { container_id: id, ..Default::default() };
    let error = lab.runtime.checkpoint_container(request).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unimplemented);
    lab.finish().await;
}
