"""A CRI client on gRPC's own library, with nothing of Coracle's but the standard's messages: each
function is a case, run in order. Arguments: the socket, a descriptor set of runtime.v1, a folder for
logs, the image."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

SOCKET, DESCRIPTORS, LOGS, IMAGE = sys.argv[1:]
POOL = descriptor_pool.DescriptorPool()
for file in descriptor_pb2.FileDescriptorSet.FromString(Path(DESCRIPTORS).read_bytes()).file:
    POOL.Add(file)
# The library's own choice is the socket's path, which is no authority by RFC 3986 and so refused.
AUTHORITY = [("grpc.default_authority", "localhost")]
CHANNEL = grpc.insecure_channel(f"unix://{SOCKET}", options=AUTHORITY)
SANDBOX = {
    "metadata": {"name": "p", "uid": "u", "namespace": "default"},
    "hostname": "p",
    "log_directory": LOGS,
    "labels": {"app": "a"},
    "linux": {"security_context": {"namespace_options": {"network": "NODE"}}},
}


def message(name):
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"runtime.v1.{name}"))


def call(method, service="RuntimeService", **fields):
    descriptor = POOL.FindServiceByName(f"runtime.v1.{service}").FindMethodByName(method)
    kind = CHANNEL.unary_stream if descriptor.server_streaming else CHANNEL.unary_unary
    invoke = kind(
        f"/runtime.v1.{service}/{method}",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=message(descriptor.output_type.name).FromString,
    )
    return invoke(message(descriptor.input_type.name)(**fields), timeout=60)


def refused(code, method, **fields):
    try:
        call(method, **fields)
    except grpc.RpcError as error:
        assert error.code() == code, error
        return
    raise AssertionError(f"{method} should have been refused")


def container(name, script):
    return {
        "metadata": {"name": name},
        "image": {"image": IMAGE},
        "command": ["sh", "-c", script],
        "log_path": f"{name}.log",
        "labels": {"name": name},
        "linux": {"security_context": {"namespace_options": {"network": "NODE"}}},
    }


def run(sandbox, name, script):
    made = call("CreateContainer", pod_sandbox_id=sandbox, config=container(name, script))
    call("StartContainer", container_id=made.container_id)
    return made.container_id


def status(identity):
    return call("ContainerStatus", container_id=identity).status


def tells_of_itself():
    version = call("Version", version="v1")
    assert version.runtime_api_version == "v1", version
    assert version.runtime_name == "coracle", version
    conditions = {one.type: one.status for one in call("Status").status.conditions}
    assert conditions["RuntimeReady"], conditions
    tags = [tag for image in call("ListImages", "ImageService").images for tag in image.repo_tags]
    assert any(IMAGE in tag for tag in tags), tags
    image = call("ImageStatus", "ImageService", image={"image": IMAGE}).image
    assert image.id and image.size > 0, image
    assert not call("ImageStatus", "ImageService", image={"image": "none/such:1"}).image.id


def runs_containers():
    events, seen = call("GetContainerEvents"), []
    # From here on the runtime tells of everything.
    events.initial_metadata()

    def follow():
        for event in events:
            seen.append((event.container_id, event.container_event_type))
            if seen[-1] == (identity, 3):
                return

    sandbox = call("RunPodSandbox", config=SANDBOX).pod_sandbox_id
    script = "trap 'exit 5' TERM; echo words; while :; do sleep 1 & wait $!; done"
    identity = run(sandbox, "long", script)
    follower = threading.Thread(target=follow)
    follower.start()
    assert status(identity).state == 1, status(identity)
    exec = call("ExecSync", container_id=identity, cmd=["sh", "-c", "echo o; echo e >&2; exit 3"])
    assert (exec.stdout, exec.stderr, exec.exit_code) == (b"o\n", b"e\n", 3), exec
    ids = lambda **filter: [one.id for one in call("ListContainers", filter=filter).containers]
    assert ids(label_selector={"name": "long"}) == [identity]
    assert ids(label_selector={"name": "other"}) == []
    assert ids(pod_sandbox_id=sandbox, state={"state": "CONTAINER_RUNNING"}) == [identity]
    stats = call("ContainerStats", container_id=identity).stats
    assert stats.memory.working_set_bytes.value > 0, stats
    assert call("Exec", container_id=identity, cmd=["sh"], stdout=True).url.startswith("http://")
    call("StopContainer", container_id=identity, timeout=30)
    ended_as = status(identity)
    assert (ended_as.state, ended_as.exit_code) == (2, 5), ended_as
    assert Path(LOGS, "long.log").read_text().endswith(" stdout F words\n")
    call("RemoveContainer", container_id=identity)
    call("StopPodSandbox", pod_sandbox_id=sandbox)
    call("RemovePodSandbox", pod_sandbox_id=sandbox)
    assert not call("ListPodSandbox").items
    follower.join()
    events.cancel()
    assert [kind for owner, kind in seen if owner == identity] == [0, 1, 2, 3], seen


def refuses_what_is_not_there():
    missing = grpc.StatusCode.NOT_FOUND
    refused(missing, "ContainerStatus", container_id="none")
    refused(missing, "PodSandboxStatus", pod_sandbox_id="none")
    refused(missing, "ExecSync", container_id="none", cmd=["true"])
    refused(missing, "StartContainer", container_id="none")
    # What is gone already is as good as removed.
    call("RemoveContainer", container_id="none")
    call("RemovePodSandbox", pod_sandbox_id="none")


def serves_many_at_once():
    sandbox = call("RunPodSandbox", config=SANDBOX).pod_sandbox_id
    identity = run(sandbox, "many", "sleep 3600")

    def ask(number):
        answer = call("ExecSync", container_id=identity, cmd=["echo", str(number)])
        return answer.stdout == f"{number}\n".encode()

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(ask, range(100)))
    call("RemovePodSandbox", pod_sandbox_id=sandbox)
    assert not call("ListContainers").containers


for case in [
    tells_of_itself,
    runs_containers,
    refuses_what_is_not_there,
    serves_many_at_once,
]:
    case()
    print(case.__name__)
