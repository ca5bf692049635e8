"""A stream of bytes that travels as messages: notices those that were lost, lets a writer wait. No sockets, no clock.

Whoever carries the messages may drop, repeat or delay them, and keep any number of them. Each *piece* says where in its
stream its bytes begin, and how many of the other direction's have been taken. What came before is dropped, and a gap is
an error: the stream is over then, and the link goes on over another one (see protocol.py). So nothing is kept here to
be sent again. Where nothing tells that all has arrived, the writer asks; that also finds out that nobody is there.
"""

from __future__ import annotations

from typing import NamedTuple, Union

Buffer = Union[bytes, bytearray, memoryview]

WINDOW = 4 * 1024 * 1024
"""Bytes that may be under way."""
SIZE = 256 * 1024
"""Bytes of one piece at most."""
ASK_AFTER = 2.0
"""Seconds without a word after which it is asked what has arrived."""


class GapError(Exception):
    """Bytes were lost on the way."""


class Piece(NamedTuple):
    """One message."""

    at: int
    """Where in the stream its bytes begin."""
    have: int
    """So many bytes of the other direction were taken."""
    asks: bool
    """An answer is wanted, whatever has come."""
    data: Buffer


class Pieces:
    """One end, of both directions. Moments are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self.unanswered = 0
        """Questions since the other end was heard last."""
        self._waiting = bytearray()
        self._sent = self._acknowledged = 0
        self._received = self._taken = self._told = 0
        self._owes = False
        self._since = 0.0

    @property
    def backlog(self) -> int:
        """Bytes that wait for room."""
        return len(self._waiting)

    @property
    def has_room(self) -> bool:
        """Whether what is written now leaves at once."""
        return not self._waiting and self._sent - self._acknowledged < WINDOW

    @property
    def due(self) -> float | None:
        """When `to_send` has a question, if nothing is heard until then."""
        return self._since + ASK_AFTER if self._sent > self._acknowledged else None

    def write(self, data: Buffer) -> None:
        """Take bytes for sending."""
        self._waiting += data

    def to_send(self, now: float) -> list[Piece]:
        """Return what is to be sent now."""
        made = []
        while self._waiting and self._sent - self._acknowledged < WINDOW:
            data = bytes(memoryview(self._waiting)[:SIZE])
            del self._waiting[:SIZE]
            made.append(self._piece(data))
        asks = not made and self.due is not None and now >= self.due
        if not made and (asks or self._owes or self._taken - self._told >= WINDOW // 4):
            made.append(self._piece(b"", asks=asks))
            self.unanswered += asks
        if made:
            self._since = now
        return made

    def _piece(self, data: bytes, *, asks: bool = False) -> Piece:
        piece = Piece(self._sent, self._taken, asks, data)
        self._sent += len(data)
        self._told, self._owes = self._taken, False
        return piece

    def receive(self, piece: Piece, now: float) -> memoryview:
        """Take a piece; return what is new of it, which `take` is to be told of. Raises GapError."""
        if not 0 <= piece.have <= self._sent or not 0 <= piece.at <= self._received:
            raise GapError("bytes were lost on the way")
        if piece.have > self._acknowledged:
            self._acknowledged, self._since = piece.have, now
        self.unanswered = 0
        self._owes = self._owes or piece.asks
        fresh = memoryview(piece.data)[self._received - piece.at :]
        self._received += len(fresh)
        return fresh

    def take(self, size: int) -> None:
        """Take note that so many bytes that were received have been passed on; only then more may come."""
        self._taken += size

    def greet(self) -> None:
        """Have the next `to_send` say something in any case."""
        self._owes = True
