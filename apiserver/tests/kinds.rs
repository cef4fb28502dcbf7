//! Kinds as the pipeline uses them: schema, defaults, preparation and validation together, on
//! objects as users write them.

#[path = "kinds/pipeline.rs"]
mod pipeline;

use apiserver::{kinds, schema};
use pipeline::{Case, context, create, refuse, update, with};
use proto::kind;
use proto::time::Time;
use serde_json::{Value, json};

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
        "spec": {"containers": [{"name": "c", "image": "nginx:1"}]},
    })
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "n"},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "a"}},
            "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "c", "image": "my-app:latest"}]},
            },
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "n"},
        "spec": {"selector": {"app": "a"}, "ports": [{"port": 80}]},
    })
}

#[test]
fn a_pod_with_all_its_defaults() {
    let (pod, errors) = create(&kind::POD, pod());
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(
        pod,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "n", "generation": 1},
            "spec": {
                "containers": [{
                    "name": "c", "image": "nginx:1", "imagePullPolicy": "IfNotPresent",
                    "resources": {}, "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File",
                }],
                "dnsPolicy": "ClusterFirst", "enableServiceLinks": true,
                "restartPolicy": "Always", "schedulerName": "default-scheduler",
                "securityContext": {}, "terminationGracePeriodSeconds": 30,
            },
            "status": {"phase": "Pending", "qosClass": "BestEffort"},
        })
    );
}

#[test]
fn a_deployment_with_all_its_defaults() {
    let (deployment, errors) = create(&kind::DEPLOYMENT, deployment());
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(
        deployment["spec"],
        json!({
            "progressDeadlineSeconds": 600, "replicas": 3, "revisionHistoryLimit": 10,
            "selector": {"matchLabels": {"app": "a"}},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
            },
            "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {
                    "containers": [{
                        "name": "c", "image": "my-app:latest", "imagePullPolicy": "Always",
                        "resources": {}, "terminationMessagePath": "/dev/termination-log",
                        "terminationMessagePolicy": "File",
                    }],
                    "dnsPolicy": "ClusterFirst", "restartPolicy": "Always",
                    "schedulerName": "default-scheduler", "securityContext": {},
                    "terminationGracePeriodSeconds": 30,
                },
            },
        })
    );
    assert_eq!(deployment["metadata"]["generation"], 1);
    assert_eq!(deployment["status"], json!({}));
}

#[test]
fn a_service_with_all_its_defaults() {
    let (plain, errors) = create(&kind::SERVICE, service());
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(
        plain["spec"],
        json!({
            "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
            "selector": {"app": "a"}, "sessionAffinity": "None", "type": "ClusterIP",
        })
    );
    assert_eq!(plain["status"], json!({"loadBalancer": {}}));
    let balanced = with(&service(), &[("/spec/type", json!("LoadBalancer"))]);
    let (balanced, errors) = create(&kind::SERVICE, balanced);
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(balanced["spec"]["allocateLoadBalancerNodePorts"], true);
    assert_eq!(balanced["spec"]["externalTrafficPolicy"], "Cluster");
}

