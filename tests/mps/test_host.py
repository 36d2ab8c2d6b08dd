"""The host reads what is asked for, tells what is true, and is the only one on its root."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.durable import atomic
from nodeagent.model.mps import DaemonState
from nodeagent.mps.files import checksum, encode_desired
from nodeagent.mps.host import Unusable
from tests.mps.hosting import OTHER, QUICK, THIRD, UUID, Node, contract, needs_mounts, stand_in_server
from tests.waiting import eventually, longer

ONE = {UUID: contract(9216, 25)}
BOTH = {**ONE, OTHER: contract(1536, 50)}
MIB = 1024 * 1024


@pytest.fixture
async def node(mps_control: Path) -> AsyncIterator[Node]:
    """Four GPUs, and no host yet."""
    async with Node(mps_control) as node:
        yield node


class TestWishes:
    """What is asked for."""

    async def test_the_answer_says_to_what(self, node: Node) -> None:
        """What is told names the wishes that it is about, and every daemon that they ask for is in it."""
        await node.host()
        await eventually(node.observed)
        assert node.observed().answers == ""
        wishes = [{}, ONE, BOTH, {OTHER: BOTH[OTHER]}, {}]
        for wanted in wishes:
            node.want(wanted)
            answer = checksum(encode_desired(wanted))

            def answered(answer: str = answer) -> bool:
                return node.observed().answers == answer

            await eventually(answered, every=0.001)
            assert node.observed().daemons.keys() >= wanted.keys()
        await node.gone()

    @pytest.mark.parametrize("damage", [b"", b"nonsense", encode_desired(ONE)[:-1], encode_desired({"..": ONE[UUID]})])
    async def test_damaged_wishes_change_nothing(self, node: Node, damage: bytes) -> None:
        """What was asked for last stays, and what is wrong is told, until there are wishes that can be read."""
        node.want(BOTH)
        host = await node.host()
        before = await node.ready(BOTH)
        atomic.write(node.layout.desired, damage, sync=False)
        await eventually(lambda: node.observed().problem.startswith(f"cannot use {node.layout.desired}: "))
        assert await node.ready(BOTH) == before
        assert node.observed().answers == checksum(encode_desired(BOTH))
        await host.stop()

        await node.host()
        await eventually(lambda: node.observed().problem.startswith(f"cannot use {node.layout.desired}: "))
        assert await node.ready(BOTH) == before
        node.want(ONE)
        assert await node.ready(ONE) == {UUID: before[UUID]}
        assert node.observed().problem == ""

    async def test_wishes_that_go_are_kept(self, node: Node) -> None:
        """A desired.json that is removed while the host runs asks for nothing else than before."""
        node.want(ONE)
        host = await node.host()
        before = await node.ready(ONE)
        node.layout.desired.unlink()
        host.host.look_again()
        before[UUID].signal(signal.SIGKILL)
        assert await node.ready(ONE) != before
        assert node.observed().problem == ""

    async def test_what_cannot_be_read_is_a_problem(self, node: Node) -> None:
        """A directory in place of the wishes is told, and ends nothing."""
        node.layout.desired.mkdir(parents=True)
        await node.host()
        await eventually(lambda: "it is not a regular file" in node.observed().problem)
        node.layout.desired.rmdir()
        node.want(ONE)
        await node.ready(ONE)


class TestTelling:
    """What is true."""

    async def test_it_is_written_only_when_it_changes(self, node: Node) -> None:
        """Checks that find nothing new write nothing."""
        node.want(BOTH)
        await node.host(replace(QUICK, check_every=0.02))
        await node.ready(BOTH)
        log = node.layout.log(UUID) / "control.log"

        def checks() -> int:
            return log.read_text().count("Cmd:get_default_active_thread_percentage")

        before, seen = node.layout.observed.stat().st_ino, checks()
        await eventually(lambda: checks() > seen + 10)
        assert node.layout.observed.stat().st_ino == before

    async def test_a_disk_that_refuses_is_told_once_and_tried_again(
        self, node: Node, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What cannot be written now is written as soon as it can be."""
        node.want(ONE)
        node.layout.observed.mkdir(parents=True)
        with caplog.at_level(logging.ERROR, "nodeagent"):
            await node.host(second=True)
            await eventually(lambda: "cannot tell what is true: cannot write file" in caplog.text)
            node.layout.observed.rmdir()
            await node.ready(ONE)
        assert caplog.text.count("cannot tell what is true") == 1

    async def test_a_host_that_can_tell_nothing_ends(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        """A fault in telling ends the host, that another one be started, and its daemons go on."""
        node.want(BOTH)
        host = await node.host()
        before = await node.ready(BOTH)
        start = threading.Thread.start
        refused: list[threading.Thread] = []

        def refuse(thread: threading.Thread) -> None:
            if thread.name == "mps-root" and not refused:
                refused.append(thread)
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        before[UUID].signal(signal.SIGKILL)  # which is told without anything being read
        with pytest.raises(ExceptionGroup) as raised:
            await asyncio.wait_for(host.ended(), longer(8.0))
        assert [str(error) for error in raised.value.exceptions] == ["can't start new thread"]
        await node.host()
        assert (await node.ready(BOTH))[OTHER] == before[OTHER]


class TestStart:
    """What a host needs."""

    async def test_there_is_one_host(self, node: Node, caplog: pytest.LogCaptureFixture) -> None:
        """A second host waits without touching anything, and takes over when the first has ended."""
        node.want(ONE)
        first = await node.host()
        before = await node.ready(ONE)
        with caplog.at_level(logging.INFO, "nodeagent"):
            await node.host(second=True)
            await eventually(lambda: "another MPS host has" in caplog.text)
        node.want(BOTH)
        await first.stop()
        after = await node.ready(BOTH)
        assert after[UUID] == before[UUID]
        assert caplog.text.count("another MPS host has") == 1

    async def test_a_root_that_cannot_be_used(self, node: Node) -> None:
        """A root that is a file, or whose lock is a link, is refused with its path."""
        node.layout.root.write_text("")
        with pytest.raises(Unusable, match=f"cannot use MPS root: .*{node.layout.root}"):
            await (await node.host(second=True)).ended()
        node.layout.root.unlink()
        node.layout.root.mkdir()
        node.layout.lock.symlink_to(node.directory / "elsewhere")
        with pytest.raises(Unusable, match=f"cannot lock file: .*{node.layout.lock}"):
            await (await node.host(second=True)).ended()
        assert not (node.directory / "elsewhere").exists()

    async def test_a_root_whose_path_is_too_long(self, node: Node) -> None:
        """A root below which no socket can be is refused before anything is made."""
        root = node.layout.root / ("x" * 80)
        node.layout = replace(node.layout, root=root)
        with pytest.raises(Unusable, match=f"cannot use {root}: its path has"):
            await (await node.host(second=True)).ended()
        assert not root.exists()

    async def test_a_relative_root(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        """Daemons are told the whole path, whatever the host was told."""
        monkeypatch.chdir(node.directory)
        layout = node.layout
        node.want(ONE)
        node.layout = replace(layout, root=Path("mps"))
        await node.host()
        node.layout = layout
        await node.ready(ONE)

    async def test_a_root_by_another_name(self, node: Node) -> None:
        """Daemons below a root that was named by a link are those of the next host, who has its real name."""
        alias = node.directory / "alias"
        alias.symlink_to(node.layout.root)
        node.want(ONE)
        layout, node.layout = node.layout, replace(node.layout, root=alias)
        host = await node.host()
        node.layout = layout
        before = await node.ready(ONE)
        await host.stop()
        await node.host()
        assert await node.ready(ONE) == before

    async def test_it_finds_what_no_wish_names(self, node: Node) -> None:
        """A record, a compute mode or a process that another host has left is found without being asked for."""
        wanted = {**BOTH, THIRD: contract(600, 5)}
        node.want(wanted)
        host = await node.host()
        running = await node.ready(wanted)
        await host.stop()
        running[UUID].signal(signal.SIGKILL)  # a compute mode and a record are left
        node.layout.record(OTHER).unlink()  # a process and a compute mode
        node.want({})
        await node.host()
        await node.gone()

    async def test_it_finds_what_comes_while_it_runs(self, node: Node) -> None:
        """A process that a killed host had been about to start is found later, and ended."""
        node.want({})
        await node.host()
        await eventually(node.observed)
        async with stand_in_server(node, THIRD) as server:
            assert await server.ended(30.0)  # a host that nothing wakes looks every 10 s
        await node.gone()


def mounted_below(directory: Path) -> list[str]:
    """Where something is mounted, once for each time."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    return sorted(line.split()[4] for line in mounts.splitlines() if str(directory) in line)


class TestSharedMemory:
    """/dev/shm of daemons and clients."""

    async def test_daemons_have_the_tmpfs_of_the_root(self, node: Node) -> None:
        """With a size there is one tmpfs, which every daemon has as its /dev/shm, and nobody else."""
        needs_mounts()
        node.want(BOTH)
        host = await node.host(shm_size=8 * MIB)
        before = await node.ready(BOTH)
        memory = node.layout.shared_memory
        assert node.observed().shared_memory == str(memory)
        for uuid in BOTH:
            (memory / uuid).write_text("segment")
            assert (Path(f"/proc/{before[uuid].pid}/root/dev/shm") / uuid).read_text() == "segment"
        assert not Path("/dev/shm", UUID).exists()
        rooms = [node.layout.directory(uuid) for uuid in BOTH]
        assert mounted_below(node.directory) == sorted(map(str, (memory, *rooms)))
        await host.stop()
        await node.host(shm_size=8 * MIB)
        assert await node.ready(BOTH) == before
        assert mounted_below(node.directory) == sorted(map(str, (memory, *rooms)))

    async def test_without_a_size_there_is_none(self, node: Node) -> None:
        """With size 0 daemons have the /dev/shm of the node."""
        node.want(ONE)
        await node.host()
        daemon = (await node.ready(ONE))[UUID]
        assert Path(f"/proc/{daemon.pid}/root/dev/shm").samefile("/dev/shm")
        assert Path(f"/proc/{daemon.pid}/ns/mnt").samefile("/proc/self/ns/mnt")
        assert not node.layout.shared_memory.exists()

    async def test_another_shared_memory_comes_when_the_clients_have_left(self, node: Node) -> None:
        """A daemon whose /dev/shm is not what clients get now is replaced, but never under its clients."""
        needs_mounts()
        client = [{"pid": 77, "name": "trainer", "mps": True}]
        node.want(BOTH)
        host = await node.host()
        before = await node.ready(BOTH)
        await host.stop()
        node.simulate({UUID: client})
        await node.host(shm_size=8 * MIB)
        await node.told(DaemonState.OCCUPIED, message=f"its shared memory is not {node.layout.shared_memory}")
        await eventually(lambda: node.daemon(OTHER).pid not in {None, before[OTHER].pid})
        assert before[UUID].alive()
        node.simulate()
        after = await node.ready(BOTH)
        assert after[UUID] != before[UUID]

    async def test_what_cannot_be_mounted_is_told(self, node: Node) -> None:
        """A host that cannot mount does not start, and says what would do."""
        needs_mounts()
        node.layout.root.mkdir()
        node.layout.shared_memory.mkdir()
        subprocess.run(["mount", "--bind", "/proc", node.layout.shared_memory], check=True)
        with pytest.raises(Unusable, match=r"there is a mount of type proc: .* \(a size of 0 does without\)"):
            await (await node.host(shm_size=MIB)).ended()


async def test_a_stop_is_quick_whatever_is_under_way(node: Node) -> None:
    """A host that is told to end while daemons start, hang and stop ends at once, and the next one goes on."""
    node.simulate(hanging=OTHER)
    for wanted in (BOTH, {}, {**BOTH, THIRD: contract(600, 5)}, ONE):
        node.want(wanted)
        host = await node.host()
        await asyncio.sleep(0.05)  # somewhere in the middle
        async with asyncio.timeout(longer(3.0)):
            await host.stop()
    node.simulate()
    await node.host()
    await node.ready(ONE)
