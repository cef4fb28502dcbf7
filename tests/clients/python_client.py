"""The Python client against the server of $KUBECONFIG: each function is a case, run in order."""

import threading

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException

config.load_kube_config()
API = client.ApiClient()
CORE, APPS, BATCH, RBAC = (
    client.CoreV1Api(API),
    client.AppsV1Api(API),
    client.BatchV1Api(API),
    client.RbacAuthorizationV1Api(API),
)
SPACE = "python"


def meta(name, **more):
    return client.V1ObjectMeta(name=name, **more)


def refused(status, reason, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except ApiException as error:
        assert error.status == status, error
        assert f'"reason":"{reason}"' in error.body.replace(" ", ""), error.body
        return
    raise AssertionError(f"{call} should have been refused")


def pods_of(labels):
    container = client.V1Container(name="c", image="i", resources={"limits": {"cpu": "0.5"}})
    spec = client.V1PodSpec(containers=[container], restart_policy=None)
    return client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels=labels), spec=spec)


def creates_reads_replaces_and_deletes():
    CORE.create_namespace(client.V1Namespace(metadata=meta(SPACE)))
    account = client.V1ServiceAccount(metadata=meta("default"))
    try:  # The controller may have been first.
        CORE.create_namespaced_service_account(SPACE, account)
    except ApiException as error:
        assert error.status == 409, error
    made = CORE.create_namespaced_config_map(
        SPACE, client.V1ConfigMap(metadata=meta("a"), data={"x": "1"})
    )
    assert made.metadata.uid and made.metadata.creation_timestamp.tzinfo, made
    refused(409, "AlreadyExists", CORE.create_namespaced_config_map, SPACE, made_of("a"))
    stale = CORE.read_namespaced_config_map("a", SPACE)
    made.data["y"] = "2"
    CORE.replace_namespaced_config_map("a", SPACE, made)
    refused(409, "Conflict", CORE.replace_namespaced_config_map, "a", SPACE, stale)
    assert CORE.read_namespaced_config_map("a", SPACE).data == {"x": "1", "y": "2"}
    refused(404, "NotFound", CORE.read_namespaced_config_map, "none", SPACE)

    secret = client.V1Secret(metadata=meta("s"), string_data={"k": "v"})
    assert CORE.create_namespaced_secret(SPACE, secret).data == {"k": "dg=="}
    ports = [client.V1ServicePort(port=80, target_port="http")]
    spec = client.V1ServiceSpec(selector={"app": "a"}, ports=ports)
    service = CORE.create_namespaced_service(
        SPACE, client.V1Service(metadata=meta("s"), spec=spec)
    )
    assert service.spec.cluster_ip and service.spec.ports[0].target_port == "http", service
    labels = {"app": "d"}
    spec = client.V1DeploymentSpec(
        replicas=0, selector=client.V1LabelSelector(match_labels=labels), template=pods_of(labels)
    )
    made = APPS.create_namespaced_deployment(
        SPACE, client.V1Deployment(metadata=meta("d"), spec=spec)
    )
    assert made.spec.strategy.rolling_update.max_surge == "25%", made.spec
    assert made.spec.template.spec.containers[0].resources.limits == {"cpu": "500m"}
    scale = APPS.read_namespaced_deployment_scale("d", SPACE)
    scale.metadata.resource_version = None
    scale.spec.replicas = 1
    assert APPS.replace_namespaced_deployment_scale("d", SPACE, scale).spec.replicas == 1
    template = pods_of({"app": "j"})
    template.spec.restart_policy = "Never"
    job = client.V1Job(metadata=meta("j"), spec=client.V1JobSpec(template=template, suspend=True))
    assert BATCH.create_namespaced_job(SPACE, job).spec.completion_mode == "NonIndexed"
    rule = client.V1PolicyRule(api_groups=[""], resources=["pods"], verbs=["get"])
    RBAC.create_namespaced_role(SPACE, client.V1Role(metadata=meta("r"), rules=[rule]))
    gone = CORE.delete_namespaced_secret("s", SPACE)
    assert gone.status == "Success", gone
    refused(404, "NotFound", CORE.delete_namespaced_secret, "s", SPACE)


def made_of(name, **data):
    return client.V1ConfigMap(metadata=meta(name, labels={"made": "here"}), data=data)


def lists_in_pages_and_by_selectors():
    for number in range(5):
        CORE.create_namespaced_config_map(SPACE, made_of(f"page-{number}"))
    names, token = [], None
    while True:
        page = CORE.list_namespaced_config_map(
            SPACE, label_selector="made=here", limit=2, _continue=token
        )
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"page-{number}" for number in range(5)], names
    one = CORE.list_namespaced_config_map(SPACE, field_selector="metadata.name=page-3")
    assert [item.metadata.name for item in one.items] == ["page-3"]
    everywhere = CORE.list_config_map_for_all_namespaces(label_selector="made in (here, there)")
    assert len(everywhere.items) == 5


