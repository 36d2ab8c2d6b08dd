"""What the agent asks of the MPS host, and what it believes of the answer: a host of files, and NVIDIA's daemons."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.durable import atomic
from nodeagent.durable.envelope import version_of
from nodeagent.durable.formats import FORMATS, Format, Formats
from nodeagent.durable.lock import FileLock
from nodeagent.model.config import Contract, Mode, MpsLimits
from nodeagent.model.inventory import ComputeMode, DriverError
from nodeagent.model.mps import DaemonState, GpuMeans, MpsReason, MpsStatus
from nodeagent.mps.files import (
    Layout,
    Observed,
    ObservedDaemon,
    Record,
    checksum,
    decode_desired,
    encode_compute_modes,
    encode_desired,
    encode_observed,
    encode_record,
)
from nodeagent.mps.host_file import HostWord, encode_host
from nodeagent.mps.look import host_runs
from nodeagent.mps.off import NoMps
from nodeagent.mps.process import Process
from nodeagent.mps.verification import Verification
from nodeagent.mps.view import SETTLES_WITHIN, MpsView
from nodeagent.watcher import DirectoryWatch
from tests.mps.hosting import QUICK, UUIDS, Node, contract, needs_mounts
from tests.mps.support import CONTRACT, OTHER, UUID, Daemons, end_all
from tests.waiting import eventually

TIGHTER = replace(CONTRACT, limits=MpsLimits(512, 10))


class Files:
    """The host's part, played by hand: the lock, and what a host tells and keeps."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self._lock = FileLock(self.layout.lock)
        self.daemons: dict[str, ObservedDaemon] = {}
        self.problem = ""
        self.pid = os.getpid()
        self.life, self.beat = "", 0
        self.formats = FORMATS

    def come(self) -> None:
        """A host runs from now on."""
        self.layout.root.mkdir(exist_ok=True)
        assert self._lock.acquire()

    def go(self) -> None:
        """No host runs any more; its files stay."""
        self._lock.release()

    def asked(self) -> Mapping[str, Contract] | None:
        """What the agent asks for on disk."""
        data = atomic.read(self.layout.desired)
        return None if data is None else decode_desired(data, self.formats.desired)

    def tell(self, *, answers: bool = True) -> None:
        """Write what the host knows, having read what is asked for or not."""
        data = atomic.read(self.layout.desired) if answers else None
        told = Observed(
            self.pid,
            "/dev/shm",
            life=self.life,
            beat=self.beat,
            problem=self.problem,
            daemons=dict(self.daemons),
            answers="" if data is None else checksum(data),
            reads=self.formats.desired.reads,
        )
        atomic.write(self.layout.observed, encode_observed(told, self.formats.observed), sync=False)

    def say(self, word: HostWord) -> None:
        """Write what the host is, and what it can do."""
        atomic.write(self.layout.host, encode_host(word), sync=False)

    def ready(self, process: Process, contract: Contract = CONTRACT, uuid: str = UUID) -> None:
        """Tell that a daemon is ready."""
        self.daemons[uuid] = ObservedDaemon(contract, DaemonState.READY, pid=process.pid, start_time=process.start_time)
        self.tell()


class Agent:
    """A view, how often it has woken its loop, and what it has said of hosts."""

    def __init__(
        self,
        root: Path,
        *,
        program: Path | None = None,
        look_every: float = 0.05,
        stale_after: float = 15.0,
        formats: Formats = FORMATS,
    ) -> None:
        self.modes: dict[str, ComputeMode | DriverError | None] = {}
        self.wakes = 0
        self.needs: list[bool] = []
        self.message = ""
        self.watch_states: Callable[[], None] = lambda: None
        self.watch = DirectoryWatch(step_ms=10, debounce_ms=10, recheck=0.1)
        self.view = MpsView(
            root,
            subscribe=self.watch.subscribe,
            wake=self._wake,
            read_mode=self._mode,
            host=self,
            program=str(program or "/nonexistent"),
            look_every=look_every,
            thorough_every=20.0,
            stale_after=stale_after,
            deadline=0.5,
            formats=formats,
        )

    def _wake(self) -> None:
        self.wakes += 1
        self.watch_states()

    async def _mode(self, uuid: str) -> ComputeMode | None:
        """What the driver says, which is DEFAULT unless the test says otherwise."""
        mode = self.modes.get(uuid, ComputeMode.DEFAULT)
        if isinstance(mode, DriverError):
            raise mode
        return mode

    def need(self, *, needed: bool) -> None:
        """As one who starts hosts."""
        self.needs.append(needed)

    @property
    def status(self) -> MpsStatus:
        """What the view tells."""
        return self.view.status

    def state(self, uuid: str = UUID) -> DaemonState | None:
        """How one daemon stands."""
        daemon = self.status.daemons.get(uuid)
        return None if daemon is None else daemon.state

    def said(self, uuid: str = UUID) -> str:
        """What is said of one daemon."""
        return self.status.daemons[uuid].message


@asynccontextmanager
async def running(agent: Agent) -> AsyncIterator[Agent]:
    """An agent that follows; one whose part has failed fails the test."""
    tasks = [asyncio.create_task(agent.watch.run()), asyncio.create_task(agent.view.run())]
    try:
        yield agent
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@asynccontextmanager
async def verified(daemons: Daemons, look_every: float = 0.05) -> AsyncIterator[tuple[Agent, Files, Process]]:
    """A daemon that is asked for, told of by a host, and verified."""
    files = Files(daemons.root)
    files.come()
    process = daemons.start()
    await daemons.control().set_limits(9216, 25)
    async with running(Agent(daemons.root, program=daemons.program, look_every=look_every)) as agent:
        agent.view.want({UUID: CONTRACT})
        await eventually(files.asked)
        files.ready(process)
        await eventually(lambda: agent.state() is DaemonState.READY)
        yield agent, files, process
        files.go()


