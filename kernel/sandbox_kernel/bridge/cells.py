"""The cells that were passed to the inner kernel: which of them are not done, and where in the journal they stand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from sandbox_kernel.link.protocol import Buffer

MAX_CELLS = 1000
"""Cells that are remembered; of those that are done the oldest are forgotten."""

_COUNT = re.compile(rb'"execution_count": ?(\d{1,15})')


class Cell:
    """One execute request, known by the serial number under which its messages stand in the journal."""

    __slots__ = ("count", "first", "hidden", "idle", "last", "msg_id", "question", "replied", "serial", "token")

    def __init__(self, serial: int, msg_id: str, token: bytes, first: int, *, hidden: bool) -> None:
        self.serial = serial
        self.msg_id = msg_id
        self.token = token
        self.first = first
        self.last = first
        """The number of its last record so far."""
        self.hidden = hidden
        self.count = 0
        self.replied = False
        self.idle = False
        self.question: int | None = None
        """The record of the question that waits for an answer."""

    @property
    def done(self) -> bool:
        """Whether its reply and its idle status have come."""
        return self.replied and self.idle


class CellBook:
    """The cells, in the order in which they came."""

    def __init__(self) -> None:
        self._by_id: dict[str, Cell] = {}
        self._by_token: dict[bytes, Cell] = {}
        self.last_count = 0
        """The number of the cell that was announced last, in this life of the kernel."""
        self._serial = 0
        self._parent = b""
        self._parents_cell: Cell | None = None

    def __iter__(self) -> Iterator[Cell]:
        return iter(list(self._by_id.values()))

    @property
    def open(self) -> list[Cell]:
        """The cells that are not done."""
        return [cell for cell in self if not cell.done]

    def began(self, token: bytes, parts: list[Buffer], first: int) -> None:
        """Note an execute request (header, parent header, metadata, content) that is passed to the kernel now."""
        header, content = json.loads(bytes(parts[0])), json.loads(bytes(parts[3]))
        hidden = bool(content.get("silent", False)) or not content.get("store_history", True)
        self._serial += 1
        cell = Cell(self._serial, str(header["msg_id"]), token, first, hidden=hidden)
        self._by_id[cell.msg_id] = self._by_token[token] = cell
        self._parent = b""
        if len(self._by_id) > MAX_CELLS:
            self._forget_one()

    def of_parent(self, parent: bytes) -> Cell | None:
        """Return the cell that a message with this parent header belongs to."""
        if parent != self._parent:
            # Most messages have the parent of the one before.
            self._parent = parent
            self._parents_cell = self._by_id.get(_msg_id(parent))
        return self._parents_cell

    def of_token(self, token: bytes) -> Cell | None:
        """Return the cell whose request had this token."""
        return self._by_token.get(token)

    def counted(self, cell: Cell, content: bytes) -> None:
        """Take the number of a cell from the message that announces its text."""
        found = _COUNT.search(content)
        cell.count = int(found[1]) if found else 0
        if not cell.hidden:
            self.last_count = cell.count or self.last_count

    def answered(self) -> None:
        """An answer has come for the question that waits."""
        for cell in self.open:
            cell.question = None

    def ended(self, number: int) -> None:
        """The inner kernel's life has ended, and with it every cell."""
        self.last_count = 0
        for cell in self.open:
            cell.replied = cell.idle = True
            cell.last = number
            cell.question = None

    def missed(self, seen: int) -> list[Cell]:
        """Return the cells of people that a kernel process has not had whole, which knows the records before SEEN."""
        return [cell for cell in self if not cell.hidden and (not cell.done or cell.last >= seen)]

    def with_count(self, count: int) -> Cell | None:
        """Return the last cell of that number; of 0 the last one that was announced."""
        cells = [cell for cell in self if not cell.hidden and cell.count and cell.count == (count or cell.count)]
        return cells[-1] if cells else None

    def _forget_one(self) -> None:
        oldest = next((cell for cell in self if cell.done), None)
        if oldest is not None:
            del self._by_id[oldest.msg_id]
            self._by_token.pop(oldest.token, None)


def _msg_id(header: bytes) -> str:
    """Return the id in a header; "" where a cell made up something that is none."""
    try:
        return str(json.loads(header)["msg_id"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
