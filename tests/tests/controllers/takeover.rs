//! What kube-controller-manager left half done is gone on with: nothing that is right is restarted,
//! renamed or made again; and what is added looks as if it had been made by the one before.

use std::collections::BTreeSet;

use proto::view::cron_job::CronJob;

use super::*;

/// Of a pod or what makes pods: all by which controllers know what is theirs, without what no two
/// have in common.
fn shape(object: &Value) -> Value {
    let meta = &object["metadata"];
    let mut labels = meta["labels"].clone();
    // A pod's own.
    for own in ["batch.kubernetes.io/job-completion-index", "apps.kubernetes.io/pod-index"] {
        labels.as_object_mut().unwrap().remove(own);
    }
    let name = meta["name"].as_str().unwrap();
    let prefix = meta["generateName"].as_str();
    assert!(prefix.is_none_or(|prefix| name.starts_with(prefix)), "{name}");
    json!({"labels": labels, "finalizers": meta["finalizers"], "of": meta["ownerReferences"],
        "prefix": prefix})
}

/// By names, with their uids.
fn uids<T: Object>(rig: &Rig) -> BTreeMap<String, String> {
    let all = rig.all::<T>().into_iter();
    all.map(|it| (it.meta().name.clone(), it.meta().uid.clone())).collect()
}

fn pods(rig: &Rig, app: &str) -> Vec<Arc<client::Entry<Pod>>> {
    let mut pods = rig.all::<Pod>();
    pods.retain(|pod| pod.metadata.labels.get("app").is_some_and(|it| it == app));
    pods
}

fn well(rig: &Rig, app: &str, count: usize, wanted: &str) -> bool {
    let pods = pods(rig, app);
    pods.len() == count && pods.iter().all(|pod| pod.is_ready() && image(pod) == wanted)
}

fn owner(kind: &str, version: &str, object: &impl Object) -> Value {
    let meta = object.meta();
    json!([{"apiVersion": version, "kind": kind, "name": meta.name, "uid": meta.uid,
        "controller": true, "blockOwnerDeletion": true}])
}

impl Rig {
    async fn make<T: Object>(&self, object: Value) -> Arc<client::Entry<T>> {
        let made = self.client.create::<T>("default", &object).await;
        Arc::new(made.unwrap_or_else(|error| panic!("{error}: {object}")))
    }

    /// A pod of this template on a node, as its controller makes it.
    async fn pod(&self, node: &str, template: &Value, metadata: Value) -> Arc<client::Entry<Pod>> {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
            "spec": template["spec"]});
        pod["spec"]["nodeName"] = node.into();
        self.make::<Pod>(pod).await
    }

    async fn ready(&self, app: &str, count: usize) {
        let ready = || pods(self, app).iter().filter(|pod| pod.is_ready()).count() == count;
        self.until("the pods of the one before", ready).await;
    }
}

/// Without controllers, as the one before has left it.
async fn left() -> Rig {
    let rig = Rig::new(77, 3).await;
    rig.informers.of::<Job>().synced().await;
    rig.informers.of::<CronJob>().synced().await;
    rig.controllers.cancel();
    rig.clock.sleep(Duration::from_secs(1)).await;
    rig
}

