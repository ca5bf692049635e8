"""Pipes between this process and a cell in the sandbox, for values too large for a message (see bridge/passage.py).

The pipe is in the sandbox. Where the sandbox is on this machine, this process opens its other end; else the bridge
moves the bytes between the pipe and the link.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from .errors import InvocationError, LinkProtocolError
from .link.protocol import FRAME_SIZE, Buffer
from .operations import Operation, Operations

CHUNK = FRAME_SIZE - 1024
"""Bytes in one message; with what belongs to them they fill one frame of the link."""
CREDIT = 4 * 1024 * 1024
"""Bytes that are under way at most."""
PIPED = 1024 * 1024
"""Bytes that are read from a pipe, or written into it, before others have their turn."""
_SUBJECT = "The value cannot be passed on"

OpenPipe = Callable[[str, int], "int | None"]
"""Opens a pipe in the sandbox by its path there, with flags of `os.open`; None where this process cannot."""


class Passage(ABC):
    """One value's way, into the sandbox or out of it."""

    path: str
    """What the cell opens."""

    @abstractmethod
    async def send(self, buffers: Iterable[Buffer]) -> None:
        """Send the buffers, no faster than the cell reads. They are not copied, and must not change meanwhile."""

    @abstractmethod
    async def receive(self, whole: memoryview) -> None:
        """Fill the memory with what the cell writes until it has ended and `finish` was called.

        Raises InvocationError where that is less, or more.
        """

    @abstractmethod
    def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield what the cell writes as it comes, until all who can write have ended, or `finish` was called.

        Raises SandboxLostError where the pipe's content is lost with the sandbox.
        """

    @abstractmethod
    def finish(self) -> None:
        """Take note that the cell has ended: what it has not written will not come."""


class LinkPassage(Passage):
    """A way through the bridge and the link."""

    def __init__(self, operation: Operation, operations: Operations, path: str) -> None:
        self.path = path
        self._operation, self._operations = operation, operations
        self._sent = self._taken = 0

    async def send(self, buffers: Iterable[Buffer]) -> None:
        for buffer in buffers:
            whole = memoryview(buffer).cast("B")
            for start in range(0, len(whole), CHUNK):
                while self._sent - self._taken >= CREDIT:
                    await self._hear()
                await self._operations.room()
                piece = whole[start : start + CHUNK]
                self._operation.send("file-data", piece)
                self._sent += len(piece)
        while self._taken < self._sent:
            await self._hear()

    async def _hear(self) -> None:
        event, _ = await self._operation.next()
        taken = event.get("taken", 0)
        if not isinstance(taken, int) or not 0 <= taken <= self._sent:
            raise LinkProtocolError(f"The sandbox sent what cannot be: {str(taken)[:100]} bytes of {self._sent} taken.")
        self._taken = taken

    async def receive(self, whole: memoryview) -> None:
        position = allowed = 0
        while True:
            event, data = await self._operation.next()
            end = position + len(data)
            if event.get("end") and end == len(whole):
                return
            if event.get("end") or end > len(whole):
                raise _wrong_size(self._operations)
            whole[position:end] = data
            position = end
            if position - allowed >= CREDIT // 4:
                self._operation.send("file-credit", size=position - allowed)
                allowed = position

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        total = allowed = 0
        while True:
            event, data = await self._operation.next()
            if data:
                total += len(data)
                yield bytes(data)
            if event.get("end"):
                return
            if total - allowed >= CREDIT // 4:
                self._operation.send("file-credit", size=total - allowed)
                allowed = total

    def finish(self) -> None:
        if not self._operation.over:
            self._operation.send("file-commit")


class PipePassage(Passage):
    """A way through nothing but the pipe, whose other end is ours."""

    def __init__(self, descriptor: int, operations: Operations, path: str) -> None:
        """The descriptor does not block."""
        self.path = path
        self._descriptor, self._operations = descriptor, operations
        self._loop = asyncio.get_running_loop()
        self._finished = False
        self._waiting: asyncio.Future[None] | None = None

    async def send(self, buffers: Iterable[Buffer]) -> None:
        for buffer in buffers:
            rest = memoryview(buffer).cast("B")
            while len(rest):
                try:
                    rest = rest[os.write(self._descriptor, rest[:PIPED]) :]
                except BlockingIOError:
                    await self._ready(self._loop.add_writer, self._loop.remove_writer)
                except BrokenPipeError:
                    # All who could read have ended; what runs the cell tells why.
                    return
                else:
                    await asyncio.sleep(0)

    async def receive(self, whole: memoryview) -> None:
        position = 0
        while True:
            # Room for one byte too many shows that there is one.
            places: list[Buffer] = [whole[position : position + PIPED], bytearray(1)]
            try:
                count = os.readv(self._descriptor, places)
            except BlockingIOError:
                if self._finished:
                    break
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
                continue
            position += count
            if not count or position > len(whole):
                break
            await asyncio.sleep(0)
        if position != len(whole):
            raise _wrong_size(self._operations)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        while True:
            try:
                data = os.read(self._descriptor, PIPED)
            except BlockingIOError:
                if self._finished:
                    return
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
                continue
            if not data:
                return
            yield data
            await asyncio.sleep(0)

    async def _ready(self, add: Callable[..., None], remove: Callable[[int], object]) -> None:
        self._waiting = self._loop.create_future()
        add(self._descriptor, self._wake)
        try:
            await self._waiting
        finally:
            remove(self._descriptor)

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def finish(self) -> None:
        self._finished = True
        self._wake()


def _wrong_size(operations: Operations) -> InvocationError:
    return InvocationError(f"{_SUBJECT}: its size is not what the sandbox said.", **operations.ids())


class Passages:
    """Opens passages. Both methods raise SandboxConnectionError where no sandbox is running."""

    def __init__(self, operations: Operations, open_pipe: OpenPipe) -> None:
        self._operations, self._open_pipe = operations, open_pipe

    @asynccontextmanager
    async def into(self) -> AsyncIterator[Passage]:
        """Give a way into the sandbox, to its end."""
        async with self._passage(cells="reader", ours="writer", flags=os.O_WRONLY) as passage:
            yield passage

    @asynccontextmanager
    async def out(self) -> AsyncIterator[Passage]:
        """Give a way out of the sandbox, to its end."""
        async with self._passage(cells="writer", ours="reader", flags=os.O_RDONLY) as passage:
            yield passage

    @asynccontextmanager
    async def _passage(self, *, cells: str, ours: str, flags: int) -> AsyncIterator[Passage]:
        with self._operations.begun("file", _SUBJECT, do="pass", credit=0) as operation:
            greeting, _ = await operation.next()
            path = str(greeting.get(cells))
            descriptor = self._open_pipe(str(greeting.get(ours)), flags)
            if descriptor is None:
                if flags == os.O_RDONLY:
                    operation.send("file-credit", size=CREDIT)
                yield LinkPassage(operation, self._operations, path)
                return
            try:
                yield PipePassage(descriptor, self._operations, path)
            finally:
                os.close(descriptor)
