"""One daemon is kept as it was asked for, whatever happens to it: NVIDIA's own, on GPUs that are simulated."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.devices.compute_modes import ComputeModes
from nodeagent.durable import atomic
from nodeagent.model.config import Contract
from nodeagent.model.inventory import ComputeMode
from nodeagent.model.mps import DaemonState
from nodeagent.mps.files import Record, decode_record, encode_record
from nodeagent.mps.process import Process, mps_processes
from tests.mps.hosting import FOURTH, IMPATIENT, OTHER, QUICK, THIRD, UUID, Node, contract, stand_in_server
from tests.mps.support import Daemons
from tests.waiting import eventually

ONE = {UUID: contract(9216, 25)}
BOTH = {**ONE, OTHER: contract(1536, 50)}


@pytest.fixture
async def node(mps_control: Path) -> AsyncIterator[Node]:
    """Four GPUs, and no host yet."""
    async with Node(mps_control) as node:
        yield node


async def unrecorded(node: Node, wanted: dict[str, Contract]) -> dict[str, Process]:
    """The daemons that are wanted, left running by a host that has stopped; what they were started for is lost."""
    node.want(wanted)
    host = await node.host()
    running = await node.ready(wanted)
    await host.stop()
    for uuid in wanted:
        node.layout.record(uuid).write_bytes(b"damaged")
    return running


def record(node: Node, uuid: str = UUID) -> Record:
    """What the host has recorded of a daemon."""
    return decode_record(node.layout.record(uuid).read_bytes())


class TestComingAndGoing:
    """From the first wish until nothing is left."""

    async def test_it_starts_with_its_limits_and_leaves_nothing(self, node: Node) -> None:
        """A daemon runs with its limits on a GPU in EXCLUSIVE_PROCESS, and leaves the GPU as it was."""
        wanted = {UUID: contract(600, 10), OTHER: contract(1536, 50), THIRD: contract(4096, 25, most=3)}
        node.want(wanted)
        await node.host()
        await node.ready(wanted)
        assert node.modes() == dict.fromkeys(wanted, "exclusive-process")
        observed = node.observed()
        assert (observed.host_pid, observed.shared_memory, observed.problem) == (os.getpid(), "/dev/shm", "")
        assert (await node.control(THIRD).limits()).fits(12288, 75)

        node.want({OTHER: wanted[OTHER]})
        await node.ready({OTHER: wanted[OTHER]})
        node.want({})
        await node.gone()
        left = {path.relative_to(node.layout.root).as_posix() for path in node.layout.root.glob("*/*")}
        assert left == {f"{uuid}/log" for uuid in wanted}

    async def test_one_process_and_its_environment(self, node: Node) -> None:
        """A daemon sees its GPU alone, inherits none of our variables and descriptors, and holds no directory busy."""
        os.environ["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = "1"
        try:
            node.want(ONE)
            await node.host()
            daemon = (await node.ready(ONE))[UUID]
        finally:
            del os.environ["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"]
        proc = Path(f"/proc/{daemon.pid}")
        environment = dict(
            entry.split("=", 1) for entry in (proc / "environ").read_text(encoding="utf-8").split("\0") if entry
        )
        path = environment.pop("PATH").split(":")
        for name in ("LD_LIBRARY_PATH", "PWD", "OLDPWD"):  # where libraries are found, and the shell's own
            environment.pop(name, None)
        assert environment == {
            "CUDA_VISIBLE_DEVICES": UUID,
            "CUDA_MPS_PIPE_DIRECTORY": str(node.layout.pipe(UUID)),
            "CUDA_MPS_LOG_DIRECTORY": str(node.layout.log(UUID)),
        }
        program = node.program.parent
        assert path[:2] == [str(program), str(program.parent / "sbin")]
        assert (proc / "cwd").readlink() == Path("/")
        fields = (proc / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        assert int(fields[3]) == daemon.pid, "it leads a session of its own"
        held = {entry.readlink() for entry in (proc / "fd").iterdir()}
        ours = {target for target in held if node.directory in target.parents}
        assert {target.name for target in ours} <= {"control_lock", "log", "control.log", "server.log"}

    async def test_another_contract_is_another_daemon(self, node: Node) -> None:
        """New limits come with a new process, since servers keep the limits that they were started with."""
        node.want(BOTH)
        await node.host()
        before = await node.ready(BOTH)
        changed = {**BOTH, UUID: contract(4096, 50)}
        node.want(changed)
        after = await node.ready(changed)
        assert after[UUID] != before[UUID]
        assert after[OTHER] == before[OTHER]
        assert node.daemon().restarts == 0

    async def test_a_wish_that_comes_back_while_it_leaves(self, node: Node) -> None:
        """Whatever is asked for last comes true, however quickly it changes."""
        await node.host()
        for number in range(30):
            node.want(ONE if number % 2 else {})
            await asyncio.sleep(0)  # the host goes on between two wishes, and is anywhere
            if number % 5 == 0:
                await eventually(node.observed)
        await node.ready(ONE)
        node.want({})
        await node.gone()


class TestDeath:
    """A daemon that should run runs again."""

    async def test_a_killed_daemon_is_noticed_and_runs_again(self, node: Node) -> None:
        """SIGKILL is noticed without waiting for a check; the new process has its limits; other daemons keep theirs."""
        node.want(BOTH)
        await node.host(replace(QUICK, check_every=60.0))
        before = await node.ready(BOTH)
        before[UUID].signal(signal.SIGKILL)
        await eventually(lambda: node.daemon().pid not in {None, before[UUID].pid}, within=2.5)
        after = await node.ready(BOTH)
        assert after[OTHER] == before[OTHER]
        assert (node.daemon(UUID).restarts, node.daemon(OTHER).restarts) == (1, 0)

    async def test_it_is_started_again_each_time(self, node: Node) -> None:
        """A daemon that keeps dying is started again, with pauses; each time is counted, and counts outlive hosts."""
        node.want(ONE)
        host = await node.host()
        for number in range(1, 4):
            (await node.ready(ONE))[UUID].signal(signal.SIGTERM)
            await eventually(lambda count=number: node.daemon().restarts == count)  # type: ignore[misc]
        await node.ready(ONE)
        await host.stop()
        node.running()[UUID].signal(signal.SIGKILL)
        await node.host()
        await eventually(lambda: node.daemon().restarts == 4)
        await node.ready(ONE)

    async def test_a_daemon_that_cannot_be_started_is_told_and_tried_again(self, node: Node) -> None:
        """What the program says when it fails is told, and as soon as it works there is a daemon."""
        program = node.directory / "bin" / "nvidia-cuda-mps-control"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\necho the license has expired >&2\nexit 3\n")
        program.chmod(0o755)
        node.want(ONE)
        await node.host(program=str(program))
        await node.told(DaemonState.FAILED, message="exit code 3: the license has expired")
        assert node.observed().daemons[UUID].restarts == 0
        program.unlink()
        program.symlink_to(node.program)
        await node.ready(ONE)

    async def test_a_program_that_comes_later(self, node: Node) -> None:
        """Where the program is not there that is told; when a driver is installed its daemons start."""
        program = node.directory / "bin" / "nvidia-cuda-mps-control"
        node.want(ONE)
        await node.host(program=str(program))
        await node.told(DaemonState.FAILED, message=f"cannot find {program}: no such program")
        assert node.observed().problem == f"cannot find {program}: no such program"
        program.parent.mkdir()
        program.symlink_to(node.program)
        await node.ready(ONE)
        await eventually(lambda: node.observed().problem == "", within=15)

    async def test_a_program_that_goes_ends_no_daemon(self, node: Node) -> None:
        """While the driver is being replaced nobody can ask a daemon: it is told, and is left running, by any host."""
        program = node.directory / "bin" / "nvidia-cuda-mps-control"
        program.parent.mkdir()
        program.symlink_to(node.program)
        node.want(ONE)
        timing = replace(QUICK, silent_at_most=0.2)
        host = await node.host(timing, program=str(program))
        before = await node.ready(ONE)
        program.unlink()
        await node.told(DaemonState.FAILED, message="cannot find")
        await asyncio.sleep(0.5)  # longer than a daemon may be silent
        await host.stop()
        await node.host(timing, program=str(program))
        await node.told(DaemonState.FAILED, message="cannot find")
        assert node.running() == before
        program.symlink_to(node.program)
        assert await node.ready(ONE) == before
        assert node.daemon().restarts == 0

    async def test_somebody_else_at_the_socket_of_a_start(self, node: Node) -> None:
        """Whoever listens where a daemon should is not taken for it, and no signal is sent to it."""
        program, planted = node.directory / "bin" / "nvidia-cuda-mps-control", node.directory / "planted"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\n[ "$1" = -d ] && ln {planted} "$CUDA_MPS_PIPE_DIRECTORY/control"\n')
        program.chmod(0o755)
        listen = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.bind(sys.argv[1]);"
            "s.listen(); print('listens', flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", listen, str(planted)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as listener:
            assert listener.stdout is not None
            assert listener.stdout.readline()
            node.want(ONE)
            await node.host(program=str(program))
            told = await node.told(DaemonState.FAILED, message="something else listens at its socket")
            assert told.pid is None
            assert listener.poll() is None
            program.unlink()
            program.symlink_to(node.program)
            await node.ready(ONE)
            assert listener.poll() is None
            listener.communicate()


class TestSilence:
    """A daemon that hangs."""

    async def test_a_stopped_daemon_is_told_then_replaced(self, node: Node) -> None:
        """SIGSTOP: it is told that it does not answer, nothing else stalls, and in the end another one runs."""
        node.want(BOTH)
        await node.host(IMPATIENT)
        before = await node.ready(BOTH)
        before[UUID].signal(signal.SIGSTOP)
        await node.told(DaemonState.FAILED, message="does not answer")
        assert node.daemon().pid == before[UUID].pid
        third = {**BOTH, THIRD: contract(600, 5)}
        node.want(third)
        await eventually(lambda: node.daemon(THIRD).state is DaemonState.READY)
        await eventually(lambda: node.daemon().pid != before[UUID].pid)
        after = await node.ready(third)
        assert after[OTHER] == before[OTHER]
        assert node.daemon().restarts == 1

    async def test_a_host_that_stood_still_ends_nothing(self, node: Node) -> None:
        """A host that was stopped in the middle of a check, for however long, has heard nothing and asks again."""
        node.want(ONE)
        await node.host(replace(IMPATIENT, late_at_most=0.5))
        before = await node.ready(ONE)
        before[UUID].signal(signal.SIGSTOP)
        await eventually(lambda: any(one.kind == "client" for one in mps_processes(node.layout.root)), every=0.001)
        before[UUID].signal(signal.SIGCONT)
        time.sleep(2 * IMPATIENT.silent_at_most)  # noqa: ASYNC251 - the loop of the host stands still
        assert await node.ready(ONE) == before
        await eventually(lambda: node.daemon().state is DaemonState.READY)
        assert node.daemon().restarts == 0

    @pytest.mark.parametrize("hosts", [1, 2])
    async def test_one_that_answers_again_is_kept(self, node: Node, hosts: int) -> None:
        """A daemon that was held up for less than the deadline stays, also for a host that finds it held up."""
        node.want(ONE)
        timing = replace(IMPATIENT, silent_at_most=30.0)
        host = await node.host(timing)
        before = await node.ready(ONE)
        before[UUID].signal(signal.SIGSTOP)
        await node.told(DaemonState.FAILED, message="does not answer")
        if hosts == 2:
            await host.stop()
            await node.host(timing)
            await node.told(DaemonState.FAILED, message="does not answer")
        before[UUID].signal(signal.SIGCONT)
        assert await node.ready(ONE) == before
        assert node.daemon().restarts == 0

    @pytest.mark.parametrize("plant", ["nothing", "file", "stream", "listener"])
    async def test_something_else_in_place_of_its_socket(self, node: Node, plant: str) -> None:
        """Whatever a client puts where the daemon's socket was deceives nobody: the daemon is replaced."""
        node.want(ONE)
        await node.host(IMPATIENT)
        before = await node.ready(ONE)
        path = node.layout.pipe(UUID) / "control"
        path.unlink()
        kind = socket.SOCK_STREAM if plant == "stream" else socket.SOCK_SEQPACKET
        with socket.socket(socket.AF_UNIX, kind) as planted:
            if plant == "file":
                path.touch()
            elif plant != "nothing":
                planted.bind(str(path))
                planted.listen()
            await node.told(DaemonState.FAILED)
            after = await node.ready(ONE)
        assert after != before
        assert node.daemon().restarts == 1


