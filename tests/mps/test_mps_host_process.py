"""The MPS host as a process: signals, exit codes, the times that it promises, and being killed at any moment."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from nodeagent.model.config import Contract
from nodeagent.model.mps import DaemonState
from nodeagent.stopping import STOP_SECONDS
from tests.commands.conftest import nodeagent
from tests.mps.hosting import OTHER, THIRD, UUID, UUIDS, Node, contract, needs_mounts
from tests.waiting import eventually, longer

ONE = {UUID: contract(9216, 25)}
BOTH = {**ONE, OTHER: contract(1536, 50)}


@pytest.fixture
async def node(mps_control: Path) -> AsyncIterator[Node]:
    """Four GPUs, and no host yet."""
    async with Node(mps_control) as node:
        yield node


class TestSignals:
    """How it ends, and does not."""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
    async def test_it_stops_and_its_daemons_go_on(self, node: Node, number: signal.Signals) -> None:
        """SIGTERM and SIGINT end the host with 0; daemons stay, and the next host keeps them."""
        node.want(BOTH)
        host = await node.process()
        before = await node.ready(BOTH)
        host.process.send_signal(number)
        assert await host.ended() == 0
        assert f"{number.name}: stopping" in host.log
        assert host.log.endswith("stopped; the daemons go on\n")
        assert node.running() == before
        await node.process()
        assert await node.ready(BOTH) == before

    async def test_it_stops_in_time_whatever_hangs(self, node: Node) -> None:
        """A GPU that hangs and a daemon that is stopped do not hold it up."""
        node.want(ONE)
        host = await node.process()
        before = await node.ready(ONE)
        node.simulate(hanging=OTHER)
        node.want({OTHER: BOTH[OTHER]})
        before[UUID].signal(signal.SIGSTOP)
        await node.told(DaemonState.FAILED, OTHER)
        begun = time.monotonic()
        assert await host.stop() == 0
        assert time.monotonic() - begun < longer(STOP_SECONDS)

    async def test_hangup_looks_again(self, node: Node) -> None:
        """SIGHUP ends nothing."""
        node.want(ONE)
        host = await node.process()
        before = await node.ready(ONE)
        host.process.send_signal(signal.SIGHUP)
        await eventually(lambda: "SIGHUP: looking again" in host.log)
        node.want(BOTH)
        assert (await node.ready(BOTH))[UUID] == before[UUID]


def rooted_out(node: Node) -> None:
    """All that belongs to the host and the agent goes; the daemons' own directories stay."""
    for path in node.layout.root.iterdir():
        if path.is_file():
            path.unlink()


def unlocked(node: Node) -> None:
    """The lock's file goes."""
    node.layout.lock.unlink()


class TestLock:
    """The lock's file is taken from under it."""

    @pytest.mark.parametrize("lost", [unlocked, rooted_out])
    async def test_a_host_without_its_lock_gives_way(self, node: Node, lost: Callable[[Node], None]) -> None:
        """It ends, its daemons go on, and the next host keeps them: there are never two that look after them."""
        node.want(BOTH)
        host = await node.process()
        before = await node.ready(BOTH)
        lost(node)
        assert await host.ended() == 75
        assert "the daemons go on" in host.log
        assert "Traceback" not in host.log
        assert node.running() == before
        node.want(BOTH)
        await node.process()
        assert await node.ready(BOTH) == before

    async def test_two_hosts(self, node: Node) -> None:
        """One that gets the lock in the meantime is the only one at once."""
        node.want(BOTH)
        first = await node.process()
        before = await node.ready(BOTH)
        second = await node.process(second=True)
        await eventually(lambda: "waiting until it is gone" in second.log)
        node.layout.lock.unlink()
        assert await first.ended() == 75
        await eventually(lambda: "hosting MPS daemons" in second.log)
        assert await node.ready(BOTH) == before

    async def test_the_root_is_removed(self, node: Node) -> None:
        """With everything in it: the next host makes it anew, and the daemons that are asked for."""
        node.want(BOTH)
        host = await node.process()
        before = await node.ready(BOTH)
        node.layout.root.rename(node.layout.root.with_name("gone"))
        assert await host.ended() == 75
        await node.process()
        await eventually(node.layout.root.exists)
        node.want(BOTH)
        after = await node.ready(BOTH)
        assert not {one.pid for one in after.values()} & {one.pid for one in before.values()}


