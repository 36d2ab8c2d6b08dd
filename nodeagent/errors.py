"""What ends the agent. Everything else is a value that the loop goes on with.

A document that is *rejected* is `model.config.Loaded` with violations; what is *waiting* is `model.plan.Wait`; what is
*transient*, a disk that cannot be written or a kubelet that does not answer, is a condition, and is tried again with
backoff by the one who met it.
"""

from __future__ import annotations


class CannotStart(Exception):
    """Fatal: an address in use, an unusable path. `run` says so and exits with 1; never because of a config."""