class TestAsking:
    """What is wanted is on disk, and only written when it is not."""

    async def test_it_is_written(self, mps_root: Path) -> None:
        """What is wanted is written, below a root that is not there yet; what is wanted next replaces it."""
        files = Files(mps_root / "deep" / "er")
        async with running(Agent(files.layout.root)) as agent:
            agent.view.want({UUID: CONTRACT})
            await eventually(lambda: files.asked() == {UUID: CONTRACT})
            agent.view.want({UUID: TIGHTER, OTHER: CONTRACT})
            await eventually(lambda: files.asked() == {UUID: TIGHTER, OTHER: CONTRACT})
            agent.view.want({})
            await eventually(lambda: files.asked() == {})
        assert files.layout.root.stat().st_mode & 0o777 == 0o755

    async def test_nothing_is_written_for_nothing(self, mps_root: Path) -> None:
        """A node without MPS gets no file and no directory."""
        root = mps_root / "mps"
        async with running(Agent(root)) as agent:
            agent.view.want({})
            await eventually(lambda: agent.status.reason is MpsReason.ABSENT)
            assert not root.exists()
            assert not any(agent.needs)

    async def test_what_is_on_disk_is_not_written_again(self, mps_root: Path) -> None:
        """The same wish, however often it is said and also by the next agent, leaves the file alone."""
        files = Files(mps_root)
        async with running(Agent(mps_root)) as agent:
            agent.view.want({UUID: CONTRACT})
            await eventually(files.asked)
            written = files.layout.desired.stat()
            for _ in range(5):
                agent.view.want({UUID: CONTRACT})
            await eventually(lambda: agent.status.reason is MpsReason.ABSENT)
        async with running(Agent(mps_root)) as agent:
            agent.view.want({UUID: CONTRACT})
            await eventually(lambda: agent.state() is DaemonState.STARTING)
            agent.view.want({UUID: CONTRACT})
            assert files.layout.desired.stat() == written

    @pytest.mark.parametrize("data", [None, b"", b"nonsense\n", encode_desired({})])
    async def test_another_file_is_replaced(self, mps_root: Path, data: bytes | None) -> None:
        """A file that is gone, damaged or of somebody else is written again."""
        files = Files(mps_root)
        async with running(Agent(mps_root)) as agent:
            agent.view.want({UUID: CONTRACT})
            await eventually(files.asked)
            if data is None:
                files.layout.desired.unlink()
            else:
                files.layout.desired.write_bytes(data)
            await eventually(lambda: files.layout.desired.exists() and files.layout.desired.read_bytes() != data)
            assert files.asked() == {UUID: CONTRACT}
            await eventually(lambda: agent.status.reason is MpsReason.ABSENT)

    async def test_leftovers_are_asked_to_go(self, mps_root: Path) -> None:
        """Where nothing is wanted but a host tells of daemons, that is said: without a file a host keeps what runs."""
        files = Files(mps_root)
        files.come()
        files.daemons[UUID] = ObservedDaemon(CONTRACT, DaemonState.STARTING)
        files.tell()
        async with running(Agent(mps_root)) as agent:
            await eventually(lambda: agent.state() is DaemonState.STARTING)
            assert files.asked() is None  # until the loop has said what it wants, nobody knows
            agent.view.want({})
            await eventually(lambda: files.asked() == {})
        files.go()

    async def test_a_root_that_cannot_be_written(self, mps_root: Path) -> None:
        """A wish that cannot be written makes MPS unusable, with the reason, until it can."""
        blocked = mps_root / "mps"
        blocked.write_text("a file")
        async with running(Agent(blocked)) as agent:
            agent.view.want({UUID: CONTRACT})
            await eventually(lambda: agent.status.reason is MpsReason.UNUSABLE)
            assert str(blocked) in agent.status.message
            blocked.unlink()
            await eventually(lambda: agent.status.reason is MpsReason.ABSENT)
            assert Files(blocked).asked() == {UUID: CONTRACT}

    def test_what_an_agent_before_asked_for(self, mps_root: Path) -> None:
        """The next agent knows what the last one asked for, and nothing where nothing was."""
        view = Agent(mps_root).view
        assert view.load_wanted() == {}
        Files(mps_root).layout.desired.write_bytes(encode_desired({UUID: CONTRACT}))
        assert view.load_wanted() == {UUID: CONTRACT}

    @pytest.mark.parametrize("damage", [b"damaged", None])
    def test_a_wish_that_is_damaged_or_gone(self, mps_root: Path, damage: bytes | None) -> None:
        """Where the wish cannot be read, the daemons are those that the host has kept, and then those that it tells of:
        an agent without a memory of its own must not ask for none of them while pods have their shares.
        """
        files, other, third = Files(mps_root), OTHER, "GPU-2"
        if damage is not None:
            files.layout.desired.write_bytes(damage)
        files.layout.directory(UUID).mkdir()
        files.layout.record(UUID).write_bytes(encode_record(Record(CONTRACT)))
        files.layout.directory(third).mkdir()
        files.layout.record(third).write_bytes(b"damaged")
        files.daemons = {
            one: ObservedDaemon(contract, DaemonState.STARTING)
            for one, contract in {UUID: TIGHTER, other: TIGHTER, third: TIGHTER}.items()
        }
        files.tell(answers=False)
        assert Agent(mps_root).view.load_wanted() == {UUID: CONTRACT, other: TIGHTER, third: TIGHTER}

    def test_a_root_that_is_too_long(self, mps_root: Path) -> None:
        """A root below which no socket has room is refused at once."""
        with pytest.raises(ValueError, match="leave room for 41"):
            Agent(mps_root / ("r" * 60))


