"""What gRPC is told by its environment, which it reads when it is imported first. Imports nothing of gRPC."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

KNOWN_VERSIONS = ((1, 76), (1, 85))
"""First and last version of grpcio of which it is known that they have both switches. Another one would complain of
them on standard error."""
POLLING = "-event_engine_client,-event_engine_listener"
"""Has the thread that waits for the network also read and write. By itself gRPC hands each piece on to one more thread,
of a pool, which costs a cell a sixth of a millisecond and a tenth of the processor's time."""


def set_up() -> None:
    """Set what is not set already."""
    # Our errors say what went wrong, and an executor's log is JSON; gRPC would write lines of its own between it.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    first, last = KNOWN_VERSIONS
    if first <= _grpc_version() <= last:
        os.environ.setdefault("GRPC_EXPERIMENTS", POLLING)


def _grpc_version() -> tuple[int, int]:
    """Return the version without what comes behind the second number; (0, 0) where gRPC is absent."""
    try:
        numbers = version("grpcio").split(".")
        return int(numbers[0]), int(numbers[1])
    except (PackageNotFoundError, ValueError, IndexError):
        return 0, 0
