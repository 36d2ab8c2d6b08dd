"""`python -m benchmarks [--quick]`: measure, and print the table."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys

from benchmarks import calls, documents, footprint, kube, large, mps, pipelines, reloads
from benchmarks.table import Row, table


async def _measure(*, quick: bool) -> list[Row]:
    rows: list[Row] = []
    for part in (footprint, reloads, documents, large, calls, mps, kube, pipelines):
        print(f"measuring {part.__name__.rpartition('.')[2]} ...", file=sys.stderr, flush=True)
        rows += await part.measure(quick=quick)
    return rows


def main() -> None:
    """Measure everything once."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two to three minutes instead of eight: fewer and shorter")
    quick: bool = parser.parse_args().quick
    before = os.getloadavg()[0]
    rows = asyncio.run(_measure(quick=quick))
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {before:.1f} when it began\n")
    print(table(rows))


if __name__ == "__main__":
    main()
