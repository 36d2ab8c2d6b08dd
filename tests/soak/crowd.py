"""A process that connects to an agent again and again, says a little or a lot, and never reads what comes back.

`python -m tests.soak.crowd PORT SECONDS SAYS`: `RATE` new connections per second, each of which says SAYS (in hex) and
stays until the other side ends it or this process holds `MOST`. Prints how many it has made.
"""

from __future__ import annotations

import resource
import socket
import sys
import time
from collections import deque
from contextlib import suppress

RATE = 200
MOST = 8000


def main(port: int, seconds: float, says: bytes) -> None:
    """Come and stay."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    held: deque[socket.socket] = deque()
    begun = time.monotonic()
    made = 0
    while (now := time.monotonic()) < begun + seconds:
        if made >= (now - begun) * RATE:
            time.sleep(0.001)
            continue
        made += 1
        connection = socket.socket()
        connection.setblocking(False)
        with suppress(OSError):
            connection.connect_ex(("127.0.0.1", port))
        held.append(connection)
        # On loopback a connection is there a moment later; it says its part when the next ones have come.
        if len(held) > 5:
            with suppress(OSError):
                held[-5].send(says)
        if len(held) > MOST:
            held.popleft().close()
    print(made)  # noqa: T201 - for whoever has started it


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), bytes.fromhex(sys.argv[3]))