class TestVerifying:
    """The agent believes what it has seen itself."""

    async def test_a_good_daemon(self, daemons: Daemons) -> None:
        """A daemon of the pid and the limits that the host says is ready."""
        async with verified(daemons) as (agent, files, _):
            assert agent.status.reason is MpsReason.RUNNING
            assert agent.status.daemons[UUID].contract == CONTRACT
            assert agent.status.shared_memory == "/dev/shm"
            assert agent.status.pipe(UUID) == str(files.layout.pipe(UUID))

    async def test_other_limits(self, daemons: Daemons) -> None:
        """A daemon that never had the limits of its contract is not ready, until it has them."""
        files = Files(daemons.root)
        files.come()
        process = daemons.start()
        files.ready(process)
        async with running(Agent(daemons.root, program=daemons.program)) as agent:
            await eventually(lambda: agent.state() is DaemonState.FAILED)
            limits = "its limits are no memory limit and 100 % of threads, and not 9216 MiB and 25 % of threads"
            assert agent.said() == limits
            await daemons.control().set_limits(9216, 25)
            await eventually(lambda: agent.state() is DaemonState.READY)
        files.go()

    async def test_times_the_most_shares(self, daemons: Daemons) -> None:
        """A daemon allows as much as a container may have: the limits of that many shares."""
        files = Files(daemons.root)
        files.come()
        process = daemons.start()
        await daemons.control().set_limits(3 * 1024, 75)
        files.ready(process, Contract("nvidia.com/gpu.mps", Mode.MPS, MpsLimits(1024, 25, most=3)))
        async with running(Agent(daemons.root, program=daemons.program)) as agent:
            await eventually(lambda: agent.state() is DaemonState.READY)
        files.go()

    async def test_another_process(self, daemons: Daemons) -> None:
        """A socket of another process than the host says is not its daemon's."""
        files = Files(daemons.root)
        files.come()
        process = daemons.start()
        await daemons.control().set_limits(9216, 25)
        files.ready(Process(os.getpid(), 1))
        async with running(Agent(daemons.root, program=daemons.program)) as agent:
            await eventually(lambda: agent.state() is DaemonState.FAILED)
            assert agent.said() == (
                f"process {process.pid} listens at its socket, and not process {os.getpid()}, its daemon"
            )
        files.go()

    async def test_no_program(self, daemons: Daemons) -> None:
        """An agent that cannot ask believes nothing, and says what it lacks."""
        files = Files(daemons.root)
        files.come()
        files.ready(daemons.start())
        async with running(Agent(daemons.root)) as agent:
            await eventually(lambda: agent.state() is DaemonState.FAILED)
            assert agent.said() == "cannot run /nonexistent: No such file or directory (ENOENT)"
        files.go()

    @pytest.mark.parametrize(
        "state", [DaemonState.STARTING, DaemonState.OCCUPIED, DaemonState.FAILED, DaemonState.STOPPING]
    )
    async def test_what_the_host_says(self, mps_root: Path, state: DaemonState) -> None:
        """Whatever is not ready is told as the host says it, with its counters."""
        files = Files(mps_root)
        files.come()
        told = ObservedDaemon(CONTRACT, state, "held by process 1234 (python)", None, None, 3, 2, "10 %")
        files.daemons[UUID] = told
        files.tell()
        async with running(Agent(mps_root)) as agent:
            await eventually(lambda: agent.state() is state)
            daemon = agent.status.daemons[UUID]
            assert (daemon.contract, daemon.state, daemon.message) == (CONTRACT, state, told.message)
            assert (daemon.restarts, daemon.restored, daemon.altered) == (3, 2, "10 %")
            assert daemon.hindered is (state is DaemonState.STOPPING), "what is just being ended has no message"
        files.go()

    async def test_a_daemon_that_dies(self, daemons: Daemons) -> None:
        """A daemon that is gone is seen to be, though the host says nothing; another one in its place is verified."""
        async with verified(daemons) as (agent, files, process):
            process.signal(signal.SIGKILL)
            await eventually(lambda: agent.state() is DaemonState.FAILED)
            assert agent.said() == "nothing listens at its socket"
            for entry in files.layout.pipe(UUID).iterdir():
                entry.unlink()
            again = daemons.start()
            await daemons.control().set_limits(9216, 25)
            files.ready(again)
            await eventually(lambda: agent.state() is DaemonState.READY)

    async def test_another_daemon_has_to_be_verified(self, daemons: Daemons) -> None:
        """That one daemon was verified says nothing about the next, nor about another contract."""
        async with verified(daemons) as (agent, files, process):
            files.ready(process, TIGHTER)
            await eventually(lambda: agent.state() is DaemonState.FAILED)
            assert "and not 512 MiB and 10 % of threads" in agent.said()
            assert agent.status.daemons[UUID].contract == TIGHTER
            files.ready(process)
            await eventually(lambda: agent.state() is DaemonState.READY)
            files.ready(Process(process.pid + 1, process.start_time))
            await eventually(lambda: agent.state() is DaemonState.FAILED)

    async def test_news_are_not_believed_before_they_are_verified(self, daemons: Daemons) -> None:
        """From the very word of another daemon on the verdict about the one before counts for nothing."""
        process = daemons.start()
        await daemons.control().set_limits(9216, 25)
        claim = ObservedDaemon(CONTRACT, DaemonState.READY, pid=process.pid, start_time=process.start_time)
        looks = asyncio.Event()
        verification = Verification(UUID, claim, daemons.control(), tell=looks.set, interval=60.0, thorough_every=60.0)

        def told() -> tuple[DaemonState, str]:
            return verification.daemon.state, verification.daemon.message

        unverified = (DaemonState.STARTING, "it is not verified yet")
        assert told() == unverified
        task = asyncio.create_task(verification.run())
        await looks.wait()
        assert told() == (DaemonState.READY, "")
        verification.expect(replace(claim, restarts=1))
        assert told() == (DaemonState.READY, "")
        for other in (replace(claim, start_time=1), replace(claim, pid=1), replace(claim, contract=TIGHTER)):
            verification.expect(other)
            assert told() == unverified
        task.cancel()

    async def test_a_host_that_may_be_about_to_end_it(self, daemons: Daemons) -> None:
        """While something else was asked of a GPU, and the host is not known to have read that it no longer is, its
        daemon is not ready, whatever was verified; that of another GPU is. Where no host runs it is enough that the
        next one finds the right wish.
        """
        other = daemons.start(OTHER)
        await daemons.control(OTHER).set_limits(9216, 25)
        async with verified(daemons) as (agent, files, _):
            asked = {UUID: CONTRACT, OTHER: CONTRACT}
            agent.view.want(asked)
            await eventually(lambda: files.asked() == asked)
            files.ready(other, uuid=OTHER)
            await eventually(lambda: agent.state(OTHER) is DaemonState.READY)

            agent.view.want({**asked, UUID: TIGHTER})
            assert agent.state() is DaemonState.STARTING
            await eventually(lambda: files.asked() == {**asked, UUID: TIGHTER})
            agent.view.want(asked)
            assert agent.state() is DaemonState.STARTING
            assert agent.said() == "the MPS host has not answered yet"
            await eventually(lambda: files.asked() == asked)
            files.tell(answers=False)
            seen = agent.wakes
            files.problem = "something else that is told"
            files.tell(answers=False)
            await eventually(lambda: agent.wakes > seen)
            assert agent.state() is DaemonState.STARTING
            assert agent.state(OTHER) is DaemonState.READY
            files.problem = ""
            files.tell()
            await eventually(lambda: agent.state() is DaemonState.READY)

            files.go()
            agent.view.want({**asked, UUID: TIGHTER})
            agent.view.want(asked)
            await eventually(lambda: agent.state() is DaemonState.READY)
            files.come()

    async def test_limits_that_a_client_changed(self, daemons: Daemons) -> None:
        """Changed limits of a daemon that was verified are told; it stays ready, and they are cleared when restored."""
        async with verified(daemons) as (agent, files, _):
            await daemons.control().set_limits(1024, 50)
            files.daemons[UUID] = replace(files.daemons[UUID], restored=1)
            files.tell()
            await eventually(lambda: agent.status.daemons[UUID].altered == "1024 MiB and 50 % of threads")
            assert agent.state() is DaemonState.READY
            await daemons.control().set_limits(9216, 25)
            await eventually(lambda: agent.status.daemons[UUID].altered == "")
            assert agent.status.daemons[UUID].restored == 1

    async def test_what_the_host_says_was_changed(self, daemons: Daemons) -> None:
        """Limits that the host found changed are told though they are right again by now."""
        async with verified(daemons) as (agent, files, _):
            files.daemons[UUID] = replace(files.daemons[UUID], altered="77 %")
            files.tell()
            await eventually(lambda: agent.status.daemons[UUID].altered == "77 %")
            assert agent.state() is DaemonState.READY

    async def test_a_daemon_that_hangs(self, daemons: Daemons) -> None:
        """A daemon that is stopped is not ready, and holds up no other."""
        other = daemons.start(OTHER)
        await daemons.control(OTHER).set_limits(9216, 25)
        async with verified(daemons) as (agent, files, process):
            agent.view.want({UUID: CONTRACT, OTHER: CONTRACT})
            await eventually(lambda: files.asked() == {UUID: CONTRACT, OTHER: CONTRACT})
            process.signal(signal.SIGSTOP)
            files.daemons[UUID] = replace(files.daemons[UUID], restarts=1)  # a word of the host has it asked
            files.ready(other, uuid=OTHER)
            await eventually(lambda: agent.state(OTHER) is DaemonState.READY)
            await eventually(lambda: agent.state() is DaemonState.FAILED)
            assert agent.said() == "no answer within 0.5 s"
            other.signal(signal.SIGKILL)
            await eventually(lambda: agent.state(OTHER) is DaemonState.FAILED)
            process.signal(signal.SIGCONT)
            await eventually(lambda: agent.state() is DaemonState.READY)

    async def test_one_that_is_gone(self, daemons: Daemons) -> None:
        """A daemon that the host no longer tells of, knowing what is asked for, is no more; nobody asks it."""
        async with verified(daemons) as (agent, files, _):
            agent.view.want({})
            await eventually(lambda: files.asked() == {})
            assert agent.state() is not None
            del files.daemons[UUID]
            files.tell()
            await eventually(lambda: agent.status.daemons == {})


