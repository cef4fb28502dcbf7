//! An autoscaler under a load that comes and goes.

use proto::view::Condition;
use proto::view::horizontal_pod_autoscaler::HorizontalPodAutoscaler;

use super::*;

const RESOURCES: &str = "/apis/metrics.k8s.io/";
const CUSTOM: &str = "/apis/custom.metrics.k8s.io";
const EXTERNAL: &str = "/apis/external.metrics.k8s.io";

/// What each ready pod uses when they share the load, in thousandths of a CPU.
fn metrics(rig: &Rig, load: usize) -> Value {
    let mut pods = rig.all::<Pod>();
    pods.retain(|pod| pod.is_active() && pod.is_ready());
    let each = load / pods.len().max(1);
    let items: Vec<Value> = pods
        .iter()
        .map(|pod| {
            json!({"metadata": {"name": pod.metadata.name}, "timestamp": rig.clock.now(),
                "window": "15s", "containers": [{"name": "c",
                    "usage": {"cpu": format!("{each}m"), "memory": "1Mi"}}]})
        })
        .collect();
    json!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "items": items})
}

#[tokio::test(start_paused = true)]
async fn replicas_follow_the_load() {
    let rig = Rig::new(21, 4).await;
    let autoscalers = rig.informers.of::<HorizontalPodAutoscaler>();
    autoscalers.synced().await;
    let mut web = deployment("web", 2, "i:1");
    web["spec"]["template"]["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": "200m"}});
    rig.client.create::<Deployment>("default", &web).await.unwrap();
    rig.until("the rollout", || rolled_out(&rig, "web", 2, "i:1")).await;
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 2, "maxReplicas": 12, "metrics": [{"type": "Resource", "resource":
                {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]},
    });
    // The target is 100m each: half of what they ask for.
    let created = rig.client.create::<HorizontalPodAutoscaler>("default", &autoscaler).await;
    created.unwrap();
    let replicas = || {
        let web = rig.informers.of::<Deployment>().get("default", "web").unwrap();
        web.spec.replicas.unwrap_or(1)
    };
    let mut course = Vec::new();
    for (load, minutes) in [(200, 8), (900, 10), (3000, 10), (300, 10)] {
        for _ in 0..minutes * 12 {
            rig.measure(RESOURCES, metrics(&rig, load));
            rig.clock.sleep(Duration::from_secs(5)).await;
        }
        course.push(replicas());
    }
    assert_eq!(course, [2, 9, 12, 3], "of 100m each, between 2 and 12");
    let status = autoscalers.get("default", "web").unwrap().status.clone();
    let reason = |kind: &str| {
        let condition = Condition::find(&status.conditions, kind).unwrap();
        format!("{} {}", condition.status, condition.reason)
    };
    assert_eq!(reason("AbleToScale"), "True ReadyForNewScale");
    assert_eq!(reason("ScalingActive"), "True ValidMetricFound");
    assert_eq!(reason("ScalingLimited"), "False DesiredWithinRange");
    assert_eq!((status.current_replicas, status.desired_replicas), (3, 3));
    let current = status.current_metrics[0].resource.clone().unwrap().current;
    assert_eq!(current.average_utilization, Some(50));

    // Without metrics nothing is done, and it is said why.
    rig.measure(RESOURCES, json!({ "items": [] }));
    let said = || {
        let status = autoscalers.get("default", "web").unwrap().status.clone();
        let active = Condition::find(&status.conditions, "ScalingActive").unwrap().clone();
        (active.status == "False").then(|| format!("{} {}", active.reason, active.message))
    };
    rig.until("the failure", || said().is_some()).await;
    assert_eq!(
        said().unwrap(),
        "FailedGetResourceMetric the HPA was unable to compute the replica count: failed to get \
         cpu utilization: unable to get metrics for resource cpu: no metrics returned from \
         resource metrics API"
    );
    assert_eq!(replicas(), 3);
    let events =
        rig.client.list::<proto::view::event::Event>(&client::ListOptions::default()).await;
    let events = events.unwrap().items;
    let told = |reason: &str, text: &str| {
        events.iter().any(|event| event.reason == reason && event.message == text)
    };
    let above = "cpu resource utilization (percentage of request) above target";
    assert!(told("SuccessfulRescale", &format!("New size: 4; reason: {above}")));
    assert!(told("SuccessfulRescale", "New size: 3; reason: All metrics below target"));
}

