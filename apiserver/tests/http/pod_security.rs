//! Names, namespaces and users of pods, security contexts, and the fields that gates keep off.

use serde_json::{Value, json};

use super::api::{Api, DEPLOYMENTS, PODS, deployment, pod};
use super::{SUBDOMAIN, causes, container, merge, with};

#[tokio::test]
async fn namespaces_and_names() {
    let api = Api::start().await;
    let own = |more: Value| {
        let mut spec = json!({"hostUsers": false});
        merge(&mut spec, &more);
        spec
    };
    let long = "a".repeat(65);
    let invalid = format!("spec.hostnameOverride: Invalid value: \"\": {SUBDOMAIN}");
    for (spec, expected) in [
        (own(json!({})), &[][..]),
        (
            own(json!({"hostNetwork": true, "hostPID": true, "hostIPC": true})),
            &[
                "spec.hostNetwork: Forbidden: when `hostUsers` is false",
                "spec.HostPID: Forbidden: when `hostUsers` is false",
                "spec.HostIPC: Forbidden: when `hostUsers` is false",
            ],
        ),
        (
            own(json!({
                "containers": [container(json!({"volumeDevices": [
                    {"name": "v", "devicePath": "/d"},
                ]}))],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],
            })),
            &["spec.containers[0].volumeDevices: Forbidden: when `hostUsers` is false"],
        ),
        (json!({"hostnameOverride": "a.example.com"}), &[]),
        (
            json!({"hostnameOverride": "a", "hostNetwork": true, "setHostnameAsFQDN": true}),
            &[
                "spec.hostnameOverride: Forbidden: may not be specified when setHostnameAsFQDN is \
                 true",
                "spec.hostnameOverride: Forbidden: may not be specified when hostNetwork is true",
            ],
        ),
        (
            json!({ "hostnameOverride": long }),
            &["spec.hostnameOverride: Too long: may not be more than 64 bytes"],
        ),
        (json!({"hostnameOverride": ""}), &[&*invalid]),
        (json!({"dnsConfig": {"searches": vec!["a".repeat(100); 25]}}), &[]),
        (
            json!({"schedulingGates": [{"name": "a"}, {"name": "a"}]}),
            &["spec.schedulingGates[1]: Duplicate value: \"a\""],
        ),
        (
            json!({"os": {"name": "plan9"}}),
            &["spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""],
        ),
        (
            json!({"tolerations": [{"key": "a", "operator": "Lt", "value": "1"}]}),
            &["spec.tolerations[0].operator: Unsupported value: \"Lt\": supported values: \
               \"Equal\", \"Exists\", \"Lt\", \"Gt\""],
        ),
    ] {
        if spec["dnsConfig"].is_object() {
            // 2,524 bytes with the spaces; the value is as long.
            let mut object = pod("p");
            merge(&mut object["spec"], &spec);
            let answer = api.post(PODS, object).await.expect(422);
            let message = answer["message"].as_str().unwrap();
            let end = "must not have more than 2048 characters (including spaces) in the search \
                list";
            assert!(message.contains(end), "{message}");
            continue;
        }
        api.both(&spec, expected).await;
    }
}

