"""Pipes between this process and a cell in the sandbox, for values too large for a message (see bridge/passage.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from .errors import InvocationError
from .link.protocol import FRAME_SIZE, Buffer
from .operations import Operation, Operations

CHUNK = FRAME_SIZE - 1024
"""Bytes in one message; with what belongs to them they fill one frame of the link."""
CREDIT = 4 * 1024 * 1024
"""Bytes that are under way at most."""
_SUBJECT = "The value cannot be passed on"


class Passage:
    """One value's way, into the sandbox or out of it."""

    def __init__(self, operation: Operation, operations: Operations, path: str) -> None:
        self.path = path
        """What the cell opens."""
        self._operation, self._operations = operation, operations

    async def send(self, buffers: Iterable[Buffer]) -> None:
        """Send the buffers, no faster than the cell reads. They are not copied, and must not change meanwhile."""
        sent = taken = 0
        for buffer in buffers:
            whole = memoryview(buffer).cast("B")
            for start in range(0, len(whole), CHUNK):
                while sent - taken >= CREDIT:
                    taken = await self._taken()
                await self._operations.room()
                piece = whole[start : start + CHUNK]
                self._operation.send("file-data", piece)
                sent += len(piece)
        while taken < sent:
            taken = await self._taken()

    async def _taken(self) -> int:
        event, _ = await self._operation.next()
        return int(event.get("taken", 0))

    async def receive(self, whole: memoryview) -> None:
        """Fill the memory with what the cell writes until it has ended and `finish` was called.

        Raises InvocationError where that is less, or more.
        """
        position = allowed = 0
        while True:
            event, data = await self._operation.next()
            end = position + len(data)
            if event.get("end") and end == len(whole):
                return
            if event.get("end") or end > len(whole):
                raise InvocationError(f"{_SUBJECT}: its size is not what the sandbox said.", **self._operations.ids())
            whole[position:end] = data
            position = end
            if position - allowed >= CREDIT // 4:
                self._operation.send("file-credit", size=position - allowed)
                allowed = position

    def finish(self) -> None:
        """Take note that the cell has ended: what it has not written will not come."""
        if not self._operation.over:
            self._operation.send("file-commit")


class Passages:
    """Opens passages. Both methods raise SandboxConnectionError where no sandbox is running."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    @asynccontextmanager
    async def into(self) -> AsyncIterator[Passage]:
        """Give a way into the sandbox, to its end."""
        with self._operations.begun("file", _SUBJECT, do="pass", credit=0) as operation:
            greeting, _ = await operation.next()
            yield Passage(operation, self._operations, str(greeting.get("reader")))

    @asynccontextmanager
    async def out(self) -> AsyncIterator[Passage]:
        """Give a way out of the sandbox, to its end."""
        with self._operations.begun("file", _SUBJECT, do="pass", credit=CREDIT) as operation:
            greeting, _ = await operation.next()
            yield Passage(operation, self._operations, str(greeting.get("writer")))
