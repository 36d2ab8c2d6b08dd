"""Runs one container as the manifests ask for it, without a container runtime: `python -m tests.deploy.container FILE`.

The file is a `Spec` as JSON. The container gets a mount namespace, whose root holds the programs of this machine
read-only and else only what is mounted there; a network namespace, with a loopback; a process namespace, in which it is
process 1 unless it is to have the node's; and the capabilities, the user and the `no_new_privs` that its security
context says. The node's processes are those of that container alone, so that several nodes fit on one machine. A
seccomp profile is not applied. SIGTERM is handed on to the first process. When that has ended, all others of the
container are killed, as a container runtime does, and this program ends with the same code.

It needs root, Linux and util-linux' `setpriv`, and the standard library alone, since it runs before anything is there.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

_NEWNS, _NEWPID, _NEWNET = 0x00020000, 0x20000000, 0x40000000  # sched.h
_RDONLY, _REMOUNT, _BIND, _REC = 1, 32, 4096, 16384  # sys/mount.h
_PROPAGATION = {"None": 1 << 18, "HostToContainer": 1 << 19, "Bidirectional": 1 << 20}
_PR_SET_PDEATHSIG = 1
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

_CAPABILITIES = (
    *("audit_write", "chown", "dac_override", "fowner", "fsetid", "kill", "mknod"),
    *("net_bind_service", "net_raw", "setfcap", "setgid", "setpcap", "setuid", "sys_chroot"),
)
"""What containerd leaves to a container that says nothing about them."""

_SYSTEM = ("bin", "lib", "lib32", "lib64", "sbin", "usr")
_DEVICES = ("full", "null", "random", "urandom", "zero")
_ETC = ("group", "ld.so.cache", "passwd")


@dataclass(frozen=True, slots=True)
class Mount:
    """`source`, a file or directory of the node, at `target` in the container."""

    source: str
    target: str
    read_only: bool = False
    propagation: str = "None"


@dataclass(frozen=True, slots=True)
class Spec:
    """One container. `root` is an empty directory for its root; `image` what it has of this machine beside the system;
    `shared` the mount of the node, of which a mount may be seen by the node.
    """

    root: str
    shared: str
    image: Sequence[str]
    command: Sequence[str]
    environment: dict[str, str]
    mounts: Sequence[Mount] = ()
    uid: int = 0
    gid: int = 0
    host_pid: bool = False
    privileged: bool = False
    no_new_privs: bool = False
    read_only_root: bool = False
    drop_capabilities: bool = False
    add_capabilities: Sequence[str] = ()

    def dump(self) -> str:
        """The text of the file."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Spec:
        """What `dump` gave."""
        values = json.loads(text)
        return cls(**{**values, "mounts": [Mount(**mount) for mount in values["mounts"]]})


def main(spec: Spec) -> int:
    """Run it; the exit code of its first process."""
    _call("unshare", _NEWNS | _NEWNET | _NEWPID)
    _make_private(except_for=spec.shared)
    _raise_loopback()
    _make_root(spec)
    first = os.fork()
    if first == 0:
        _be_process_1(spec)
    return _attend(first)


def _be_process_1(spec: Spec) -> NoReturn:
    """Process 1 of the process namespace: the container's first one, or the node's, whose child that is."""
    code = 127
    try:
        _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _mount("proc", Path(spec.root, "proc"), 0, "proc")
        first = os.fork() if spec.host_pid else 0
        if first == 0:
            _become(spec)
        code = _attend(first)
    except BaseException as error:  # noqa: BLE001 - whatever it is, this copy of the runner must not go on
        sys.stderr.write(f"cannot start the container: {error}\n")
    finally:
        os._exit(code)  # which kills all that are left in the namespace


def _attend(first: int) -> int:
    """Hand SIGTERM on to a child, and reap, until it has ended; what it ended with."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(first, signal.SIGTERM))
    while True:
        pid, status = os.wait()
        if pid == first:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return os.waitstatus_to_exitcode(status)


def _make_private(*, except_for: str) -> None:
    """What is mounted here is seen by nobody else, but what is mounted on the node."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        point = line.split(" ")[4].encode().decode("unicode_escape")
        if not Path(point).is_relative_to(except_for):
            _mount(None, point, _PROPAGATION["None"])


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def _make_root(spec: Spec) -> None:
    root = Path(spec.root)
    _mount("root", root, 0, "tmpfs")
    for name in _SYSTEM:
        there = Path("/", name)
        if there.is_symlink():
            (root / name).symlink_to(there.readlink())
        elif there.is_dir():
            _bind(Mount(str(there), str(there), read_only=True), root)
    for path in spec.image:
        if not _inside(root, path).exists():
            _bind(Mount(path, path, read_only=True), root)
    for name in _DEVICES:
        _bind(Mount(f"/dev/{name}", f"/dev/{name}"), root)
    for name in ("dev/shm", "etc", "proc", "sys", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in _ETC:
        with suppress(FileNotFoundError):
            shutil.copy(Path("/etc", name), root / "etc" / name)
    _mount("shm", root / "dev/shm", 0, "tmpfs")
    for mount in sorted(spec.mounts, key=lambda mount: mount.target):
        _bind(mount, root)
    if spec.read_only_root:
        _mount(None, root, _REMOUNT | _BIND | _RDONLY)


def _inside(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _bind(mount: Mount, root: Path) -> None:
    target = _inside(root, mount.target)
    if Path(mount.source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount(mount.source, target, _BIND | _REC)
    _mount(None, target, _PROPAGATION[mount.propagation] | _REC)
    if mount.read_only:
        _mount(None, target, _REMOUNT | _BIND | _RDONLY)


def _become(spec: Spec) -> None:
    """Be the first process of the container."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chroot(spec.root)
    os.chdir("/")
    command = [*with_rights(spec), *spec.command]
    os.execvpe(command[0], command, spec.environment)  # noqa: S606 - a shell would be another process


def with_rights(spec: Spec) -> list[str]:
    """What to put before a command so that it runs with the rights of this container, and no others."""
    given = [f"--reuid={spec.uid}", f"--regid={spec.gid}", "--clear-groups"]
    if spec.no_new_privs:
        given.append("--no-new-privs")
    if not spec.privileged:
        kept = {*(() if spec.drop_capabilities else _CAPABILITIES), *map(str.lower, spec.add_capabilities)}
        given += [f"--bounding-set={','.join(['-all', *(f'+{name}' for name in sorted(kept))])}", "--inh-caps=-all"]
    return ["setpriv", *given, "--"]


def _mount(source: str | None, target: Path | str, flags: int, kind: str | None = None) -> None:
    names = [None if name is None else os.fsencode(name) for name in (source, target, kind)]
    _call("mount", *names, ctypes.c_ulong(flags), None, path=target)


def _call(function: str, *arguments: object, path: Path | str | None = None) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}", None if path is None else str(path))


if __name__ == "__main__":
    sys.exit(main(Spec.load(Path(sys.argv[1]).read_text(encoding="utf-8"))))