/// <https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/#configurable-scaling-behavior>
#[tokio::test(start_paused = true)]
async fn policies_and_windows_bound_the_pace() {
    let rig = Rig::new(22, 4).await;
    rig.informers.of::<HorizontalPodAutoscaler>().synced().await;
    let mut web = deployment("web", 2, "i:1");
    web["spec"]["template"]["spec"]["containers"][0]["resources"] =
        json!({"requests": {"cpu": "200m"}});
    rig.client.create::<Deployment>("default", &web).await.unwrap();
    rig.until("the rollout", || rolled_out(&rig, "web", 2, "i:1")).await;
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 2, "maxReplicas": 20, "metrics": [{"type": "Resource", "resource":
                {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}],
            "behavior": {
                "scaleUp": {"stabilizationWindowSeconds": 0, "policies": [
                    {"type": "Percent", "value": 100, "periodSeconds": 60},
                    {"type": "Pods", "value": 3, "periodSeconds": 60}]},
                "scaleDown": {"stabilizationWindowSeconds": 120, "policies": [
                    {"type": "Pods", "value": 2, "periodSeconds": 60}]}}},
    });
    rig.client.create::<HorizontalPodAutoscaler>("default", &autoscaler).await.unwrap();
    let replicas = || {
        let web = rig.informers.of::<Deployment>().get("default", "web").unwrap();
        web.spec.replicas.unwrap_or(1)
    };
    // Seconds since the load changed, and the replicas from then on.
    let course = async |load: usize, seconds: i64| {
        let start = rig.clock.now();
        let mut course = Vec::new();
        while rig.clock.now().since(start).as_secs() < seconds as u64 {
            rig.measure(RESOURCES, metrics(&rig, load));
            rig.clock.sleep(Duration::from_secs(5)).await;
            if course.last().is_none_or(|(_, last)| *last != replicas()) {
                course.push((rig.clock.now().since(start).as_secs(), replicas()));
            }
        }
        course
    };
    course(200, 60).await;
    let up = course(1600, 300).await;
    let sizes: Vec<i32> = up.iter().map(|(_, replicas)| *replicas).collect();
    assert_eq!(sizes.last(), Some(&16), "{up:?}");
    let by_minute = |course: &[(u64, i32)], at: u64, from: i32| {
        let until = course.iter().rev().find(|(second, _)| *second <= at);
        until.map_or(from, |(_, replicas)| *replicas)
    };
    // In any minute three more or twice as many, whichever is more.
    for second in 0..300 {
        let (before, after) = (by_minute(&up, second, 2), by_minute(&up, second + 55, 2));
        assert!(after <= (before + 3).max(2 * before), "at {second}: {up:?}");
    }
    assert!(sizes.contains(&5) && sizes.contains(&10), "as fast as that allows: {up:?}");

    // A dip shorter than the window changes nothing.
    let dip = course(400, 90).await;
    assert_eq!(dip.len(), 1, "{dip:?}");
    course(1600, 60).await;
    let down = course(400, 900).await;
    assert!(down[1].0 >= 105, "the window: {down:?}");
    assert_eq!(down.last().unwrap().1, 4, "{down:?}");
    for pair in down[1..].windows(2) {
        assert!(
            pair[0].1 - pair[1].1 <= 2 && pair[1].0 - pair[0].0 >= 55,
            "two a minute: {down:?}"
        );
    }
}

