// The JavaScript client against the server of $KUBECONFIG.
import assert from "node:assert/strict";
import * as k8s from "@kubernetes/client-node";

const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const namespace = "javascript";
const map = (name, data) => ({ metadata: { name, labels: { made: "here" } }, data });

async function refused(code, promise) {
  await assert.rejects(promise, (error) => error.code === code || assert.fail(`${error}`));
}

/** The names that `events` told of, once there are as many as wanted. */
function telling(count, subscribe) {
  return new Promise((resolve, reject) => {
    const seen = [];
    setTimeout(() => reject(new Error(`saw only ${seen}`)), 20_000).unref();
    subscribe((event) => {
      seen.push(event);
      if (seen.length === count) resolve(seen);
    });
  });
}

async function createsReadsReplacesAndDeletes() {
  await core.createNamespace({ body: { metadata: { name: namespace } } });
  const made = await core.createNamespacedConfigMap({ namespace, body: map("a", { x: "1" }) });
  assert.ok(made.metadata.creationTimestamp instanceof Date);
  await refused(409, core.createNamespacedConfigMap({ namespace, body: map("a") }));
  await refused(404, core.readNamespacedConfigMap({ namespace, name: "none" }));
  const body = { ...made, data: { x: "2" } };
  await core.replaceNamespacedConfigMap({ namespace, name: "a", body });
  await refused(409, core.replaceNamespacedConfigMap({ namespace, name: "a", body }));
  const labels = { app: "d" };
  const template = { metadata: { labels }, spec: { containers: [{ name: "c", image: "i" }] } };
  const deployment = await apps.createNamespacedDeployment({
    namespace,
    body: { metadata: { name: "d" }, spec: { replicas: 0, selector: { matchLabels: labels }, template } },
  });
  assert.equal(deployment.spec.strategy.rollingUpdate.maxSurge, "25%");
  const listed = await core.listNamespacedConfigMap({ namespace, labelSelector: "made=here" });
  assert.deepEqual(listed.items.map((item) => item.metadata.name), ["a"]);
  const gone = await core.deleteNamespacedConfigMap({ namespace, name: "a" });
  assert.equal(gone.status, "Success");
}

async function patchesOfAllTypes() {
  const patched = (kind, body) =>
    apps.patchNamespacedDeployment(
      { namespace, name: "d", body, fieldManager: "js", force: kind.includes("Apply") || undefined },
      k8s.setHeaderOptions("Content-Type", k8s.PatchStrategy[kind]),
    );
  const two = { spec: { template: { spec: { containers: [{ name: "two", image: "i" }] } } } };
  const names = (got) => got.spec.template.spec.containers.map((container) => container.name);
  assert.deepEqual(names(await patched("StrategicMergePatch", two)), ["two", "c"]);
  assert.deepEqual(names(await patched("MergePatch", two)), ["two"]);
  const operations = [{ op: "replace", path: "/spec/paused", value: true }];
  const added = [{ op: "add", path: "/spec/paused", value: true }];
  assert.equal((await patched("JsonPatch", added)).spec.paused, true);
  assert.equal((await patched("JsonPatch", operations)).spec.paused, true);
  const applied = { apiVersion: "apps/v1", kind: "Deployment", spec: { replicas: 1 } };
  const got = await patched("ServerSideApply", applied);
  assert.ok(got.metadata.managedFields.some((entry) => entry.manager === "js" && entry.operation === "Apply"));
}

async function watches() {
  const path = `/api/v1/namespaces/${namespace}/configmaps`;
  const { metadata } = await core.listNamespacedConfigMap({ namespace });
  const watch = new k8s.Watch(config);
  let controller;
  const seen = telling(3, async (tell) => {
    const from = { resourceVersion: metadata.resourceVersion, allowWatchBookmarks: true };
    controller = await watch.watch(path, from, (type, object) => tell(`${type} ${object.metadata.name}`), () => {});
    await core.createNamespacedConfigMap({ namespace, body: map("w") });
    await core.patchNamespacedConfigMap(
      { namespace, name: "w", body: { data: { a: "b" } } },
      k8s.setHeaderOptions("Content-Type", k8s.PatchStrategy.MergePatch),
    );
    await core.deleteNamespacedConfigMap({ namespace, name: "w" });
  });
  assert.deepEqual(await seen, ["ADDED w", "MODIFIED w", "DELETED w"]);
  controller.abort();
}

async function informs() {
  const selector = "made=here";
  const list = () => core.listNamespacedConfigMap({ namespace, labelSelector: selector });
  const path = `/api/v1/namespaces/${namespace}/configmaps`;
  const informer = k8s.makeInformer(config, path, list, selector);
  await core.createNamespacedConfigMap({ namespace, body: map("before") });
  const seen = telling(3, async (tell) => {
    for (const event of ["add", "update", "delete"]) {
      informer.on(event, (object) => tell(`${event} ${object.metadata.name}`));
    }
    await informer.start();
    await core.createNamespacedConfigMap({ namespace, body: map("after") });
    await core.deleteNamespacedConfigMap({ namespace, name: "before" });
  });
  assert.deepEqual(await seen, ["add before", "add after", "delete before"]);
  assert.deepEqual(informer.list(namespace).map((object) => object.metadata.name), ["after"]);
  await informer.stop();
}

async function appliesAnyKind() {
  const objects = k8s.KubernetesObjectApi.makeApiClient(config);
  const object = { apiVersion: "apps/v1", kind: "ReplicaSet", metadata: { name: "r", namespace } };
  const labels = { app: "r" };
  const template = { metadata: { labels }, spec: { containers: [{ name: "c", image: "i" }] } };
  object.spec = { replicas: 0, selector: { matchLabels: labels }, template };
  await objects.create(object);
  const read = await objects.read(object);
  assert.equal(read.spec.template.spec.restartPolicy, "Always");
  await objects.delete(object);
  await refused(404, objects.read(object));
  await core.deleteNamespace({ name: namespace });
}

for (const test of [createsReadsReplacesAndDeletes, patchesOfAllTypes, watches, informs, appliesAnyKind]) {
  await test();
  console.log(test.name);
}
process.exit(0);
