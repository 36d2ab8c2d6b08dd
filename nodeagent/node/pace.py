"""How often the Kubernetes API is asked: it serves the whole cluster, and all agents hear of a commit at once."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds, each drawn between two bounds so that agents which begin together do not stay together.

    A write comes `settle` after the first of the changes that it tells; `backoff` are the first and the longest pause
    between tries that fail, `first` the same until the Node has been heard of once: an agent that starts may wait for
    its labels, and its network may be a moment behind it. `contest` is the same for labels that somebody else keeps
    changing. A watch is asked for `watch` at a time; one that ends before it is `brief` old is a failure, and a Node
    that is not heard of for `silence` is told of. An event that has been told is counted up for `repeat`; of others
    `burst` are told at once, and then one in `refill`.
    """

    settle: tuple[float, float] = (0.5, 2.0)
    backoff: tuple[float, float] = (1.0, 60.0)
    first: tuple[float, float] = (0.1, 60.0)
    contest: tuple[float, float] = (5.0, 300.0)
    watch: tuple[float, float] = (240.0, 300.0)
    brief: float = 5.0
    silence: float = 10.0
    repeat: float = 600.0
    burst: int = 20
    refill: float = 30.0

    def draw(self, bounds: tuple[float, float]) -> float:
        """Something between the two."""
        return random.uniform(*bounds)

    def after(self, failures: int, bounds: tuple[float, float], least: float | None = None) -> float:
        """The pause after so many failures in a row, from 1: doubled each time, between half of it and all of it, and
        never less than the API server asks for.
        """
        first, most = bounds
        pause = min(most, first * 2 ** min(failures - 1, 30))
        return max(self.draw((pause / 2, pause)), least or 0.0)
