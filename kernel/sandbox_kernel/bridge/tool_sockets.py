"""The bridge's side of `tools`: takes frames from the kernel's processes and passes them on, without a look inside."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import zmq

from sandbox_kernel.link.protocol import Buffer

FRAME = struct.Struct("!II")
"""Bytes of a frame's JSON object, and of what follows it; toolbox.py says the same."""
MAX_ARGUMENTS = 4 * 1024 * 1024
MAX_CONNECTIONS = 200
READ_SIZE = 256 * 1024

OnFrame = Callable[[int, bytes], None]
"""Called with a connection's number and a frame; with an empty one when the connection has ended."""


class _Connection:
    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = bytearray()
        self.leaving: list[memoryview] = []


class ToolSockets:
    """One listening socket for each life of the kernel, and the connections to it."""

    def __init__(self, poller: zmq.Poller, on_frame: OnFrame) -> None:
        self._poller = poller
        self._on_frame = on_frame
        self._listener: socket.socket | None = None
        self._path = ""
        self._connections: dict[int, _Connection] = {}
        self._numbers: dict[int, int] = {}
        """By descriptor."""
        self._asking: set[int] = set()
        """Those of which a frame was passed on and none has come back."""
        self._last = 0
        self._reading = True

    @property
    def asking(self) -> bool:
        """Whether somebody waits for a word from outside."""
        return bool(self._asking)

    def listen(self, path: str) -> None:
        """Begin to take connections."""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._path = path
        self._listener.bind(path)
        self._listener.listen(64)
        self._poller.register(self._listener.fileno(), zmq.POLLIN)

    def close(self) -> None:
        """End all connections, and take no more."""
        self.drop()
        if self._listener is not None:
            self._poller.unregister(self._listener.fileno())
            self._listener.close()
            self._listener = None
            os.unlink(self._path)

    def drop(self) -> None:
        """End all connections, without a word to a kernel process: the one that would have answered is gone."""
        for number in list(self._connections):
            self._forget(number)

    def poll(self, wanted: bool) -> None:
        """Take frames, or leave them where they are while the link is full."""
        if wanted != self._reading:
            self._reading = wanted
            for connection in self._connections.values():
                self._watch(connection)

    def turn(self, ready: dict[Any, int]) -> None:
        """Do what the poller found to do."""
        if self._listener is not None and self._listener.fileno() in ready:
            self._accept(self._listener)
        for fd in [fd for fd in ready if fd in self._numbers]:
            number = self._numbers[fd]
            if ready[fd] & zmq.POLLOUT:
                self._write(number)
            if number in self._connections and ready[fd] & ~zmq.POLLOUT and self._reading:
                self._read(number)

    def send(self, number: int, data: Buffer) -> None:
        """Send an answer; one for a connection that has ended is dropped."""
        connection = self._connections.get(number)
        self._asking.discard(number)
        if connection is not None:
            connection.leaving.append(memoryview(data))
            self._write(number)

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        if len(self._connections) >= MAX_CONNECTIONS:
            sock.close()
            return
        sock.setblocking(False)
        self._last += 1
        self._connections[self._last] = _Connection(sock)
        self._numbers[sock.fileno()] = self._last
        self._poller.register(sock.fileno(), zmq.POLLIN if self._reading else 0)

    def _watch(self, connection: _Connection) -> None:
        events = (zmq.POLLIN if self._reading else 0) | (zmq.POLLOUT if connection.leaving else 0)
        self._poller.modify(connection.sock.fileno(), events)

    def _read(self, number: int) -> None:
        connection = self._connections[number]
        try:
            data = connection.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        received = connection.received
        received += data
        while len(received) >= FRAME.size:
            size = FRAME.size + sum(FRAME.unpack_from(received))
            if size > MAX_ARGUMENTS + FRAME.size:
                data = b""
                break
            if len(received) < size:
                break
            self._asking.add(number)
            self._on_frame(number, bytes(received[:size]))
            del received[:size]
        if not data:
            self._end(number)

    def _write(self, number: int) -> None:
        connection = self._connections[number]
        try:
            while connection.leaving:
                sent = connection.sock.send(connection.leaving[0])
                connection.leaving[0] = connection.leaving[0][sent:]
                if not len(connection.leaving[0]):
                    del connection.leaving[0]
        except BlockingIOError:
            pass
        except OSError:
            self._end(number)
            return
        self._watch(connection)

    def _end(self, number: int) -> None:
        self._forget(number)
        self._on_frame(number, b"")

    def _forget(self, number: int) -> None:
        connection = self._connections.pop(number)
        self._asking.discard(number)
        del self._numbers[connection.sock.fileno()]
        self._poller.unregister(connection.sock.fileno())
        connection.sock.close()