#[test]
fn metadata_of_any_kind() {
    refuse(
        &kind::CONFIG_MAP,
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
            "name": "c", "namespace": "n",
        }}),
        &[
            (
                "/metadata/name",
                json!("Web_1"),
                &["metadata.name: Invalid value: \"Web_1\": a lowercase RFC 1123 subdomain must \
                   consist of lower case alphanumeric characters, '-' or '.', and must start and \
                   end with an alphanumeric character (e.g. 'example.com', regex used for \
                   validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"],
            ),
            (
                "/metadata/name",
                Value::Null,
                &["metadata.name: Required value: name or generateName is required"],
            ),
            ("/metadata/namespace", Value::Null, &["metadata.namespace: Required value"]),
            (
                "/metadata/labels",
                json!({"a": "b c"}),
                &[
                    "metadata.labels: Invalid value: \"b c\": a valid label must be an empty string \
                   or consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                   with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
                   regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                ],
            ),
            (
                "/metadata/annotations",
                json!({"a": "x".repeat(256 * 1024)}),
                &["metadata.annotations: Too long: may not be more than 262144 bytes"],
            ),
            (
                "/metadata/finalizers",
                json!(["foo"]),
                &["metadata.finalizers[0]: Invalid value: \"foo\": name is neither a standard \
                   finalizer name nor is it fully qualified"],
            ),
            (
                "/metadata/ownerReferences",
                json!([{"apiVersion": "v1", "kind": "", "name": "a", "uid": "u"}]),
                &["metadata.ownerReferences.kind: Invalid value: \"\": must not be empty"],
            ),
            (
                "/data",
                json!({"a b": ""}),
                &["data[a b]: Invalid value: \"a b\": a valid config key must consist of \
                   alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or \
                   'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"],
            ),
        ],
    );
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {
        "name": "n", "namespace": "x",
    }});
    let (_, errors) = create(&kind::NODE, node);
    assert_eq!(errors, ["metadata.namespace: Forbidden: not allowed on this type"]);
}

#[test]
fn metadata_that_may_not_change() {
    let old = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
        "name": "c", "namespace": "n", "uid": "u", "deletionTimestamp": "2024-01-01T00:00:00Z",
        "finalizers": ["a.io/b"],
    }});
    let cases = [
        ("/metadata/uid", json!("v"), "metadata.uid: Invalid value: \"v\": field is immutable"),
        (
            "/metadata/finalizers",
            json!(["a.io/b", "c.io/d"]),
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is \
             being deleted, found new finalizers []string{\"c.io/d\"}",
        ),
    ];
    for (pointer, value, expected) in cases {
        let new = with(&old, &[(pointer, value)]);
        assert_eq!(update(&kind::CONFIG_MAP, &old, new).1, [expected]);
    }
    let fewer = with(&old, &[("/metadata/finalizers", json!([]))]);
    assert_eq!(update(&kind::CONFIG_MAP, &old, fewer).1, Vec::<String>::new());
}

