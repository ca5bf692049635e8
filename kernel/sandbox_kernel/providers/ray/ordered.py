"""Bytes of a link on their way over calls that may be repeated and may overtake each other: no Ray, no sockets.

Every piece has a number, the count of bytes before it. So a call that is made again does no harm, and the calls of an
actor, which have no order, bring a stream that has one.
"""

from __future__ import annotations

LARGEST_GAP = 64 * 1024 * 1024
"""Bytes that may be ahead of what is missing; who sends more is none of ours."""


class Incoming:
    """Puts pieces into order, and takes no byte twice."""

    def __init__(self) -> None:
        self._position = 0
        self._held: dict[int, bytes] = {}

    @property
    def position(self) -> int:
        """The number of bytes that `next` has given."""
        return self._position

    def hold(self, offset: int, data: bytes) -> None:
        """Take a piece that begins after ``offset`` bytes. Raises ValueError for one that cannot be of this stream."""
        if offset < 0 or offset > self._position + LARGEST_GAP:
            raise ValueError(f"a piece at {offset}, where {self._position} bytes have come")
        if offset + len(data) > self._position and len(data) > len(self._held.get(offset, b"")):
            self._held[offset] = data

    def next(self) -> bytes:
        """Return bytes that are the next ones; b"" while some before them are missing."""
        for offset in sorted(self._held):
            if offset > self._position:
                break
            data = self._held.pop(offset)[self._position - offset :]
            if data:
                self._position += len(data)
                return data
        return b""


class Outgoing:
    """Keeps what was sent until the other side says that it has it."""

    def __init__(self, held: int) -> None:
        """``held`` bytes may wait; then it is `full`."""
        self._most = held
        self._kept = bytearray()
        self._start = 0

    @property
    def full(self) -> bool:
        """Whether no more should be added."""
        return len(self._kept) >= self._most

    @property
    def end(self) -> int:
        """The number of bytes that were added."""
        return self._start + len(self._kept)

    def add(self, data: bytes) -> None:
        """Append bytes."""
        self._kept += data

    def acknowledge(self, offset: int) -> None:
        """Forget what is before ``offset``. Raises ValueError where that was never sent."""
        if offset > self.end:
            raise ValueError(f"{offset} bytes are acknowledged, and {self.end} were sent")
        if offset > self._start:
            del self._kept[: offset - self._start]
            self._start = offset

    def read(self, most: int, offset: int = 0) -> bytes:
        """Return bytes that are not acknowledged, ``most`` of them: the first ones, or those after ``offset``."""
        begin = max(offset - self._start, 0)
        with memoryview(self._kept) as view:
            return bytes(view[begin : begin + most])
