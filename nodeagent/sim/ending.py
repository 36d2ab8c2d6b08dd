"""How the demo's story ends: with the metrics that tell it once more, and with what must hold for all of it."""

from __future__ import annotations

import textwrap
import time
from collections import Counter

from nodeagent.sim.story_files import SHARED
from nodeagent.sim.telling import NotAsTold, Teller

_EXPECTED = {
    'config_reloads_total{result="accepted"}': "9.0",
    'config_reloads_total{result="rejected"}': "1.0",
    'config_reloads_total{result="failed"}': "0.0",
    'config_reload_failures_total{stage="schema"}': "1.0",
    "config_last_reload_successful": "1.0",
    "in_sync": "1.0",
    'drift{kind="shares"}': "0.0",
    f'kubelet_registrations_total{{resource="{SHARED}",result="ok"}}': "1.0",
}

_TELLING = (
    ("config_reloads_total", "documents looked at, by how that ended"),
    ("config_reload_failures_total", "how far the bad one came"),
    ("config_changes_total", "what the good ones did to the shares: at once, or drained first"),
    ('config_reload_duration_seconds_bucket{le="0.1"', "how many were sent within 0.1 s of the file's event"),
    ("config_last_reload_successful", "is the newest document accepted?"),
    ("in_sync", "is it fully applied?"),
    ("config_info", "which one is it?"),
    ("shares", "shares, by state"),
    ("mps_daemon_up", "MPS daemons that run, answer and have their limits"),
    ("gpu_xid_events_total", "XIDs, by what reported them"),
    ("kubelet_registrations_total", "registrations"),
)


async def tell_metrics(teller: Teller) -> None:
    """A short selection of what Prometheus scrapes. Raises NotAsTold where it tells another story; OSError."""
    screen = teller.screen
    await teller.begin("what Prometheus sees of it")
    scraped = (await teller.node.metrics()).splitlines()
    screen.say(f"from {teller.node.url}metrics:")
    screen.line()
    for name, meaning in _TELLING:
        screen.line(f"  # {meaning}", "dim")
        for line in scraped:
            if _belongs(line, f"nodeagent_{name}"):
                _show(teller, line)
    values = dict(line.rsplit(" ", 1) for line in scraped if not line.startswith("#"))
    for series, value in _EXPECTED.items():
        got = values.get(f"nodeagent_{series}")
        if got != value:
            raise NotAsTold(f"nodeagent_{series} is {value}: got {got}")
    await teller.pause(2)


def conclude(teller: Teller, began: float) -> None:
    """Check what must hold for the whole story, which began at a monotonic second. Raises NotAsTold."""
    record = teller.kubelet.record
    teller.screen.heading("the end")
    registered = sum(entry.resource == SHARED for entry in record.registrations)
    ended = sum(entry.resource == SHARED for entry in record.streams_ended)
    lists = Counter(entry.resource for entry in record.messages)[SHARED]
    teller.check(
        f"{SHARED}: 1 registration, {lists} lists, 0 streams ended",
        holds=(registered, ended) == (1, 0),
        got=f"{registered} registrations, {ended} streams ended",
    )
    broken = [*map(str, record.violations), *map(str, record.crashes)]
    teller.check("no share was taken from a pod; none left the list unannounced", holds=not broken, got=broken)
    pods = teller.kubelet.pods
    gone = [pod.name for pod in pods if not pod.running]
    teller.check(f"the {len(pods)} pods that have not ended by themselves still run", holds=not gone, got=gone)
    teller.check(f"all of it came out as told, in {time.monotonic() - began:.0f} s", holds=True, got=None)
    teller.screen.line()
    teller.screen.say("Next: `nodeagent demo` starts such a node and leaves the file to you.")


def _belongs(line: str, name: str) -> bool:
    """Whether a line is of the metric, and worth showing: not a zero, and of documents only the one in force."""
    ours = line.startswith((f"{name} ", f"{name}{{", f"{name}}}"))
    return ours and not line.endswith(" 0.0") and (not name.endswith("config_info") or 'state="applied"' in line)


def _show(teller: Teller, line: str) -> None:
    # Prometheus reads a space between labels as nothing; a terminal may break the line there.
    for part in textwrap.wrap(
        line.replace("{", "{ " if len(line.partition(",")[0]) + 3 > teller.screen.width else "{").replace('",', '", '),
        teller.screen.width,
        initial_indent="  ",
        subsequent_indent="      ",
        break_on_hyphens=False,
    ):
        teller.screen.line(part)
