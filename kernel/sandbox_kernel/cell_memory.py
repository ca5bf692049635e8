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
    error: str = ""
    """The exception's name; "" if the cell ended well."""
    message: str = ""
    traceback: str = ""
    """As text without colours."""

    @property
    def failed(self) -> bool:
        """Whether it ended by an exception."""
        return bool(self.error)


def run_cell(code: str, seconds: float, error: Mapping[str, object] | None) -> RunCell:
    """Make a record from what an `error` message, or a reply, says; bounded."""
    if error is None:
        return RunCell(code[:MAX_CODE], seconds)
    lines = error.get("traceback")
    text = "\n".join(str(line) for line in lines) if isinstance(lines, (list, tuple)) else ""
    return RunCell(
        code[:MAX_CODE],
        seconds,
        str(error.get("ename", ""))[:200] or "Error",
        str(error.get("evalue", ""))[:2000],
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
