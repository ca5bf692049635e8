"""Ports that nobody takes before the process that they are for has bound them, and connection files with such ports."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

from jupyter_client.connect import LocalPortCache, write_connection_file

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
FIRST, LAST = 10_000, 32_000
"""Below the range from which Linux takes ports for outgoing connections."""
_LAST_GIVEN = Path(__file__).parents[1] / "build" / "last-port"
"""The port that was given last, to whichever process of those that test."""


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free, and was given to nobody for the last twenty thousand times."""
    _LAST_GIVEN.parent.mkdir(exist_ok=True)
    with _LAST_GIVEN.open("a+") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        port = int(file.read() or os.getpid())
        for _ in range(LAST - FIRST):
            port = FIRST + (port + 1 - FIRST) % (LAST - FIRST)
            with socket.socket() as probe, suppress(OSError):
                probe.bind(("127.0.0.1", port))
                file.truncate(0)
                file.write(str(port))
                return port
    raise AssertionError(f"all ports from {FIRST} to {LAST} are taken")


def choose_for_jupyter_client() -> None:
    """Let jupyter_client's managers choose such ports in this process.

    Its own choice are ports that were free a moment ago. Where a connection that somebody makes gets one of them, the
    kernel cannot bind it; and where somebody listens on it by then, a client may wait for ever.
    """
    LocalPortCache.find_available_port = lambda *_: free_port()  # type: ignore[method-assign]


def write_connection(path: Path) -> None:
    """Write a connection file as a front end does before it starts a kernel."""
    ports = {f"{channel}_port": free_port() for channel in CHANNELS}
    write_connection_file(str(path), key=os.urandom(16).hex().encode(), **ports)