#[test]
fn containers() {
    refuse(
        &kind::POD,
        &pod(),
        &[
            ("/spec/containers", json!([]), &["spec.containers: Required value"]),
            (
                "/spec/containers/0/name",
                json!("C_1"),
                &["spec.containers[0].name: Invalid value: \"C_1\": a lowercase RFC 1123 label \
                   must consist of lower case alphanumeric characters or '-', and must start and \
                   end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used \
                   for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"],
            ),
            (
                "/spec/containers/-",
                json!({"name": "c", "image": "i"}),
                &["spec.containers[1].name: Duplicate value: \"c\""],
            ),
            (
                "/spec/containers/0/image",
                Value::Null,
                &["spec.containers[0].image: Required value"],
            ),
            (
                "/spec/containers/0/image",
                json!(" i"),
                &["spec.containers[0].image: Invalid value: \" i\": must not have leading or \
                   trailing whitespace"],
            ),
            (
                "/spec/containers/0/imagePullPolicy",
                json!("Sometimes"),
                &["spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": \
                   supported values: \"Always\", \"IfNotPresent\", \"Never\""],
            ),
            (
                "/spec/containers/0/ports",
                json!([{"containerPort": 70000}]),
                &["spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be \
                   between 1 and 65535, inclusive"],
            ),
            (
                "/spec/containers/0/ports",
                json!([{"containerPort": 80, "name": "web"}, {"containerPort": 81, "name": "web"}]),
                &["spec.containers[0].ports[1].name: Duplicate value: \"web\""],
            ),
            (
                "/spec/containers/0/ports",
                json!([{"containerPort": 80, "hostPort": 1}, {"containerPort": 81, "hostPort": 1}]),
                &["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//1\""],
            ),
            (
                "/spec/containers/0/env",
                json!([{"name": "A=B"}, {"value": "x"}]),
                &[
                    "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment \
                     variable name must consist only of printable ASCII characters other than '='",
                    "spec.containers[0].env[1].name: Required value",
                ],
            ),
            (
                "/spec/containers/0/env",
                json!([{"name": "A", "valueFrom": {}}]),
                &[
                    "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: \
                   `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
                   `fileKeyRef`",
                ],
            ),
            (
                "/spec/containers/0/env",
                json!([{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.foo"}}}]),
                &["spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \
                   \"spec.foo\": error converting fieldPath: field label not supported: spec.foo"],
            ),
            (
                "/spec/containers/0/env",
                json!([{"name": "A", "value": "x",
                    "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
                &[
                    "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified \
                   when `value` is not empty",
                ],
            ),
            (
                "/spec/containers/0/livenessProbe",
                json!({"periodSeconds": -1}),
                &[
                    "spec.containers[0].livenessProbe: Required value: must specify a handler type",
                    "spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be \
                     greater than or equal to 0",
                ],
            ),
            (
                "/spec/containers/0/livenessProbe",
                json!({"tcpSocket": {"port": 80}, "successThreshold": 2}),
                &["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
            ),
            (
                "/spec/containers/0/volumeMounts",
                json!([{"name": "v", "mountPath": "/v"}]),
                &["spec.containers[0].volumeMounts[0].name: Not found: \"v\""],
            ),
            (
                "/spec/containers/0/securityContext",
                json!({"privileged": true, "allowPrivilegeEscalation": false}),
                &["spec.containers[0].securityContext: Invalid value: \
                   {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set \
                   `allowPrivilegeEscalation` to false and `privileged` to true"],
            ),
            (
                "/spec/initContainers",
                json!([{"name": "i", "image": "i", "readinessProbe": {"tcpSocket": {"port": 1}}}]),
                &["spec.initContainers[0].readinessProbe: Forbidden: may not be set for init \
                   containers without restartPolicy=Always"],
            ),
            (
                "/spec/ephemeralContainers",
                json!([{"name": "e", "image": "i"}]),
                &["spec.ephemeralContainers: Forbidden: cannot be set on create"],
            ),
        ],
    );
}

#[test]
fn resources() {
    refuse(
        &kind::POD,
        &pod(),
        &[
            (
                "/spec/containers/0/resources",
                json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
                &[
                    "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than \
                   or equal to cpu limit of 1",
                ],
            ),
            (
                "/spec/containers/0/resources",
                json!({"requests": {"gpu": "2"}}),
                &[
                    "spec.containers[0].resources.requests[gpu]: Invalid value: \"gpu\": must be \
                     a standard resource type or fully qualified",
                    "spec.containers[0].resources.requests[gpu]: Invalid value: \"gpu\": must be \
                     a standard resource for containers",
                ],
            ),
            (
                "/spec/containers/0/resources",
                json!({"requests": {"example.com/gpu": "2"}}),
                &[
                    "spec.containers[0].resources.limits: Required value: Limit must be set for non \
                   overcommitable resources",
                ],
            ),
            (
                "/spec/containers/0/resources",
                json!({"limits": {"example.com/gpu": "500m"}}),
                &[
                    "spec.containers[0].resources.limits[example.com/gpu]: Invalid value: \
                     \"500m\": must be an integer",
                    "spec.containers[0].resources.requests[example.com/gpu]: Invalid value: \
                     \"500m\": must be an integer",
                ],
            ),
            (
                "/spec/containers/0/resources",
                json!({"limits": {"memory": "-1"}}),
                &[
                    "spec.containers[0].resources.limits[memory]: Invalid value: \"-1\": must be \
                     greater than or equal to 0",
                    "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must \
                     be greater than or equal to 0",
                ],
            ),
        ],
    );
}

#[test]
fn pod_specs() {
    refuse(
        &kind::POD,
        &pod(),
        &[
            (
                "/spec/restartPolicy",
                json!("Maybe"),
                &["spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \
                   \"Always\", \"OnFailure\", \"Never\""],
            ),
            (
                "/spec/dnsPolicy",
                json!("None"),
                &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is \
                   None"],
            ),
            (
                "/spec/volumes",
                json!([{"name": "v"}, {"name": "v"}]),
                &["spec.volumes[1].name: Duplicate value: \"v\""],
            ),
            (
                "/spec/volumes",
                json!([{"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}}]),
                &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"],
            ),
            (
                "/spec/volumes",
                json!([{"name": "v", "configMap": {"name": "c", "items": [
                    {"key": "k", "path": "../x"},
                ]}}]),
                &["spec.volumes[0].configMap.items[0].path: Invalid value: \"../x\": must not \
                   contain '..'"],
            ),
            (
                "/spec/tolerations",
                json!([{"operator": "Equal"}]),
                &["spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be \
                   Exists when `key` is empty, which means \"match all values and all keys\""],
            ),
            (
                "/spec/tolerations",
                json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule",
                    "tolerationSeconds": 1}]),
                &["spec.tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be \
                   'NoExecute' when `tolerationSeconds` is set"],
            ),
            (
                "/spec/affinity",
                json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [],
                }}}),
                &["spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.\
                   nodeSelectorTerms: Required value: must have at least one node selector term"],
            ),
            (
                "/spec/affinity",
                json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 0, "podAffinityTerm": {}},
                ]}}),
                &[
                    "spec.affinity.podAntiAffinity.\
                     preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: \
                     must be in the range 1-100",
                    "spec.affinity.podAntiAffinity.\
                     preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.\
                     topologyKey: Required value: can not be empty",
                ],
            ),
            (
                "/spec/topologySpreadConstraints",
                json!([{"maxSkew": 0, "topologyKey": "zone", "whenUnsatisfiable": "Never"}]),
                &[
                    "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater \
                     than zero",
                    "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \
                     \"Never\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
                ],
            ),
            (
                "/spec/activeDeadlineSeconds",
                json!(0),
                &["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and \
                   2147483647, inclusive"],
            ),
            (
                "/spec/hostname",
                json!("a.b"),
                &[
                    "spec.hostname: Invalid value: \"a.b\": a lowercase RFC 1123 label must consist \
                   of lower case alphanumeric characters or '-', and must start and end with an \
                   alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for \
                   validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (
                "/spec/securityContext",
                json!({"runAsUser": -1, "seccompProfile": {"type": "Localhost"}}),
                &[
                    "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and \
                     2147483647, inclusive",
                    "spec.securityContext.seccompProfile.localhostProfile: Required value: must \
                     be set when seccomp type is Localhost",
                ],
            ),
        ],
    );
}