class TestPromises:
    """How soon what is noticed, with the times that a node has."""

    async def test_a_killed_daemon(self, node: Node) -> None:
        """SIGKILL of a daemon is noticed within 2.5 s, and it runs again with its limits; the other never notices."""
        node.want(BOTH)
        await node.process()
        before = await node.ready(BOTH)
        before[UUID].signal(signal.SIGKILL)
        await eventually(lambda: node.daemon().pid != before[UUID].pid, within=2.5)
        after = await node.ready(BOTH)
        assert after[OTHER] == before[OTHER]
        assert node.daemon().restarts == 1

    async def test_a_stopped_daemon(self, node: Node) -> None:
        """SIGSTOP of a daemon is told within 4.5 s and healed by another one; meanwhile others start and stop."""
        node.want(BOTH)
        await node.process()
        before = await node.ready(BOTH)
        before[UUID].signal(signal.SIGSTOP)
        await node.told(DaemonState.FAILED, message="does not answer", within=4.5)
        changed = {UUID: BOTH[UUID], THIRD: contract(600, 5)}
        node.want(changed)
        await node.told(DaemonState.READY, THIRD, within=2.0)
        await eventually(lambda: OTHER not in node.observed().daemons, within=4.0)
        assert before[UUID].alive(), "it was given its time"
        after = await node.ready(changed)
        assert after[UUID] != before[UUID]
        assert node.daemon().restarts == 1


class TestStart:
    """What it refuses, and how it says so."""

    @pytest.mark.parametrize("log_format", ["text", "json"])
    def test_an_unusable_root(self, mps_root: Path, log_format: str) -> None:
        """A root that is a file is one line in the format of the log, and exit code 1."""
        (mps_root / "root").write_text("")
        done = start(mps_root / "root", "--log-format", log_format)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        said = json.loads(line)["message"] if log_format == "json" else line
        assert f"cannot start: cannot use MPS root: File exists (EEXIST): {mps_root}/root" in said

    def test_a_path_that_is_too_long(self, tmp_path: Path) -> None:
        """A root below which a socket's path would be too long is refused with how long it may be."""
        root = tmp_path / ("x" * 90)
        done = start(root)
        assert done.returncode == 1
        assert f"cannot start: cannot use {root}: its path has {len(str(root))} bytes" in done.stderr
        assert not root.exists()

    def test_options_that_make_no_sense(self, tmp_path: Path) -> None:
        """A driver that is none is exit code 1, as of `run`; a size that is none is a usage error."""
        done = start(tmp_path, "--driver", "cuda")
        assert done.returncode == 1
        assert "cannot start: cannot open driver 'cuda': expected" in done.stderr
        done = start(tmp_path, "--shm-size", "1G")
        assert done.returncode == 64
        expected = "nodeagent mps-host: --shm-size (or NODEAGENT_SHM_SIZE): expected a quantity such as 80Gi or 512Mi"
        assert done.stderr == f"{expected}, got '1G'; or 0\n"

    def test_it_imports_what_it_needs(self, tmp_path: Path) -> None:
        """A host of real GPUs speaks to no kubelet, reads no YAML and serves no metrics, and pays for none of them."""
        program = (
            "import sys; from nodeagent.cli import main; "
            f"main(['mps-host', '--mps-root', '{tmp_path}/{'x' * 90}']); print('\\n'.join(sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=longer(60), check=True
        )
        loaded = set(done.stdout.split())
        assert "nodeagent.mps.host" in loaded
        assert not {"grpc", "google.protobuf", "yaml", "jsonschema", "prometheus_client", "nodeagent.agent"} & loaded

    async def test_two_hosts(self, node: Node) -> None:
        """The second waits for the first, whether that ends or is killed, and then there is one again."""
        node.want(ONE)
        first = await node.process()
        before = await node.ready(ONE)
        second = await node.process(second=True)
        await eventually(lambda: "another MPS host has" in second.log)
        third = await node.process(second=True)
        await eventually(lambda: "another MPS host has" in third.log)
        await first.kill()
        await eventually(lambda: node.observed().host_pid in {second.process.pid, third.process.pid})
        node.want(BOTH)
        assert (await node.ready(BOTH))[UUID] == before[UUID]
        assert ("hosting" in second.log) is not ("hosting" in third.log)

    async def test_with_shared_memory(self, node: Node) -> None:
        """With a size the tmpfs is there, and stays when the host ends."""
        needs_mounts()
        node.want(ONE)
        host = await node.process(shm_size="8Mi")
        daemon = (await node.ready(ONE))[UUID]
        assert node.observed().shared_memory == str(node.layout.shared_memory)
        assert Path(f"/proc/{daemon.pid}/root/dev/shm").samefile(node.layout.shared_memory)
        await host.kill()
        assert Path(f"/proc/{daemon.pid}/root/dev/shm").samefile(node.layout.shared_memory)


