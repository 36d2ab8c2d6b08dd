"""What the desk gives away while a turn waits for the disk is in what the turn shows."""

from __future__ import annotations

import pytest

from nodeagent.model.allocation import PreferenceRequest
from nodeagent.model.snapshot import Snapshot
from tests.loop.test_waves import change, node
from tests.loop.worlds import World
from tests.state import make

FREE = [f"GPU-{index}::{number}" for index in range(2) for number in range(4)]


def grants_in_a_turn(found: World, file: str, share: str) -> None:
    """A turn that writes this file, during which the kubelet allocates a share."""
    given: list[str] = []

    def allocates(written: str) -> None:
        if written == file and not given:
            found.agent.desk.allocate(make.SHARED, [[share]])
            given.append(share)

    found.agent.disk.meanwhile = allocates
    found.agent.turn()
    assert given, f"the turn has not written {file}"
    found.agent.disk.meanwhile = None


@pytest.mark.parametrize("file", ["applied.json", "holds.json", "last-known-good"])
def test_a_pod_that_comes_during_a_turn_counts_for_the_next_one(file: str) -> None:
    """Pods are spread over the GPUs, whatever the loop was waiting for when the first of them came."""
    found = node(make.sliced(4), gpus=2)
    change(found, make.sliced(5))
    if file == "holds.json":
        found.kubelet.begin_admission(found.agent.desk, make.SHARED, 1, found.clock.now, init=False, ask=True)
        found.kubelet.finish_admission(found.agent.desk, found.clock.now, fails=False)
        (first,) = found.kubelet.pods.values()
        assert first.ids == ("GPU-0::0",)
        found.clock.now += 0.5
        found.looks()
    share = "GPU-1::0" if file == "holds.json" else "GPU-0::0"
    grants_in_a_turn(found, file, share)
    taken = {"GPU-0::0", share}
    ((chosen,),) = found.agent.desk.prefer(
        make.SHARED, [PreferenceRequest([one for one in FREE if one not in taken], [], 1)]
    )
    assert chosen.startswith("GPU-0" if file == "holds.json" else "GPU-1")


def _held(snapshot: Snapshot) -> set[str]:
    return {share.id for gpu in snapshot.gpus for share in gpu.shares if share.held}


def test_a_share_that_is_given_during_a_turn_is_told_as_held() -> None:
    """The summary of that very turn does not say that it is free."""
    found = node(make.sliced(4), gpus=2)
    change(found, make.sliced(5))
    grants_in_a_turn(found, "applied.json", "GPU-0::0")
    assert _held(found.agent.snapshot) == {"GPU-0::0"}