#[tokio::test]
async fn security_contexts() {
    let api = Api::start().await;
    let of_pod = |context: Value| json!({ "securityContext": context });
    let of_container = |context: Value| with(json!({ "securityContext": context }));
    let unmasked = |users: bool| {
        let mut spec = of_container(json!({"procMount": "Unmasked"}));
        spec["hostUsers"] = users.into();
        spec
    };
    let mut shared = of_pod(json!({"sysctls": [
        {"name": "net.ipv4.ip_forward", "value": "1"}, {"name": "kernel/shmmax", "value": "1"},
    ]}));
    api.both(&shared, &[]).await;
    merge(&mut shared, &json!({"hostNetwork": true, "hostIPC": true}));
    for (spec, expected) in [
        (
            of_pod(
                json!({"supplementalGroupsPolicy": "Strict", "seLinuxChangePolicy": "Recursive",
                "fsGroupChangePolicy": "OnRootMismatch"}),
            ),
            &[][..],
        ),
        (
            of_pod(json!({"supplementalGroupsPolicy": "None", "seLinuxChangePolicy": "Never"})),
            &[
                "spec.securityContext.supplementalGroupsPolicy: Unsupported value: \"None\": \
                 supported values: \"Merge\", \"Strict\"",
                "spec.securityContext.seLinuxChangePolicy: Unsupported value: \"Never\": \
                 supported values: \"MountOption\", \"Recursive\"",
            ],
        ),
        (unmasked(false), &[]),
        (
            unmasked(true),
            &["spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": \
               `hostUsers` must be false to use `Unmasked`"],
        ),
        (
            of_container(json!({"procMount": "Some"})),
            &["spec.containers[0].securityContext.procMount: Unsupported value: \"Some\": \
               supported values: \"Default\", \"Unmasked\""],
        ),
        (
            shared,
            &[
                "spec.securityContext.sysctls[0].name: Invalid value: \"net.ipv4.ip_forward\": \
                 may not be specified when 'hostNetwork' is true",
                "spec.securityContext.sysctls[1].name: Invalid value: \"kernel/shmmax\": may not \
                 be specified when 'hostIPC' is true",
            ],
        ),
        (
            of_container(
                json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": " a"}}),
            ),
            &["spec.containers[0].securityContext.appArmorProfile.localhostProfile: Invalid \
               value: \" a\": must not be padded with whitespace"],
        ),
        (
            of_container(
                json!({"seccompProfile": {"type": "Unconfined", "localhostProfile": "a"}}),
            ),
            &[
                "spec.containers[0].securityContext.seccompProfile.localhostProfile: Invalid value: \
               {\"LocalhostProfile\":\"a\",\"Type\":\"Unconfined\"}: can only be set when \
               seccomp type is Localhost",
            ],
        ),
        (
            of_container(json!({"windowsOptions": {"runAsUserName": ""}})),
            &["spec.containers[0].securityContext.windowsOptions.runAsUserName: Invalid value: \
               \"\": runAsUserName cannot be an empty string"],
        ),
        (
            json!({"os": {"name": "linux"}, "securityContext": {"windowsOptions": {}}}),
            &[
                "spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a \
               linux pod",
            ],
        ),
        (
            json!({"os": {"name": "windows"}, "hostUsers": true,
                "securityContext": {"runAsUser": 1}, "resources": {"limits": {"cpu": "1"}}}),
            &[
                "spec.resources: Forbidden: may not be set for a windows pod",
                "spec.hostUsers: Forbidden: cannot be set for a windows pod",
                "spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
            ],
        ),
        (
            of_pod(json!({"windowsOptions": {"hostProcess": true}})),
            &["spec.hostNetwork: Invalid value: false: hostNetwork must be true if pod contains \
               any hostProcess containers"],
        ),
    ] {
        api.both(&spec, expected).await;
    }
    let sleep =
        |seconds: i64| with(json!({"lifecycle": {"preStop": {"sleep": {"seconds": seconds}}}}));
    api.both(&sleep(0), &[]).await;
    let expected = "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be \
        non-negative and less than terminationGracePeriodSeconds (30)";
    api.both(&sleep(31), &[expected]).await;
}

#[tokio::test]
async fn what_gates_keep_off_is_dropped_with_a_warning() {
    let api = Api::start().await;
    let mut spec = with(json!({"lifecycle": {"stopSignal": "SIGINT"}}));
    merge(
        &mut spec,
        &json!({
            "schedulingGroup": {"podGroupName": "g"},
            "os": {"name": "linux"},
            "volumes": [{"name": "v", "projected": {"sources": [
                {"clusterTrustBundle": {"name": "b", "path": "p"}},
                {"podCertificate": {"signerName": "a/b", "keyType": "ED25519",
                    "credentialBundlePath": "c"}},
            ]}}],
        }),
    );
    let dropped = |prefix: &str| {
        [
            ("containers[0].lifecycle.stopSignal", "ContainerStopSignals"),
            ("schedulingGroup", "GenericWorkload"),
            ("volumes[0].projected.sources[0].clusterTrustBundle", "ClusterTrustBundleProjection"),
            ("volumes[0].projected.sources[1].podCertificate", "PodCertificateRequest"),
        ]
        .map(|(field, gate)| {
            format!("299 - \"{prefix}.{field}: not stored: feature gate {gate} is off\"")
        })
    };
    let kept = |spec: &Value| {
        assert!(spec["schedulingGroup"].is_null() && spec["containers"][0]["lifecycle"].is_null());
        assert_eq!(spec["volumes"][0]["projected"]["sources"], json!([{}, {}]));
    };
    let mut object = pod("p");
    merge(&mut object["spec"], &spec);
    let reply = api.post(PODS, object).await;
    let said = reply.warnings();
    assert!(dropped("spec").iter().all(|warning| said.contains(warning)), "{said:?}");
    kept(&reply.expect(201)["spec"]);
    kept(&api.get(&format!("{PODS}/p")).await.json()["spec"]);

    let mut object = deployment("d");
    api.post(DEPLOYMENTS, object.clone()).await.expect(201);
    merge(&mut object["spec"]["template"]["spec"], &spec);
    let reply = api.put(&format!("{DEPLOYMENTS}/d"), object).await;
    let said = reply.warnings();
    assert!(dropped("spec.template.spec").iter().all(|warning| said.contains(warning)), "{said:?}");
    kept(&reply.expect(200)["spec"]["template"]["spec"]);

    let status = json!({"status": {"nodeAllocatableResourceClaimStatuses": [
        {"resourceClaimName": "c", "containers": ["c"], "resources": {"cpu": "1"}},
    ]}});
    let reply = api.patch(&format!("{PODS}/p/status"), "merge-patch+json", status).await;
    assert_eq!(
        reply.warnings(),
        ["299 - \"status.nodeAllocatableResourceClaimStatuses: not stored: feature gate \
          DRANodeAllocatableResources is off\""]
    );
    assert!(reply.expect(200)["status"]["nodeAllocatableResourceClaimStatuses"].is_null());
}

/// A pod at its gates may be told more precisely where to run, and no other.
#[tokio::test]
async fn pods_at_their_gates() {
    let api = Api::start().await;
    let term = |values: &[&str]| {
        json!({"matchExpressions": [
            {"key": "zone", "operator": "In", "values": values},
        ]})
    };
    let affinity = |terms: Value| {
        json!({"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
        }})
    };
    let mut object = pod("p");
    merge(
        &mut object["spec"],
        &json!({"schedulingGates": [{"name": "g"}], "nodeSelector": {"a": "b"},
            "affinity": affinity(json!([term(&["x"])]))}),
    );
    api.post(PODS, object).await.expect(201);
    let path = format!("{PODS}/p");
    let narrower = json!({"matchExpressions": [
        {"key": "zone", "operator": "In", "values": ["x"]}, {"key": "b", "operator": "Exists"},
    ]});
    let change = json!({"spec": {"nodeSelector": {"c": "d"},
        "affinity": affinity(json!([narrower]))}});
    api.merge(&path, change).await.expect(200);
    let at = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.\
        nodeSelectorTerms";
    for (change, expected) in [
        (
            json!({"nodeSelector": {"a": "c"}}),
            "spec.nodeSelector: Invalid value: {\"a\":\"c\",\"c\":\"d\"}: only additions to \
             spec.nodeSelector are allowed (no mutations or deletions)"
                .to_string(),
        ),
        (
            json!({"affinity": affinity(json!([term(&["y"])]))}),
            format!(
                "{at}[0]: Invalid value: {}: only additions are allowed (no mutations or deletions)",
                term(&["y"])
            ),
        ),
        (
            json!({"schedulingGates": [{"name": "g"}, {"name": "h"}]}),
            "spec.schedulingGates[1].name: Forbidden: only deletion is allowed, but found new \
             scheduling gate 'h'"
                .to_string(),
        ),
    ] {
        let answer = api.merge(&path, json!({ "spec": change })).await.expect(422);
        assert_eq!(causes(&answer), [expected]);
    }
}
