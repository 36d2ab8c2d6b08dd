"""What the worst documents cost: those that a grammar makes, and those that a search among them finds.

The measure is what PyYAML's events of a plain config of 1 MiB take, without anything that is done with them, on the
same machine in the same minute. A document is judged as the agent and `validate` judge it: from its bytes to the
printed list of what is wrong.
"""

from __future__ import annotations

import heapq
import random
import sys
import time
from collections.abc import Iterator
from itertools import islice

import yaml

from benchmarks.table import Row, percentile
from nodeagent.config.load import load
from nodeagent.model.config import Document
from tests.config.worst import SIZE, Shape, changed, chosen, known

PROMISED = 3.0
"""Times the reference."""

_TRIED, _KEPT = 2500, 500
_EVERY = 8
"""Of the known shapes a short run takes one of so many."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


async def measure(*, quick: bool) -> list[Row]:
    """Rows for the worst of all that was tried."""
    dice = random.Random(1)
    reference = min(_reference() for _ in range(5))
    _seconds(next(known()))
    shapes = islice(known(), 0, None, _EVERY) if quick else known()
    found: dict[Shape, float] = {shape: _seconds(shape) for shape in shapes}
    for _ in range(0 if quick else _TRIED):
        shape = chosen(dice) if dice.random() < 0.4 else changed(dice.choice(_worst(found, 50)), dice)
        if shape not in found:
            found[shape] = _seconds(shape)
    worst = _worst(found, _KEPT)
    # What has disturbed one measurement does not disturb three.
    again = {shape: min(found[shape], _seconds(shape), _seconds(shape)) for shape in worst[: 20 if quick else _KEPT]}
    ratios = [seconds / reference for seconds in again.values()]
    first = max(again, key=lambda shape: again[shape])
    for shape in _worst(again, 10):
        print(f"  {again[shape] / reference:.2f}: {shape}", file=sys.stderr)
    return [
        Row("events of a plain config of 1 MiB", reference * 1000, "ms", note="the reference"),
        Row("the worst document", max(ratios), "times", PROMISED, f"of {len(found)}: {first}"),
        Row(f"the {len(ratios)} worst, median", percentile(ratios, 50), "times", PROMISED),
    ]


def _worst(found: dict[Shape, float], number: int) -> list[Shape]:
    return heapq.nlargest(number, found, key=lambda shape: found[shape])


def _seconds(shape: Shape) -> float:
    """Of computing."""
    document = Document("sharing.yaml", shape.data())
    began = time.process_time()
    "\n".join(map(str, load(document).violations))
    return time.process_time() - began


def _reference() -> float:
    text = "".join(_plain())
    began = time.process_time()
    for _ in yaml.parse(text, Loader=_LOADER):
        pass
    return time.process_time() - began


def _plain() -> Iterator[str]:
    """A config as people write it, of 1 MiB."""
    yield "apiVersion: nodeagent.io/v1alpha1\nkind: SharingConfig\nmetadata: {name: plain}\nspec:\n  rules:\n"
    size = 0
    number = 0
    while size < SIZE - 500:
        rule = (
            f"    - name: rule-{number}\n"
            f"      match:\n        indices: [{number % 1024}]\n"
            f'        models: ["*A100*"]\n      resource: nvidia.com/gpu.shared-{number}\n'
            f"      timeSlicing:\n        replicas: 10\n"
        )
        size += len(rule)
        number += 1
        yield rule