class TestHost:
    """Whether a host runs, and what is true without one."""

    async def test_it_comes_and_goes(self, mps_root: Path) -> None:
        """That a host runs is known by its lock."""
        files = Files(mps_root)
        async with running(Agent(mps_root)) as agent:
            await eventually(lambda: agent.status.reason is MpsReason.ABSENT)
            assert agent.status.message == f"no MPS host runs at {mps_root}"
            files.come()
            files.tell()
            await eventually(lambda: agent.status.reason is MpsReason.RUNNING)
            assert agent.status.message == ""
            files.problem = "cannot find nvidia-cuda-mps-control: it is not on PATH"
            files.tell()
            await eventually(lambda: agent.status.reason is MpsReason.UNUSABLE)
            assert agent.status.message == files.problem
            files.go()
            await eventually(lambda: agent.status.reason is MpsReason.ABSENT)

    async def test_daemons_go_on_without_it(self, daemons: Daemons) -> None:
        """Without a host a daemon that is verified stays ready, and one that dies is not."""
        async with verified(daemons) as (agent, files, process):
            files.go()
            await eventually(lambda: agent.status.reason is MpsReason.ABSENT)
            assert agent.state() is DaemonState.READY
            process.signal(signal.SIGKILL)
            await eventually(lambda: agent.state() is DaemonState.FAILED)

    async def test_daemons_are_verified_without_it(self, daemons: Daemons) -> None:
        """An agent that starts while no host runs verifies the daemons that the last one told of."""
        async with verified(daemons):
            pass
        async with running(Agent(daemons.root, program=daemons.program)) as agent:
            await eventually(lambda: agent.status.reason is MpsReason.ABSENT)
            assert agent.state() is DaemonState.READY

    async def test_looking_does_not_keep_one_out(self, mps_root: Path) -> None:
        """Looking for a host neither takes its lock nor makes the file."""
        files = Files(mps_root)
        assert not host_runs(files.layout.lock)
        assert not files.layout.lock.exists()
        files.come()
        assert host_runs(files.layout.lock)
        files.go()
        assert not host_runs(files.layout.lock)
        with files.layout.lock.open() as another:
            fcntl.flock(another, fcntl.LOCK_SH)  # somebody else who looks
            assert not host_runs(files.layout.lock)
        files.come()
        files.go()

    async def test_one_is_needed(self, daemons: Daemons) -> None:
        """A host is needed when one is missing and something is wanted, or is left of the one before."""
        root = daemons.root / "mps"
        async with running(Agent(root)) as agent:
            await eventually(lambda: agent.needs[-1:] == [False])
            agent.view.want({UUID: CONTRACT})
            await eventually(lambda: agent.needs[-1])
            files = Files(root)
            files.come()
            await eventually(lambda: not agent.needs[-1])
            files.go()
            await eventually(lambda: agent.needs[-1])
            agent.view.want({})
            await eventually(lambda: files.asked() == {})
            await eventually(lambda: not agent.needs[-1])
            atomic.write(files.layout.compute_modes, encode_compute_modes({UUID: ComputeMode.DEFAULT}), sync=False)
            await eventually(lambda: agent.needs[-1])
            files.layout.compute_modes.unlink()
            await eventually(lambda: not agent.needs[-1])
            files.layout.directory(UUID).mkdir()
            atomic.write(files.layout.record(UUID), encode_record(Record(CONTRACT)), sync=False)
            await eventually(lambda: agent.needs[-1])

    async def test_a_wish_alone_needs_one(self, mps_root: Path) -> None:
        """Before any daemon is asked for somebody has to say what can be done."""
        files = Files(mps_root)
        async with running(Agent(mps_root)) as agent:
            agent.view.want({})
            await eventually(lambda: agent.needs[-1:] == [False])
            agent.view.want({}, prepare=True)
            await eventually(lambda: agent.needs[-1])
            files.come()
            await eventually(lambda: not agent.needs[-1])
            files.go()
            await eventually(lambda: agent.needs[-1])
            agent.view.want({})
            await eventually(lambda: not agent.needs[-1])
            assert not files.asked()

    async def test_why_none_runs(self, mps_root: Path) -> None:
        """Who starts hosts knows best why none runs."""
        agent = Agent(mps_root)
        agent.message = "the MPS host has ended with exit code 1"
        async with running(agent):
            await eventually(lambda: agent.status.reason is MpsReason.ABSENT)
            assert agent.status.message == agent.message

    async def test_what_it_tells_is_damaged(self, daemons: Daemons) -> None:
        """A damaged file is told; what was known before it stays, and so do the daemons that are verified."""
        async with verified(daemons) as (agent, files, _):
            files.layout.observed.write_bytes(b"damaged")
            await eventually(lambda: agent.status.reason is MpsReason.UNUSABLE)
            assert agent.status.message == f"cannot use {files.layout.observed}: it has no header"
            assert agent.state() is DaemonState.READY
            files.tell()
            await eventually(lambda: agent.status.reason is MpsReason.RUNNING)


