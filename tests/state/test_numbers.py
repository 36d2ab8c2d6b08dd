"""The number that a GPU keeps, and what a container runtime is told, over histories of a real node.

The machine is a node with slots in the order of their PCI addresses. As NVIDIA's driver does, the driver here counts
the GPUs in that order, those that do not answer too, but not those that have dropped out. Minor numbers are given at
boot, in the same order, and stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from nodeagent.devices.looking import Fault, assemble
from nodeagent.model.allocation import ContainerGrant, Refused
from nodeagent.model.handover import HandOver, HandOverReason, HostFiles, IdStrategy, ListStrategy
from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, InventoryReason, MigDevice
from nodeagent.model.plan import Forget, Remember
from nodeagent.model.shares import Applied
from nodeagent.state import plan as planning
from nodeagent.state.effect import perform
from nodeagent.state.grants import grant
from nodeagent.state.handing import readiness
from nodeagent.state.nodegpus import node_gpus, unseen
from nodeagent.state.observed import Observed
from nodeagent.store import codec

BY_INDEX = [
    HandOver(strategies=frozenset({strategy}), id_strategy=IdStrategy.INDEX, device_specs=True)
    for strategy in ListStrategy
]
HOST = HostFiles(looked=True)


@dataclass
class Node:
    """The real thing: GPUs by slot, and how each does. What the agent knows of it is in `applied` and `inventory`."""

    slots: dict[int, str] = field(default_factory=dict)
    ill: dict[str, GpuHealth] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    divided: set[str] = field(default_factory=set)
    minors: dict[str, int] = field(default_factory=dict)
    specification: dict[str, int] = field(default_factory=dict)
    driver: InventoryReason = InventoryReason.FOUND
    inventory: Inventory = field(default_factory=Inventory)
    applied: Applied = field(default_factory=Applied)
    gpus: tuple[Gpu, ...] = ()

    def order(self) -> list[str]:
        """The driver's GPUs: the index of each is its place in this list."""
        return [self.slots[slot] for slot in sorted(self.slots) if self.slots[slot] not in self.dropped]

    def look(self) -> None:
        """The driver looks, and the agent takes that in."""
        if self.driver is InventoryReason.FOUND:
            answers = [self._ask(index, uuid) for index, uuid in enumerate(self.order())]
            self.inventory = assemble(
                [gpu for answer in answers if isinstance(answer, tuple) for gpu in answer],
                [answer for answer in answers if isinstance(answer, Fault)],
                known=self.inventory.gpus,
            )
        else:
            gpus = self.inventory.gpus
            if self.driver is InventoryReason.DRIVER_MISSING:
                gpus = tuple(replace(gpu, health=GpuHealth.LOST) for gpu in gpus)
            self.inventory = replace(self.inventory, gpus=gpus, reason=self.driver, complete=False)
        self.gpus = node_gpus(self.inventory, self.applied)
        seen = Observed(
            now=0.0, gpus=self.gpus, listed=frozenset(self.inventory.by_uuid()), applied=self.applied, decided_at=0.0
        )
        known = [action for action in planning.plan(None, seen).actions if isinstance(action, Remember | Forget)]
        self.applied = perform(self.applied, known, 0.0)

    def _ask(self, index: int, uuid: str) -> tuple[Gpu, ...] | Fault:
        if uuid in self.ill:
            return Fault(index, self.ill[uuid], "no answer")
        gpu = Gpu(uuid, index, "H100", 80, minor=self.minors[uuid], mig_enabled=uuid in self.divided)
        part = replace(gpu, uuid=f"MIG-{uuid}", mig_enabled=False, mig=MigDevice(uuid, "1g.10gb", 7, 0))
        return (gpu, part) if uuid in self.divided else (gpu,)

    def restart(self) -> None:
        """Another agent process, which knows what is on disk."""
        self.applied = codec.decode_applied(codec.encode_applied(self.applied), 0.0)
        self.inventory = Inventory()
        self.gpus = node_gpus(self.inventory, self.applied)

    def boot(self) -> None:
        """The machine is started anew: minors are given out, and no GPU is known to be there."""
        self.minors = {uuid: minor for minor, uuid in enumerate(self.order())}
        self.restart()
        self.applied = unseen(self.applied)
        self.gpus = node_gpus(self.inventory, self.applied)

    def make_specification(self) -> None:
        """The container toolkit writes down which device node each index stands for now."""
        self.specification = {f"{index}": self.minors[uuid] for index, uuid in enumerate(self.order())}

    def numbers(self) -> dict[str, int]:
        """The number that each whole GPU keeps."""
        return {gpu.uuid: gpu.index for gpu in self.gpus if gpu.mig is None}


