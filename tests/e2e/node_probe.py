"""A program in a pod on the node: it sees what the kubelet sees, at the moment when it does.

It runs in the image under test, from a ConfigMap, and prints JSON lines. `watch FILE` records, until it is stopped,
every change of what `GetAllocatableResources` answers, of the kubelet's checkpoint and of the kubelet itself; `stop
FILE` ends that and prints what was recorded. `leftovers` names what an agent leaves on a node, `wipe` removes it.

It never calls `List`: that makes the kubelet forget a device whose Allocate is in flight, so that a look at holders
would change who holds what. The checkpoint says the same: the kubelet writes it with every admission, without the pods
that have ended until then.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HOST = Path("/host")
DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
POD_RESOURCES = "unix:///var/lib/kubelet/pod-resources/kubelet.sock"
LEFT_BY_AGENTS = ("var/lib/nodeagent", "run/nodeagent")
TOOLKIT_IS_READY = "run/nvidia/validations/toolkit-ready"
BY_US = "nodeagent-e2e"
MPS_ROOT = "run/nodeagent/mps"

EVERY = 0.02
"""Seconds between two polls: the kubelet answers a hundred a second, to the agent and to others together."""


def watch(file: Path) -> None:
    """Record until SIGTERM."""
    import grpc

    from nodeagent.kubelet.proto import podresources_pb2 as pb

    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    options = [
        ("grpc.initial_reconnect_backoff_ms", 20),
        ("grpc.min_reconnect_backoff_ms", 20),
        ("grpc.max_reconnect_backoff_ms", 100),
        ("grpc.max_receive_message_length", 64 << 20),
    ]
    ask = grpc.insecure_channel(POD_RESOURCES, options).unary_unary(
        "/v1.PodResourcesLister/GetAllocatableResources",
        request_serializer=pb.AllocatableResourcesRequest.SerializeToString,
        response_deserializer=pb.AllocatableResourcesResponse.FromString,
    )
    polls, answered, longest, limited = 0, 0.0, 0.0, 0
    seen: dict[str, object] = {}
    with file.open("w", encoding="utf-8") as out:

        def record(at: float, **what: object) -> None:
            for name, value in what.items():
                if seen.get(name, seen) != value:
                    seen[name] = value
                    out.write(json.dumps({"at": at, name: value}) + "\n")
                    out.flush()

        while not ended:
            at = time.time()
            try:
                answer = ask(pb.AllocatableResourcesRequest(), timeout=5)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    limited += 1  # others have asked: no word about devices
                else:
                    record(at, error=error.code().name)
            else:
                found: dict[str, list[str]] = {}
                for device in answer.devices:  # an entry for each device
                    found.setdefault(device.resource_name, []).extend(device.device_ids)
                polls += 1
                longest = max(longest, at - answered) if answered else 0.0
                answered = at
                record(at, error=None, devices={name: sorted(ids) for name, ids in sorted(found.items())})
            record(at, kubelet=_kubelet(), checkpoint=_checkpoint(seen.get("checkpoint")))
            time.sleep(EVERY)
        out.write(json.dumps({"at": time.time(), "polls": polls, "longest_gap": longest, "limited": limited}) + "\n")


def _kubelet() -> int | None:
    """Which kubelet it is: each binds its socket anew. The inode's number may be that of the one before."""
    try:
        return (DEVICE_PLUGINS / "kubelet.sock").stat().st_ctime_ns
    except OSError:
        return None


def _checkpoint(before: object) -> object:
    """Every pod with devices: [its uid, the resource, the ids]. What was read before, where it cannot be read."""
    try:
        entries = json.loads((DEVICE_PLUGINS / "kubelet_internal_checkpoint").read_bytes())["Data"]["PodDeviceEntries"]
    except (OSError, ValueError, KeyError, TypeError):
        return before
    return sorted(
        [entry["PodUID"], entry["ResourceName"], sorted(id_ for ids in entry["DeviceIDs"].values() for id_ in ids)]
        for entry in entries or ()
    )


def kubelet() -> None:
    """Print which kubelet there is."""
    sys.stdout.write(f"{_kubelet()}\n")


def start(file: Path) -> None:
    """Watch in the background; return when it has begun."""
    file.unlink(missing_ok=True)
    with Path(f"{file}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, "watch", str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    Path(f"{file}.pid").write_text(str(process.pid), encoding="utf-8")
    deadline = time.monotonic() + 60
    while not (file.exists() and file.stat().st_size):
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"cannot watch: {Path(f'{file}.log').read_text(encoding='utf-8')}")
        time.sleep(0.02)


def stop(file: Path) -> None:
    """End the watching, and print what it has seen."""
    pid = int(Path(f"{file}.pid").read_text(encoding="utf-8"))
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while '"polls"' not in file.read_text(encoding="utf-8"):
        if time.monotonic() > deadline:
            sys.exit(f"the watch does not end: {Path(f'{file}.log').read_text(encoding='utf-8')}")
        time.sleep(0.05)
    sys.stdout.write(file.read_text(encoding="utf-8"))


def leftovers() -> None:
    """Print what agents have left on the node, a path a line."""
    for path in LEFT_BY_AGENTS:
        there = HOST / path
        if there.is_dir() and any(there.iterdir()):
            sys.stdout.write(f"/{path}\n")


def cards() -> None:
    """Print the device nodes of NVIDIA's cards, a path a line: a privileged pod has all that the node has."""
    for path in sorted(Path("/dev").glob("nvidia[0-9]*")):
        sys.stdout.write(f"{path}\n")


def wipe() -> None:
    """Remove all of that. A directory that is itself a mount stays, empty."""
    # An MPS host that is ended at once leaves the file systems that it has made: shared memory, and one per daemon.
    for made in sorted((HOST / MPS_ROOT).glob("*/")):
        subprocess.run(["umount", "--lazy", made], capture_output=True, check=False)
    for path in LEFT_BY_AGENTS:
        subprocess.run(["find", HOST / path, "-xdev", "-mindepth", "1", "-delete"], capture_output=True, check=False)
        with contextlib.suppress(OSError):
            (HOST / path).rmdir()
    file = HOST / TOOLKIT_IS_READY
    with contextlib.suppress(OSError):
        if file.read_text(encoding="utf-8") == BY_US:  # and not an operator's, which is empty
            file.unlink()
    leftovers()


def toolkit_is_ready() -> None:
    """What NVIDIA's GPU operator does when driver and toolkit are there."""
    file = HOST / TOOLKIT_IS_READY
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        file.write_text(BY_US, encoding="utf-8")


if __name__ == "__main__":
    command = globals()[sys.argv[1]]
    command(*map(Path, sys.argv[2:]))
