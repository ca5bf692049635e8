"""What the last cells were and how they ended: for commands that are about them. Bounded, and in memory only."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

MAX_CELLS = 20
MAX_CODE = 20_000
"""Characters of a cell that are kept."""
MAX_TRACEBACK = 20_000
"""Characters of a traceback that are kept: its end, where the error stands."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class RunCell:
    """A cell that ended. What it says of its error came out of the sandbox, so it may be anything."""

    code: str
    seconds: float
    """From its beginning to its end."""
    number: int = 0
    """In [number]; 0 where that is not known."""
    error: str = ""
    """The exception's name; "" if the cell ended well."""
    message: str = ""
    traceback: str = ""
    """As text without colours."""

    @property
    def failed(self) -> bool:
        """Whether it ended by an exception."""
        return bool(self.error)


def run_cell(code: str, seconds: float, reply: Mapping[str, object]) -> RunCell:
    """Make a record from the content of a cell's reply, which may hold anything."""
    count = reply.get("execution_count")
    number = count if isinstance(count, int) and 0 <= count < 1 << 31 else 0
    if reply.get("status") != "error" and "ename" not in reply:
        return RunCell(code[:MAX_CODE], seconds, number)
    lines = reply.get("traceback")
    text = "\n".join(str(line) for line in lines) if isinstance(lines, (list, tuple)) else ""
    return RunCell(
        code[:MAX_CODE],
        seconds,
        number,
        str(reply.get("ename", ""))[:200] or "Error",
        str(reply.get("evalue", ""))[:2000],
        _COLOURS.sub("", text)[-MAX_TRACEBACK:],
    )


class CellMemory:
    """The last cells of a session, oldest first."""

    def __init__(self) -> None:
        self._cells: deque[RunCell] = deque(maxlen=MAX_CELLS)
        self.total = 0
        """How many there were."""

    def __iter__(self) -> Iterator[RunCell]:
        return iter(tuple(self._cells))

    def add(self, cell: RunCell) -> None:
        """Keep one more."""
        self._cells.append(cell)
        self.total += 1

    @property
    def last(self) -> RunCell | None:
        """The one that ended last."""
        return self._cells[-1] if self._cells else None

    def last_failure(self) -> RunCell | None:
        """Return the last cell that failed by a fault; who interrupted one knows why."""
        return next((one for one in reversed(self._cells) if one.failed and one.error != "KeyboardInterrupt"), None)
