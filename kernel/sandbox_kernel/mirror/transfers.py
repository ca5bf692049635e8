"""Entries on their way to a sandbox's working folder and back, through its bridge (see bridge/copies.py)."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from sandbox_kernel.errors import InvocationError, SandboxTimeoutError
from sandbox_kernel.link.protocol import FRAME_SIZE, Buffer
from sandbox_kernel.operations import Operation, Operations
from sandbox_kernel.workspace.entries import FOLDER, LINK, Entry
from sandbox_kernel.workspace.staging import REMOVED, Incoming, Staging

from .claims import MAX_ENTRIES, Claims

ABSENT = "absent"
"""What is expected where nothing is to be replaced; as in bridge/copies.py."""
CHUNK = FRAME_SIZE - 1024
CREDIT = 4 * 1024 * 1024
"""Bytes that are under way at most."""
SILENCE = 60.0
"""Seconds without a word from the bridge after which it is given up."""
BATCH, BATCH_TEXT = 256, 256 * 1024
"""Files, and bytes of their names, that are asked for at a time."""
AT_HAND = 64 * 1024
"""Bytes up to which a file is read at once: to have a thread do it takes longer."""
_SUBJECT = "The notebook's folder cannot be copied"

OnProgress = Callable[[str, int], None]
"""Takes the path that is under way, and how many bytes of it were moved just now."""


@dataclass(frozen=True)
class Sending:
    """An entry that is to be in the sandbox, or that is to be there no more."""

    path: str
    entry: Entry
    expected: str | None
    """What it replaces there; None if that does not matter."""
    open: Callable[[], int] | None = None
    """Returns a descriptor of a file's content. Raises OSError."""


@dataclass
class Sent:
    """What became of it."""

    entries: dict[str, Entry] = field(default_factory=dict)
    """What was sent, with the digests of what was really in the files."""
    refused: dict[str, str] = field(default_factory=dict)
    """What is not in the sandbox, with the reason as a clause."""


class Transfers:
    """Moves entries. Each method raises SandboxError where the sandbox is gone, silent, or makes no sense."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def contents(self, largest: int) -> dict[str, Entry]:
        """Return what is in the working folder; files with more than ``largest`` bytes have no digest.

        Raises CommandError where there is too much.
        """
        claims = Claims()
        fields = {"do": "contents", "limit": MAX_ENTRIES, "largest": largest}
        with self._operations.begun("file", _SUBJECT, **fields) as operation:
            while True:
                event, data = await self._next(operation)
                if event.get("end"):
                    return claims.checked()
                claims.take(data)

    async def _next(self, operation: Operation) -> tuple[dict[str, Any], Buffer]:
        # Not `wait_for`: up to Python 3.11 it forgets that it was cancelled where there is something to return.
        saying = asyncio.ensure_future(operation.next())
        try:
            await asyncio.wait([saying], timeout=SILENCE)
            if saying.done():
                return saying.result()
        finally:
            saying.cancel()
        raise SandboxTimeoutError(
            f"{_SUBJECT}: the sandbox said nothing for {SILENCE:.0f} s.", **self._operations.ids()
        )

    # ---- there

    async def send(self, entries: Iterable[Sending], progress: OnProgress = lambda path, size: None) -> Sent:
        """Have entries put into the working folder, or removed from it, in their order."""
        sent = Sent()
        with self._operations.begun("file", _SUBJECT, do="unpack") as operation:
            under_way = _UnderWay(sent)
            for one in entries:
                async for header, piece in _pieces(one, sent):
                    while under_way.left > CREDIT:
                        under_way.take(*await self._next(operation))
                    await self._operations.room()
                    operation.send("file-data", piece, path=one.path, kind=one.entry.kind, **header)
                    under_way.left += len(piece)
                    progress(one.path, len(piece))
            operation.send("file-data", b"", last=True)
            while not under_way.over:
                under_way.take(*await self._next(operation))
        return sent

    def send_now(self, entries: Iterable[Sending]) -> asyncio.Task[Sent]:
        """Do the same with a few small files ahead of whatever is sent next; the task ends when they are there."""
        sent = Sent()
        with ExitStack() as stack:
            operation = stack.enter_context(self._operations.begun("file", _SUBJECT, do="unpack"))
            for one in entries:
                for header, piece in _pieces_now(one, sent):
                    operation.send("file-data", piece, path=one.path, kind=one.entry.kind, **header)
            operation.send("file-data", b"", last=True)
            rest = stack.pop_all()
        return asyncio.ensure_future(self._arrived(rest, operation, sent))

    async def _arrived(self, rest: ExitStack, operation: Operation, sent: Sent) -> Sent:
        with rest:
            under_way = _UnderWay(sent)
            while not under_way.over:
                under_way.take(*await self._next(operation))
        return sent

    # ---- back

    async def fetch(
        self,
        wanted: Mapping[str, Entry],
        staging: Staging,
        fetched: Sent,
        progress: OnProgress = lambda path, size: None,
    ) -> None:
        """Bring files into a layer, none larger than the sandbox said that it is, and note each. Raises OSError."""
        for batch in _batches(wanted):
            await self._fetch(batch, wanted, staging, fetched, progress)

    async def _fetch(
        self, paths: list[str], wanted: Mapping[str, Entry], staging: Staging, fetched: Sent, progress: OnProgress
    ) -> None:
        with self._operations.begun("file", _SUBJECT, do="pack", paths=paths, credit=CREDIT) as operation:
            await self._next(operation)
            account = _Account(operation)
            for number, path in enumerate(paths):
                with staging.incoming() as incoming:
                    arriving = _Arriving(number, wanted[path].size, incoming)
                    while not arriving.over:
                        event, data = await self._next(operation)
                        arriving.take(event, data)
                        account.use(len(data))
                        progress(path, len(data))
                    if arriving.failed:
                        fetched.refused[path] = arriving.failed
                    else:
                        entry = replace(wanted[path], size=arriving.size, said=arriving.digest)
                        staging.place(incoming, path, entry.mode, entry.modified)
                        fetched.entries[path] = entry


class _UnderWay:
    """What was sent and is not yet said to have been taken."""

    def __init__(self, sent: Sent) -> None:
        self._sent = sent
        self._taken = 0
        self.left = 0
        self.over = False

    def take(self, event: dict[str, Any], data: Buffer) -> None:
        """Take what the bridge says."""
        taken = event.get("taken", self._taken)
        if type(taken) is int and taken > self._taken:
            self.left -= taken - self._taken
            self._taken = taken
        for one in event.get("refused", ()):
            path, why = one if isinstance(one, list) and len(one) == 2 else (None, None)
            if isinstance(path, str) and isinstance(why, str) and path in self._sent.entries:
                del self._sent.entries[path]
                self._sent.refused[path] = why[:200]
        self.over = bool(event.get("end"))


class _Account:
    """The credit that a bridge has for what it sends."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._used = 0

    def use(self, size: int) -> None:
        """Take note of bytes that came, and give new credit now and then."""
        self._used += size
        if self._used >= CREDIT // 4:
            self._operation.send("file-credit", size=self._used)
            self._used = 0