class TestStopping:
    """Each of the four ways of ending a daemon is enough."""

    @pytest.mark.parametrize("way", ["quit", "term", "kill"])
    async def test_it_ends(self, node: Node, way: str) -> None:
        """By quit; by SIGTERM where it cannot be asked; by SIGKILL where it is stopped."""
        program = node.directory / "bin" / "nvidia-cuda-mps-control"
        program.parent.mkdir()
        program.symlink_to(node.program)
        node.want(ONE)
        await node.host(replace(IMPATIENT, silent_at_most=60.0), program=str(program))
        before = await node.ready(ONE)
        if way == "kill":
            before[UUID].signal(signal.SIGSTOP)
        elif way == "term":
            program.unlink()
        node.want({})
        await node.gone()
        log = (node.layout.log(UUID) / "control.log").read_text()
        assert ("Cmd:quit" in log) is (way == "quit")

    async def test_one_that_has_died_meanwhile(self, node: Node) -> None:
        """A daemon that ends by itself in the moment in which it is to go is gone."""
        node.want(ONE)
        host = await node.host()
        before = await node.ready(ONE)
        await host.stop()
        node.want({})
        before[UUID].signal(signal.SIGKILL)
        await node.host()
        await node.gone()


class TestAdoption:
    """A host takes over what the one before it has left."""

    async def test_daemons_outlive_their_host(self, node: Node) -> None:
        """The next host keeps every daemon that should run, as it is: same process, limits, mode to be restored."""
        node.want(BOTH)
        host = await node.host()
        before = await node.ready(BOTH)
        for _ in range(3):
            await host.stop()
            assert node.running() == before
            host = await node.host()
            assert await node.ready(BOTH) == before
        assert node.daemon().restarts == 0
        assert node.daemon().restored == 0
        node.want({})
        await node.gone()

    async def test_what_changed_meanwhile(self, node: Node) -> None:
        """A daemon for another contract is replaced, one that is not wanted any more ends, the rest stays."""
        wanted = {**BOTH, THIRD: contract(600, 5)}
        node.want(wanted)
        host = await node.host()
        before = await node.ready(wanted)
        await host.stop()
        changed = {UUID: wanted[UUID], OTHER: contract(1536, 75), FOURTH: contract(700, 7)}
        node.want(changed)
        await node.host()
        after = await node.ready(changed)
        assert after[UUID] == before[UUID]
        assert after[OTHER] != before[OTHER]

    async def test_nothing_is_told_before_it_is_known(self, node: Node) -> None:
        """A host that has just started never takes a ready daemon away from who reads what it tells."""
        node.want(BOTH)
        host = await node.host()
        await node.ready(BOTH)
        await host.stop()
        await node.host()
        await eventually(node.observed, every=0.001)
        assert {told.state for told in node.observed().daemons.values()} == {DaemonState.READY}

    async def test_while_nobody_has_asked_for_anything_nothing_changes(self, node: Node) -> None:
        """Without desired.json daemons are kept as they are recorded, and are started again when they die."""
        node.want(ONE)
        host = await node.host()
        before = await node.ready(ONE)
        await host.stop()
        node.layout.desired.unlink()
        await node.host()
        assert await node.ready(ONE) == before
        assert node.observed().answers == ""
        before[UUID].signal(signal.SIGKILL)
        assert await node.ready(ONE) != before
        node.want({})
        await node.gone()

    async def test_a_lost_record(self, node: Node) -> None:
        """A daemon whose record is damaged is kept if it has the limits that are asked for, else it is replaced."""
        before = await unrecorded(node, BOTH)
        changed = {**BOTH, OTHER: contract(1536, 60)}
        node.want(changed)
        await node.host()
        after = await node.ready(changed)
        assert after[UUID] == before[UUID]
        assert after[OTHER] != before[OTHER]
        assert record(node) == Record(ONE[UUID], verified=True)

    async def test_a_lost_record_of_one_that_is_held_up(self, node: Node) -> None:
        """A daemon whose record is damaged is left alone while it does not answer, and kept when it does."""
        before = await unrecorded(node, ONE)
        before[UUID].signal(signal.SIGSTOP)
        await node.host(replace(IMPATIENT, silent_at_most=30.0))
        await node.told(DaemonState.FAILED, message="does not answer")
        before[UUID].signal(signal.SIGCONT)
        assert await node.ready(ONE) == before
        assert record(node) == Record(ONE[UUID], verified=True)

    async def test_a_lost_record_of_one_that_hangs(self, node: Node) -> None:
        """A daemon whose record is damaged, and that never answers, is replaced like any other."""
        before = await unrecorded(node, ONE)
        before[UUID].signal(signal.SIGSTOP)
        await node.host(IMPATIENT)
        await node.told(DaemonState.FAILED, message="does not answer")
        assert await node.ready(ONE) != before

    async def test_a_lost_record_of_one_with_other_limits(self, node: Node) -> None:
        """A client may have changed them: it is replaced when it has no clients, and kept when they are right again."""
        client = [{"pid": 77, "name": "trainer", "mps": True}]
        before = await unrecorded(node, BOTH)
        for uuid in BOTH:
            await node.control(uuid).set_limits(20480, 100)
        node.simulate({UUID: client, OTHER: client})
        await node.host()
        for uuid in BOTH:
            await node.told(DaemonState.OCCUPIED, uuid, message="its record is lost and its limits are 20480 MiB")
        assert node.running() == before
        await node.control(OTHER).set_limits(1536, 50)
        await node.told(DaemonState.READY, OTHER)
        node.simulate({OTHER: client})
        after = await node.ready(BOTH)
        assert after[OTHER] == before[OTHER]
        assert after[UUID] != before[UUID]

    async def test_a_lost_record_before_anybody_asks(self, node: Node) -> None:
        """A daemon of which nothing is known waits for what is asked for, and is then recognised."""
        before = await unrecorded(node, ONE)
        node.layout.desired.unlink()
        await node.host()
        await node.told(DaemonState.STOPPING, message="nobody has asked")
        node.want(ONE)
        assert await node.ready(ONE) == before

    async def test_a_start_that_was_cut_short_is_finished(self, node: Node) -> None:
        """A daemon that had not got its limits yet gets them, which is nobody's alteration and no restart."""
        node.layout.root.mkdir()
        Daemons(node.layout.root, node.program).start(UUID)
        before = node.running()
        atomic.write(node.layout.record(UUID), encode_record(Record(ONE[UUID])), sync=False)
        node.want(ONE)
        await node.host()
        assert await node.ready(ONE) == before
        assert (node.daemon().restarts, node.daemon().restored) == (0, 0)
        assert record(node).verified

    async def test_leftovers_are_ended(self, node: Node) -> None:
        """Daemons that nobody asked for, and second ones for the same GPU, end; the one that listens is kept."""
        node.want(ONE)
        host = await node.host()
        before = await node.ready(ONE)
        await host.stop()
        stray = Daemons(node.layout.root, node.program)
        stray.start(THIRD)
        # Another one for the same GPU: what it listens on is moved away, as if its directory had been replaced.
        node.layout.pipe(UUID).rename(node.directory / "pipe")
        second = stray.start(UUID)
        shutil.rmtree(node.layout.pipe(UUID))
        (node.directory / "pipe").rename(node.layout.pipe(UUID))
        await node.host()

        def alone() -> bool:
            daemons = [one.process for one in mps_processes(node.layout.root) if one.kind == "daemon"]
            return daemons == [before[UUID]]

        await eventually(alone)
        assert not second.alive()
        assert await node.ready(ONE) == before