#[test]
fn updates_of_pods() {
    let (old, _) = create(&kind::POD, pod());
    let (new, errors) =
        update(&kind::POD, &old, with(&old, &[("/spec/containers/0/image", json!("nginx:2"))]));
    assert_eq!((errors, &new["metadata"]["generation"]), (Vec::new(), &json!(2)));
    assert_eq!(new["status"], old["status"]);
    let labelled = with(&old, &[("/metadata/labels", json!({"a": "b"}))]);
    let (new, errors) = update(&kind::POD, &old, labelled);
    assert_eq!((errors, &new["metadata"]["generation"]), (Vec::new(), &json!(1)));
    let cases: &[Case] = &[
        (
            "/spec/hostname",
            json!("a"),
            &["spec: Forbidden: pod updates may not change fields other than \
               `spec.containers[*].image`,`spec.initContainers[*].image`,\
               `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
               tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it \
               was previously negative)\n+ spec.hostname: \"a\""],
        ),
        (
            "/spec/containers/-",
            json!({"name": "d", "image": "i"}),
            &["spec.containers: Forbidden: pod updates may not add or remove containers"],
        ),
        ("/spec/containers/0/image", json!(""), &["spec.containers[0].image: Required value"]),
        ("/spec/tolerations", json!([{"key": "a", "operator": "Exists"}]), &[]),
        ("/spec/activeDeadlineSeconds", json!(5), &[]),
        (
            "/spec/schedulingGates",
            json!([{"name": "g"}]),
            &["spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new \
               scheduling gate 'g'"],
        ),
    ];
    for (pointer, value, expected) in cases {
        let (_, errors) = update(&kind::POD, &old, with(&old, &[(pointer, value.clone())]));
        assert_eq!(errors, *expected, "{pointer} = {value}");
    }
}