#[tokio::test(start_paused = true)]
async fn a_rollout_goes_on() {
    let mut rig = left().await;
    let mut object = deployment("web", 4, "i:2");
    object["metadata"]["annotations"] = json!({"deployment.kubernetes.io/revision": "2"});
    let web = rig.make::<Deployment>(object.clone()).await;
    // Hashes of Go's structures: nobody else can make them, and nobody has to.
    let halves = [("6f8c9d7b54", "i:1", "1", 3), ("d5b7f4c98", "i:2", "2", 2)];
    for (hash, image, revision, replicas) in halves {
        let mut template = object["spec"]["template"].clone();
        template["spec"]["containers"][0]["image"] = image.into();
        template["metadata"]["labels"]["pod-template-hash"] = hash.into();
        let labels = template["metadata"]["labels"].clone();
        let set = rig.make::<ReplicaSet>(json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": format!("web-{hash}"), "labels": labels,
                "annotations": {"deployment.kubernetes.io/desired-replicas": "4",
                    "deployment.kubernetes.io/max-replicas": "5",
                    "deployment.kubernetes.io/revision": revision},
                "ownerReferences": owner("Deployment", "apps/v1", &**web)},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels},
                "template": template},
        }));
        let set = set.await;
        for _ in 0..replicas {
            let metadata = json!({"generateName": format!("web-{hash}-"), "labels": labels,
                "ownerReferences": owner("ReplicaSet", "apps/v1", &**set)});
            rig.pod("simulated-1", &template, metadata).await;
        }
    }
    rig.ready("web", 5).await;
    let (sets, before) = (uids::<ReplicaSet>(&rig), uids::<Pod>(&rig));
    rig.start_controllers();
    rig.until("the rest of the rollout", || rolled_out(&rig, "web", 4, "i:2")).await;
    rig.until("the end of the old pods", || well(&rig, "web", 4, "i:2")).await;
    assert_eq!(uids::<ReplicaSet>(&rig), sets, "no ReplicaSet was made again");
    let now = uids::<Pod>(&rig);
    let kept = before.keys().filter(|name| name.starts_with("web-d5b7f4c98-"));
    let kept: BTreeSet<&String> = kept.collect();
    assert_eq!(kept.len(), 2);
    assert!(kept.iter().all(|name| now.get(*name) == before.get(*name)), "{before:?} {now:?}");
    let pods = pods(&rig, "web");
    let shapes: BTreeSet<String> = pods.iter().map(|pod| shape(&pod.value()).to_string()).collect();
    assert_eq!(shapes.len(), 1, "{shapes:#?}");
    let annotations = rig.informers.of::<Deployment>().get("default", "web").unwrap();
    assert_eq!(annotations.metadata.annotations["deployment.kubernetes.io/revision"], "2");
}

