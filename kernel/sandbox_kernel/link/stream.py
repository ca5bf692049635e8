"""A transport over a connected stream socket, driven by the asyncio loop's readiness callbacks."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from .transport import Buffer, Receiver, Transport

READ_SIZE = 512 * 1024
MAX_VECTOR = 512
"""Buffers handed to one sendmsg; the kernel's own limit (IOV_MAX) is 1024 on Linux."""


class SocketTransport(Transport):
    """Takes over a connected stream socket. Large buffers are neither joined nor copied on their way out."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._receiver: Receiver | None = None
        self._waiting: list[Buffer] = []
        self._closed = False
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._sock, self._readable)

    def write(self, buffers: Sequence[Buffer]) -> bool:
        if self._closed:
            return False
        if self._waiting:
            self._waiting.extend(buffers)
            return False
        self._waiting = list(buffers)
        if self._flush():
            return True
        if not self._closed:
            self._loop.add_writer(self._sock, self._writable)
        return False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._receiver is not None:
                self._loop.remove_reader(self._sock)
                self._loop.remove_writer(self._sock)
            self._sock.close()
            self._waiting.clear()

    def _readable(self) -> None:
        assert self._receiver is not None
        try:
            count = self._sock.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._lost(str(exc))
            return
        if count == 0:
            self._lost("the other side closed it")
            return
        self._receiver.data_received(self._view[:count])

    def _writable(self) -> None:
        if self._flush() and not self._closed:
            self._loop.remove_writer(self._sock)
            assert self._receiver is not None
            self._receiver.writable()

    def _flush(self) -> bool:
        """Send what waits; return whether all of it left."""
        while self._waiting:
            try:
                sent = self._sock.sendmsg(self._waiting[:MAX_VECTOR])
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as exc:
                # Not from inside a caller's `write`: it is told on the loop's next turn, like any other loss.
                self._loop.call_soon(self._lost, str(exc))
                return False
            self._waiting = _after(self._waiting, sent)
        return True

    def _lost(self, reason: str) -> None:
        if not self._closed:
            self.close()
            assert self._receiver is not None
            self._receiver.connection_lost(reason)


def _after(buffers: list[Buffer], sent: int) -> list[Buffer]:
    """Return what is left of the buffers after ``sent`` bytes."""
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            rest = buffers[index:]
            if sent:
                rest[0] = memoryview(buffer)[sent:]
            return rest
        sent -= len(buffer)
    return []