BOTH = replace(FORMATS, desired=Format("mps-desired", reads=(1, 2), writes=(1, 2)))
SECOND = replace(FORMATS, desired=Format("mps-desired", reads=(2,), writes=(2,)))
TELLS_OTHERWISE = replace(FORMATS, observed=Format("mps-observed", reads=(2,), writes=(2,)))


class TestVersions:
    """Agent and host are of different releases: of each kind of file they may know other versions."""

    async def test_what_is_written_is_what_the_host_reads(self, mps_root: Path) -> None:
        """The oldest that it reads, and version 1 for one that does not say; one that is older than what it finds gets
        what it reads, and nothing is written again for one that reads what is there.
        """
        files = Files(mps_root)
        files.come()

        def version() -> int | None:
            return version_of(files.layout.desired.read_bytes())

        async with running(Agent(mps_root, formats=BOTH)) as agent:
            agent.view.want({UUID: CONTRACT})
            await eventually(files.asked)
            assert version() == 1
            files.tell()
            files.formats = SECOND
            files.tell(answers=False)
            await eventually(lambda: version() == 2)
            files.tell()
            await eventually(lambda: agent.status.reason is MpsReason.RUNNING)
            before = files.layout.desired.read_bytes()
            files.formats = BOTH
            files.tell()
            looks = agent.wakes
            agent.view.want({UUID: TIGHTER})
            await eventually(lambda: files.asked() == {UUID: TIGHTER})
            assert version() == 1
            assert agent.wakes >= looks
            assert before != files.layout.desired.read_bytes()
            files.formats = SECOND
            files.tell(answers=False)
            await eventually(lambda: version() == 2)
            files.formats = FORMATS
            files.tell(answers=False)
            await eventually(lambda: version() == 1)
            assert files.asked() == {UUID: TIGHTER}
        files.go()

    async def test_a_host_that_reads_nothing_of_ours(self, mps_root: Path) -> None:
        """What is wanted is written once, in our oldest version, and not again and again."""
        files = Files(mps_root)
        files.come()
        files.formats = SECOND
        files.tell(answers=False)
        async with running(Agent(mps_root)) as agent:
            agent.view.want({UUID: CONTRACT})
            await eventually(files.layout.desired.exists)
            before = files.layout.desired.read_bytes()
            assert version_of(before) == 1
            files.tell(answers=False)
            agent.view.want({})
            await eventually(lambda: files.layout.desired.read_bytes() != before)
            agent.view.want({UUID: CONTRACT})
            await eventually(lambda: decode_desired(files.layout.desired.read_bytes()) == {UUID: CONTRACT})
        files.go()

    async def test_a_host_that_is_not_understood(self, daemons: Daemons) -> None:
        """What it tells is of a version that is not read here: that is said with both versions, nothing new is begun,
        and daemons that it has recorded are asked themselves. So it is for an agent that was there before, which shows
        nothing else meanwhile, and for one that comes.
        """
        async with verified(daemons) as (agent, files, process):
            states: list[DaemonState | None] = []
            agent.watch_states = lambda: states.append(agent.state())
            record = Record(CONTRACT, verified=True)
            atomic.write(files.layout.record(UUID), encode_record(record), sync=False)
            files.formats = TELLS_OTHERWISE
            files.tell()
            await eventually(lambda: agent.status.reason is MpsReason.UNUSABLE)
            assert agent.status.message == (f"cannot use {files.layout.observed}: its version is 2, this agent reads 1")
            async with running(Agent(daemons.root, program=daemons.program)) as other:
                other.view.want({UUID: CONTRACT})
                await eventually(lambda: other.state() is DaemonState.READY)
                assert other.status == agent.status
                files.formats = FORMATS
                files.ready(process)
                await eventually(lambda: other.status.reason is MpsReason.RUNNING)
            assert set(states) <= {DaemonState.READY}

    async def test_a_daemon_of_which_nothing_is_recorded(self, daemons: Daemons) -> None:
        """Nobody knows whether it has had its limits, or another daemon's: it is not relied on."""
        async with verified(daemons) as (_, files, _):
            record = Record(TIGHTER, verified=True)
            for recorded in (None, replace(record, contract=CONTRACT, verified=False), record):
                if recorded is not None:
                    atomic.write(files.layout.record(UUID), encode_record(recorded), sync=False)
                files.formats = TELLS_OTHERWISE
                files.tell()
                async with running(Agent(daemons.root, program=daemons.program)) as other:
                    other.view.want({UUID: CONTRACT})
                    await eventually(lambda: other.status.reason is MpsReason.UNUSABLE)
                    assert other.state() is not DaemonState.READY


