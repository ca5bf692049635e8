"""What the bridge sent: numbered records on disk, of which the newest stay.

The files have no names, so that a cell cannot come upon them. What a request cannot do without (its statuses, replies,
errors) is kept in memory for longer than the rest, because it is small.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections import deque
from collections.abc import Container, Iterator, Sequence

from sandbox_kernel.link.protocol import Buffer

BOUND = 64 * 1024 * 1024
"""Bytes of records on disk. When there are more the oldest segment goes."""
SEGMENT = 4 * 1024 * 1024
"""Bytes from which a new segment is begun."""
ESSENTIAL_BOUND = 8 * 1024 * 1024
"""Bytes of essential records that are kept in memory."""
MAX_ESSENTIAL = 64 * 1024
"""Bytes of a record that is kept there."""
MAX_VECTOR = 500
"""Buffers of one write; the system's own limit (IOV_MAX) is 1024 on Linux."""

_COUNT = struct.Struct("!I")


class _Segment:
    """A file with the records from number ``first`` on."""

    def __init__(self, folder: str, first: int) -> None:
        path = os.path.join(folder, f".journal-{os.urandom(8).hex()}")
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(path)
        self.first = first
        self.offsets = array("Q", [0])
        """Where each record begins, and the end."""
        self.cells = array("Q")

    @property
    def size(self) -> int:
        """Bytes."""
        return self.offsets[-1]

    @property
    def end(self) -> int:
        """The number behind its last record."""
        return self.first + len(self.cells)

    def append(self, buffers: Sequence[Buffer], cell: int) -> bool:
        """Add a record; return False if it could not be written, and is there without content."""
        start = self.size
        size = sum(map(len, buffers))
        written = self._write(buffers)
        if written != size:
            os.ftruncate(self.fd, start)
            os.lseek(self.fd, start, os.SEEK_SET)
            size = 0
        self.offsets.append(start + size)
        self.cells.append(cell)
        return size > 0

    def _write(self, buffers: Sequence[Buffer]) -> int:
        try:
            return os.writev(self.fd, buffers)
        except OSError:
            # The disk is full, or the sandbox's share of it.
            return 0

    def read(self, number: int) -> bytes:
        """Return what was written as a record; b"" if that failed."""
        index = number - self.first
        start, end = self.offsets[index], self.offsets[index + 1]
        try:
            return os.pread(self.fd, end - start, start)
        except OSError:
            return b""


class Journal:
    """The records, from which any that is still there can be read again."""

    def __init__(self, folder: str, bound: int = BOUND) -> None:
        self._folder = folder
        self._bound = bound
        self._segment_size = min(SEGMENT, bound // 4)
        self._segments: deque[_Segment] = deque([_Segment(folder, 0)])
        self._size = 0
        self._essentials: dict[int, tuple[int, list[Buffer]]] = {}
        self._essential_size = 0

    @property
    def first(self) -> int:
        """The number of the oldest record on disk; of those before it the essential ones may be there."""
        return self._segments[0].first

    @property
    def end(self) -> int:
        """The number that the next record gets."""
        return self._segments[-1].end

    def append(self, parts: Sequence[Buffer], cell: int, *, essential: bool) -> int:
        """Add a message of a cell (its serial number, 0 for none); return the record's number."""
        segment = self._segments[-1]
        number = segment.end
        before = segment.size
        segment.append(_encoded(parts), cell)
        self._size += segment.size - before
        if essential and segment.size - before <= MAX_ESSENTIAL:
            self._keep(number, cell, [bytes(part) for part in parts])
        if segment.size >= self._segment_size:
            self._segments.append(_Segment(self._folder, segment.end))
        while self._size > self._bound and len(self._segments) > 1:
            dropped = self._segments.popleft()
            self._size -= dropped.size
            os.close(dropped.fd)
        return number

    def read(self, number: int) -> list[Buffer] | None:
        """Return a message; None where it is not there any more."""
        if number in self._essentials:
            return self._essentials[number][1]
        segment = self._segment_of(number)
        return _decoded(segment.read(number)) if segment is not None else None

    def numbers(self, start: int, end: int, cells: Container[int]) -> Iterator[int]:
        """Yield the numbers of the records of some cells that are there, in order."""
        number = start
        while number < end:
            first = self.first
            if number < first:
                # All but the essential ones has gone, perhaps since the last one was yielded.
                for one in self.essentials_before(number, min(end, first)):
                    if one in self._essentials and self._essentials[one][0] in cells:
                        yield one
                number = first
                continue
            segment = self._segment_of(number)
            if segment is None:
                return
            if segment.cells[number - segment.first] in cells:
                yield number
            number += 1

    def essentials_before(self, start: int, end: int) -> list[int]:
        """Return the numbers of the essential records of a range that are there."""
        return [number for number in self._essentials if start <= number < end]

    def close(self) -> None:
        """Close the files, which are gone then."""
        for segment in self._segments:
            os.close(segment.fd)

    def _keep(self, number: int, cell: int, parts: list[Buffer]) -> None:
        self._essentials[number] = cell, parts
        self._essential_size += sum(map(len, parts))
        while self._essential_size > ESSENTIAL_BOUND:
            _, dropped = self._essentials.pop(next(iter(self._essentials)))
            self._essential_size -= sum(map(len, dropped))

    def _segment_of(self, number: int) -> _Segment | None:
        for segment in reversed(self._segments):
            if segment.first <= number:
                return segment if number < segment.end else None
        return None


def _encoded(parts: Sequence[Buffer]) -> list[Buffer]:
    lengths = struct.pack(f"!{len(parts)}I", *map(len, parts))
    buffers: list[Buffer] = [_COUNT.pack(len(parts)) + lengths, *parts]
    return buffers if len(buffers) <= MAX_VECTOR else [b"".join(buffers)]


def _decoded(record: bytes) -> list[Buffer] | None:
    """Return the parts of a record; None if it is not whole."""
    if len(record) < _COUNT.size:
        return None
    (count,) = _COUNT.unpack_from(record)
    position = _COUNT.size + 4 * count
    if len(record) < position:
        return None
    view = memoryview(record)
    parts: list[Buffer] = []
    for length in struct.unpack_from(f"!{count}I", record, _COUNT.size):
        parts.append(bytes(view[position : position + length]))
        position += length
    return parts if position == len(record) else None