def started(*uuids: str) -> Node:
    """A node that has these GPUs in its slots, and an agent that knows them."""
    node = Node(dict(enumerate(uuids)))
    node.boot()
    node.look()
    return node


def rebooted(node: Node) -> Node:
    """After a reboot, when the driver has looked."""
    node.boot()
    node.look()
    return node


def told(node: Node, uuid: str, handover: HandOver) -> tuple[str, ...] | None:
    """The GPUs that a runtime gives to a container with this one, as the driver counts now; None if it is refused."""
    (gpu,) = (one for one in node.gpus if one.uuid == uuid)
    if gpu.health is not GpuHealth.OK:
        return None  # `allocate` refuses it as unhealthy
    minors = {f"nvidia.com/gpu={name}": frozenset({minor}) for name, minor in node.specification.items()}
    try:
        found = grant([gpu], handover, replace(HOST, cdi_minors=minors), resource="nvidia.com/gpu", shares=[uuid])
    except Refused:
        return None
    return resolved(node, found)


def resolved(node: Node, found: ContainerGrant) -> tuple[str, ...]:
    """What a container runtime makes of an answer by index: every place in which it names a GPU. A CDI name stands for
    what the specification says, where that has it.
    """
    cdi = [name.rpartition("=")[2] for name in found.cdi_devices]
    cdi += [name.rpartition("=")[2] for text in found.annotations.values() for name in text.split(",")]
    visible = found.envs.get("NVIDIA_VISIBLE_DEVICES", "")
    names = [name for name in cdi if name not in node.specification]
    names += visible.split(",") if visible and not visible.startswith("/") else []
    names += [mount.container_path.rpartition("/")[2] for mount in found.mounts]
    by_minor = {minor: uuid for uuid, minor in node.minors.items()}
    numbers = [f"{node.specification[name]}" for name in cdi if name in node.specification]
    nodes = numbers + [device.host_path.removeprefix("/dev/nvidia") for device in found.devices]
    order = node.order()
    return (*(order[int(name)] for name in names), *(by_minor[int(number)] for number in nodes if number.isdecimal()))


@pytest.mark.parametrize("handover", BY_INDEX, ids=lambda handover: next(iter(handover.strategies)).value)
def test_a_container_gets_its_gpu_when_another_one_is_gone(handover: HandOver) -> None:
    """U0 drops out, and is taken out later: for the driver U1 is 0 then, while it keeps the number 1 here. A container
    with U1 is given 0; after a start nothing, until the driver has reported it.
    """
    node = started("U0", "U1", "U2", "U3")
    node.dropped.add("U0")
    node.look()
    assert node.numbers() == {"U0": 0, "U1": 1, "U2": 2, "U3": 3}
    assert all(set(told(node, uuid, handover) or ()) == {uuid} for uuid in ("U1", "U2", "U3"))
    del node.slots[0]
    for start in (node.restart, node.boot):
        start()
        assert all(told(node, uuid, handover) is None for uuid in ("U1", "U2", "U3"))
        reason, message = readiness(handover, HOST, node.gpus[1:])
        assert reason is HandOverReason.INDEX_UNKNOWN
        assert message == (
            "the driver does not report the current index of GPUs 1-3, and until it does containers are refused"
        )
        node.look()
        assert all(set(told(node, uuid, handover) or ()) == {uuid} for uuid in ("U1", "U2", "U3"))
    assert node.numbers() == {"U1": 1, "U2": 2, "U3": 3}