class TestLimits:
    """Limits that a client has changed."""

    async def test_they_are_restored_told_and_counted(self, node: Node) -> None:
        """Any client may change the defaults: it is noticed, told, undone and counted, and the daemon stays."""
        node.want(BOTH)
        host = await node.host(replace(QUICK, check_every=0.5))
        before = await node.ready(BOTH)
        await node.control().set_limits(20480, 100)
        await eventually(lambda: node.daemon().altered == "20480 MiB and 100 % of threads")
        await eventually(lambda: node.daemon().altered == "")
        assert await node.ready(BOTH) == before
        assert (node.daemon(UUID).restored, node.daemon(OTHER).restored) == (1, 0)

        await host.stop()
        await node.control().set_limits(9216, 30)
        await node.host()
        await eventually(lambda: node.daemon().restored == 2)
        assert await node.ready(BOTH) == before

    async def test_they_are_restored_whatever_the_disk_says(self, node: Node) -> None:
        """A count that cannot be saved keeps no limits from being restored, and takes no daemon away."""
        node.want(ONE)
        await node.host()
        before = await node.ready(ONE)
        node.layout.record(UUID).unlink()
        node.layout.record(UUID).mkdir()
        await node.control().set_limits(20480, 100)
        await eventually(lambda: node.daemon().restored == 1)
        assert await node.ready(ONE) == before


