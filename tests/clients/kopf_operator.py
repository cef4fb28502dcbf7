"""A kopf operator: a ConfigMap with the label `copy` gets a Secret with its data, of its own."""

import kopf
import kubernetes

kubernetes.config.load_kube_config()
CORE = kubernetes.client.CoreV1Api()


@kopf.on.startup()
def configure(settings, **_):
    settings.posting.level = 20
    settings.peering.standalone = True


@kopf.on.create("v1", "configmaps", labels={"copy": kopf.PRESENT})
def create(body, name, namespace, **_):
    secret = {"metadata": {"name": name}, "stringData": dict(body.get("data", {}))}
    kopf.adopt(secret)
    CORE.create_namespaced_secret(namespace, secret)


@kopf.on.field("v1", "configmaps", field="data", labels={"copy": kopf.PRESENT})
def update(old, new, name, namespace, **_):
    if old is not None:
        CORE.patch_namespaced_secret(name, namespace, {"stringData": dict(new)})


@kopf.on.delete("v1", "configmaps", labels={"copy": kopf.PRESENT})
def delete(name, namespace, **_):
    CORE.create_namespaced_config_map(namespace, {"metadata": {"name": f"was-{name}"}})