@pytest.mark.parametrize("handover", BY_INDEX, ids=lambda handover: next(iter(handover.strategies)).value)
def test_when_the_driver_counts_the_other_way_round(handover: HandOver) -> None:
    """Rules go on meaning the same GPUs, and each container gets its own."""
    node = started("U0", "U1", "U2", "U3")
    node.slots = dict(enumerate(["U3", "U2", "U1", "U0"]))
    rebooted(node)
    assert node.numbers() == {"U0": 0, "U1": 1, "U2": 2, "U3": 3}
    assert [gpu.driver_index for gpu in node.gpus] == [3, 2, 1, 0]
    assert all(set(told(node, uuid, handover) or ()) == {uuid} for uuid in node.order())


def test_a_specification_from_before_gives_nobody_another_gpu() -> None:
    """It says what each index stood for when it was made. Who would get another GPU is refused until that is new."""
    cdi = BY_INDEX[-1]
    node = started("U0", "U1", "U2")
    node.make_specification()
    assert set(told(node, "U1", cdi) or ()) == {"U1"}
    node.dropped.add("U0")
    node.look()
    assert told(node, "U1", cdi) is None
    node.make_specification()
    assert set(told(node, "U1", cdi) or ()) == {"U1"}


def test_a_gpu_that_returns_has_its_number() -> None:
    """Lost and back, in its slot or in another one."""
    node = started("U0", "U1", "U2", "U3")
    node.dropped.add("U1")
    node.look()
    node.dropped.clear()
    node.look()
    assert [(gpu.index, gpu.driver_index) for gpu in node.gpus] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    node.slots = dict(enumerate(["U1", "U0", "U2", "U3"]))
    rebooted(node)
    assert [(gpu.index, gpu.driver_index) for gpu in node.gpus] == [(0, 1), (1, 0), (2, 2), (3, 3)]


def test_a_gpu_in_the_place_of_another_one_gets_its_number() -> None:
    """Across a reboot, while all others are well."""
    node = started("U0", "U1", "U2", "U3")
    node.slots[1] = "N1"
    assert rebooted(node).numbers() == {"U0": 0, "N1": 1, "U2": 2, "U3": 3}


@pytest.mark.parametrize("restarts", [False, True])
def test_a_gpu_that_is_replaced_while_another_one_hangs(restarts: bool) -> None:
    """The one that hangs may be the one that is missing, so that the new one gets a number of its own at first; when
    all have answered it gets the one that is free, also by an agent that was started meanwhile.
    """
    node = started("U0", "U1", "U2", "U3")
    node.slots[3] = "N3"
    node.ill["U2"] = GpuHealth.HANG
    rebooted(node)
    assert node.numbers() == {"U0": 0, "U1": 1, "U2": 2, "U3": 3, "N3": 4}
    if restarts:
        node.restart()
    node.ill.clear()
    node.look()
    assert node.numbers() == {"U0": 0, "U1": 1, "U2": 2, "N3": 3}
    assert not any(gpu.provisional for gpu in node.gpus)


def test_all_gpus_are_replaced_while_one_hangs() -> None:
    """None gets the number of one that may be there still; in the end all have the driver's."""
    node = started("U0", "U1", "U2", "U3")
    node.slots = {slot: f"N{slot}" for slot in range(4)}
    node.ill["N2"] = GpuHealth.HANG
    rebooted(node)
    assert node.numbers() == {"U0": 0, "U1": 1, "U2": 2, "U3": 3, "N0": 4, "N1": 5, "N3": 6}
    node.ill.clear()
    node.look()
    assert node.numbers() == {"N0": 0, "N1": 1, "N2": 2, "N3": 3}


def test_a_gpu_that_comes_while_one_is_lost_moves_when_that_is_gone() -> None:
    """Whether the lost one comes back is known after the next reboot; until then its number is its own."""
    node = started("U0", "U1")
    node.slots[1] = "N1"
    node.minors["N1"] = 7
    node.look()
    assert node.numbers() == {"U0": 0, "U1": 1, "N1": 2}
    assert rebooted(node).numbers() == {"U0": 0, "N1": 1}