/// The template as kube-controller-manager keeps it in a ControllerRevision; up to 1.34 with the
/// null that its creation time is.
fn kept(app: &str, image: &str, null: bool) -> Value {
    let mut template = json!({
        "$patch": "replace",
        "metadata": {"labels": {"app": app}},
        "spec": {
            "containers": [{"image": image, "imagePullPolicy": "IfNotPresent", "name": "c",
                "ports": [{"containerPort": 80, "protocol": "TCP"}], "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "securityContext": {},
            "terminationGracePeriodSeconds": 30,
        },
    });
    if null {
        template["metadata"]["creationTimestamp"] = Value::Null;
    }
    json!({"spec": {"template": template}})
}

#[tokio::test(start_paused = true)]
async fn an_update_of_a_stateful_set_goes_on() {
    let mut rig = left().await;
    let row = StatefulSet::row();
    let mut object = workload(row, "db", Some(3));
    object["spec"]["template"]["spec"]["containers"][0]["image"] = "i:2".into();
    object["spec"]["serviceName"] = "db".into();
    let db = rig.make::<StatefulSet>(object.clone()).await;
    let revisions = [("db-7b9d5c6f8", "i:1"), ("db-5c4f9b8d7b", "i:2")];
    for (number, (name, image)) in revisions.into_iter().enumerate() {
        let hash = name.trim_start_matches("db-");
        rig.make::<ControllerRevision>(json!({
            "apiVersion": "apps/v1", "kind": "ControllerRevision",
            "metadata": {"name": name, "labels":
                {"app": "db", "controller.kubernetes.io/hash": hash},
                "ownerReferences": owner("StatefulSet", "apps/v1", &**db)},
            "data": kept("db", image, true), "revision": number + 1,
        }))
        .await;
    }
    for (ordinal, (revision, image)) in
        [revisions[0], revisions[0], revisions[1]].into_iter().enumerate()
    {
        let mut template = object["spec"]["template"].clone();
        template["spec"]["containers"][0]["image"] = image.into();
        template["spec"]["hostname"] = format!("db-{ordinal}").into();
        template["spec"]["subdomain"] = "db".into();
        let metadata = json!({"name": format!("db-{ordinal}"), "generateName": "db-",
            "labels": {"app": "db", "apps.kubernetes.io/pod-index": ordinal.to_string(),
                "controller-revision-hash": revision,
                "statefulset.kubernetes.io/pod-name": format!("db-{ordinal}")},
            "ownerReferences": owner("StatefulSet", "apps/v1", &**db)});
        rig.pod("simulated-1", &template, metadata).await;
    }
    let status = Patch::Merge(json!({"status": {"observedGeneration": 1, "replicas": 3,
        "readyReplicas": 3, "currentReplicas": 2, "updatedReplicas": 1, "collisionCount": 0,
        "currentRevision": revisions[0].0, "updateRevision": revisions[1].0}}));
    rig.client.patch::<StatefulSet>("default", "db", "status", &status).await.unwrap();
    rig.ready("db", 3).await;
    let (kept, before) = (uids::<ControllerRevision>(&rig), uids::<Pod>(&rig));
    rig.start_controllers();
    rig.until("the rest of the update", || {
        let db = rig.informers.of::<StatefulSet>().get("default", "db").unwrap();
        well(&rig, "db", 3, "i:2") && db.status.current_revision == revisions[1].0
    })
    .await;
    assert_eq!(uids::<ControllerRevision>(&rig), kept, "no revision was made again");
    let now = uids::<Pod>(&rig);
    assert_eq!(now["db-2"], before["db-2"], "what was up to date stays");
    let [made, found] = ["db-0", "db-2"].map(|name| {
        let pod = rig.informers.of::<Pod>().get("default", name).unwrap().value();
        let spec = &pod["spec"];
        let mut shape = shape(&pod);
        // By its own name.
        shape["labels"]["statefulset.kubernetes.io/pod-name"].take();
        (shape, spec["subdomain"].clone(), spec["hostname"] == pod["metadata"]["name"])
    });
    assert_eq!(made, found);
}

#[tokio::test(start_paused = true)]
async fn daemons_stay() {
    let mut rig = left().await;
    let mut object = workload(DaemonSet::row(), "log", None);
    object["metadata"]["annotations"] = json!({"deprecated.daemonset.template.generation": "1"});
    let log = rig.make::<DaemonSet>(object.clone()).await;
    rig.make::<ControllerRevision>(json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {"name": "log-66d8c9f5b7",
            "annotations": {"deprecated.daemonset.template.generation": "1"},
            "labels": {"app": "log", "controller-revision-hash": "66d8c9f5b7"},
            "ownerReferences": owner("DaemonSet", "apps/v1", &**log)},
        "data": kept("log", "i:0", false), "revision": 1,
    }))
    .await;
    for node in ["simulated-1", "simulated-2"] {
        let mut template = object["spec"]["template"].clone();
        template["spec"]["affinity"] = json!({"nodeAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{
                "matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}}});
        let tolerations = [
            ("not-ready", "NoExecute"),
            ("unreachable", "NoExecute"),
            ("disk-pressure", "NoSchedule"),
            ("memory-pressure", "NoSchedule"),
            ("pid-pressure", "NoSchedule"),
            ("unschedulable", "NoSchedule"),
        ];
        let tolerations = tolerations.map(|(key, effect)| {
            json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists",
                "effect": effect})
        });
        template["spec"]["tolerations"] = tolerations.to_vec().into();
        let metadata = json!({"generateName": "log-",
            "labels": {"app": "log", "controller-revision-hash": "66d8c9f5b7",
                "pod-template-generation": "1"},
            "ownerReferences": owner("DaemonSet", "apps/v1", &**log)});
        rig.pod(node, &template, metadata).await;
    }
    rig.ready("log", 2).await;
    let (kept, before) = (uids::<ControllerRevision>(&rig), uids::<Pod>(&rig));
    rig.start_controllers();
    rig.until("a pod on the third node", || well(&rig, "log", 3, "i:0")).await;
    rig.clock.sleep(Duration::from_secs(60)).await;
    assert_eq!(uids::<ControllerRevision>(&rig), kept, "no revision was made again");
    let now = uids::<Pod>(&rig);
    assert!(before.iter().all(|(name, uid)| now.get(name) == Some(uid)), "{before:?} {now:?}");
    let pods = pods(&rig, "log");
    let shapes: BTreeSet<String> = pods
        .iter()
        .map(|pod| {
            let pod = pod.value();
            let spec = &pod["spec"];
            let mut affinity = spec["affinity"].to_string();
            affinity = affinity.replace(spec["nodeName"].as_str().unwrap(), "NODE");
            format!("{} {affinity} {}", shape(&pod), spec["tolerations"])
        })
        .collect();
    assert_eq!(shapes.len(), 1, "{shapes:#?}");
}

