"""How GPUs are called where several of them are spoken of."""

from __future__ import annotations

from nodeagent.state.naming import gpus, instances
from tests.state import make


def test_gpus_are_named_in_runs() -> None:
    """In any order."""
    assert gpus([make.gpu(index) for index in (6, 0, 2, 1)]) == "GPUs 0-2, 6"
    assert gpus([make.gpu(3)]) == "GPU 3"


def test_mig_devices_are_named_by_gpu_and_instance() -> None:
    """After the whole GPUs, a compute instance only where it is not the first of its GPU instance."""
    one, other = make.mig(1, 7), make.mig(1, 9, compute=1)
    assert gpus([one]) == "MIG device 1:7"
    assert gpus([other, make.gpu(0), one]) == "GPU 0 and MIG devices 1:7, 1:9:1"


def test_mig_devices_are_named_in_runs_within_their_gpu() -> None:
    """Seven of each of two GPUs are two words; numbers go on within a GPU only."""
    every = [make.mig(index, instance) for index in (1, 0) for instance in range(7, 14)]
    assert gpus(every) == "MIG devices 0:7-13, 1:7-13"
    assert gpus([make.mig(0, 1), make.mig(1, 2), make.mig(1, 5), make.mig(1, 3)]) == "MIG devices 0:1, 1:2-3, 1:5"
    assert instances([make.mig(1, 5), make.mig(1, 4, compute=1), make.mig(1, 4)]) == ["4-5", "4:1"]