def watches_and_resumes():
    listed = CORE.list_namespaced_config_map(SPACE)
    at = listed.metadata.resource_version

    def write():
        CORE.create_namespaced_config_map(SPACE, made_of("watched"))
        CORE.patch_namespaced_config_map("watched", SPACE, {"data": {"a": "b"}})
        CORE.delete_namespaced_config_map("watched", SPACE)

    writer = threading.Thread(target=write)
    writer.start()

    def events(after, count):
        stream = watch.Watch()
        seen = []
        for event in stream.stream(
            CORE.list_namespaced_config_map, SPACE, resource_version=after, timeout_seconds=20
        ):
            seen.append((event["type"], event["object"].metadata.name))
            if len(seen) == count:
                stream.stop()
        return seen, stream.resource_version

    seen, after = events(at, 1)
    assert seen == [("ADDED", "watched")], seen
    seen, _ = events(after, 2)
    assert seen == [("MODIFIED", "watched"), ("DELETED", "watched")], seen
    writer.join()
    # One that is too old ends with 410, of which the client tells.
    try:
        next(watch.Watch().stream(CORE.list_namespaced_config_map, SPACE, resource_version="1"))
    except (ApiException, StopIteration) as error:
        assert getattr(error, "status", 410) == 410, error


def patches_of_all_types():
    deployments = dynamic.DynamicClient(API).resources.get(api_version="apps/v1", kind="Deployment")

    def patched(kind, body):
        named = {"force_conflicts": True} if "apply" in kind else {}
        deployments.patch(
            body, name="d", namespace=SPACE, content_type=kind, field_manager="py", **named
        )
        return APPS.read_namespaced_deployment("d", SPACE)

    one = {"spec": {"template": {"spec": {"containers": [{"name": "two", "image": "i"}]}}}}
    got = patched("application/strategic-merge-patch+json", one)
    assert [c.name for c in got.spec.template.spec.containers] == ["two", "c"]
    got = patched("application/merge-patch+json", one)
    assert [c.name for c in got.spec.template.spec.containers] == ["two"]
    got = patched(
        "application/json-patch+json", [{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}]
    )
    assert got.metadata.labels == {"a": "b"}
    applied = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 0}}
    got = patched("application/apply-patch+yaml", applied)
    owners = {(entry.manager, entry.operation) for entry in got.metadata.managed_fields}
    assert got.spec.replicas == 0 and ("py", "Apply") in owners, owners


def finds_kinds_at_run_time():
    found = dynamic.DynamicClient(API)
    deployments = found.resources.get(api_version="apps/v1", kind="Deployment")
    assert deployments.get(name="d", namespace=SPACE).metadata.labels["a"] == "b"
    maps = found.resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dyn"}, "data": {"a": "b"}}
    made = maps.create(body=body, namespace=SPACE)
    applied = maps.server_side_apply(
        body={**body, "data": {"c": "d"}}, name="dyn", namespace=SPACE, field_manager="dyn"
    )
    assert applied.data.to_dict() == {"a": "b", "c": "d"} and made.metadata.name == "dyn"
    for event in maps.watch(namespace=SPACE, name="dyn", timeout=10):
        assert event["type"] == "ADDED" and event["object"].metadata.name == "dyn"
        break
    maps.delete(name="dyn", namespace=SPACE)
    maps.delete(namespace=SPACE, label_selector="made=here")
    assert not maps.get(namespace=SPACE, label_selector="made=here").items


def creates_from_yaml():
    import yaml

    documents = """
apiVersion: v1
kind: Service
metadata: {name: from-yaml}
spec: {ports: [{port: 80}], selector: {app: x}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: from-yaml}
spec: {defaultBackend: {service: {name: from-yaml, port: {number: 80}}}}
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: from-list}}
"""
    utils.create_from_yaml(API, yaml_objects=yaml.safe_load_all(documents), namespace=SPACE)
    found = client.NetworkingV1Api(API).read_namespaced_ingress("from-yaml", SPACE)
    assert found.spec.default_backend.service.port.number == 80
    CORE.read_namespaced_config_map("from-list", SPACE)


def asks_about_the_server():
    assert client.VersionApi(API).get_code().minor.startswith("36")
    groups = {group.name for group in client.ApisApi(API).get_api_versions().groups}
    assert {"apps", "batch", "networking.k8s.io"} <= groups, groups
    CORE.delete_namespace(SPACE)


for case in [
    creates_reads_replaces_and_deletes,
    lists_in_pages_and_by_selectors,
    watches_and_resumes,
    patches_of_all_types,
    finds_kinds_at_run_time,
    creates_from_yaml,
    asks_about_the_server,
]:
    case()
    print(case.__name__)
