"""How much a cell may put out. What is beyond is dropped, and said once."""

from __future__ import annotations

import time
from typing import NamedTuple

MAX_CELLS = 1000
CHECKED_EVERY = 512
"""Messages between looks at the clock."""


class Limits(NamedTuple):
    """Bytes of a message, bytes of all a cell's messages, and messages per second; 0 means any number."""

    message: int
    cell: int
    rate: int


class Cell:
    """What one request has put out."""

    __slots__ = ("counted_from", "messages", "noted", "size", "skipping_until")

    def __init__(self) -> None:
        self.size = 0
        self.messages = 0
        self.counted_from = 0.0
        self.skipping_until = 0.0
        self.noted: set[str] = set()
        """Notes that were shown: each is shown once."""

    def excess(self, size: int, limits: Limits) -> str:
        """Count a message of that size; return why it is too much, or ""."""
        self.messages += 1
        if 0 < limits.message < size:
            return (
                f"a message of {_bytes(size)} was dropped: more than {_bytes(limits.message)} (Guard.max_message_size)"
            )
        self.size += size
        if 0 < limits.cell < self.size:
            return f"the output was cut after {_bytes(limits.cell)} (Guard.max_cell_output)"
        if limits.rate and (self.skipping_until or self.messages % CHECKED_EVERY == 0):
            return self._excess_of_rate(limits.rate)
        return ""

    def _excess_of_rate(self, rate: int) -> str:
        now = time.monotonic()
        if now < self.skipping_until:
            return f"messages were dropped: more than {rate} in a second (Guard.max_message_rate)"
        passed, self.counted_from = now - self.counted_from, now
        self.skipping_until = 0.0
        if passed * rate < CHECKED_EVERY:
            self.skipping_until = now + CHECKED_EVERY / rate - passed
        return ""


class Cells:
    """The cells of late, by message id."""

    def __init__(self) -> None:
        self._known: dict[str, Cell] = {}

    def of(self, msg_id: str) -> Cell:
        """Return what is known of a cell."""
        cell = self._known.get(msg_id)
        if cell is None:
            cell = self._known[msg_id] = Cell()
            if len(self._known) > MAX_CELLS:
                del self._known[next(iter(self._known))]
        return cell


def _bytes(size: int) -> str:
    for unit, amount in (("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1000)):
        if size >= amount:
            return f"{size / amount:.3g} {unit}"
    return f"{size} bytes"
