"""What `nodeagent validate` costs a pipeline: processor time for a repository of configs, and for what is rendered."""

from __future__ import annotations

import asyncio
import itertools
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.table import Row

_EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
_FILES = 500


async def measure(*, quick: bool) -> list[Row]:
    """Rows for so many files in a directory, and for as many ConfigMaps in one stream."""
    return await asyncio.to_thread(_measure, 1 if quick else 3)


def _measure(times: int) -> list[Row]:
    found = sorted(one for one in _EXAMPLES.rglob("*.yaml") if _is_config(one))
    texts = [path.read_text("utf-8") for path, _ in zip(itertools.cycle(found), range(_FILES), strict=False)]
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(texts):
            Path(folder, f"pool-{number}.yaml").write_text(text, encoding="utf-8")
        files = [_seconds([folder], b"") for _ in range(times + 1)]
    stream = "---\n".join(_config_map(number, text) for number, text in enumerate(texts)).encode()
    streams = [_seconds(["-"], stream) for _ in range(times + 1)]
    kinds = f"{len(found)} examples, the start of the process included"
    return [
        Row(f"validate, {_FILES} files: CPU", statistics.median(files[1:]), "s", 1.0, kinds),
        Row(f"validate, {_FILES} ConfigMaps on stdin: CPU", statistics.median(streams[1:]), "s", None, "one stream"),
    ]


def _is_config(path: Path) -> bool:
    return path.is_file() and "kind: SharingConfig" in path.read_text("utf-8")


def _config_map(number: int, text: str) -> str:
    body = "".join(f"    {line}\n" for line in text.splitlines())
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: pool-{number}}}\ndata:\n  sharing.yaml: |\n{body}"


def _seconds(arguments: Sequence[str], stdin: bytes) -> float:
    """Processor time of one `nodeagent validate`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "nodeagent", "validate", *arguments]
    subprocess.run(command, input=stdin, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