/// A Job's pod as the one before made it. `seconds` later it is done, or never.
async fn worker(rig: &Rig, job: &client::Entry<Job>, index: Option<usize>, seconds: u64) {
    let (name, uid) = (&job.metadata.name, &job.metadata.uid);
    let mut annotations = json!({});
    if seconds > 0 {
        annotations[EXIT_AFTER] = seconds.to_string().into();
    }
    let mut labels = json!({"app": name, "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": name, "controller-uid": uid, "job-name": name});
    let mut prefix = format!("{name}-");
    let mut template = job.value()["spec"]["template"].clone();
    if let Some(index) = index {
        prefix = format!("{name}-{index}-");
        annotations["batch.kubernetes.io/job-completion-index"] = index.to_string().into();
        labels["batch.kubernetes.io/job-completion-index"] = index.to_string().into();
        template["spec"]["hostname"] = format!("{name}-{index}").into();
    }
    let metadata = json!({"generateName": prefix, "labels": labels, "annotations": annotations,
        "finalizers": ["batch.kubernetes.io/job-tracking"],
        "ownerReferences": owner("Job", "batch/v1", &**job)});
    rig.pod("simulated-1", &template, metadata).await;
}

fn work(name: &str, mode: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"completions": 4, "parallelism": 2, "completionMode": mode, "template": {
            "metadata": {"labels": {"app": name}, "annotations": {EXIT_AFTER: "30"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}},
    })
}

#[tokio::test(start_paused = true)]
async fn completions_are_counted_on() {
    let mut rig = left().await;
    for (name, mode) in [("plain", "NonIndexed"), ("parts", "Indexed")] {
        let job = rig.make::<Job>(work(name, mode)).await;
        let index = |index: usize| (mode == "Indexed").then_some(index);
        worker(&rig, &job, index(0), 5).await;
        worker(&rig, &job, index(1), 0).await;
    }
    rig.clock.sleep(Duration::from_secs(20)).await;
    let succeeded = |app: &str| {
        let pods = pods(&rig, app);
        pods.into_iter().find(|pod| pod.status.phase == "Succeeded").expect("its time has come")
    };
    // It is noted, its pod is let go, and it is not yet counted; nor is the pod of the other let go.
    let plain = succeeded("plain");
    let free = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    rig.client.patch::<Pod>("default", &plain.metadata.name, "", &free).await.unwrap();
    let start = rig.informers.of::<Job>().get("default", "plain").unwrap().value();
    let start = &start["metadata"]["creationTimestamp"];
    for (name, status) in [
        ("plain", json!({"uncountedTerminatedPods": {"succeeded": [plain.metadata.uid]}})),
        ("parts", json!({"completedIndexes": "0", "succeeded": 1, "uncountedTerminatedPods": {}})),
    ] {
        let mut status = json!({"status": status});
        status["status"]["active"] = 1.into();
        status["status"]["ready"] = 1.into();
        status["status"]["startTime"] = start.clone();
        let patch = Patch::Merge(status);
        rig.client.patch::<Job>("default", name, "status", &patch).await.unwrap();
    }
    let before = uids::<Pod>(&rig);
    rig.start_controllers();
    let second = || ["plain", "parts"].map(|app| pods(&rig, app).len());
    rig.until("another pod of each", || second() == [3, 3]).await;
    for app in ["plain", "parts"] {
        let alive: BTreeSet<String> = pods(&rig, app)
            .iter()
            .filter(|pod| pod.status.phase != "Succeeded")
            .map(|pod| {
                let (pod, mut shape) = (pod.value(), shape(&pod.value()));
                // By its index.
                if app == "parts" {
                    let index =
                        &pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"];
                    let index = index.as_str().unwrap();
                    assert_eq!(shape["prefix"], format!("parts-{index}-"));
                    assert_eq!(pod["spec"]["hostname"], format!("parts-{index}"));
                    shape["prefix"].take();
                }
                shape.to_string()
            })
            .collect();
        assert_eq!(alive.len(), 1, "{alive:#?}");
    }
    // The two that would run for ever.
    for (name, _) in before {
        let pod = rig.informers.of::<Pod>().get("default", &name).unwrap();
        if pod.status.phase == "Running" {
            let status = pod.value()["status"]["containerStatuses"][0]["containerID"].clone();
            let id = status.as_str().unwrap().rsplit('/').next().unwrap().to_string();
            rig._nodes.runtime(&pod.spec.node_name).unwrap().exit(&id, 0);
        }
    }
    for name in ["plain", "parts"] {
        let job = || rig.informers.of::<Job>().get("default", name).unwrap();
        rig.until("the end of the Job", || job().is_complete()).await;
        assert_eq!((job().status.succeeded, job().status.failed), (4, 0), "{name}");
        assert_eq!(pods(&rig, name).len(), 4, "{name}: one pod for each completion");
    }
    let parts = rig.informers.of::<Job>().get("default", "parts").unwrap();
    assert_eq!(parts.status.completed_indexes, "0-3");
}

