"""Measures how long cells run, without the time in which the sandbox is paused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

Cell = TypeVar("Cell")
"""Whatever stands for a cell that runs; it must be hashable."""


class _Alarm(NamedTuple):
    handle: asyncio.TimerHandle | None
    """None while the clock stands still."""
    due: float
    """By the monotonic clock, in seconds; while it stands still: the seconds that are left."""
    on_due: Callable[[Any], None]


class CellClock(Generic[Cell]):
    """At most one alarm for each cell."""

    def __init__(self) -> None:
        self._alarms: dict[Cell, _Alarm] = {}
        self._running = True

    def start(self, cell: Cell, seconds: float, on_due: Callable[[Cell], None]) -> None:
        """Call ``on_due`` when the cell has run for so long from now; 0: never. Replaces an earlier alarm."""
        self.stop(cell)
        if seconds:
            self._set(cell, seconds, on_due)

    def knows(self, cell: Cell) -> bool:
        """Whether the cell has an alarm."""
        return cell in self._alarms

    def stop(self, cell: Cell) -> None:
        """Forget the cell's alarm."""
        alarm = self._alarms.pop(cell, None)
        if alarm is not None and alarm.handle is not None:
            alarm.handle.cancel()

    def run(self, running: bool) -> None:
        """Let time pass, or stand still."""
        if running == self._running:
            return
        self._running = running
        for cell, alarm in list(self._alarms.items()):
            if alarm.handle is not None:
                alarm.handle.cancel()
            self._set(cell, alarm.due if running else max(0.0, alarm.due - time.monotonic()), alarm.on_due)

    def _set(self, cell: Cell, seconds: float, on_due: Callable[[Cell], None]) -> None:
        if self._running:
            handle = asyncio.get_running_loop().call_later(seconds, on_due, cell)
            self._alarms[cell] = _Alarm(handle, time.monotonic() + seconds, on_due)
        else:
            self._alarms[cell] = _Alarm(None, seconds, on_due)
