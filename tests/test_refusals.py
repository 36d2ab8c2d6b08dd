"""What the kernel refuses is told by its name, with what confines this process and what usually helps."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nodeagent.refusals import Machine, named, words
from tests.denied import as_nobody, open_directory

CONTAINER = "system_u:system_r:container_t:s0:c14,c27"


def error(number: int) -> OSError:
    """As the kernel's refusals come."""
    return OSError(number, os.strerror(number))


def machine(root: Path, *, label: str = "", enforce: str = "", capabilities: str = "1ffffffffff") -> Machine:
    """A machine that looks so from inside a process of root."""
    files = {
        "proc/self/attr/current": label,
        "sys/fs/selinux/enforce": enforce,
        "proc/self/status": f"Name:\tpython3\nCapEff:\t{capabilities}\n",
    }
    for name, content in files.items():
        if content:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
    return Machine(root, user=0)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ECONNREFUSED, "Connection refused (ECONNREFUSED): nobody listens"),
        (errno.EROFS, "Read-only file system (EROFS): mounted with readOnly, or made read-only by the kernel"),
        (errno.ENOSPC, "No space left on device (ENOSPC): no room or no inode is left there"),
        (errno.EDQUOT, "Disk quota exceeded (EDQUOT): a quota is used up"),
        (errno.ENOTDIR, "Not a directory (ENOTDIR): a part of the path is no directory"),
        (errno.ELOOP, "Too many levels of symbolic links (ELOOP): it is a loop of links"),
        (errno.ETIMEDOUT, "Connection timed out (ETIMEDOUT): no answer in time"),
        (errno.EIO, "Input/output error (EIO): the disk or its connection fails"),
        (errno.ESTALE, "Stale file handle (ESTALE): what was mounted there has gone"),
        (errno.ENOENT, "No such file or directory (ENOENT)"),
        (errno.EISDIR, "Is a directory (EISDIR)"),
    ],
)
def test_each_error_has_its_name_and_what_helps(number: int, said: str) -> None:
    """The kernel's words come first, so that they can be searched for; then its name; then what it usually is."""
    assert words(error(number)).startswith(said)


def test_words_of_ones_own_are_kept() -> None:
    """What somebody has put into words already is not explained a second time, nor what is no error of the kernel."""
    assert words(OSError(errno.EROFS, "cannot use state directory: it was deleted")) == (
        "cannot use state directory: it was deleted"
    )
    assert words(OSError("AF_UNIX path too long")) == "AF_UNIX path too long"
    assert words(OSError(5555, os.strerror(5555))) == "Unknown error 5555 (5555)"


def test_the_path_comes_first() -> None:
    """Where an error names one it stands before the words, and no number of the kernel's is shown."""
    lock = OSError(errno.EACCES, "cannot lock file: denied", "/state/lock")
    assert named(lock) == "/state/lock: cannot lock file: denied"
    assert named(OSError(errno.EINVAL, "expected host:port, got 'foo'")) == "expected host:port, got 'foo'"
    assert named(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "git")) == (
        "git: No such file or directory (ENOENT)"
    )


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_selinux_is_named_where_it_enforces(tmp_path: Path, number: int) -> None:
    """With the type by which it confines this process, and where to look."""
    said = words(error(number), machine=machine(tmp_path, label=CONTAINER + "\0", enforce="1"))
    assert "SELinux is enforcing and confines this process as container_t" in said
    assert "component selinux" in said


def test_selinux_is_named_where_only_the_label_shows_it(tmp_path: Path) -> None:
    """In most containers there is no /sys/fs/selinux, and whether it enforces cannot be seen."""
    said = words(error(errno.EACCES), machine=machine(tmp_path, label=CONTAINER))
    assert "SELinux is on and confines this process as container_t" in said


@pytest.mark.parametrize(
    ("label", "enforce"),
    [
        (CONTAINER, "0"),
        ("system_u:system_r:spc_t:s0", "1"),
        ("unconfined_u:unconfined_r:unconfined_t:s0-s0:c0.c1023", "1"),
        ("", ""),
        ("unconfined", ""),
    ],
)
def test_selinux_is_not_blamed_where_it_denies_nothing(tmp_path: Path, label: str, enforce: str) -> None:
    """Permissive, off, or with a process that it does not confine, it is not the cause."""
    assert words(error(errno.EACCES), machine=machine(tmp_path, label=label, enforce=enforce)) == (
        "Permission denied (EACCES)"
    )


def test_apparmor_is_named(tmp_path: Path) -> None:
    """Its label says by which profile a process is confined; one that only complains denies nothing."""
    said = words(error(errno.EACCES), machine=machine(tmp_path / "a", label="cri-containerd.apparmor.d (enforce)\n"))
    assert "AppArmor confines this process by the profile cri-containerd.apparmor.d" in said
    said = words(error(errno.EACCES), machine=machine(tmp_path / "b", label="snap.foo (complain)\n"))
    assert said == "Permission denied (EACCES)"


def test_a_user_who_is_not_root_is_named(tmp_path: Path) -> None:
    """The most frequent reason of all; what else may be one is said beside it."""
    root = machine(tmp_path, label=CONTAINER, enforce="1").root
    said = words(error(errno.EACCES), machine=Machine(root, user=1000))
    assert said.startswith("Permission denied (EACCES): this process is user 1000 and not root; SELinux is enforcing")


def test_root_without_capabilities_is_bound_to_modes(tmp_path: Path) -> None:
    """As in the agent's own pod, which has none."""
    said = words(error(errno.EACCES), machine=machine(tmp_path, capabilities="0000000000000000"))
    assert said == (
        "Permission denied (EACCES): without the capability DAC_OVERRIDE root is bound to modes and owners too"
    )


def test_a_label_does_not_hide_what_is_likelier(tmp_path: Path) -> None:
    """Every container has a label where AppArmor or SELinux is on: with it alone the missing capability is not kept
    back, which denies more often and comes first.
    """
    why = "Permission denied (EACCES): without the capability DAC_OVERRIDE root is bound to modes and owners too; "
    for number, (label, also) in enumerate(
        [("cri-containerd.apparmor.d (enforce)\n", "AppArmor confines"), (CONTAINER, "SELinux is on")]
    ):
        bare = machine(tmp_path / f"{number}", label=label, capabilities="0000000000000000")
        assert words(error(errno.EACCES), machine=bare).startswith(why + also)


def test_the_directory_that_denies_is_named() -> None:
    """A file is as well denied by any directory above it."""
    with open_directory() as top:
        file = top / "closed" / "open" / "file"
        file.parent.mkdir(parents=True)
        file.touch()
        file.chmod(0o600)
        with as_nobody(), pytest.raises(PermissionError) as caught:
            file.read_bytes()
        with as_nobody():
            said = words(caught.value, file, machine=Machine(top))
            assert said == "Permission denied (EACCES): this process is user 65534 and not root"
        (top / "closed").chmod(0o700)
        with as_nobody():
            assert words(caught.value, file).startswith(f"Permission denied (EACCES) by {top}/closed: ")