/// It had made the Job, and ended before it noted that.
#[tokio::test(start_paused = true)]
async fn a_start_is_not_made_again() {
    let mut rig = left().await;
    let template = work("x", "NonIndexed")["spec"].clone();
    let cron = rig.make::<CronJob>(json!({"apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {"name": "tick"},
        "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": template}}}));
    let cron = cron.await;
    let minute = (rig.clock.now().0.as_second() / 300 + 1) * 5;
    let time = Time::from_unix(minute * 60);
    rig.clock.sleep(time.plus(Duration::from_secs(10)).since(rig.clock.now())).await;
    let made = json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": format!("tick-{minute}"),
            "annotations": {"batch.kubernetes.io/cronjob-scheduled-timestamp": time.to_string()},
            "ownerReferences": owner("CronJob", "batch/v1", &**cron)},
        "spec": template});
    rig.make::<Job>(made).await;
    rig.start_controllers();
    rig.clock.sleep(Duration::from_secs(280)).await;
    let jobs = || rig.all::<Job>();
    assert_eq!(jobs().len(), 1, "{:?}", uids::<Job>(&rig));
    rig.until("the next", || jobs().len() == 2).await;
    let shapes: BTreeSet<String> = jobs()
        .iter()
        .map(|job| {
            let job = job.value();
            let meta = &job["metadata"];
            let time =
                meta["annotations"]["batch.kubernetes.io/cronjob-scheduled-timestamp"].clone();
            let time: Time = serde_json::from_value(time).unwrap();
            assert_eq!(meta["name"], format!("tick-{}", time.0.as_second() / 60));
            format!(
                "{} {}",
                meta["ownerReferences"],
                meta["annotations"].as_object().unwrap().len()
            )
        })
        .collect();
    assert_eq!(shapes.len(), 1, "{shapes:#?}");
}

#[tokio::test(start_paused = true)]
async fn endpoints_stay_in_their_slices() {
    let mut rig = left().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 80}]}});
    let service = rig.make::<KubeService>(service).await;
    let template = deployment("web", 1, "i:1")["spec"]["template"].clone();
    let pod = rig.pod("simulated-1", &template, json!({"name": "one", "labels": {"app": "web"}}));
    let pod = pod.await;
    rig.ready("web", 1).await;
    let address = rig.informers.of::<Pod>().get("default", "one").unwrap().value();
    let address = address["status"]["podIP"].clone();
    let reference = json!({"kind": "Pod", "namespace": "default", "name": "one",
        "uid": pod.metadata.uid});
    rig.make::<EndpointSlice>(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-x7k2p", "generateName": "web-",
            "labels": {"kubernetes.io/service-name": "web",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
            "ownerReferences": owner("Service", "v1", &**service)},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "nodeName": "simulated-1",
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": reference}],
    }))
    .await;
    rig.until("the slice", || !rig.gone::<EndpointSlice>("web-x7k2p")).await;
    let before = uids::<EndpointSlice>(&rig);
    rig.start_controllers();
    rig.clock.sleep(Duration::from_secs(60)).await;
    assert_eq!(uids::<EndpointSlice>(&rig), before);
    let another = json!({"name": "two", "labels": {"app": "web"}});
    rig.pod("simulated-2", &template, another).await;
    rig.until("both in the slice", || {
        let slices = rig.all::<EndpointSlice>();
        slices.iter().any(|it| it.metadata.name == "web-x7k2p" && it.endpoints.len() == 2)
    })
    .await;
    assert_eq!(uids::<EndpointSlice>(&rig), before);
}