class _Arriving:
    """One file that arrives."""

    def __init__(self, number: int, largest: int, incoming: Incoming) -> None:
        self._number, self._largest, self._incoming = number, largest, incoming
        self._found = hashlib.sha256()
        self.size = 0
        self.over = False
        self.failed = ""

    @property
    def digest(self) -> str:
        return self._found.hexdigest()

    def take(self, event: dict[str, Any], data: Buffer) -> None:
        """Take a piece. Raises InvocationError for what was not asked for, OSError."""
        if event.get("file") != self._number or event.get("end"):
            raise InvocationError(f"{_SUBJECT}: what the sandbox sends makes no sense.")
        self.size += len(data)
        self._found.update(data)
        self.over = bool(event.get("whole") or event.get("gone"))
        if event.get("gone"):
            self.failed = "it cannot be read"
        elif self.size > self._largest + CREDIT:
            raise InvocationError(f"{_SUBJECT}: a file in the sandbox does not stop growing.")
        elif self.size > self._largest:
            self.failed = "it grew while it was read"
        elif data:
            view = memoryview(data)
            while view:
                view = view[os.write(self._incoming.descriptor, view) :]


def _batches(wanted: Mapping[str, Entry]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for path in wanted:
        if batch and (len(batch) >= BATCH or size + len(path) > BATCH_TEXT):
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += len(path)
    if batch:
        yield batch


Piece = tuple[dict[str, Any], bytes]


def _pieces_now(one: Sending, sent: Sent) -> Iterator[Piece]:
    """Give the pieces of an entry; none of a file that cannot be read."""
    if one.open is None:
        yield _whole(one, sent)
        return
    try:
        descriptor = one.open()
    except OSError:
        sent.refused[one.path] = "it cannot be read"
        return
    with open(descriptor, "rb") as file:
        reading = _Reading(one, sent)
        while not reading.over:
            yield reading.take(file.read(min(CHUNK, reading.left)))


async def _pieces(one: Sending, sent: Sent) -> AsyncIterator[Piece]:
    """Give the same, and read what is large in a thread."""
    if one.open is None or one.entry.size <= AT_HAND:
        for piece in _pieces_now(one, sent):
            yield piece
        return
    try:
        descriptor = one.open()
    except OSError:
        sent.refused[one.path] = "it cannot be read"
        return
    try:
        reading = _Reading(one, sent)
        block = b""
        while not reading.over:
            if not block:
                block = await asyncio.to_thread(os.read, descriptor, min(8 * CHUNK, reading.left))
            data, block = block[:CHUNK], block[CHUNK:]
            yield reading.take(data)
    finally:
        os.close(descriptor)


class _Reading:
    """A file that is read to be sent, as many bytes as it had when it was looked at."""

    def __init__(self, one: Sending, sent: Sent) -> None:
        self._one, self._sent = one, sent
        self._found = hashlib.sha256()
        self.left = one.entry.size
        self.over = False

    def take(self, data: bytes) -> Piece:
        """Return a piece of what was read."""
        self._found.update(data)
        self.left -= len(data)
        self.over = not data or not self.left
        if not self.over:
            return {"more": True, "expected": None}, data
        if self.left:
            self._sent.refused[self._one.path] = "it got shorter while it was sent"
            return {"abort": True, "expected": None}, b""
        entry, digest = self._one.entry, self._found.hexdigest()
        # What was changed since it was looked at is looked at again.
        is_known = digest == entry.said
        self._sent.entries[self._one.path] = entry if is_known else replace(entry, said=digest, signature=())
        header = {"expected": self._one.expected, "mode": entry.mode | 0o600, "modified": entry.modified}
        # A file that was changed a moment ago can have the same time after the next change, too.
        return {**header, "digest": digest if is_known and entry.signature else ""}, data


def _whole(one: Sending, sent: Sent) -> Piece:
    """Return an entry that is no file."""
    assert one.entry.kind in (FOLDER, LINK, REMOVED)
    sent.entries[one.path] = one.entry
    return {"expected": one.expected, "target": one.entry.said}, b""
