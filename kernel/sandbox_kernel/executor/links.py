"""Carries the bytes of a link between a client's call and a sandbox's bridge, without a look at them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from sandbox_kernel.executor_api import executor_pb2 as pb
from sandbox_kernel.executor_api.link_chunks import data_chunk
from sandbox_kernel.executor_api.protocol import LINK_CHUNK

if TYPE_CHECKING:
    from .hosted import HostedSandbox
    from .metrics import Metrics

DETACHED = "the client has detached"
LEAST = 0.1
"""Seconds that a client can have between two signs of life at least."""


class Stream(Protocol):
    """A call that streams both ways."""

    async def read(self) -> memoryview | pb.LinkChunk | None:
        """Return the next chunk (see link_chunks.py); None when the client sends no more."""

    async def write(self, chunk: bytes | pb.LinkChunk) -> None:
        """Send a chunk; returns when there is room for another one."""


class Relay:
    """One link of one client. It ends with the client, with the bridge's stream, or by `end`."""

    def __init__(self, hosted: HostedSandbox, stream: Stream, opening: pb.LinkOpen, metrics: Metrics) -> None:
        self._hosted, self._stream, self._metrics = hosted, stream, metrics
        self._heartbeat = max(LEAST, opening.heartbeat)
        self._patience = max(LEAST, opening.patience)
        self._writing = asyncio.Lock()
        self._said = self._heard = asyncio.get_running_loop().time()
        self._listening = False
        """Whether it waits for the client, and not for the bridge to take what the client said."""
        self._ended: asyncio.Future[pb.LinkClose] = asyncio.get_running_loop().create_future()

    def end(self, reason: str, *, ended: bool) -> None:
        """End the link; ``ended`` says that the sandbox is gone."""
        if not self._ended.done():
            self._ended.set_result(pb.LinkClose(reason=reason, ended=ended))

    async def run(self, why_it_ended: Callable[[], Awaitable[str]]) -> None:
        """Carry bytes until one side ends; ``why_it_ended`` is asked when the sandbox itself has."""
        with self._counted(), closing(self._hosted.sandbox.open_stream()) as sock:
            sock.setblocking(False)
            await self._write(pb.LinkChunk(open=pb.LinkOpen(sandbox_id=self._hosted.sandbox_id)))
            close = await self._carry(sock, why_it_ended)
        await self._write(pb.LinkChunk(close=close))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._hosted.open_link(self)
        self._metrics.links.inc()
        try:
            yield
        finally:
            self._metrics.links.dec()
            self._hosted.close_link(self)

    async def _carry(self, sock: socket.socket, why_it_ended: Callable[[], Awaitable[str]]) -> pb.LinkClose:
        down, up = asyncio.ensure_future(self._down(sock)), asyncio.ensure_future(self._up(sock))
        watch = asyncio.ensure_future(self._watch())
        try:
            ends: list[asyncio.Future[Any]] = [down, up, watch, self._ended]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            return await self._close(up, why_it_ended)
        finally:
            for task in (down, up, watch):
                task.cancel()
            # The socket is not closed before they have let go of it: its number would be another's.
            await asyncio.gather(down, up, watch, return_exceptions=True)

    async def _write(self, chunk: bytes | pb.LinkChunk) -> None:
        async with self._writing:
            await self._stream.write(chunk)
        self._said = asyncio.get_running_loop().time()

    async def _watch(self) -> None:
        """Say now and then that we are here, until nothing is heard of the client any more.

        gRPC's own keep-alive does not find a connection of which only one direction is dead.
        """
        loop = asyncio.get_running_loop()
        while not self._listening or loop.time() - self._heard < self._patience:
            if loop.time() - self._said >= self._heartbeat:
                await self._write(pb.LinkChunk(alive=pb.LinkAlive()))
            await asyncio.sleep(self._heartbeat / 2)
        self.end("nothing was heard of the client", ended=False)

    async def _close(self, up: asyncio.Task[None], why_it_ended: Callable[[], Awaitable[str]]) -> pb.LinkClose:
        if self._ended.done():
            return self._ended.result()
        if up.done():
            up.result()
            return pb.LinkClose(reason=DETACHED)
        if not await self._hosted.ends():
            return pb.LinkClose(reason="another client has taken its place")
        return pb.LinkClose(reason=await why_it_ended(), ended=True)

    async def _down(self, sock: socket.socket) -> None:
        loop, counter = asyncio.get_running_loop(), self._metrics.link_bytes.labels("out")
        view = memoryview(bytearray(LINK_CHUNK))
        # An error is an end, like any other.
        with suppress(OSError):
            while count := await loop.sock_recv_into(sock, view):
                self._hosted.touch()
                counter.inc(count)
                await self._write(data_chunk((view[:count],)))

    async def _up(self, sock: socket.socket) -> None:
        loop, counter = asyncio.get_running_loop(), self._metrics.link_bytes.labels("in")
        while (chunk := await self._listen()) is not None:
            if isinstance(chunk, memoryview):
                data: bytes | memoryview = chunk
            elif chunk.HasField("data"):
                data = chunk.data
            else:
                continue
            self._hosted.touch()
            await self._hosted.wake()
            counter.inc(len(data))
            try:
                await loop.sock_sendall(sock, data)
            except OSError:
                # The other task finds the end, and its reason.
                await asyncio.Event().wait()

    async def _listen(self) -> memoryview | pb.LinkChunk | None:
        loop = asyncio.get_running_loop()
        self._heard, self._listening = loop.time(), True
        try:
            return await self._stream.read()
        finally:
            self._listening = False
