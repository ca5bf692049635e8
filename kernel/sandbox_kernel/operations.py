"""Numbered operations of the bridge: a command begins one, events say what comes of it, one of them that it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from .errors import InvocationError, NotFoundError, QuotaError, SandboxError, SandboxLostError
from .link.protocol import Buffer

MAX_WAITING = 32 * 1024 * 1024
"""Bytes that wait in either direction at most; no bridge that keeps to its credit comes near it."""
ROOM_INTERVAL = 0.01
"""Seconds between two looks whether there is room."""
EVENT_COST = 512
"""Bytes that an event without data counts as."""
NO_ROOM = ("ENOSPC", "EDQUOT", "EFBIG", "ENOMEM")
_EXPLANATIONS = {"EISDIR": "it is a folder", "SPECIAL": "it is a fifo, a device or a socket"}

Ids = Callable[[], dict[str, Any]]
Said = tuple[dict[str, Any], Buffer]


class Send(Protocol):
    """Sends a command of an operation to the bridge; ahead of everything, if it has no data."""

    def __call__(self, fields: dict[str, Any], data: Buffer | None, *, begins: bool) -> None:
        """Raises SandboxConnectionError where it is to begin an operation and no sandbox is running."""


class Operation:
    """One operation. What the bridge says of it is taken with `next` until that returns None."""

    def __init__(self, number: int, subject: str, send: Send, ids: Ids) -> None:
        self.number = number
        self.over = False
        self._subject, self._send, self._ids = subject, send, ids
        self._said: asyncio.Queue[Said | SandboxError] = asyncio.Queue()
        self._waiting = 0

    def send(self, op: str, data: Buffer | None = None, **fields: object) -> None:
        """Go on with it."""
        self._send({"op": op, "id": self.number, **fields}, data, begins=False)

    def feed(self, event: dict[str, Any], data: Buffer) -> None:
        """Take what the bridge says; one that says more than it was asked for is not listened to any more."""
        self._waiting += len(data) + EVENT_COST
        if self.over:
            return
        if self._waiting > MAX_WAITING:
            self.fail(InvocationError(f"{self._subject}: the sandbox sends more than it was asked for.", **self._ids()))
            return
        self.over = bool(event.get("end"))
        self._said.put_nowait((event, data))

    def fail(self, error: SandboxError) -> None:
        """End it with an error."""
        self.over = True
        self._said.put_nowait(error)

    def lose(self) -> None:
        """Take notice that the sandbox is gone."""
        message = f"{self._subject}: the sandbox ended before this was done; run the cell again."
        self.fail(SandboxLostError(message, **self._ids()))

    async def next(self) -> Said:
        """Return what is said next, the last time with "end". Raises what the operation failed of."""
        said = await self._said.get()
        if isinstance(said, SandboxError):
            raise said
        event, data = said
        self._waiting -= len(data) + EVENT_COST
        if event.get("code") is not None:
            raise self._error(str(event["code"]), str(event.get("reason", "")))
        return event, data

    async def ended(self) -> dict[str, Any]:
        """Return the last thing that is said. Raises what the operation failed of."""
        return (await self.last())[0]

    async def last(self) -> Said:
        """Return the last thing that is said, and what belongs to it. Raises what the operation failed of."""
        while True:
            event, data = await self.next()
            if event.get("end"):
                return event, data

    def _error(self, code: str, reason: str) -> SandboxError:
        message = f"{self._subject}: {_EXPLANATIONS.get(code) or reason or code}."
        kind: type[SandboxError] = InvocationError
        if code in ("ENOENT", "ENOTDIR"):
            kind = NotFoundError
        elif code in NO_ROOM:
            kind = QuotaError
        return kind(message, **self._ids())


class Operations:
    """The operations under way in one session."""

    def __init__(self, send: Send, backlog: Callable[[], int], next_number: Callable[[], int], ids: Ids) -> None:
        self._send, self._backlog, self._next_number, self.ids = send, backlog, next_number, ids
        self._under_way: dict[int, Operation] = {}

    @contextmanager
    def begun(self, op: str, subject: str = "The sandbox", **fields: object) -> Iterator[Operation]:
        """Begin an operation, which is cancelled at the end of the block if it is not over. SUBJECT begins its errors.

        Raises SandboxConnectionError where no sandbox is running.
        """
        operation = Operation(self._next_number(), subject, self._send, self.ids)
        self._send({"op": op, "id": operation.number, **fields}, None, begins=True)
        self._under_way[operation.number] = operation
        try:
            yield operation
        finally:
            del self._under_way[operation.number]
            if not operation.over:
                operation.send("file-cancel")

    async def room(self) -> None:
        """Wait while much waits to leave, whatever the bridge says it has taken."""
        while self._backlog() > MAX_WAITING:  # noqa: ASYNC110 - only a bridge that lies makes it wait, so nobody tells
            await asyncio.sleep(ROOM_INTERVAL)

    def on_event(self, event: Mapping[str, Any], data: Buffer) -> None:
        """Take what the bridge says of one of them."""
        number = event.get("id")
        if isinstance(number, int) and number in self._under_way:
            self._under_way[number].feed(dict(event), data)

    def on_lost(self) -> None:
        """End all of them: the sandbox is gone."""
        for operation in self._under_way.values():
            operation.lose()
