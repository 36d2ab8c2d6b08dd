"""What it means that the kernel refuses: its own words, and what usually helps.

`Permission denied` has several masters. A mode or an owner, a capability that is missing, SELinux or AppArmor: from
inside one looks like the other, and each is put right somewhere else. So whoever reports a refusal reports what can be
known of them here, and which directory it was that refused.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DENIED: Final = frozenset({errno.EACCES, errno.EPERM})

UNWRITABLE: Final = DENIED | {errno.EROFS, errno.ENOSPC, errno.EDQUOT}
"""Errors that say of a directory that nothing can be made in it."""

_HELP: Final[Mapping[int, str]] = {
    errno.EADDRINUSE: "something else has it already",
    errno.ECONNREFUSED: "nobody listens: whoever made the socket has ended, or does not listen yet",
    errno.EDQUOT: "a quota is used up there",
    errno.EIO: "the disk or its connection fails, see dmesg",
    errno.ELOOP: "it is a loop of links",
    errno.EMFILE: "this process has as many files open as it may",
    errno.ENAMETOOLONG: "a name in the path is too long",
    errno.ENFILE: "the node has as many files open as it may",
    errno.ENOSPC: "no room or no inode is left there, see df -h and df -i",
    errno.ENOTCONN: "whoever serves what is mounted there has ended; only a new mount helps",
    errno.ENOTDIR: "a part of the path is no directory",
    errno.EPROTOTYPE: "it is a socket of another kind",
    errno.EROFS: "mounted with readOnly, or made read-only by the kernel after errors of the disk, see dmesg",
    errno.ESTALE: "what was mounted there has gone; only a new mount helps",
    errno.ETIMEDOUT: "no answer in time",
}

_SELINUX_CONTEXT: Final = re.compile(r"[^:\s]+:[^:\s]+:([^:\s]+)(:.*)?")
_APPARMOR_PROFILE: Final = re.compile(r"(.+) \(enforce\)")
_UNCONFINED: Final = frozenset({"unconfined", "kernel_t", "spc_t", "unconfined_t", "unconfined_service_t"})
_DAC_OVERRIDE: Final = 1 << 1  # capabilities(7)


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it is read what confines this process; `user` is by whom it is (its own effective user)."""

    root: Path = Path("/")
    user: int | None = None

    def suspects(self) -> list[str]:
        """What may have denied something to this process, as far as it can be seen from inside."""
        found = []
        user = os.geteuid() if self.user is None else self.user
        if user != 0:
            found.append(f"this process is user {user} and not root")
        elif self._lacks_override():
            found.append("without the capability DAC_OVERRIDE root is bound to modes and owners too")
        if (confined := self._confined()) is not None:
            found.append(confined)
        return found

    def _confined(self) -> str | None:
        """SELinux or AppArmor, where one of them may deny this process something. In most containers only the label of
        the process says that SELinux is on, not whether it enforces.
        """
        label = self._read("proc/self/attr/current").strip("\0\n ")
        enforce = self._read("sys/fs/selinux/enforce").strip("\0\n ")
        context = _SELINUX_CONTEXT.fullmatch(label)
        if enforce == "0" or (context is not None and context[1] in _UNCONFINED):
            return None
        if enforce == "1" or context is not None:
            how = "is enforcing" if enforce == "1" else "is on"
            whom = f" and confines this process as {context[1]}" if context is not None else ""
            return f"SELinux {how}{whom}: see the component selinux, and ausearch -m avc on the node"
        profile = _APPARMOR_PROFILE.fullmatch(label)
        if profile is not None:
            return f"AppArmor confines this process by the profile {profile[1]}, see dmesg on the node"
        return None

    def _lacks_override(self) -> bool:
        found = re.search(r"^CapEff:\s*([0-9a-f]+)$", self._read("proc/self/status"), re.MULTILINE)
        return found is not None and not int(found[1], 16) & _DAC_OVERRIDE

    def _read(self, name: str) -> str:
        try:
            return (self.root / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


HERE: Final = Machine()
"""This process on this machine."""


def words(error: OSError, path: Path | None = None, *, machine: Machine = HERE) -> str:
    """What an error says, its name, and what usually helps; with a `path`, which directory on the way there denied it.

    `Permission denied (EACCES) by /var/lib/kubelet: this process is user 65534 and not root`. The path itself is for
    the caller to name. An error that has words of its own keeps them. They are the same as long as nothing changes.
    """
    number, said = error.errno, error.strerror or str(error)
    if number is None or said != os.strerror(number):
        return said
    named = f"{said} ({errno.errorcode.get(number, number)})"
    if number in DENIED:
        above = _denier(path) if path is not None else None
        suspects = machine.suspects()
        named = f"{named} by {above}" if above is not None else named
        return f"{named}: {'; '.join(suspects)}" if suspects else named
    return f"{named}: {_HELP[number]}" if number in _HELP else named


def named(error: OSError) -> str:
    """The same behind the path that the error itself names, if it names one."""
    return f"{error.filename}: {words(error)}" if error.filename else words(error)


def kind(mode: int) -> str:
    """What there is, by the mode that `stat` tells."""
    return _KINDS.get(stat.S_IFMT(mode), "something else")


_KINDS: Final[Mapping[int, str]] = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _denier(path: Path) -> Path | None:
    """The directory on the way to `path` that lets us not through to what is in it; None where it is not that."""
    above: Path | None = None
    for one in (*reversed(path.absolute().parents), path):
        try:
            one.stat()
        except PermissionError:
            return above
        except OSError:
            return None
        above = one
    return None
