"""What the node has: its GPUs, as a driver reports them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from nodeagent.model.topology import Topology


class GpuHealth(Enum):
    """What the driver says of a GPU; anything but OK makes every share of it Unhealthy."""

    OK = "ok"
    LOST = "lost"
    HANG = "hang"

    def said(self, of: int = 1) -> str:
        """What one GPU does, or each of several: `GPU 3` … `is lost`, `GPUs 0-7` … `each hang`."""
        one, each = _SAID[self]
        return one if of == 1 else each


_SAID: Final = {
    GpuHealth.OK: ("is ok", "are each ok"),
    GpuHealth.LOST: ("is lost", "are each lost"),
    GpuHealth.HANG: ("hangs", "each hang"),
}


class ComputeMode(Enum):
    """Which processes may use a GPU for compute: any, one at a time (of which MPS makes one for many), or none."""

    DEFAULT = "default"
    EXCLUSIVE_PROCESS = "exclusive-process"
    PROHIBITED = "prohibited"


class DriverError(Exception):
    """A driver, or one of its GPUs, did not do what it was asked for; the message begins with what that was."""


@dataclass(frozen=True, slots=True)
class MigAttributes:
    """What a MIG device is made of, as NVML counts it (`nvmlDeviceAttributes_t`): `memory` in MiB, slices of the GPU
    instance and of the compute instance, and engines, which are shared with the other devices of its GPU instance.
    """

    memory: int
    multiprocessors: int
    slices_gi: int
    slices_ci: int
    engines_copy: int
    engines_decoder: int
    engines_encoder: int
    engines_jpeg: int
    engines_ofa: int


@dataclass(frozen=True, slots=True)
class MigDevice:
    """Which part of a GPU a MIG device is: `parent` is that GPU's uuid, `profile` as in `1g.5gb` or `1c.3g.20gb+me`;
    the instances are the driver's numbers, which XIDs name as well. `attributes` is None where the driver does not say.
    """

    parent: str
    profile: str
    gpu_instance: int
    compute_instance: int
    attributes: MigAttributes | None = None


@dataclass(frozen=True, slots=True)
class Gpu:
    """What shares are made of: one whole GPU, or, where `mig` says so, one MIG device. `memory` is in bytes.

    `index` is, in an inventory, the driver's number, from 0. Of the node's GPUs it is the number that the GPU keeps for
    as long as it is remembered: rules, names and order go by it. Beside it stands `driver_index` then, by which the
    driver and container runtimes call the GPU now; None where the driver does not say so at this moment. `provisional`:
    the kept number was given before the driver had named all GPUs, and may still be set right. A MIG device has the
    numbers of its GPU.

    `compute_capability` is (major, minor). `minor`, `pci_bus_id` and `numa_node` are None where the driver
    does not say; a MIG device has those of its GPU. `message` explains a health other than OK, or why
    the MIG devices of a GPU that is well are not known. `mig_enabled`: this is a
    GPU that can be used through its MIG devices only; `mig_capable`: one that could be divided. `pci_class` is the
    class code of its PCI function (`0x030200`), None where it is not known. `clique` is the part of an NVLink fabric
    that it is attached to, as cluster and number (`b1028956-cfa2-0990-bf4a-5da9abb51763.1`); None where it is to none.
    """

    uuid: str
    index: int
    model: str
    memory: int
    compute_capability: tuple[int, int] | None = None
    minor: int | None = None
    pci_bus_id: str | None = None
    numa_node: int | None = None
    health: GpuHealth = GpuHealth.OK
    message: str = ""
    mig_enabled: bool = False
    mig: MigDevice | None = None
    mig_capable: bool = False
    pci_class: str | None = None
    driver_index: int | None = None
    provisional: bool = False
    clique: str | None = None

    @property
    def renumbered(self) -> bool:
        """Whether the driver now calls it by another number than the one it keeps."""
        return self.driver_index is not None and self.driver_index != self.index

    @property
    def physical(self) -> str:
        """The uuid of the GPU that this is, or is a part of."""
        return self.uuid if self.mig is None else self.mig.parent

    @property
    def older_name(self) -> str:
        """What drivers before R470 call a MIG device, `MIG-GPU-…/7/0`, and files still do; its uuid for a GPU."""
        if self.mig is None:
            return self.uuid
        return f"MIG-{self.mig.parent}/{self.mig.gpu_instance}/{self.mig.compute_instance}"

    @property
    def label(self) -> str:
        """`3` for a GPU, `3:7` for its GPU instance 7, `3:7:1` for a compute instance of it but the first."""
        if self.mig is None:
            return f"{self.index}"
        compute = f":{self.mig.compute_instance}" if self.mig.compute_instance else ""
        return f"{self.index}:{self.mig.gpu_instance}{compute}"

    @property
    def name(self) -> str:
        """How a person calls it: `GPU 3`, `MIG device 3:7`."""
        return f"GPU {self.label}" if self.mig is None else f"MIG device {self.label}"

    @property
    def place(self) -> tuple[int, int, int, str]:
        """Sorts GPUs by index, each followed by its MIG devices."""
        mig = self.mig
        return (
            (self.index, -1, -1, self.uuid)
            if mig is None
            else (self.index, mig.gpu_instance, mig.compute_instance, self.uuid)
        )


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that computes on a GPU. `name` is that of its program without directories, empty where nobody tells.

    `mps`: it is a client of an MPS daemon, or the server that holds the GPU for them, rather than using it directly.
    """

    pid: int
    name: str
    mps: bool


