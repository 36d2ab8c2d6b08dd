"""Memory that was used for a moment does not stay with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import re, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from nodeagent.heap import be_frugal

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

def work(number):
    # Pieces of megabytes for a moment, between some that stay.
    pieces = [bytearray(1_500_000 + 1000 * number + step) for step in range(12)]
    return [bytes(2000 + len(piece) % 7) for piece in pieces for _ in range(10)]

if sys.argv[1] == "frugal":
    assert be_frugal()
bytearray(24_000_000)  # what glibc takes as a hint to keep pieces of up to this size
before = resident()
with ThreadPoolExecutor(8) as pool:
    kept = list(pool.map(work, range(80)))
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what is set is an option of glibc")
def test_what_is_large_and_free_is_given_back() -> None:
    """After work in several threads a process has what it still uses, where it would keep all that it ever used."""
    kept = int(subprocess.run([sys.executable, "-c", PROGRAM, "frugal"], capture_output=True, check=True).stdout)
    otherwise = int(subprocess.run([sys.executable, "-c", PROGRAM, "as it is"], capture_output=True, check=True).stdout)
    assert kept < 40
    assert kept < otherwise
