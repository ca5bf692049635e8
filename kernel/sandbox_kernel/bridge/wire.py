"""The bridge's end of the link, and the streams that carry it.

A sandbox that ends with its kernel process has one stream, inherited, and its bridge ends with that. One that is *kept*
inherits a control socket instead, over which whoever holds the sandbox passes the descriptors of new streams: a socket
file in the sandbox could be taken by a cell. A stream that has been passed is a candidate until its greeting has
arrived, so an old peer that was displaced cannot take the place of the one that displaced it.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from sandbox_kernel.bridge import errands
from sandbox_kernel.link.envelope import ERRANDS_STREAM
from sandbox_kernel.link.protocol import (
    GREETING_SIZE,
    REFUSED,
    Buffer,
    Link,
    LinkError,
    Message,
    greeting_of,
)

READ_SIZE = 512 * 1024
MAX_BACKLOG = 1024 * 1024
"""Bytes that wait for the link before the bridge hands it nothing more."""
REPORT = struct.Struct("!BIQ")
"""What is told of the work: flags (1: there is some, 2: something is asked, 4: there is none, but something goes on
that may say something, 8: files come or go, 16: nothing is to be seen yet, 32: a cell or a command runs), the number of
the stream, and the bytes that it has brought."""
RUNNING = 32
MAX_CANDIDATES = 8
"""Streams that have not greeted; one more, and the oldest is closed."""
MAX_DISPLACED = 1000
"""Ids of earlier peers that are remembered."""


class Wire:
    """Sends and receives the link's messages over the stream of the moment, as a part of the bridge's loop."""

    def __init__(
        self,
        poller: Any,
        on_message: Callable[[list[Buffer]], None],
        on_peer: Callable[[], None],
        *,
        stream: int = -1,
        control: int = -1,
    ) -> None:
        """``stream`` is the one that there is, or ``control`` where more will come; ``on_peer`` tells a new peer."""
        self.ended = False
        """The stream has ended for good, and with it the bridge."""
        self.link = Link(os.urandom(16))
        self.received = 0
        """Bytes that the stream of the moment has brought."""
        self._streams = 0
        self._told = b""
        self._poller = poller
        self._on_message = on_message
        self._on_peer = on_peer
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._unsent: list[Buffer] = []
        self._writing = False
        self._sock: socket.socket | None = None
        self._fd = -1
        self._candidates: dict[int, tuple[socket.socket, bytearray]] = {}
        self._displaced: deque[bytes] = deque(maxlen=MAX_DISPLACED)
        self._errands: list[subprocess.Popen[bytes]] = []
        self._control: socket.socket | None = None
        if control >= 0:
            self._control = socket.socket(fileno=control)
            self._control.setblocking(False)
            self._register(control)
        else:
            self._take(socket.socket(fileno=stream))
            self.link.connect()

    @property
    def kept(self) -> bool:
        """Whether the bridge outlives its stream."""
        return self._control is not None

    @property
    def unsent(self) -> bool:
        """Whether something is on its way to the stream."""
        return bool(self._unsent)

    def tell(self, *, working: bool, asking: bool, lively: bool, moving: bool, silent: bool, running: bool) -> None:
        """Tell whoever holds the sandbox, if it has changed, whether there is anything to do, and what was received."""
        flags = working | asking << 1 | lively << 2 | moving << 3 | silent << 4 | running << 5
        said = REPORT.pack(flags, self._streams, self.received)
        if said == self._told or self._control is None:
            return
        try:
            self._control.send(said)
        except BlockingIOError:
            # There is no room for more news; the loop comes by again.
            return
        except OSError:
            # That nobody holds the sandbox any more is found where it is read.
            return
        self._told = said

    @property
    def connected(self) -> bool:
        """Whether there is a stream at the moment."""
        return self._sock is not None

    def on_ready(self, ready: dict[Any, int]) -> None:
        """Take what the poller says."""
        if self._fd in ready:
            self._on_stream(ready[self._fd])
        if self._control is not None:
            for fd in [fd for fd in ready if fd in self._candidates]:
                self._on_candidate(fd)
            if self._control.fileno() in ready:
                self._on_control(self._control)

    def flush(self) -> None:
        """Send what the link has, as far as the stream takes it."""
        while self._sock is not None and not self._unsent:
            self._unsent = self.link.data_to_send()
            if not self._unsent:
                break
            self._flush_unsent()

    # ---- the stream

    def _take(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._fd = sock.fileno()
        self._register(self._fd)
        self._writing = False

    def _on_stream(self, events: int) -> None:
        assert self._sock is not None
        if events & zmq.POLLOUT:
            self._flush_unsent()
        if not events & ~zmq.POLLOUT or self._sock is None:
            return
        try:
            count = self._sock.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if count:
            self.received += count
            self._receive(self._buffer[:count])
        else:
            self._lose()

    def _receive(self, data: memoryview) -> None:
        try:
            events = self.link.receive(data)
        except LinkError:
            if not self.kept:
                raise
            self._displace()
            self._lose()
            return
        for event in events:
            if isinstance(event, Message):
                self._on_message(event.parts)

    def _lose(self) -> None:
        """The stream has ended: so does the bridge, or it waits for another."""
        sock, self._sock = self._sock, None
        if sock is None:
            return
        self._poller.unregister(self._fd)
        self._fd = -1
        self._unsent = []
        sock.close()
        self.link.disconnect()
        self.ended = not self.kept

    def _flush_unsent(self) -> None:
        while self._unsent and self._sock is not None:
            try:
                sent = self._sock.sendmsg(self._unsent[:512])
            except BlockingIOError:
                self._poll_writable(True)
                return
            except OSError:
                self._lose()
                return
            self._drop_sent(sent)
        self._poll_writable(False)

    def _poll_writable(self, wanted: bool) -> None:
        if self._sock is not None and wanted != self._writing:
            self._writing = wanted
            events = zmq.POLLIN | zmq.POLLOUT if wanted else zmq.POLLIN
            self._poller.modify(self._fd, events)

    def _drop_sent(self, sent: int) -> None:
        for index, buffer in enumerate(self._unsent):
            if sent < len(buffer):
                self._unsent = self._unsent[index:]
                self._unsent[0] = memoryview(buffer)[sent:]
                return
            sent -= len(buffer)
        self._unsent = []

    def _register(self, fd: int) -> None:
        self._poller.register(fd, zmq.POLLIN)

    # ---- new streams, where they come

    def _on_control(self, control: socket.socket) -> None:
        try:
            said, descriptors, _, _ = socket.recv_fds(control, 1, MAX_CANDIDATES, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            said, descriptors = b"", []
        if not said:
            # Nobody holds the sandbox any more.
            self._lose()
            self.ended = True
        if said == ERRANDS_STREAM:
            self._begin_errands(descriptors)
            return
        for descriptor in descriptors:
            sock = socket.socket(fileno=descriptor)
            sock.setblocking(False)
            self._candidates[descriptor] = sock, bytearray()
            self._register(descriptor)
            if len(self._candidates) > MAX_CANDIDATES:
                self._drop_candidate(next(iter(self._candidates))).close()

    def _begin_errands(self, descriptors: list[int]) -> None:
        self._errands = [process for process in self._errands if process.poll() is None]
        for descriptor in descriptors:
            try:
                self._errands.append(errands.begin(descriptor))
            except OSError:
                # No process to be had: that the stream ends tells it.
                pass
            finally:
                os.close(descriptor)

    def _drop_candidate(self, fd: int) -> socket.socket:
        sock, _ = self._candidates.pop(fd)
        self._poller.unregister(fd)
        return sock

    def _on_candidate(self, fd: int) -> None:
        sock, greeting = self._candidates[fd]
        try:
            data = sock.recv(GREETING_SIZE - len(greeting))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        greeting += data
        if data and len(greeting) < GREETING_SIZE:
            return
        self._drop_candidate(fd)
        peer = greeting_of(bytes(greeting))
        if not peer:
            sock.close()
        elif peer in self._displaced:
            _refuse(sock)
        else:
            self._go_on(sock, peer, memoryview(greeting))

    def _go_on(self, sock: socket.socket, peer: bytes, greeting: memoryview) -> None:
        """Change to a stream whose peer has greeted; it is the one that was there before, or a new one."""
        self._lose()
        new = peer != self.link.peer_id
        if new:
            self._displace()
        self._take(sock)
        self.received = len(greeting)
        self._streams += 1
        self.link.connect()
        if new:
            self._on_peer()
        self._receive(greeting)

    def _displace(self) -> None:
        """Begin a new link: the peer of this one is another, or cannot be talked to any more."""
        if self.link.peer_id:
            self._displaced.append(self.link.peer_id)
        self.link = Link(os.urandom(16))


def _refuse(sock: socket.socket) -> None:
    """Tell a peer that another has taken its place."""
    link = Link(REFUSED)
    link.connect()
    try:
        sock.sendmsg(link.data_to_send())
    except OSError:
        # Who does not hear it now comes again and hears it then.
        pass
    finally:
        sock.close()
