"""An MPS host as a value in memory, and what the agent sees of it: late, and in any order.

The host takes in the file that the agent writes, and moves each daemon a step at a time. It tells of a daemon before it
begins with it, in the very answer that takes the wish for it in, and until it and what it needed are gone. What it has
told outlives it. The agent sees what it was told some time ago; it believes that a daemon is ready only of one that it
has asked itself, and that something has become of a wish only when an answer is about the file that said so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nodeagent.model.config import Contract
from nodeagent.model.mps import DaemonState, MpsDaemon, MpsReason, MpsStatus
from tests.loop.model_kubelet import ModelKubelet

ROOT = "/run/nodeagent/mps"
TURNED_OUT = (DaemonState.READY, DaemonState.OCCUPIED, DaemonState.FAILED)


@dataclass
class ModelDaemon:
    """What is true of one daemon. `dead`: its process has ended, and the host has not taken note of it. `hindered`: it
    cannot be ended.
    """

    contract: Contract
    state: DaemonState = DaemonState.STARTING
    dead: bool = False
    altered: str = ""
    hindered: bool = False

    @property
    def ready(self) -> bool:
        return self.state is DaemonState.READY and not self.dead


@dataclass(frozen=True)
class Told:
    """What a host has told: of which file, and of which daemons."""

    answers: int = 0
    daemons: Mapping[str, tuple[Contract, DaemonState]] = field(default_factory=dict)


@dataclass
class ModelHost:
    """The host's process, the files between it and the agents (`file`, with the number of its writing), the daemons."""

    kubelet: ModelKubelet
    present: bool = True
    file: dict[str, Contract] | None = None
    written: int = 0
    answers: int = 0
    wishes: dict[str, Contract] = field(default_factory=dict)
    daemons: dict[str, ModelDaemon] = field(default_factory=dict)

    def write(self, wanted: Mapping[str, Contract]) -> None:
        """The agent says anew which daemons there must be."""
        self.file = dict(wanted)
        self.written += 1

    def told(self) -> Told:
        """What is in the file that the host writes."""
        return Told(self.answers, {uuid: (one.contract, one.state) for uuid, one in self.daemons.items()})

    # --- what it does ---

    def reads(self) -> None:
        """Take the newest wishes in."""
        if not self.present or self.file is None:
            return
        self.wishes, self.answers = dict(self.file), self.written
        for uuid, contract in self.wishes.items():
            if uuid not in self.daemons:
                self.daemons[uuid] = ModelDaemon(contract)
        for uuid, one in self.daemons.items():
            if self.wishes.get(uuid) != one.contract and one.state is not DaemonState.STOPPING:
                self._nobody_needs(uuid, one)
                one.state = DaemonState.STOPPING

    def moves(self, uuid: str, outcome: DaemonState = DaemonState.READY) -> None:
        """One step of one daemon; `outcome` is what becomes of a start."""
        one = self.daemons.get(uuid)
        if one is None or not self.present:
            return
        if one.state is DaemonState.STOPPING and one.hindered:
            # Wanted as it is it need not be ended.
            one.state = DaemonState.STARTING if self.wishes.get(uuid) == one.contract else one.state
        elif one.state is DaemonState.STOPPING:
            del self.daemons[uuid]
            if (contract := self.wishes.get(uuid)) is not None:
                self.daemons[uuid] = ModelDaemon(contract)
        elif one.dead:
            one.state, one.dead = DaemonState.FAILED, False
        elif one.state is DaemonState.STARTING:
            one.state = outcome
        elif one.state is DaemonState.READY:
            one.altered = ""
        else:
            one.state = DaemonState.STARTING

    def dies(self) -> None:
        """The host's process ends; its daemons go on."""
        self.present = False

    def returns(self) -> None:
        """Another host finds everything as it was left, but what it had read."""
        self.present = True

    def daemon_dies(self, uuid: str) -> None:
        """A daemon's process ends, and nobody has noticed yet."""
        one = self.daemons.get(uuid)
        if one is not None and one.state in (DaemonState.READY, DaemonState.STARTING):
            one.dead, one.altered = True, ""

    def reboots(self) -> None:
        """Nothing is left of the daemons, their compute modes, and the files between agent and host."""
        self.present, self.file, self.wishes, self.answers = True, None, {}, self.written
        self.daemons.clear()

    def works(self) -> None:
        """All is done that can be done."""
        self.reads()
        for _ in range(4):
            for uuid in sorted(self.daemons):
                self.moves(uuid)

    # --- what must hold ---

    def _nobody_needs(self, uuid: str, one: ModelDaemon) -> None:
        """Shares leave before their daemon: no pod has one, and the kubelet has none that it could give to a pod."""
        resource = one.contract.resource
        for name, share in self.kubelet.held():
            assert share.partition("::")[0] != uuid, f"the daemon of {share} ends, and a pod has it as {name}"
        for share, healthy in self.kubelet.views.get(resource, {}).items():
            assert share.partition("::")[0] != uuid or not healthy, f"the daemon of {share} ends, and it can be given"


