"""One link of one client to a sandbox's bridge, on the node: calls on one side, a stream socket on the other."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from .ordered import Incoming, Outgoing

PIECE = 96 * 1024
"""Bytes in one call at most: Ray sends what is smaller than 100 KiB with the call, and stores the rest."""
HELD = 4 * 1024 * 1024
"""Bytes that wait for the client, or are on their way to it; then the bridge waits."""
TOLD = 1024 * 1024
"""Bytes after which a client says that it has them, if it says nothing else before."""
STREAMED, POLLED = 512 * 1024, 1024 * 1024
"""Bytes in one answer at most, of a stream and of a call: of calls there is one at a time. A flood gains by what Ray
stores and has to fetch; what is small comes at once."""
READ = 256 * 1024
POLL = 5.0
"""Seconds for which a call waits for bytes."""
PATIENCE = 20.0
"""Seconds after which a client that says nothing has gone; it says something every `HEARTBEAT`."""
HEARTBEAT = 5.0


class NodeLink:
    """Reads and writes the stream while it lives; what waits for the client is kept until the client has it."""

    def __init__(self, sock: socket.socket, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` tells seconds."""
        sock.setblocking(False)
        self._clock = clock
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._incoming = Incoming()
        self._outgoing = Outgoing(HELD)
        self._writing = asyncio.Lock()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._heard = clock()
        self.reason = ""
        """Why it has ended, as a clause; "" while it has not."""
        self._reader = asyncio.ensure_future(self._read())

    @property
    def silent(self) -> bool:
        """Whether nothing was heard of the client for too long."""
        return self._clock() - self._heard > PATIENCE

    def end(self, reason: str) -> None:
        """End it; the client gets what has come until now."""
        self.reason = self.reason or reason
        self._reader.cancel()
        self._news.set()

    async def close(self) -> None:
        """End it, and let go of the stream."""
        self.end("it was closed")
        with suppress(asyncio.CancelledError):
            await self._reader
        # A bridge that does not read would have the writer wait for ever.
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        async with self._writing:
            self._sock.close()

    async def push(self, offset: int, data: bytes, received: int = 0) -> int:
        """Take a piece from the client, which has ``received`` bytes; return how many the bridge has got.

        One without bytes only says that the client is there, and does not wait for the bridge. Raises ValueError.
        """
        self._take_note(received)
        if not data:
            return self._incoming.position
        self._incoming.hold(offset, data)
        async with self._writing:
            with suppress(OSError):
                while piece := self._incoming.next():
                    await self._loop.sock_sendall(self._sock, piece)
        return self._incoming.position

    async def pull(self, offset: int, most: int = POLLED) -> tuple[bytes, str]:
        """Return what comes after ``offset`` bytes, and why there will be no more; waits for some. Raises ValueError.

        What was returned before ``offset`` need not be kept any more.
        """
        self._take_note(offset)
        await self._wait(offset)
        data = self._outgoing.read(most)
        return data, "" if data else self.reason

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield bytes as soon as there are some, until the end. Only what `push` says is received makes room for more.

        Ray takes what is yielded at once, and would keep it all for a client that is slow, or dead.
        """
        offset = 0
        while True:
            await self._wait(offset)
            data = self._outgoing.read(STREAMED, offset)
            if data:
                # Bytes and nothing else: Ray passes them on without pickling.
                yield data
                offset += len(data)
            elif self.reason:
                return

    async def _wait(self, offset: int) -> None:
        """Wait until there is more than ``offset`` bytes, or an end, but no longer than `POLL`."""
        if not self._outgoing.end > offset and not self.reason:
            self._news.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), POLL)

    def _take_note(self, received: int) -> None:
        """Note that the client lives, and what it has: nobody else can say so, and Ray does not."""
        self._heard = self._clock()
        self._outgoing.acknowledge(received)
        if not self._outgoing.full:
            self._room.set()

    async def _read(self) -> None:
        # An error is an end, like any other.
        with suppress(OSError):
            while data := await self._loop.sock_recv(self._sock, READ):
                self._outgoing.add(data)
                self._news.set()
                while self._outgoing.full:
                    self._room.clear()
                    await self._room.wait()
        self.reason = self.reason or "the bridge has closed it"
        self._news.set()
