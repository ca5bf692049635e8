"""Measures how long cells run, without the time in which the sandbox is paused."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from .requests import Request

OnDue = Callable[[Request], None]


class _Alarm(NamedTuple):
    handle: asyncio.TimerHandle | None
    """None while the clock stands still."""
    due: float
    """By the monotonic clock, in seconds; while it stands still: the seconds that are left."""
    on_due: OnDue


class CellClock:
    """At most one alarm for each request."""

    def __init__(self) -> None:
        self._alarms: dict[Request, _Alarm] = {}
        self._running = True

    def start(self, request: Request, seconds: float, on_due: OnDue) -> None:
        """Call ``on_due`` when the request has run for so long from now; 0: never. Replaces an earlier alarm."""
        self.stop(request)
        if seconds:
            self._set(request, seconds, on_due)

    def knows(self, request: Request) -> bool:
        """Whether the request has an alarm."""
        return request in self._alarms

    def stop(self, request: Request) -> None:
        """Forget the request's alarm."""
        alarm = self._alarms.pop(request, None)
        if alarm is not None and alarm.handle is not None:
            alarm.handle.cancel()

    def run(self, running: bool) -> None:
        """Let time pass, or stand still."""
        if running == self._running:
            return
        self._running = running
        for request, alarm in list(self._alarms.items()):
            if alarm.handle is not None:
                alarm.handle.cancel()
            self._set(request, alarm.due if running else max(0.0, alarm.due - time.monotonic()), alarm.on_due)

    def _set(self, request: Request, seconds: float, on_due: OnDue) -> None:
        if self._running:
            handle = asyncio.get_running_loop().call_later(seconds, on_due, request)
            self._alarms[request] = _Alarm(handle, time.monotonic() + seconds, on_due)
        else:
            self._alarms[request] = _Alarm(None, seconds, on_due)