class TestLeaving:
    """A GPU is free of MPS only when that is certain."""

    async def test_a_wish_that_was_not_answered(self, mps_root: Path) -> None:
        """A GPU that was asked for and is no longer is not free before the host is known to have read that."""
        files = Files(mps_root)
        files.come()
        files.tell()
        async with running(Agent(mps_root)) as agent:
            await eventually(lambda: agent.status.reason is MpsReason.RUNNING)
            agent.view.want({UUID: CONTRACT})
            await eventually(lambda: files.asked() == {UUID: CONTRACT}, every=0)  # before the agent has looked again
            agent.view.want({})
            assert agent.state() is DaemonState.STOPPING
            await eventually(lambda: files.asked() == {})
            assert agent.state() is DaemonState.STOPPING
            assert agent.said() == "the MPS host has not answered yet"
            files.tell()
            await eventually(lambda: agent.status.daemons == {})
            agent.view.want({OTHER: CONTRACT})
            await eventually(lambda: agent.state(OTHER) is DaemonState.STARTING)
            assert agent.state() is None
        files.go()

    async def test_an_old_answer_to_the_same_wish(self, mps_root: Path) -> None:
        """An answer from before is none, though it was to a wish for the same."""
        files = Files(mps_root)
        files.come()
        files.layout.desired.write_bytes(encode_desired({}))
        files.tell()
        async with running(Agent(mps_root)) as agent:
            await eventually(lambda: agent.status.reason is MpsReason.RUNNING)
            agent.view.want({UUID: CONTRACT})
            await eventually(lambda: files.asked() == {UUID: CONTRACT})
            agent.view.want({})
            await eventually(lambda: files.asked() == {})
            wakes = agent.wakes
            files.problem = "something else that is told"
            told = atomic.read(files.layout.observed)
            assert told is not None
            data = encode_observed(Observed(1, "/dev/shm", files.problem, {}, checksum(encode_desired({}))))
            atomic.write(files.layout.observed, data, sync=False)
            await eventually(lambda: agent.status.message == files.problem)
            assert agent.wakes > wakes
            assert agent.state() is DaemonState.STOPPING
        files.go()

    async def test_nobody_has_read_it(self, mps_root: Path) -> None:
        """Where no host runs and none has begun anything, a GPU is free as soon as nobody could be told otherwise."""
        files = Files(mps_root)
        async with running(Agent(mps_root)) as agent:
            agent.view.want({UUID: CONTRACT})
            await eventually(lambda: agent.state() is DaemonState.STARTING)
            agent.view.want({})
            assert agent.state() is DaemonState.STOPPING  # a host that comes now finds the old wish
            await eventually(lambda: agent.status.daemons == {})
            assert files.asked() == {}

    async def test_what_a_dead_host_has_begun(self, mps_root: Path) -> None:
        """A record, or a compute mode to restore, says that a host has laid hands on a GPU. Where it has gone, the
        driver says in which compute mode; files are removed by nobody.
        """
        files = Files(mps_root)
        files.layout.directory(UUID).mkdir()
        atomic.write(files.layout.record(UUID), encode_record(Record(CONTRACT)), sync=False)
        atomic.write(files.layout.compute_modes, encode_compute_modes({OTHER: ComputeMode.DEFAULT}), sync=False)
        agent = Agent(mps_root)
        agent.modes = {UUID: DriverError("no answer"), OTHER: ComputeMode.EXCLUSIVE_PROCESS}
        async with running(agent):
            agent.view.want({})
            await eventually(lambda: agent.status.left_modes == {UUID: None, OTHER: ComputeMode.EXCLUSIVE_PROCESS})
            assert agent.status.daemons == {}
            agent.modes = {OTHER: ComputeMode.PROHIBITED}
            await eventually(lambda: agent.status.left_modes == {OTHER: ComputeMode.PROHIBITED})
            agent.modes = {}
            await eventually(lambda: agent.status.left_modes == {})
            assert agent.status.daemons == {}

    async def test_a_gpu_without_compute_modes(self, mps_root: Path) -> None:
        """MPS has not changed what is not there."""
        files = Files(mps_root)
        atomic.write(files.layout.compute_modes, encode_compute_modes({UUID: ComputeMode.DEFAULT}), sync=False)
        agent = Agent(mps_root)
        agent.modes = {UUID: None}
        async with running(agent):
            agent.view.want({})
            await eventually(lambda: agent.status.reason is MpsReason.ABSENT and not agent.status.daemons)
            assert agent.status.left_modes == {}

    async def test_a_daemon_that_outlives_its_host(self, daemons: Daemons) -> None:
        """As long as somebody accepts connections where it listens, it is there; then it is not."""
        async with verified(daemons) as (agent, files, process):
            files.go()
            agent.view.want({})
            await eventually(lambda: files.asked() == {})
            await eventually(lambda: agent.status.reason is MpsReason.ABSENT)
            looks = len(agent.needs)
            await eventually(lambda: len(agent.needs) > looks + 5)
            assert UUID in agent.status.daemons
            agent.modes = {UUID: ComputeMode.EXCLUSIVE_PROCESS}
            process.signal(signal.SIGKILL)
            await eventually(lambda: agent.status.daemons == {})
            assert agent.status.left_modes == {UUID: ComputeMode.EXCLUSIVE_PROCESS}
            files.come()
            await eventually(lambda: agent.status.left_modes == {})
            assert UUID in agent.status.daemons, "it is for the host to say"
            files.daemons.clear()
            files.tell()
            await eventually(lambda: agent.status.daemons == {})

    async def test_what_is_asked_for_is_no_remains(self, daemons: Daemons) -> None:
        """A daemon that is wanted and is dead is not ready; its GPU is not free."""
        async with verified(daemons) as (agent, files, process):
            files.go()
            process.signal(signal.SIGKILL)
            await eventually(lambda: agent.state() is DaemonState.FAILED)
            looks = len(agent.needs)
            await eventually(lambda: len(agent.needs) > looks + 5)
            assert agent.state() is DaemonState.FAILED

    async def test_a_wish_that_cannot_be_withdrawn(self, daemons: Daemons) -> None:
        """A host that comes would start the daemon: until the file says otherwise the GPU is not free."""
        async with verified(daemons) as (agent, files, process):
            files.go()
            process.signal(signal.SIGKILL)
            blocked = files.layout.desired.with_name(f".{files.layout.desired.name}.tmp")
            blocked.mkdir()
            agent.view.want({})
            await eventually(lambda: agent.status.reason is MpsReason.UNUSABLE)
            assert UUID in agent.status.daemons
            blocked.rmdir()
            await eventually(lambda: agent.status.daemons == {})