class TestInit:
    """As the first process of a container."""

    @pytest.mark.parametrize("how", ["flag", "variable"])
    async def test_a_crash_of_the_host_ends_no_daemon(
        self, node: Node, how: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The host is a child that is started again; daemons keep running; SIGTERM ends both with 0."""
        if how == "variable":
            monkeypatch.setenv("NODEAGENT_INIT", "true")
        node.want(ONE)
        init = await node.process(*(["--init"] if how == "flag" else []))
        before = await node.ready(ONE)
        host = node.observed().host_pid
        assert host != init.process.pid
        os.kill(host, signal.SIGKILL)
        await eventually(lambda: node.observed().host_pid not in {host, init.process.pid})
        assert node.running() == before
        before[UUID].signal(signal.SIGKILL)
        assert await node.ready(ONE) != before
        assert zombies(init.process.pid) == []
        assert await init.stop() == 0
        assert node.running()

    async def test_the_end_of_the_host_alone_ends_no_daemon(self, node: Node) -> None:
        """SIGTERM to the host and not to its init: another host is started, and keeps the daemons."""
        node.want(ONE)
        init = await node.process("--init")
        before = await node.ready(ONE)
        host = node.observed().host_pid
        os.kill(host, signal.SIGTERM)
        await eventually(lambda: node.observed().host_pid not in {host, init.process.pid})
        assert await node.ready(ONE) == before
        assert init.process.returncode is None


class TestKilledAtAnyMoment:
    """Whatever a host was doing when it was killed, the next one makes true what is asked for."""

    @pytest.mark.parametrize("seed", range(3))
    async def test_kills_while_wishes_change(self, node: Node, seed: int) -> None:
        """Daemons that are wanted all along keep their process; nothing is left of others; all limits are right."""
        chance = random.Random(seed)
        lasting = {UUID: contract(9216, 25)}
        host = await node.process()
        node.want(lasting)
        kept = await node.ready(lasting)
        for _ in range(6):
            wanted: dict[str, Contract] = {}
            for _ in range(chance.randint(1, 3)):
                wanted = {**lasting, **some(chance)}
                node.want(wanted)
                await asyncio.sleep(chance.random() * 0.15)  # it is killed anywhere: the rule holds for any moment
            await host.kill()
            assert kept[UUID].alive()
            host = await node.process()
            if chance.random() < 0.3:  # not even started up
                await asyncio.sleep(chance.random() * 0.5)
                await host.kill()
                host = await node.process()
            after = await node.ready(wanted, within=30)
            assert after[UUID] == kept[UUID]
            assert node.modes() == dict.fromkeys(wanted, "exclusive-process")
        assert (node.daemon().restarts, node.daemon().restored) == (0, 0)
        node.want({})
        await node.gone()

    async def test_kills_while_it_leaves(self, node: Node) -> None:
        """However often it is killed while MPS leaves, in the end every GPU has the compute mode that it had."""
        chance = random.Random(7)
        for _ in range(5):
            node.want(BOTH)
            host = await node.process()
            await node.ready(BOTH)
            node.want({})
            await asyncio.sleep(chance.random() * 0.2)
            await host.kill()
        await node.process()
        await node.gone()


def some(chance: random.Random) -> dict[str, Contract]:
    """Contracts for some of the other GPUs."""
    return {
        uuid: contract(chance.choice([600, 1536, 9216]), chance.choice([5, 50]))
        for uuid in UUIDS[1:]
        if chance.random() < 0.6
    }


def start(root: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a host that cannot start."""
    simulation = root.parent / "node.yaml"
    return nodeagent("mps-host", "--mps-root", root, "--driver", f"simulated:{simulation}", "--shm-size", "0", *flags)


def zombies(parent: int) -> list[str]:
    """The children of a process that have ended and were not reaped."""
    found = []
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split():
        stat = Path(f"/proc/{child}/stat").read_text(encoding="utf-8")
        if stat.rpartition(")")[2].split()[0] == "Z":
            found.append(stat)
    return found
