"""A link's transport whose other end is in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from sandbox_kernel.link.transport import Buffer, Receiver, Transport


class MemoryTransport(Transport):
    """Hands on what is written with the next turn of the event loop."""

    def __init__(self, take: Callable[[memoryview], None]) -> None:
        """``take`` gets what is written here."""
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        self._early: list[bytes] = []
        self._closed = False

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        for data in self._early:
            self._loop.call_soon(self._deliver, data)
        self._early.clear()

    def write(self, buffers: Sequence[Buffer]) -> bool:
        data = b"".join(buffers)
        self._loop.call_soon(self._hand_on, data)
        return True

    def close(self) -> None:
        self._closed = True

    def lose(self, reason: str) -> None:
        """End it from this end, for a reason in one clause."""
        if not self._closed:
            self._closed = True
            if self._receiver is not None:
                self._receiver.connection_lost(reason)

    def send(self, data: bytes) -> None:
        """Send to who holds the transport."""
        if self._receiver is None:
            self._early.append(data)
        else:
            self._loop.call_soon(self._deliver, data)

    def _deliver(self, data: bytes) -> None:
        if not self._closed and self._receiver is not None:
            self._receiver.data_received(memoryview(data))

    def _hand_on(self, data: bytes) -> None:
        if not self._closed:
            self._take(memoryview(data))