#[test]
fn workloads() {
    refuse(
        &kind::DEPLOYMENT,
        &deployment(),
        &[
            (
                "/spec/replicas",
                json!(-1),
                &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                "/spec/selector/matchLabels",
                json!({"app": "b"}),
                &[
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does \
                   not match template `labels`",
                ],
            ),
            (
                "/spec/selector",
                json!({}),
                &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
            ),
            (
                "/spec/template/spec/restartPolicy",
                json!("Never"),
                &["spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported \
                   values: \"Always\""],
            ),
            (
                "/spec/template/spec/containers",
                json!([]),
                &["spec.template.spec.containers: Required value"],
            ),
            (
                "/spec/strategy",
                json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}),
                &["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 \
                   when `maxSurge` is 0"],
            ),
            (
                "/spec/strategy",
                json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}),
                &["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy \
                   `type` is 'Recreate'"],
            ),
            (
                "/spec/strategy",
                json!({"rollingUpdate": {"maxSurge": "a"}}),
                &["spec.strategy.rollingUpdate.maxSurge: Invalid value: \"a\": a valid percent \
                   string must be a numeric string followed by an ending '%' (e.g. '1%',  or \
                   '93%', regex used for validation is '[0-9]+%')"],
            ),
            (
                "/spec/progressDeadlineSeconds",
                json!(0),
                &["spec.progressDeadlineSeconds: Invalid value: 0: must be greater than \
                   minReadySeconds"],
            ),
        ],
    );
    let (old, _) = create(&kind::DEPLOYMENT, deployment());
    let other = with(
        &old,
        &[
            ("/spec/selector/matchLabels", json!({"app": "b"})),
            ("/spec/template/metadata/labels", json!({"app": "b"})),
        ],
    );
    assert_eq!(
        update(&kind::DEPLOYMENT, &old, other).1,
        ["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"b\"}}: field is immutable"]
    );
    let (new, _) = update(&kind::DEPLOYMENT, &old, with(&old, &[("/spec/replicas", json!(5))]));
    assert_eq!(new["metadata"]["generation"], 2);
    let (same, _) = update(&kind::DEPLOYMENT, &new, new.clone());
    assert_eq!(same, new);
}