/// Metrics that APIs of others serve, of the pods, of an object and of what is not in the cluster:
/// whichever asks for the most decides, and none that fails lets replicas go.
#[tokio::test(start_paused = true)]
async fn other_metrics_scale_too() {
    let rig = Rig::new(23, 4).await;
    let autoscalers = rig.informers.of::<HorizontalPodAutoscaler>();
    autoscalers.synced().await;
    rig.client.create::<Deployment>("default", &deployment("web", 2, "i:1")).await.unwrap();
    rig.until("the rollout", || rolled_out(&rig, "web", 2, "i:1")).await;
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "web"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 1, "maxReplicas": 20,
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
            "metrics": [
                {"type": "Pods", "pods": {"metric": {"name": "requests"},
                    "target": {"type": "AverageValue", "averageValue": "10"}}},
                {"type": "Object", "object": {"metric": {"name": "hits"},
                    "describedObject": {"apiVersion": "v1", "kind": "Service", "name": "web"},
                    "target": {"type": "Value", "value": "100"}}},
                {"type": "External", "external": {
                    "metric": {"name": "queue", "selector": {"matchLabels": {"of": "web"}}},
                    "target": {"type": "AverageValue", "averageValue": "5"}}}]},
    });
    // Per pod, of the Service, and in the queue.
    let measure = |requests: u32, hits: u32, queue: u32| {
        let group = json!({"kind": "APIGroup", "preferredVersion":
            {"groupVersion": "custom.metrics.k8s.io/v1beta2", "version": "v1beta2"}});
        rig.measure(CUSTOM, group);
        let pods: Vec<Value> = rig
            .all::<Pod>()
            .iter()
            .filter(|pod| pod.is_active())
            .map(|pod| {
                json!({"describedObject": {"kind": "Pod", "name": pod.metadata.name},
                    "timestamp": rig.clock.now(), "value": requests.to_string()})
            })
            .collect();
        let custom = format!("{CUSTOM}/v1beta2/namespaces/default");
        rig.measure(&format!("{custom}/pods/*/requests"), json!({"items": pods}));
        let hits = json!({"items": [{"value": hits.to_string()}]});
        rig.measure(&format!("{custom}/services/web/hits"), hits);
        let queue = json!({"items": [{"value": "1"}, {"value": (queue - 1).to_string()}]});
        rig.measure(&format!("{EXTERNAL}/v1beta1/namespaces/default/queue"), queue);
    };
    measure(10, 100, 10);
    rig.client.create::<HorizontalPodAutoscaler>("default", &autoscaler).await.unwrap();
    let replicas = || {
        let web = rig.informers.of::<Deployment>().get("default", "web").unwrap();
        web.spec.replicas.unwrap_or(1)
    };
    let mut course = Vec::new();
    // Nothing to do; twice as many requests as two should have; twice the hits of four; and a queue
    // for ten with less of all else.
    for (requests, hits, queue) in [(10, 100, 10), (20, 100, 10), (10, 200, 10), (3, 20, 50)] {
        measure(requests, hits, queue);
        rig.clock.sleep(Duration::from_secs(16)).await;
        rig.until("the rollout", || rolled_out(&rig, "web", replicas() as usize, "i:1")).await;
        course.push(replicas());
    }
    assert_eq!(course, [2, 4, 8, 10]);
    let status = || autoscalers.get("default", "web").unwrap().status.clone();
    let reason = |kind: &str| {
        let status = status();
        let condition = Condition::find(&status.conditions, kind).unwrap();
        format!("{} {} {}", condition.status, condition.reason, condition.message)
    };
    assert_eq!(
        reason("ScalingActive"),
        "True ValidMetricFound the HPA was able to successfully calculate a replica count from \
         external metric queue(&LabelSelector{MatchLabels:map[string]string{of: web,},\
         MatchExpressions:[]LabelSelectorRequirement{},})"
    );

    // Without one of them nobody goes; without all it is said what failed first.
    rig.measure(EXTERNAL, json!({"items": []}));
    rig.metrics.lock().unwrap().remove(&format!("{EXTERNAL}/v1beta1/namespaces/default/queue"));
    rig.clock.sleep(Duration::from_secs(60)).await;
    assert_eq!(replicas(), 10);
    assert!(reason("ScalingActive").starts_with("False FailedGetExternalMetric "));
    rig.metrics.lock().unwrap().clear();
    rig.clock.sleep(Duration::from_secs(60)).await;
    assert_eq!(replicas(), 10);
    assert_eq!(
        reason("ScalingActive"),
        "False FailedGetPodsMetric the HPA was unable to compute the replica count: unable to get \
         metric requests: unable to fetch metrics from custom metrics API: no custom metrics API \
         (custom.metrics.k8s.io) registered"
    );
}
