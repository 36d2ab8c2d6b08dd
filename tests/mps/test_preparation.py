"""A host says what it can do before anything is asked of it: on disk, having tried it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from nodeagent import __version__
from nodeagent.durable import atomic
from nodeagent.durable.atomic import Untrusted
from nodeagent.durable.envelope import seal
from nodeagent.durable.formats import FORMATS
from nodeagent.model.mps import GpuMeans
from nodeagent.mps.files import checksum, encode_desired
from nodeagent.mps.host_file import HostWord, decode_host, encode_host
from tests.mps.hosting import OTHER, QUICK, UUID, UUIDS, Node, contract
from tests.waiting import eventually

ABLE = GpuMeans(memory=80 * 1024, clients=48)


@pytest.fixture
async def node(mps_control: Path) -> AsyncIterator[Node]:
    """Four GPUs, and no host yet."""
    async with Node(mps_control) as node:
        yield node


def word(node: Node) -> HostWord:
    """What the host says."""
    data = atomic.read(node.layout.host)
    assert data is not None, "no host has said anything"
    return decode_host(data)


async def test_all_is_said_before_anything_is_asked_for(node: Node) -> None:
    """Its version, its program, and of each GPU what a daemon needs; trying changes nothing."""
    await node.host()
    await eventually(lambda: word(node).gpus == dict.fromkeys(UUIDS, ABLE))
    assert word(node).version == __version__
    assert word(node).program == str(node.program)
    assert word(node).life == node.observed().life
    assert not word(node).bounded
    assert node.modes() == {}
    assert node.running() == {}


async def test_a_gpu_that_hangs_is_no_obstacle_for_others(node: Node) -> None:
    """Of it the reason is said, and it is able again when it answers."""
    node.simulate(hanging=OTHER)
    await node.host()

    def told() -> bool:
        gpus = word(node).gpus
        return OTHER in gpus and "no answer" in gpus[OTHER].obstacle and gpus[UUID] == ABLE

    await eventually(told)
    node.simulate()
    await eventually(lambda: word(node).gpus[OTHER] == ABLE)


async def test_mps_is_for_whole_gpus(node: Node) -> None:
    """Of a GPU that is used through MIG devices, and of these, nothing is tried or said."""
    document = json.loads(node.simulation.read_bytes())
    document["gpus"][1]["mig"] = {"devices": ["1g.10gb"]}
    atomic.write(node.simulation, json.dumps(document).encode(), sync=False)
    await node.host()
    await eventually(lambda: word(node).gpus.keys() == set(UUIDS) - {OTHER})


async def test_a_compute_mode_that_cannot_be_set(node: Node) -> None:
    """A host without the privilege would start no daemon."""
    blocked = node.simulation.with_name(f".{node.simulation.name}.compute-modes.json.tmp")
    blocked.mkdir()
    await node.host()
    await eventually(lambda: "cannot set the compute mode" in word(node).gpus.get(UUID, ABLE).obstacle)
    blocked.rmdir()
    await eventually(lambda: word(node).gpus[UUID] == ABLE)


@pytest.mark.parametrize(
    ("text", "why"),
    [(None, "no such program"), ("#!/bin/sh\necho broken >&2; exit 7\n", "exit code 7: broken")],
    ids=["absent", "broken"],
)
async def test_a_program_that_does_not_run(node: Node, text: str | None, why: str) -> None:
    """What cannot even tell its usage starts no daemon; one that is installed later is found."""
    program = node.directory / "nvidia-cuda-mps-control"
    if text is not None:
        program.write_text(text, encoding="ascii")
        program.chmod(0o755)
    await node.host(program=str(program))
    await eventually(lambda: all(why in word(node).gpus.get(uuid, ABLE).obstacle for uuid in UUIDS))
    assert word(node).program == (str(program) if text is not None else "")
    program.unlink(missing_ok=True)
    program.symlink_to(node.program)
    await eventually(lambda: word(node).gpus == dict.fromkeys(UUIDS, ABLE))


async def test_trying_leaves_a_daemon_its_compute_mode(node: Node) -> None:
    """The mode is set to what it is, never while it is being changed."""
    one = {UUID: contract()}
    node.want(one)
    host = await node.host()
    before = await node.ready(one)
    for _ in range(20):
        host.host.look_again()
        await eventually(lambda: node.modes() == {UUID: "exclusive-process"})
    assert await node.ready(one) == before
    node.want({})
    await node.gone()


async def test_a_host_takes_back_what_the_one_before_has_said(node: Node) -> None:
    """It may be able to do other things; one that cannot write says nothing."""
    host = await node.host()
    await eventually(lambda: word(node).gpus.keys() == set(UUIDS))
    first = word(node).life
    await host.stop()
    blocked = node.layout.host.with_name(f".{node.layout.host.name}.tmp")
    blocked.mkdir()
    await node.host()
    await eventually(lambda: not node.layout.host.exists())
    blocked.rmdir()
    await eventually(lambda: word(node).life not in {"", first})
    await eventually(lambda: word(node).life == node.observed().life)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"nonsense")])
async def test_what_somebody_removes_is_written_again(node: Node, damage: Callable[[Path], object]) -> None:
    """Without it no GPU would come under MPS until the host is started anew."""
    await node.host()
    await eventually(lambda: word(node).program)
    before = word(node)
    damage(node.layout.host)
    await eventually(lambda: atomic.read(node.layout.host) == encode_host(before))


async def test_changes_without_end_are_signs_of_life(node: Node) -> None:
    """Whatever is written has another number, as if nothing had changed: who changes a daemon's limits again and again
    does not make the host seem to hang.
    """
    await node.host(replace(QUICK, beats_every=600.0))
    beats = {await eventually(lambda: node.observed().beat)}
    for wanted in ({UUID: contract()}, {}, {OTHER: contract()}):
        node.want(wanted)
        answer = checksum(encode_desired(wanted))
        await eventually(partial(answered, node, answer))
        beats.add(node.observed().beat)
    assert len(beats) == 4


def answered(node: Node, answer: str) -> bool:
    """Whether the host has taken up this wish."""
    return node.observed().answers == answer


async def test_what_is_true_is_told_anew(node: Node) -> None:
    """Also when nothing changes, so that a host that cannot write is told from one that has nothing to say."""
    timing = replace(QUICK, beats_every=0.05)
    await node.host(timing)
    await eventually(lambda: node.observed().beat > 3)
    blocked = node.layout.observed.with_name(f".{node.layout.observed.name}.tmp")
    blocked.mkdir()
    beat = node.observed().beat
    blocked.rmdir()
    await eventually(lambda: node.observed().beat > beat + 3)


WORD = HostWord("a", "0.2.0", "/usr/bin/x", "570", bounded=True, gpus={UUID: GpuMeans("why", None, 16), OTHER: ABLE})


def test_it_is_read_as_it_was_written() -> None:
    """Nothing is lost, and equal words are equal bytes."""
    assert decode_host(encode_host(WORD)) == WORD
    assert decode_host(encode_host(HostWord("a", "b"))) == HostWord("a", "b")


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{}", b'{"life":1}', encode_host(WORD).partition(b"\n")[2].replace(b"GPU-", b"../GPU-")],
    ids=["no object", "empty", "other types", "no uuid"],
)
def test_what_we_could_not_have_written_is_not_trusted(body: bytes) -> None:
    """As of every file here."""
    with pytest.raises(Untrusted):
        decode_host(seal(FORMATS.host, {}, body))