class TestWord:
    """What a host says of itself."""

    async def test_it_is_of_the_host_that_runs(self, mps_root: Path) -> None:
        """A host that says who it is has said what it can do once both files name the same life; what an earlier one
        has said is not believed.
        """
        files = Files(mps_root)
        files.come()
        files.life = "second"
        files.tell()
        files.say(HostWord("first", "0.2.0", gpus={UUID: GpuMeans()}))
        async with running(Agent(mps_root)) as agent:
            await eventually(lambda: agent.status.reason is MpsReason.RUNNING)
            assert agent.status.means == {}
            assert agent.status.host_version == ""
            word = HostWord("second", "0.2.1", "/bin/true", "570", bounded=True, gpus={UUID: GpuMeans("no", 7, 48)})
            files.say(word)
            await eventually(lambda: agent.status.means == word.gpus)
            assert (agent.status.host_version, agent.status.bounded) == ("0.2.1", True)
            files.go()
            await eventually(lambda: agent.status.reason is MpsReason.ABSENT)
            assert agent.status.means == {}

    @pytest.mark.parametrize("bounded", [True, False])
    async def test_a_room_that_the_agent_cannot_see_is_named(self, mps_root: Path, bounded: bool) -> None:
        """Where the host mounts and the agent's pod has the root without propagation, it finds an empty directory: what
        is missing is in the manifest of the agent, and not the daemon.
        """
        files = Files(mps_root)
        files.come()
        files.life = "life"
        files.layout.directory(UUID).mkdir()
        files.say(HostWord("life", "0.2.0", bounded=bounded, gpus={UUID: GpuMeans()}))
        async with running(Agent(mps_root)) as agent:
            agent.view.want({UUID: CONTRACT})
            await eventually(files.asked)
            files.ready(Process(os.getpid(), 1))
            await eventually(lambda: agent.state() is DaemonState.FAILED)
            await eventually(lambda: ("mountPropagation HostToContainer" in agent.said()) is bounded)
            if not bounded:
                assert agent.said() == "nothing listens at its socket"
            files.layout.pipe(UUID).mkdir()
            await eventually(lambda: agent.said() == "nothing listens at its socket")
        files.go()

    async def test_an_older_host(self, mps_root: Path) -> None:
        """It says nothing of itself; what another one has said before it is not about it."""
        files = Files(mps_root)
        files.come()
        files.say(HostWord("other", "0.2.0", gpus={UUID: GpuMeans("no")}))
        async with running(Agent(mps_root)) as agent:
            await eventually(lambda: agent.status.reason is MpsReason.RUNNING)
            assert agent.status.means == {}, "it has told nothing yet, and may be of any version"
            files.tell()
            await eventually(lambda: agent.status.means is None)

    async def test_what_the_host_before_has_told(self, mps_root: Path) -> None:
        """The pid in the lock says whose word the files are: of another host's nothing follows for this one."""
        files = Files(mps_root)
        files.come()
        files.pid = os.getpid() + 1
        files.tell()
        async with running(Agent(mps_root)) as agent:
            await eventually(lambda: agent.status.reason is MpsReason.RUNNING)
            assert agent.status.means == {}

    async def test_a_host_that_can_write_no_more(self, daemons: Daemons) -> None:
        """What it told last is not believed for longer than it takes to tell it anew; a daemon that the agent itself
        finds well goes on.
        """
        files = Files(daemons.root)
        files.come()
        files.life = "one"
        process = daemons.start()
        await daemons.control().set_limits(9216, 25)
        files.layout.desired.write_bytes(encode_desired({UUID: CONTRACT}))
        files.ready(process)
        agent = Agent(daemons.root, program=daemons.program, stale_after=0.5)
        async with running(agent):
            agent.view.want({UUID: CONTRACT})
            await eventually(lambda: agent.state() is DaemonState.READY)
            await eventually(lambda: agent.status.reason is MpsReason.UNUSABLE)
            assert "has not written" in agent.status.message
            assert "no room left" in agent.status.message
            assert agent.state() is DaemonState.READY
            process.signal(signal.SIGKILL)
            await eventually(lambda: agent.state() is DaemonState.FAILED)
            files.beat += 1
            files.daemons.clear()
            files.tell()
            await eventually(lambda: agent.status.reason is MpsReason.RUNNING)
        files.go()