class InventoryReason(Enum):
    """Reasons of the condition InventoryReady."""

    FOUND = "Found"
    PENDING = "Pending"
    DRIVER_MISSING = "DriverMissing"
    DRIVER_ERROR = "DriverError"
    GPU_LOST = "GpuLost"
    GPU_HANGS = "GpuHangs"
    INVALID_FILE = "InvalidFile"


class DriverChange(Enum):
    """What has become of the driver under this process, which a new one in a new container may not find: its device
    nodes were taken away, or it is another version than the library that was loaded.
    """

    TAKEN_AWAY = "taken-away"
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class RenewalNote:
    """For what the agent has ended itself on this boot, how often, when last (in seconds since the boot), and whether
    the driver has been well since then.
    """

    tried: frozenset[str] = frozenset()
    times: int = 0
    ended: float = 0.0
    helped: bool = False


@dataclass(frozen=True, slots=True)
class Vgpu:
    """Whether this is a virtual machine with vGPUs, and the version (`460.16`) and branch (`r460_00`) of its host's
    driver, empty where that does not say.
    """

    present: bool
    host_version: str = ""
    host_branch: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The newest that a driver knows: GPUs by index, each followed by its MIG devices.

    `reason` FOUND means that everything asked was answered. Any other reason comes with a `message`; `gpus` then
    holds what is still known (a bad simulation file keeps the last inventory). `complete` is True when the driver has
    listed all GPUs that it has, so that a GPU that is not among them is lost rather than not yet seen. `counted` is how
    many GPUs the driver has numbers for, of which one that does not answer may not be in `gpus`; None where that is not
    known. `change` is what has become of the driver under this process, and `kernel_version` the version of the driver
    that the kernel has by now, where it says so. `driver_load`
    tells one loading of the kernel driver from the next on the same boot; None where that is not known. `topology` is
    how near whole GPUs are to one another. `vgpu`: whether the node has vGPUs, None where nobody may know.
    """

    gpus: tuple[Gpu, ...] = ()
    driver_version: str | None = None
    cuda_version: str | None = None
    reason: InventoryReason = InventoryReason.PENDING
    message: str = "the driver has not been asked yet"
    complete: bool = False
    driver_load: str | None = None
    topology: Topology = field(default_factory=Topology)
    counted: int | None = None
    vgpu: Vgpu | None = None
    change: DriverChange | None = None
    kernel_version: str | None = None

    @property
    def whole(self) -> bool:
        """Whether every GPU that the driver has a number for has answered, so that all of them are known by now."""
        if not self.complete or self.counted is None:
            return self.complete and self.reason is InventoryReason.FOUND
        return self.counted == sum(gpu.mig is None and gpu.health is GpuHealth.OK for gpu in self.gpus)

    def by_uuid(self) -> dict[str, Gpu]:
        return {gpu.uuid: gpu for gpu in self.gpus}