#[test]
fn services() {
    refuse(
        &kind::SERVICE,
        &service(),
        &[
            (
                "/metadata/name",
                json!("1s"),
                &["metadata.name: Invalid value: \"1s\": a DNS-1035 label must consist of lower \
                   case alphanumeric characters or '-', start with an alphabetic character, and \
                   end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used \
                   for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"],
            ),
            ("/spec/ports", json!([]), &["spec.ports: Required value"]),
            (
                "/spec/ports",
                json!([{"port": 80}, {"port": 81}]),
                &["spec.ports[0].name: Required value", "spec.ports[1].name: Required value"],
            ),
            (
                "/spec/ports",
                json!([{"port": 80, "name": "a"}, {"port": 80, "name": "b"}]),
                &["spec.ports[1]: Duplicate value: {\"AppProtocol\":null,\"Name\":\"\",\
                   \"NodePort\":0,\"Port\":80,\"Protocol\":\"TCP\",\"TargetPort\":0}"],
            ),
            (
                "/spec/ports",
                json!([{"port": 80, "nodePort": 30000}]),
                &["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
            ),
            (
                "/spec/ports",
                json!([{"port": 0}]),
                &[
                    "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, \
                     inclusive",
                ],
            ),
            (
                "/spec/type",
                json!("Cloud"),
                &["spec.type: Unsupported value: \"Cloud\": supported values: \"ClusterIP\", \
                   \"ExternalName\", \"LoadBalancer\", \"NodePort\""],
            ),
            ("/spec/type", json!("ExternalName"), &["spec.externalName: Required value"]),
            (
                "/spec/clusterIP",
                json!("10.0.0"),
                &["spec.clusterIPs[0]: Invalid value: \"10.0.0\": must be a valid IP address, \
                   (e.g. 10.9.8.7 or 2001:db8::ffff)"],
            ),
            (
                "/spec/externalTrafficPolicy",
                json!("Local"),
                &["spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for \
                   externally-accessible services"],
            ),
            (
                "/spec/externalIPs",
                json!(["127.0.0.1"]),
                &["spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback \
                   range (127.0.0.0/8, ::1/128)"],
            ),
            (
                "/spec/loadBalancerSourceRanges",
                json!(["10.0.0.0/8"]),
                &["spec.loadBalancerSourceRanges: Forbidden: may only be used when `type` is \
                   'LoadBalancer'"],
            ),
        ],
    );
}

#[test]
fn updates_of_services() {
    let (mut old, _) =
        create(&kind::SERVICE, with(&service(), &[("/spec/type", json!("NodePort"))]));
    old["spec"]["clusterIP"] = json!("10.96.0.7");
    old["spec"]["clusterIPs"] = json!(["10.96.0.7"]);
    old["spec"]["ports"][0]["nodePort"] = json!(30080);
    old["spec"]["ipFamilies"] = json!(["IPv4"]);
    let user = with(&service(), &[("/spec/type", json!("NodePort"))]);
    let (kept, errors) = update(&kind::SERVICE, &old, user);
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(kept["spec"], old["spec"], "what was allocated stays without being mentioned");
    let (plain, errors) =
        update(&kind::SERVICE, &old, with(&old, &[("/spec/type", json!("ClusterIP"))]));
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(plain["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(plain["spec"].get("externalTrafficPolicy"), None);
    let (_, errors) =
        update(&kind::SERVICE, &old, with(&old, &[("/spec/clusterIP", json!("10.96.0.8"))]));
    assert_eq!(
        errors,
        ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.8\"]: may not change once set"]
    );
    let name = with(
        &old,
        &[("/spec/type", json!("ExternalName")), ("/spec/externalName", json!("example.com"))],
    );
    let (name, errors) = update(&kind::SERVICE, &old, name);
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!((name["spec"].get("clusterIP"), name["spec"].get("ipFamilies")), (None, None));
}

#[test]
fn statuses_are_separate() {
    for (row, base) in [(&kind::DEPLOYMENT, deployment()), (&kind::POD, pod())] {
        let (old, _) = create(row, base);
        let mut new = with(&old, &[("/spec", json!({})), ("/metadata/generation", json!(9))]);
        new["status"]["phase"] = json!("Running");
        kinds::strategy(row).prepare_status(&mut new, &old, &context(row));
        assert_eq!(new["spec"], old["spec"]);
        assert_eq!(new["metadata"]["generation"], 1);
        assert_eq!(new["status"]["phase"], "Running");
    }
    let (old, _) = create(
        &kind::REPLICA_SET,
        with(&deployment(), &[("/kind", json!("ReplicaSet")), ("/spec/strategy", Value::Null)]),
    );
    let new = with(&old, &[("/status", json!({"replicas": 1, "readyReplicas": 2}))]);
    let errors = kinds::validate_status(&new, &old, &context(&kind::REPLICA_SET));
    let sentences: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        sentences,
        ["status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"]
    );
}

#[test]
fn grace_of_pods() {
    let strategy = kinds::strategy(&kind::POD);
    let (new, _) = create(&kind::POD, pod());
    assert_eq!(strategy.grace(&new, Some(30)), Some(0), "not on a node yet");
    let bound = with(&new, &[("/spec/nodeName", json!("n1"))]);
    assert_eq!(strategy.grace(&bound, None), Some(30));
    assert_eq!(strategy.grace(&bound, Some(0)), Some(0));
    assert_eq!(strategy.grace(&bound, Some(-1)), Some(1));
    let finished = with(&bound, &[("/status/phase", json!("Succeeded"))]);
    assert_eq!(strategy.grace(&finished, None), Some(0));
}

#[test]
fn selectable_fields() {
    let supported = [
        (&kind::POD, "spec.nodeName", true),
        (&kind::POD, "status.podIPs", true),
        (&kind::POD, "spec.image", false),
        (&kind::EVENT, "involvedObject.name", true),
        (&kind::EVENTS_EVENT, "regarding.name", true),
        (&kind::EVENTS_EVENT, "involvedObject.name", false),
        (&kind::SECRET, "type", true),
        (&kind::CONFIG_MAP, "metadata.name", true),
        (&kind::CONFIG_MAP, "data", false),
        (&kind::REPLICA_SET, "status.replicas", true),
    ];
    for (row, label, expected) in supported {
        let found = kinds::field(kinds::strategy(row), label).is_some();
        assert_eq!(found, expected, "{} {label}", row.kind);
    }
}

#[test]
fn every_table_has_a_cell_per_column() {
    for (row, strategy) in kinds::all() {
        let object = json!({"metadata": {"name": "x"}});
        let cells = strategy.cells(&object, Time::from_unix(0));
        assert_eq!(cells.len(), strategy.columns().len(), "{}", row.kind);
        assert!(strategy.columns().iter().any(|column| column.format == "name"), "{}", row.kind);
    }
}

/// Objects with every field set pass every hook of their kind without a panic.
#[test]
fn golden_objects() {
    let below = "shared/data/kubernetes-1.36/golden";
    let mut above = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let Some(folder) = above.find_map(|dir| Some(dir.join(below)).filter(|path| path.is_dir()))
    else {
        eprintln!("skipped: Kubernetes' own objects are absent");
        return;
    };
    // Measurements are an API of their own beside Kubernetes'.
    let own = |row: &kind::Row| row.group != "metrics.k8s.io";
    for (row, strategy) in kinds::all().iter().filter(|(row, _)| own(row)) {
        let group = if row.group.is_empty() { "core" } else { &*row.group };
        let file = folder.join(format!("{group}.{}.{}.json", row.version, row.kind));
        let text = std::fs::read(&file).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        let mut object: Value = serde_json::from_slice(&text).expect("JSON");
        schema::check(row, &mut object).unwrap_or_else(|error| panic!("{}: {error}", row.kind));
        if let Some(conversion) = strategy.conversion() {
            let stored = (conversion.to_storage)(object.clone());
            assert_eq!((conversion.from_storage)(stored.clone()), object, "{}", row.kind);
            object = stored;
        }
        strategy.default(&mut object);
        let once = object.clone();
        strategy.default(&mut object);
        assert_eq!(object, once, "defaults of {} are idempotent", row.kind);
        assert_eq!(strategy.cells(&object, Time::from_unix(0)).len(), strategy.columns().len());
        let ctx = context(row);
        assert!(
            kinds::validate_update(&object, &once, &ctx)
                .iter()
                .all(|error| !error.to_string().contains("immutable")),
            "an unchanged {} changes nothing",
            row.kind
        );
        strategy.prepare_update(&mut object, &once, &ctx);
        assert_eq!(object["metadata"]["generation"], once["metadata"]["generation"]);
        strategy.prepare_create(&mut object, &ctx);
        kinds::validate_create(&object, &ctx);
    }
}