class TestTheGpu:
    """What else is on the GPU."""

    async def test_a_gpu_that_is_used_otherwise_is_waited_for(self, node: Node) -> None:
        """While a process uses the GPU directly no daemon starts and its compute mode stays; when it ends, one does."""
        node.simulate({UUID: [{"pid": 1234, "name": "python"}]})
        node.want(BOTH)
        await node.host()
        told = await node.told(DaemonState.OCCUPIED)
        assert (told.message, told.pid) == ("held by process 1234 (python)", None)
        await node.told(DaemonState.READY, OTHER)
        assert node.modes() == {OTHER: "exclusive-process"}
        node.simulate()
        await node.ready(BOTH)

    async def test_a_gpu_that_hangs_holds_up_itself(self, node: Node) -> None:
        """A driver that does not answer for one GPU is told there, and another GPU never notices."""
        node.simulate(hanging=UUID)
        node.want(BOTH)
        await node.host()
        await node.told(DaemonState.READY, OTHER)
        await node.told(DaemonState.FAILED, message="cannot list the processes")
        node.simulate()
        await node.ready(BOTH)

    async def test_a_gpu_that_is_used_beside_its_daemon(self, node: Node) -> None:
        """A process that computes without MPS while the daemon runs is told until it ends, and the daemon is kept."""
        node.want(BOTH)
        await node.host()
        before = await node.ready(BOTH)
        node.simulate({UUID: [{"pid": 77, "name": "trainer", "mps": True}, {"pid": 1234, "name": "python"}]})
        told = await node.told(DaemonState.OCCUPIED)
        assert (told.message, told.pid) == ("held by process 1234 (python)", before[UUID].pid)
        assert node.daemon(OTHER).state is DaemonState.READY
        node.simulate()
        assert await node.ready(BOTH) == before

    async def test_a_gpu_that_hangs_beside_its_daemon(self, node: Node, caplog: pytest.LogCaptureFixture) -> None:
        """A driver that does not answer says nothing about a daemon that does."""
        node.want(BOTH)
        await node.host()
        before = await node.ready(BOTH)
        node.simulate(hanging=UUID)
        await eventually(lambda: f"{UUID}: cannot see whether others use it" in caplog.text)
        assert await node.ready(BOTH) == before

    async def test_a_mode_that_somebody_changes(self, node: Node) -> None:
        """The compute mode is set again while the daemon runs, and the one from before MPS is what comes back."""
        node.simulate(mode="prohibited")
        node.want(ONE)
        await node.host()
        before = await node.ready(ONE)
        ComputeModes(node.simulation).keep(UUID, ComputeMode.DEFAULT, ComputeMode.DEFAULT)
        await eventually(lambda: node.modes() == {UUID: "exclusive-process"})
        assert await node.ready(ONE) == before
        node.want({})
        await node.gone()

    async def test_a_gpu_that_is_gone(self, node: Node, caplog: pytest.LogCaptureFixture) -> None:
        """A mode that cannot be restored is tried after pauses that grow, and keeps nobody from coming back."""
        timing = replace(QUICK, first_pause=60.0, longest_pause=60.0)
        document = json.loads(node.simulation.read_bytes())
        without = {**document, "gpus": [gpu for gpu in document["gpus"] if gpu["uuid"] != UUID]}
        caplog.set_level(logging.INFO)
        node.want(BOTH)
        await node.host(timing)
        before = await node.ready(BOTH)
        atomic.write(node.simulation, json.dumps(without).encode(), sync=False)
        node.want({OTHER: BOTH[OTHER]})
        refused = f"{UUID}: stopping: cannot read the compute mode"
        await eventually(lambda: caplog.text.count(refused) == 2)
        before[OTHER].signal(signal.SIGKILL)  # whose successor is there after many looks
        await eventually(lambda: node.daemon(OTHER).pid not in {None, before[OTHER].pid})
        assert caplog.text.count(refused) == 2
        node.simulate()
        node.want(BOTH)
        await node.ready(BOTH)

    async def test_a_mode_that_cannot_be_restored_yet(self, node: Node) -> None:
        """A GPU that hangs when MPS is to leave is told as stopping until it has its compute mode back."""
        node.want(ONE)
        await node.host()
        await node.ready(ONE)
        node.simulate(hanging=UUID)
        node.want({})
        told = await node.told(DaemonState.STOPPING, message="compute mode")
        assert told.pid is None
        assert node.running() == {}
        node.simulate()
        await node.gone()

    @pytest.mark.parametrize("mode", ["default", "prohibited", "exclusive-process"])
    async def test_the_mode_is_restored_by_whoever_is_there(self, node: Node, mode: str) -> None:
        """The mode from before MPS comes back, also when another host has set it."""
        node.simulate(mode=mode)
        node.want(ONE)
        host = await node.host()
        await node.ready(ONE)
        assert node.modes() == ({} if mode == "exclusive-process" else {UUID: "exclusive-process"})
        await host.stop()
        node.want({})
        await node.host()
        await node.gone()

    async def test_a_server_that_is_left_over(self, node: Node) -> None:
        """A server without its daemon is ended before another daemon starts; if it has clients, they are waited for."""
        async with stand_in_server(node) as server:
            node.simulate(
                {UUID: [{"pid": server.pid, "name": "nvidia-cuda-mps-server", "mps": True},
                        {"pid": 77, "name": "trainer", "mps": True}]}
            )  # fmt: skip
            node.want(ONE)
            await node.host()
            await node.told(DaemonState.OCCUPIED, message="process 77 (trainer)")
            assert server.alive()
            node.simulate({UUID: [{"pid": server.pid, "name": "nvidia-cuda-mps-server", "mps": True}]})
            assert await server.ended(10.0)
            await node.told(DaemonState.READY)

    async def test_servers_go_with_their_daemon(self, node: Node) -> None:
        """When a daemon is not wanted any more its servers end too; those of other daemons do not."""
        node.want(BOTH)
        await node.host()
        await node.ready(BOTH)
        async with stand_in_server(node) as server, stand_in_server(node, OTHER) as other:
            node.want({OTHER: BOTH[OTHER]})
            assert await server.ended(10.0)
            await node.ready({OTHER: BOTH[OTHER]})
            assert other.alive()


class TestPlants:
    """What clients leave in a pipe directory."""

    async def test_links_are_not_followed(self, node: Node) -> None:
        """Links that a client has put where the daemon opens files lead it nowhere when it is started again."""
        node.want(ONE)
        await node.host()
        before = await node.ready(ONE)
        target = node.directory / "target"
        target.mkdir()
        (target / "file").write_text("precious")
        pipe = node.layout.pipe(UUID)
        for name in ("control_lock", "log", "control_privileged"):
            (pipe / name).unlink()
            (pipe / name).symlink_to(target / name)
        (pipe / "below").symlink_to(target)
        before[UUID].signal(signal.SIGKILL)
        assert await node.ready(ONE) != before
        assert {path.name: path.read_text() for path in target.iterdir()} == {"file": "precious"}
        assert not (pipe / "below").is_symlink()
        node.want({})
        await node.gone()
        assert (target / "file").read_text() == "precious"