class ModelView:
    """What one agent knows of the MPS host, from its own start on."""

    def __init__(self, host: ModelHost) -> None:
        self.host = host
        self.wanted: Mapping[str, Contract] | None = host.file
        self._began = host.written
        self._seen: Told | None = None
        self._open: dict[str, tuple[int, Contract, DaemonState]] = {}

    def looks(self) -> None:
        """Read what the host tells. Nothing is known before it has answered what was asked for last, or is away."""
        told = self.host.told()
        if self._seen is not None:
            self._seen = told
        elif not self.host.present or told.answers >= self._began:
            self._seen = told
            if told.answers < self._began:
                before = {uuid: contract for uuid, (contract, _) in told.daemons.items()}
                self._await(before, self.wanted or {}, self._began)

    def asks(self, wanted: Mapping[str, Contract]) -> None:
        """Ask for these daemons and no others: a file that says so already is not written again."""
        if self.wanted is not None and wanted == self.wanted:
            return
        before, self.wanted = self.wanted or {}, dict(wanted)
        self.host.write(wanted)
        self._await(before, wanted, self.host.written)

    def known(self) -> MpsStatus:
        """What is known now."""
        if self._seen is None:
            return MpsStatus(MpsReason.PENDING, "the host has not been heard of yet")
        daemons = {uuid: self._daemon(uuid, *told) for uuid, told in self._seen.daemons.items()}
        for uuid, (written, contract, state) in self._open.items():
            if written > self._seen.answers:
                daemons[uuid] = MpsDaemon(uuid, contract, state, "the host has not taken note yet")
        reason, message = (MpsReason.RUNNING, "") if self.host.present else (MpsReason.ABSENT, "no host runs")
        return MpsStatus(reason, message, daemons, ROOT, f"{ROOT}/shm")

    def _await(self, before: Mapping[str, Contract], wanted: Mapping[str, Contract], written: int) -> None:
        for uuid in before.keys() | wanted.keys():
            contract = wanted.get(uuid)
            if contract != before.get(uuid):
                state = DaemonState.STOPPING if contract is None else DaemonState.STARTING
                self._open[uuid] = written, contract or before[uuid], state

    def _daemon(self, uuid: str, contract: Contract, state: DaemonState) -> MpsDaemon:
        """READY is what answers now, with the limits of the contract."""
        one = self.host.daemons.get(uuid)
        if one is not None and one.ready and one.contract == contract:
            return MpsDaemon(uuid, contract, DaemonState.READY, altered=one.altered)
        if state is DaemonState.READY:
            return MpsDaemon(uuid, contract, DaemonState.FAILED, "it does not answer")
        hindered = one is not None and one.hindered and state is DaemonState.STOPPING
        return MpsDaemon(uuid, contract, state, f"it is {state.value}", hindered=hindered)
