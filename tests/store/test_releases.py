"""The state directory between this release and the one before it: each reads all that the other writes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from nodeagent.model.config import Contract, Document, Mode, MpsLimits
from nodeagent.model.inventory import Gpu
from nodeagent.model.node import Selection, SelectionNote
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.store import StateDir, codec
from tests.store.test_state_dir import APPLIED, HOLDS, fenced_at, opened

MPS = Contract("nvidia.com/gpu.mps", Mode.MPS, MpsLimits(9216, 25, 2))
ALL = Applied({**APPLIED.gpus, "GPU-3": AppliedGpu(Gpu("GPU-3", 3, "H100", 9), MPS, frozenset({0, 2}), leaving=True)})
DOCUMENT = Document("/config/sharing.yaml", b"a: \xff\n", "main@sha1:1234")

WRITE_AGAIN = """
import json, sys
from pathlib import Path
import nodeagent
from nodeagent.store import StateDir
state = StateDir(Path(sys.argv[1]), identity="pool-a/config", boot_id="boot-1")
assert state.acquire()
state.save_applied(state.load_applied(7.0))
state.save_holds(state.load_holds(100.0))
state.save_last_known_good(state.load_last_known_good())
state.save_selection(state.load_selection())
state.release()
print(json.dumps([nodeagent.__file__, state.notices]))
"""
"""A program for either release: reads all that there is, and writes it once more."""


def test_what_is_written_here_the_release_before_reads_and_writes_so_that_it_is_read(
    release_before: Path, tmp_path: Path
) -> None:
    """An upgrade and its rollback, file by file: nothing is set aside, and what both know is what it was. What only the
    newer one knows (a number that is provisional, a GPU that has begun to leave, since when a share was carried over a
    restart of the kubelet) is not known afterwards.
    """
    state = StateDir(tmp_path, identity="pool-a/config", boot_id="boot-1")
    assert state.acquire()
    state.save_applied(ALL)
    state.save_holds(HOLDS)
    state.save_last_known_good(DOCUMENT)
    state.save_selection(Selection("nodeagent.io/config", "a"), ("nodeagent.io/config",))
    state.release()

    done = subprocess.run(
        [sys.executable, "-c", WRITE_AGAIN, str(tmp_path)],
        cwd=release_before,
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout) == [str(release_before / "nodeagent" / "__init__.py"), []]

    after = opened(tmp_path)
    assert after.load_applied(1.0) == Applied({uuid: known(entry) for uuid, entry in fenced_at(ALL, 1.0).gpus.items()})
    assert after.same_boot
    assert after.load_holds(100.0) == replace(HOLDS, carried=dict.fromkeys(HOLDS.carried, 100.0))
    assert after.load_last_known_good() == DOCUMENT
    assert after.load_selection() == SelectionNote(Selection("nodeagent.io/config", "a"))
    assert after.notices == []
    assert not list(tmp_path.glob("*.corrupt-*"))


def known(entry: AppliedGpu) -> AppliedGpu:
    """What the release before knows of a GPU."""
    return replace(entry, leaving=False, gpu=replace(entry.gpu, provisional=False, clique=None))


def test_the_highest_number_of_a_share_is_read_by_the_release_before(release_before: Path) -> None:
    """What can be on a list at all is no number that the release before would set the file aside for."""
    highest = Applied(
        {"GPU-0": AppliedGpu(Gpu("GPU-0", 0, "H", 1), Contract("r", Mode.TIME_SLICED), frozenset({10**6}))}
    )
    body = codec.encode_applied(highest)
    program = "import sys; from nodeagent.store import codec; codec.decode_applied(sys.stdin.buffer.read(), 0.0)"
    subprocess.run([sys.executable, "-c", program], cwd=release_before, check=True, input=body)