class TestStart:
    """The first word of an agent is a considered one."""

    async def test_pending_first(self, daemons: Daemons) -> None:
        """Until daemons have been asked nothing is known; then all is told at once, in one change."""
        async with verified(daemons):
            pass
        files = Files(daemons.root)
        files.come()
        agent = Agent(daemons.root, program=daemons.program)
        assert agent.status.reason is MpsReason.PENDING
        agent.view.want({UUID: CONTRACT})
        assert agent.status.reason is MpsReason.PENDING
        async with running(agent):
            await eventually(lambda: agent.status.reason is not MpsReason.PENDING)
            assert agent.state() is DaemonState.READY
            assert agent.wakes == 1
        files.go()

    async def test_a_daemon_that_hangs(self, daemons: Daemons) -> None:
        """A daemon that does not answer keeps nobody waiting for longer than two seconds or so."""
        async with verified(daemons) as (_, _, process):
            process.signal(signal.SIGSTOP)
        agent = Agent(daemons.root, program=daemons.program)
        async with running(agent):
            await eventually(lambda: agent.status.reason is MpsReason.ABSENT)
            assert agent.state() is DaemonState.FAILED

    async def test_a_host_that_does_not_answer(self, mps_root: Path) -> None:
        """A host that is silent keeps nobody waiting either; what it was asked for may be under way."""
        files = Files(mps_root)
        files.come()
        files.layout.desired.write_bytes(encode_desired({UUID: CONTRACT}))
        begun = time.monotonic()
        async with running(Agent(mps_root)) as agent:
            agent.view.want({})
            await eventually(lambda: agent.status.reason is MpsReason.RUNNING)
            assert time.monotonic() - begun >= SETTLES_WITHIN
            assert agent.state() is DaemonState.STOPPING
        files.go()

    async def test_a_disk_that_hangs(self, mps_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A disk that does not answer makes MPS unusable within seconds, and does not stop the loop."""
        files, release = Files(mps_root), threading.Event()
        files.come()
        files.go()
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", lambda *_: release.wait(60))
            async with running(Agent(mps_root)) as agent:
                await eventually(lambda: agent.status.reason is MpsReason.UNUSABLE)
                assert "no answer from the disk" in agent.status.message
                release.set()
                await eventually(lambda: agent.status.reason is MpsReason.ABSENT)

    async def test_it_wakes_for_changes_only(self, daemons: Daemons) -> None:
        """A view that looks again and finds the same wakes nobody."""
        async with verified(daemons, look_every=0.01) as (agent, _, _):
            await eventually(lambda: agent.status.reason is MpsReason.RUNNING)
            wakes, looks = agent.wakes, len(agent.needs)
            await eventually(lambda: len(agent.needs) > looks + 20)
            assert agent.wakes == wakes


async def default(_uuid: str) -> ComputeMode | None:
    """A driver of which every GPU is in the compute mode DEFAULT."""
    return ComputeMode.DEFAULT


async def test_off() -> None:
    """Without MPS nothing is wanted, nothing was, and everything is as it is."""
    off = NoMps(Path("/nonexistent"), wake=lambda: None, read_mode=default)
    off.want({UUID: CONTRACT})
    assert off.status.reason is MpsReason.OFF
    assert off.status.daemons.keys() == {UUID}
    assert off.load_wanted() == {}


async def test_off_where_a_host_has_gone(mps_root: Path) -> None:
    """Its daemons are gone, whatever its files say, and are asked for no more; how it left the GPUs is told."""
    files = Files(mps_root)
    files.come()
    files.layout.desired.write_bytes(encode_desired({UUID: CONTRACT, OTHER: CONTRACT}))
    atomic.write(files.layout.compute_modes, encode_compute_modes({OTHER: ComputeMode.DEFAULT}), sync=False)
    files.daemons[UUID] = ObservedDaemon(CONTRACT, DaemonState.FAILED, "it has ended")
    files.tell()
    modes: dict[str, ComputeMode] = {OTHER: ComputeMode.EXCLUSIVE_PROCESS}

    async def mode(uuid: str) -> ComputeMode:
        return modes.get(uuid, ComputeMode.DEFAULT)

    off = NoMps(mps_root, wake=lambda: None, read_mode=mode, look_every=0.02)
    assert off.load_wanted() == {}
    assert off.status.daemons.keys() == {UUID, OTHER}
    run = asyncio.create_task(off.run())
    try:
        await eventually(lambda: off.status.daemons.keys() == {UUID, OTHER})
        files.go()
        await eventually(lambda: off.status.daemons == {})
        assert off.status.left_modes == {OTHER: ComputeMode.EXCLUSIVE_PROCESS}
        await eventually(lambda: files.asked() == {})
        modes.clear()
        await eventually(lambda: off.status.left_modes == {})
    finally:
        run.cancel()
        await asyncio.wait((run,))


async def test_off_where_no_file_tells(mps_root: Path) -> None:
    """A GPU that this agent took over under MPS is looked at when its contract has ended, and not offered before."""
    asked: list[str] = []

    async def mode(uuid: str) -> ComputeMode:
        asked.append(uuid)
        return ComputeMode.EXCLUSIVE_PROCESS

    off = NoMps(mps_root, wake=lambda: None, read_mode=mode, look_every=0.02)
    off.load_wanted()
    run = asyncio.create_task(off.run())
    try:
        off.want({UUID: CONTRACT})
        assert off.status.daemons[UUID].state is DaemonState.STARTING
        off.want({})
        assert off.status.daemons[UUID].state is DaemonState.STOPPING
        await eventually(lambda: off.status.left_modes == {UUID: ComputeMode.EXCLUSIVE_PROCESS})
        assert set(asked) == {UUID}
    finally:
        run.cancel()
        await asyncio.wait((run,))


async def test_a_root_without_room(mps_control: Path) -> None:
    """A real host that cannot write is not believed for long, though its last word says ready; the daemon, which the
    agent finds well, keeps its shares until it dies. With room all is told anew.
    """
    needs_mounts()
    async with Node(mps_control) as node:
        root = node.layout.root
        root.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "small", root], check=True)
        try:
            wanted = {UUIDS[0]: contract()}
            agent = Agent(root, program=mps_control, stale_after=1.0)
            async with running(agent):
                await node.host(replace(QUICK, beats_every=0.1))
                agent.view.want(wanted)
                await node.ready(wanted)
                await eventually(lambda: agent.state(UUIDS[0]) is DaemonState.READY)
                filler = root / "filler"
                with suppress(OSError):
                    filler.write_bytes(bytes(2 << 20))
                await eventually(lambda: agent.status.reason is MpsReason.UNUSABLE)
                assert node.daemon(UUIDS[0]).state is DaemonState.READY
                assert agent.state(UUIDS[0]) is DaemonState.READY
                node.running()[UUIDS[0]].signal(signal.SIGKILL)
                await eventually(lambda: agent.state(UUIDS[0]) is DaemonState.FAILED)
                filler.unlink()
                await node.ready(wanted)
                await eventually(lambda: agent.status.reason is MpsReason.RUNNING)
                await eventually(lambda: agent.state(UUIDS[0]) is DaemonState.READY)
            for host in node.hosts:
                await host.stop()
            await eventually(lambda: end_all(root))
        finally:
            subprocess.run(["umount", "--lazy", root], check=True)