def test_the_first_gpu_hangs_from_the_start_and_then_drops_out() -> None:
    """The others have the driver's numbers by then, and keep them: nothing else could have had these."""
    node = Node({0: "U0", 1: "U1", 2: "U2"}, ill={"U0": GpuHealth.HANG})
    rebooted(node)
    assert node.numbers() == {"U1": 1, "U2": 2}
    del node.slots[0]
    assert rebooted(node).numbers() == {"U1": 1, "U2": 2}


def test_a_driver_that_is_missing_at_first_and_counts_otherwise_then() -> None:
    """Without a driver nothing is handed out; what was remembered of its numbers is not believed."""
    node = started("U0", "U1", "U2")
    node.slots = dict(enumerate(["U2", "U0", "U1"]))
    node.driver = InventoryReason.DRIVER_MISSING
    rebooted(node)
    assert {(gpu.driver_index, gpu.minor, gpu.health) for gpu in node.gpus} == {(None, None, GpuHealth.LOST)}
    node.driver = InventoryReason.FOUND
    node.look()
    assert [(gpu.uuid, gpu.driver_index, gpu.minor) for gpu in node.gpus] == [("U0", 1, 1), ("U1", 2, 2), ("U2", 0, 0)]


def test_while_the_driver_cannot_be_asked_nothing_goes_by_index() -> None:
    """What it said before may be over. Nothing says so of the GPUs themselves, which can be had by uuid."""
    node = started("U0", "U1")
    node.driver = InventoryReason.DRIVER_ERROR
    node.look()
    assert all(told(node, uuid, handover) is None for uuid in ("U0", "U1") for handover in BY_INDEX)
    assert {gpu.health for gpu in node.gpus} == {GpuHealth.OK}


def test_mig_devices_have_both_numbers_of_their_gpu() -> None:
    """Also when it moves, and when it gets a number for good."""
    node = started("U0", "U1", "U2")
    node.slots[2] = "N2"
    node.divided = {"U1", "N2"}
    node.ill["U0"] = GpuHealth.HANG
    rebooted(node)
    both = {gpu.uuid: (gpu.index, gpu.driver_index) for gpu in node.gpus}
    assert both["MIG-U1"] == both["U1"] == (1, 1)
    assert both["MIG-N2"] == both["N2"] == (3, 2)
    node.ill.clear()
    node.look()
    both = {gpu.uuid: (gpu.index, gpu.driver_index) for gpu in node.gpus}
    assert both["MIG-N2"] == both["N2"] == (2, 2)


UUIDS = st.sampled_from([f"U{number}" for number in range(4)])
SLOTS = st.integers(0, 5)


