"""A sandbox's files through its bridge, for every provider that has no quicker way (see bridge/files.py)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from typing import Any

from .errors import InvocationError, NotFoundError, QuotaError
from .link.protocol import FRAME_SIZE, Buffer
from .operations import Operation, Operations
from .providers.base import FileEntry, SandboxFiles

CHUNK = FRAME_SIZE - 1024
"""Bytes in one message; with what belongs to them they fill one frame of the link."""
CREDIT = 4 * 1024 * 1024
"""Bytes that are under way at most, of each file and in each direction."""
MAX_PATH = 4096
"""Characters of a path in a list; the system takes fewer bytes."""
LATEST = 1e11
"""Seconds since the epoch, before which every file was changed."""
_KINDS = ("file", "folder", "link", "special")


class LinkFiles(SandboxFiles):
    """Files that go through the link, a few megabytes at a time. A file that nobody reads further is let go."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def read(self, path: str, *, limit: int | None = None) -> AsyncGenerator[bytes, None]:
        subject = f"{path!r} cannot be read"
        with self._operations.begun("file", subject, do="read", path=path, credit=CREDIT) as operation:
            event, _ = await operation.next()
            size = int(event["size"])
            total = allowed = 0
            while True:
                self._check(path, max(size, total), limit)
                event, data = await operation.next()
                if event.get("end"):
                    break
                total += len(data)
                yield bytes(data)
                if total - allowed >= CREDIT // 4:
                    operation.send("file-credit", size=total - allowed)
                    allowed = total
            if total < size:
                raise InvocationError(f"{subject}: it got shorter meanwhile; try again.", **self._operations.ids())

    def _check(self, path: str, size: int, limit: int | None) -> None:
        if limit is not None and size > limit:
            message = f"{path!r} cannot be read: it has more than {limit} bytes."
            raise QuotaError(message, **self._operations.ids())

    async def write(self, path: str, chunks: AsyncIterable[bytes], *, mode: int = 0o644) -> int:
        subject = f"{path!r} cannot be written"
        with self._operations.begun("file", subject, do="write", path=path, mode=mode) as operation:
            await operation.next()
            sent = taken = 0
            async for chunk in chunks:
                for piece in _pieces(chunk):
                    while sent - taken >= CREDIT:
                        taken = await _taken(operation)
                    await self._operations.room()
                    operation.send("file-data", piece)
                    sent += len(piece)
            while taken < sent:
                taken = await _taken(operation)
            operation.send("file-commit")
            await operation.ended()
            return sent

    async def list(
        self, pattern: str, *, recursive: bool = False, limit: int = 100_000
    ) -> AsyncGenerator[FileEntry, None]:
        subject = f"{pattern!r} cannot be listed"
        fields: dict[str, Any] = {"do": "list", "path": pattern, "recursive": recursive, "limit": limit}
        with self._operations.begun("file", subject, **fields) as operation:
            count = 0
            while True:
                try:
                    event, data = await operation.next()
                except NotFoundError as exc:
                    raise NotFoundError(
                        f"Nothing in the sandbox matches {pattern!r}.", **self._operations.ids()
                    ) from exc
                if event.get("end"):
                    return
                for entry in self._entries(subject, data):
                    count += 1
                    if entry is None or count > limit:
                        message = f"{subject}: there are more than {limit} files; narrow the pattern."
                        raise QuotaError(message, **self._operations.ids())
                    yield entry

    def _entries(self, subject: str, data: Buffer) -> Iterator[FileEntry | None]:
        """Yield the entries of an event, None where the list is cut."""
        try:
            for entry in json.loads(bytes(data) or b"[]"):
                yield _entry(*entry) if entry else None
        except (ValueError, TypeError) as exc:
            raise InvocationError(f"{subject}: the answer is no list of files.", **self._operations.ids()) from exc

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        subject = f"{path!r} cannot be removed"
        with self._operations.begun("file", subject, do="remove", path=path, recursive=recursive) as operation:
            await operation.ended()


async def _taken(operation: Operation) -> int:
    event, _ = await operation.next()
    return int(event.get("taken", 0))


def _pieces(chunk: bytes) -> Iterator[bytes]:
    if len(chunk) <= CHUNK:
        yield chunk
        return
    for start in range(0, len(chunk), CHUNK):
        yield chunk[start : start + CHUNK]


def _entry(path: object, kind: object, size: object, modified: object, mode: object) -> FileEntry:
    """Return an entry of a list, whose fields may be anything. Raises ValueError or TypeError."""
    if not isinstance(path, str) or len(path) > MAX_PATH or kind not in _KINDS:
        raise ValueError
    numbers = [value for value in (size, mode) if isinstance(value, int) and 0 <= value < 1 << 63]
    if len(numbers) != 2 or not isinstance(modified, (int, float)):
        raise ValueError
    # Not what no clock says; that may be no number at all.
    when = float(modified) if abs(modified) < LATEST else 0.0
    return FileEntry(path, str(kind), numbers[0], when, numbers[1] & 0o7777)
