"""A ConfigMap as the kubelet projects it into a directory: what Git says arrives in exactly these steps.

The files live in a new timestamped directory; `..data` is a link to it that is swapped by a rename; what the user
sees are links through `..data`. Nobody who watches a file sees the swap; who watches the directory sees every one.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

DATA = "..data"


class MountedConfigMap:
    """One mounted ConfigMap; the directory is made when it is absent. All methods are synchronous and small."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def write(self, files: Mapping[str, bytes]) -> bool:
        """Project these files, by one swap; other files of the ConfigMap go. False when nothing differs: then nothing
        is touched.

        Raises ValueError for a name that a ConfigMap key cannot have, OSError when the directory cannot be written.
        """
        for name in files:
            if "/" in name or name.startswith("..") or name in ("", "."):
                raise ValueError(f"cannot project {name!r}: not a key of a ConfigMap")
        if files == self.read():
            return False
        data = self.directory / DATA
        previous = data.readlink() if data.is_symlink() else None
        fresh = Path(tempfile.mkdtemp(prefix=time.strftime("..%Y_%m_%d_%H_%M_%S.", time.gmtime()), dir=self.directory))
        fresh.chmod(0o755)
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        swap = self.directory / f"{DATA}_tmp"
        swap.unlink(missing_ok=True)
        swap.symlink_to(fresh.name)
        swap.rename(data)
        self._link(files)
        if previous is not None:
            shutil.rmtree(self.directory / previous, ignore_errors=True)
        return True

    def read(self) -> dict[str, bytes] | None:
        """The projected files, None before the first write."""
        data = self.directory / DATA
        if not data.is_dir():
            return None
        return {entry.name: entry.read_bytes() for entry in data.iterdir()}

    def _link(self, files: Mapping[str, bytes]) -> None:
        """Make the links that the user sees, after the swap, and then remove those whose file is gone, as the kubelet
        does.
        """
        for name in files:
            link = self.directory / name
            if not link.is_symlink():
                link.symlink_to(Path(DATA) / name)
        for entry in self.directory.iterdir():
            if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in files:
                entry.unlink()
