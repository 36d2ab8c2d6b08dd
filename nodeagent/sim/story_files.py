"""What the commits of the demo's story put into the file, and what it writes into that of the simulated GPUs."""

from __future__ import annotations

from collections.abc import Mapping

WHOLE = "nvidia.com/gpu"
SHARED = "nvidia.com/gpu.shared"
MPS = "nvidia.com/gpu.mps"
MIG = "nvidia.com/mig-"
SLICES = f"{MIG}1g.10gb.shared"

PAIR = (6, 7)
"""The GPUs that get rules of their own, from the middle of the story on."""

GPUS = 8

_HEAD = """\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata:
  name: demo
spec:
  rules:
"""
_REST = "    - name: everybody\n"
_NODE = """\
apiVersion: nodeagent.io/v1alpha1
kind: SimulatedNode
driverVersion: "550.163.01"
cudaVersion: "12.4"
gpus:
"""
_PAIR = f"      match: {{indices: [{PAIR[0]}, {PAIR[1]}]}}\n"


def all_whole() -> str:
    """Every GPU whole."""
    return f"{_HEAD}{_REST}      resource: {WHOLE}\n      exclusive: {{}}\n"


def shared(replicas: int, others: str = "") -> str:
    """Every GPU shared by `replicas`, but for the pair and for MIG devices where they have rules of their own."""
    return f"{_HEAD}{others}{_REST}      resource: {SHARED}\n      timeSlicing: {{replicas: {replicas}}}\n"


def pair_whole() -> str:
    """The rule that leaves the pair whole."""
    return f"    - name: training\n{_PAIR}      resource: {WHOLE}\n      exclusive: {{}}\n"


def pair_mps(replicas: int, memory: int, threads: int) -> str:
    """The rule that brings the pair under MPS: so many shares of so many GiB and percent of the threads."""
    return (
        f"    - name: services\n{_PAIR}      resource: {MPS}\n"
        f"      mps: {{replicas: {replicas}, memoryPerReplica: {memory}Gi, threadPercentage: {threads}}}\n"
    )


def mig_slices(replicas: int) -> str:
    """The rule that lets so many share each of the small MIG devices."""
    return (
        f'    - name: notebooks\n      match: {{mig: ["1g.*"]}}\n      resource: {SLICES}\n'
        f"      timeSlicing: {{replicas: {replicas}}}\n"
    )


def node(happens: Mapping[int, str]) -> str:
    """The simulation file of the node, with what happens to GPUs by their index."""
    gpu = '  - model: NVIDIA H100 80GB HBM3\n    memory: 81559Mi\n    computeCapability: "9.0"\n'
    gpus = (gpu + (f"    {happens[index]}\n" if index in happens else "") for index in range(GPUS))
    return f"{_NODE}{''.join(gpus)}"