class Histories(RuleBasedStateMachine):
    """Everything that can happen to the GPUs of a node, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.node = started("U0", "U1", "U2", "U3")
        self.kept = self.node.numbers()
        self.fresh = 4

    def _present(self, among: Iterable[str] | None = None) -> list[str]:
        return sorted(self.node.slots.values() if among is None else among)

    @rule(data=st.data(), health=st.sampled_from([GpuHealth.HANG, GpuHealth.LOST]))
    @precondition(lambda self: self.node.slots)
    def falls_ill(self, data: st.DataObject, health: GpuHealth) -> None:
        """A GPU does not answer any more."""
        self.node.ill[data.draw(st.sampled_from(self._present()))] = health
        self.node.look()

    @rule(data=st.data())
    @precondition(lambda self: self.node.slots)
    def drops_out(self, data: st.DataObject) -> None:
        """The driver does not count a GPU any more."""
        self.node.dropped.add(data.draw(st.sampled_from(self._present())))
        self.node.look()

    @rule(data=st.data())
    @precondition(lambda self: self.node.ill or self.node.dropped)
    def recovers(self, data: st.DataObject) -> None:
        """A GPU is back."""
        uuid = data.draw(st.sampled_from(self._present({*self.node.ill, *self.node.dropped})))
        self.node.ill.pop(uuid, None)
        self.node.dropped.discard(uuid)
        if uuid in self.node.slots.values() and uuid not in self.node.minors:
            self.node.minors[uuid] = max(self.node.minors.values(), default=-1) + 1
        self.node.look()

    @rule()
    def heals(self) -> None:
        """All are back, and the driver with them, after a reboot."""
        self.node.ill.clear()
        self.node.dropped.clear()
        self.node.driver = InventoryReason.FOUND
        rebooted(self.node)
        # The node has numbers for all, and none is open.
        numbers = self.node.numbers()
        assert set(numbers) == set(self.node.slots.values())
        assert not any(gpu.provisional for gpu in self.node.gpus)
        assert all(number < len(numbers) for uuid, number in numbers.items() if uuid not in self.kept)

    @rule(data=st.data())
    @precondition(lambda self: self.node.slots)
    def is_divided(self, data: st.DataObject) -> None:
        """MIG is enabled on a GPU, or disabled."""
        self.node.divided ^= {data.draw(st.sampled_from(self._present()))}
        self.node.look()

    @rule(slot=SLOTS)
    def is_replaced(self, slot: int) -> None:
        """Another GPU comes into a slot, while the machine is off."""
        self.node.slots[slot] = f"U{self.fresh}"
        self.fresh += 1
        rebooted(self.node)

    @rule(slot=SLOTS)
    def is_taken_out(self, slot: int) -> None:
        """A slot is empty, after a reboot."""
        self.node.slots.pop(slot, None)
        rebooted(self.node)

    @rule(order=st.permutations(range(6)))
    def are_reordered(self, order: list[int]) -> None:
        """The machine's firmware gives the slots other addresses."""
        self.node.slots = {order[slot]: uuid for slot, uuid in self.node.slots.items()}
        rebooted(self.node)

    @rule(reason=st.sampled_from([InventoryReason.DRIVER_MISSING, InventoryReason.DRIVER_ERROR, InventoryReason.FOUND]))
    def driver(self, reason: InventoryReason) -> None:
        """The driver goes or comes, or cannot be asked for a while."""
        self.node.driver = reason
        self.node.look()

    @rule()
    def reboots(self) -> None:
        """The machine is started anew, whatever state its GPUs are in."""
        rebooted(self.node)

    @rule()
    def makes_specification(self) -> None:
        """CDI devices mean what they should, as long as nothing changes."""
        self.node.make_specification()

    @rule(looks=st.booleans())
    def restarts(self, looks: bool) -> None:
        """The agent is started anew; for a while it has not heard of the driver."""
        self.node.restart()
        if looks:
            self.node.look()

    @invariant()
    def numbers_are_unique_and_stay(self) -> None:
        """No two GPUs have one number. One that was given for good is never another GPU's, nor the GPU's another, as
        long as that is a GPU of this node.
        """
        numbers = self.node.numbers()
        assert len(set(numbers.values())) == len(numbers)
        assert all(numbers[uuid] == number for uuid, number in self.kept.items() if uuid in numbers)
        self.kept = {gpu.uuid: gpu.index for gpu in self.node.gpus if gpu.mig is None and not gpu.provisional}

    @invariant()
    def the_drivers_number_is_the_drivers(self) -> None:
        """It is what the driver says, or nothing, and a MIG device has both numbers of its GPU."""
        order = self.node.order()
        whole = {gpu.uuid: gpu for gpu in self.node.gpus if gpu.mig is None}
        for gpu in self.node.gpus:
            assert gpu.driver_index is None or order[gpu.driver_index] == gpu.physical
            assert gpu.driver_index is None or self.node.driver is InventoryReason.FOUND
            assert gpu.index == whole[gpu.physical].index
            assert gpu.driver_index is None or gpu.driver_index == whole[gpu.physical].driver_index
        if self.node.inventory.complete:
            answering = {uuid for uuid in order if uuid not in self.node.ill}
            assert answering == {uuid for uuid, gpu in whole.items() if gpu.driver_index is not None}

    @invariant()
    def a_container_gets_its_gpu_or_nothing(self) -> None:
        """Whatever a runtime is told by, it comes to the GPU that was allocated."""
        for gpu in self.node.gpus:
            if gpu.mig is None:
                for handover in BY_INDEX:
                    assert set(told(self.node, gpu.uuid, handover) or ()) <= {gpu.uuid}


def test_histories() -> None:
    """All of this holds over any history."""
    run_state_machine_as_test(Histories, settings=settings(max_examples=150, stateful_step_count=25, deadline=None))
