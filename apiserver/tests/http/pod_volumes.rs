//! Every source of volumes: one that is taken, and what is said of one that is not.

use serde_json::{Value, json};

use super::api::{Api, PODS, pod};
use super::{LABEL, SUBDOMAIN, causes, with};

/// A source, and what is wrong with it.
type Case = (&'static str, Value, &'static [&'static str]);

async fn each(api: &Api, cases: &[Case]) {
    for (kind, source, expected) in cases {
        let spec = json!({"volumes": [{"name": "v", *kind: source}]});
        let expected: Vec<String> =
            expected.iter().map(|cause| format!("spec.volumes[0].{cause}")).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        api.both(&spec, &expected).await;
    }
}

#[tokio::test]
async fn sources_that_every_node_knows() {
    let api = Api::start().await;
    each(
        &api,
        &[
            ("emptyDir", json!({"medium": "Memory", "sizeLimit": "1Gi"}), &[]),
            (
                "emptyDir",
                json!({"sizeLimit": "-1"}),
                &["emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource \
                   quantity"],
            ),
            ("hostPath", json!({"path": "/a", "type": "Directory"}), &[]),
            (
                "hostPath",
                json!({"path": "/a/../b", "type": "Thing"}),
                &[
                    "hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                    "hostPath.type: Unsupported value: \"Thing\": supported values: \"\", \
                     \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \
                     \"File\", \"FileOrCreate\", \"Socket\"",
                ],
            ),
            ("secret", json!({"secretName": "s", "defaultMode": 256}), &[]),
            (
                "secret",
                json!({"defaultMode": 512, "items": [{"key": "k", "path": "..x", "mode": 777}]}),
                &[
                    "secret.secretName: Required value",
                    "secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 \
                     (octal), both inclusive",
                    "secret.items[0].path: Invalid value: \"..x\": must not start with '..'",
                    "secret.items[0].mode: Invalid value: 777: must be a number between 0 and \
                     0777 (octal), both inclusive",
                ],
            ),
            ("configMap", json!({"name": "c", "items": [{"key": "k", "path": "a/b"}]}), &[]),
            (
                "configMap",
                json!({"items": [{"key": "", "path": "/a"}]}),
                &[
                    "configMap.name: Required value",
                    "configMap.items[0].key: Required value",
                    "configMap.items[0].path: Invalid value: \"/a\": must be a relative path",
                ],
            ),
            (
                "downwardAPI",
                json!({"items": [{"path": "a", "fieldRef": {"fieldPath": "metadata.name"}}]}),
                &[],
            ),
            (
                "downwardAPI",
                json!({"items": [{"path": "a"},
                    {"path": "b", "resourceFieldRef": {"resource": "limits.cpu"}}]}),
                &[
                    "downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
                    "downwardAPI.resourceFieldRef.containerName: Required value",
                ],
            ),
            ("persistentVolumeClaim", json!({"claimName": "c", "readOnly": true}), &[]),
            (
                "persistentVolumeClaim",
                json!({"claimName": ""}),
                &["persistentVolumeClaim.claimName: Required value"],
            ),
            ("image", json!({"reference": "a:1", "pullPolicy": "Never"}), &[]),
            (
                "image",
                json!({"pullPolicy": "Often"}),
                &[
                    "image.reference: Required value",
                    "image.pullPolicy: Unsupported value: \"Often\": supported values: \
                     \"Always\", \"IfNotPresent\", \"Never\"",
                ],
            ),
        ],
    )
    .await;
    let mut object = pod("p");
    object["spec"]["volumes"] = json!([{"name": "v", "image": {"reference": "a"}}]);
    let made = api.post(&format!("{PODS}?dryRun=All"), object).await.expect(201);
    assert_eq!(made["spec"]["volumes"][0]["image"]["pullPolicy"], "Always");
}

#[tokio::test]
async fn sources_from_elsewhere() {
    let api = Api::start().await;
    let fc = json!({"targetWWNs": ["5"], "lun": 2});
    let iscsi = json!({"targetPortal": "10.0.0.1:3260", "iqn": "iqn.2001-04.com.example:s",
        "lun": 0});
    let azure = json!({"diskName": "d", "diskURI": "https://a/b", "kind": "Shared"});
    each(
        &api,
        &[
            ("nfs", json!({"server": "s", "path": "/a"}), &[]),
            (
                "nfs",
                json!({"server": "", "path": "a"}),
                &[
                    "nfs.server: Required value",
                    "nfs.path: Invalid value: \"a\": must be an absolute path",
                ],
            ),
            ("iscsi", iscsi.clone(), &[]),
            (
                "iscsi",
                json!({"targetPortal": "", "iqn": "x", "lun": 256, "chapAuthSession": true,
                    "initiatorName": "iqn.x"}),
                &[
                    "iscsi.targetPortal: Required value",
                    "iscsi.iqn: Invalid value: \"x\": must be valid format starting with iqn, \
                     eui, or naa",
                    "iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive",
                    "iscsi.secretRef: Required value",
                    "iscsi.initiatorname: Invalid value: \"iqn.x\": must be valid format",
                ],
            ),
            ("fc", fc, &[]),
            (
                "fc",
                json!({}),
                &["fc.targetWWNs: Required value: must specify either targetWWNs or wwids, but \
                   not both"],
            ),
            (
                "fc",
                json!({"targetWWNs": ["5"]}),
                &["fc.lun: Required value: lun is required if targetWWNs is specified"],
            ),
            ("glusterfs", json!({"endpoints": "e", "path": "p"}), &[]),
            (
                "glusterfs",
                json!({"endpoints": "", "path": ""}),
                &["glusterfs.endpoints: Required value", "glusterfs.path: Required value"],
            ),
            ("rbd", json!({"monitors": ["m"], "image": "i"}), &[]),
            (
                "rbd",
                json!({"monitors": [], "image": ""}),
                &["rbd.monitors: Required value", "rbd.image: Required value"],
            ),
            ("cephfs", json!({"monitors": ["m"]}), &[]),
            ("cephfs", json!({"monitors": []}), &["cephfs.monitors: Required value"]),
            ("cinder", json!({"volumeID": "v"}), &[]),
            (
                "cinder",
                json!({"volumeID": "", "secretRef": {}}),
                &["cinder.volumeID: Required value", "cinder.secretRef.name: Required value"],
            ),
            ("azureDisk", azure, &[]),
            (
                "azureDisk",
                json!({"diskName": "", "diskURI": "https://a", "kind": "Managed",
                    "cachingMode": "Some"}),
                &[
                    "azureDisk.diskName: Required value",
                    "azureDisk.cachingMode: Unsupported value: \"Some\": supported values: \
                     \"None\", \"ReadOnly\", \"ReadWrite\"",
                    "azureDisk.diskURI: Unsupported value: \"https://a\": supported values: \
                     \"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/\
                     microsoft.compute/disks/{disk-id}\"",
                ],
            ),
            ("azureFile", json!({"secretName": "s", "shareName": "s"}), &[]),
            (
                "azureFile",
                json!({"secretName": "", "shareName": ""}),
                &["azureFile.secretName: Required value", "azureFile.shareName: Required value"],
            ),
            ("vsphereVolume", json!({"volumePath": "p"}), &[]),
            (
                "vsphereVolume",
                json!({"volumePath": ""}),
                &["vsphereVolume.volumePath: Required value"],
            ),
            ("portworxVolume", json!({"volumeID": "v"}), &[]),
            (
                "portworxVolume",
                json!({"volumeID": ""}),
                &["portworxVolume.volumeID: Required value"],
            ),
            ("photonPersistentDisk", json!({"pdID": "v"}), &[]),
            (
                "photonPersistentDisk",
                json!({"pdID": ""}),
                &["photonPersistentDisk.pdID: Required value"],
            ),
            ("awsElasticBlockStore", json!({"volumeID": "v", "partition": 1}), &[]),
            (
                "awsElasticBlockStore",
                json!({"volumeID": "", "partition": 256}),
                &[
                    "awsElasticBlockStore.volumeID: Required value",
                    "awsElasticBlockStore.partition: Invalid value: 256: must be between 1 and \
                     255, inclusive",
                ],
            ),
            ("gcePersistentDisk", json!({"pdName": "v"}), &[]),
            (
                "gcePersistentDisk",
                json!({"pdName": ""}),
                &["persistentDisk.pdName: Required value"],
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn sources_of_vendors_and_drivers() {
    let api = Api::start().await;
    let claim = json!({"volumeClaimTemplate": {
        "metadata": {"labels": {"a": "b"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }});
    each(
        &api,
        &[
            ("quobyte", json!({"registry": "a:1,b:2", "volume": "v"}), &[]),
            (
                "quobyte",
                json!({"registry": "a", "volume": ""}),
                &[
                    "quobyte.registry: Invalid value: \"a\": must be a host:port pair or multiple \
                     pairs separated by commas",
                    "quobyte.volume: Required value",
                ],
            ),
            ("storageos", json!({"volumeName": "v"}), &[]),
            (
                "storageos",
                json!({"secretRef": {}}),
                &["storageos.volumeName: Required value", "storageos.secretRef.name: Required value"],
            ),
            (
                "scaleIO",
                json!({"gateway": "g", "system": "s", "volumeName": "v", "secretRef": {"name": "s"}}),
                &[],
            ),
            (
                "scaleIO",
                json!({"gateway": "", "system": "", "secretRef": {"name": "s"}}),
                &[
                    "scaleIO.gateway: Required value",
                    "scaleIO.system: Required value",
                    "scaleIO.volumeName: Required value",
                ],
            ),
            ("flocker", json!({"datasetName": "d"}), &[]),
            (
                "flocker",
                json!({"datasetName": "a/b", "datasetUUID": "u"}),
                &[
                    "flocker: Invalid value: \"resource\": datasetName and datasetUUID can not be \
                     specified simultaneously",
                    "flocker.datasetName: Invalid value: \"a/b\": must not contain '/'",
                ],
            ),
            ("gitRepo", json!({"repository": "r", "directory": "d"}), &[]),
            (
                "gitRepo",
                json!({"repository": "", "directory": "../d"}),
                &[
                    "gitRepo.repository: Required value",
                    "gitRepo.directory: Invalid value: \"../d\": must not contain '..'",
                ],
            ),
            ("flexVolume", json!({"driver": "d/e", "options": {"a": "b"}}), &[]),
            (
                "flexVolume",
                json!({"driver": "", "options": {"x.kubernetes.io/a": "b"}}),
                &[
                    "flexVolume.driver: Required value",
                    "flexVolume.options[x.kubernetes.io/a]: Invalid value: \
                     \"x.kubernetes.io/a\": kubernetes.io and k8s.io namespaces are reserved",
                ],
            ),
            ("csi", json!({"driver": "d.example.com", "volumeAttributes": {"a": "b"}}), &[]),
            (
                "csi",
                json!({"driver": "", "nodePublishSecretRef": {}}),
                &["csi.driver: Required value", "csi.nodePublishSecretRef.name: Required value"],
            ),
            ("ephemeral", claim, &[]),
            ("ephemeral", json!({}), &["ephemeral.volumeClaimTemplate: Required value"]),
            (
                "ephemeral",
                json!({"volumeClaimTemplate": {"metadata": {"name": "x"}, "spec": {}}}),
                &[
                    "ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set",
                    "ephemeral.volumeClaimTemplate.spec.accessModes: Required value: at least one \
                     access mode is required",
                    "ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value",
                ],
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn projected_sources() {
    let api = Api::start().await;
    let token = json!({"serviceAccountToken": {"path": "token", "expirationSeconds": 600}});
    let config = |path: &str| {
        json!({"configMap": {"name": "c", "items": [
            {"key": "k", "path": path},
        ]}})
    };
    let both = json!({"secret": {"name": "s"}, "configMap": {"name": "c"}});
    each(
        &api,
        &[
            ("projected", json!({"sources": [token, config("a")]}), &[]),
            // A source without anything is taken, as upstream takes it.
            ("projected", json!({"sources": [{}]}), &[]),
            (
                "projected",
                json!({"sources": [both]}),
                &["projected.sources[0]: Forbidden: may not specify more than 1 volume type per \
                   source"],
            ),
            (
                "projected",
                json!({"sources": [config("a"), config("a")]}),
                &["projected: Invalid value: \"c\": conflicting duplicate paths"],
            ),
            (
                "projected",
                json!({"sources": [{"serviceAccountToken": {"path": "", "expirationSeconds": 5}}]}),
                &[
                    "projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: \
                     5: may not specify a duration less than 10 minutes",
                    "projected.path: Required value",
                ],
            ),
        ],
    )
    .await;
}

#[tokio::test]
async fn volumes_as_a_whole() {
    let api = Api::start().await;
    let label = format!("spec.volumes[0].name: Invalid value: \"V\": {LABEL}");
    for (volumes, expected) in [
        (json!([{"name": "V", "emptyDir": {}}]), &[&*label][..]),
        (
            json!([{"name": "v", "cephfs": {"monitors": ["m"]}, "nfs": {"server": "s", "path": "/"},
                "gcePersistentDisk": {"pdName": "p"}}]),
            &[
                "spec.volumes[0].nfs: Forbidden: may not specify more than 1 volume type",
                "spec.volumes[0].cephFS: Forbidden: may not specify more than 1 volume type",
            ],
        ),
    ] {
        api.both(&json!({ "volumes": volumes }), expected).await;
    }
    let template = json!({"volumeClaimTemplate": {"spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
    }}});
    let made = "spec.volumes[1].persistentVolumeClaim.claimName: Invalid value: \"p-v\": must not \
        reference a PVC that gets created for an ephemeral volume";
    let volumes = json!({"volumes": [
        {"name": "v", "ephemeral": template},
        {"name": "w", "persistentVolumeClaim": {"claimName": "p-v"}},
    ]});
    api.create(volumes, &[made]).await;
    devices(&api).await;
    let mut object = pod("UPPER");
    object["spec"]["volumes"] = json!([{"name": "v", "ephemeral": template}]);
    let answer = api.post(PODS, object).await.json();
    let expected =
        format!("spec.volumes[0].name: Invalid value: \"v\": PVC name \"UPPER-v\": {SUBDOMAIN}");
    assert!(causes(&answer).contains(&expected), "{answer}");
}

async fn devices(api: &Api) {
    let mut spec = with(json!({
        "volumeMounts": [{"name": "d", "mountPath": "/d"}],
        "volumeDevices": [
            {"name": "d", "devicePath": "/d"}, {"name": "e", "devicePath": "/../e"},
            {"name": "c", "devicePath": "/c"},
        ],
    }));
    spec["volumes"] = json!([
        {"name": "c", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "d", "emptyDir": {}},
    ]);
    let at = "spec.containers[0]";
    let expected = [
        format!(
            "{at}.volumeMounts[0].name: Invalid value: \"d\": must not already exist in \
             volumeDevices"
        ),
        format!(
            "{at}.volumeMounts[0].mountPath: Invalid value: \"/d\": must not already exist as a \
             path in volumeDevices"
        ),
        format!(
            "{at}.volumeDevices[0].name: Invalid value: \"d\": can only use volume source type of \
             PersistentVolumeClaim or Ephemeral for block mode"
        ),
        format!(
            "{at}.volumeDevices[0].name: Invalid value: \"d\": must not already exist in \
             volumeMounts"
        ),
        format!(
            "{at}.volumeDevices[0].devicePath: Invalid value: \"/d\": must not already exist as a \
             path in volumeMounts"
        ),
        format!("{at}.volumeDevices[1].name: Not found: \"e\""),
        format!(
            "{at}.volumeDevices[1].devicePath: Invalid value: \"/../e\": can not contain backsteps \
             ('..')"
        ),
    ];
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    api.both(&spec, &expected).await;
}
