"""Follows what a cell in basic mode shows, in portions: a cell may print any number of marks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from .marks import Json, MarkReader
from .results import ToolResult

TURN = 0.02
"""Seconds for which marks are taken until everybody else on the event loop gets a turn."""


class Shown:
    """What has been shown of a cell, in the order of its events. `finish` or `drop` it."""

    def __init__(self, show: Callable[[Json], Json], show_text: Callable[[str], None]) -> None:
        """``show`` takes a mark and returns the error that it tells, or {}."""
        self.error: Json = {}
        self.ended = False
        self.absent = ""
        """The call that found no shim, as it says itself."""
        self.payload: list[Any] = []
        self._show, self._print = show, show_text
        self._reader = MarkReader()
        self._loop = asyncio.get_running_loop()
        self._texts: asyncio.Queue[str | None] = asyncio.Queue()
        self._following = asyncio.ensure_future(self._follow())

    def on_event(self, event: ToolResult) -> None:
        """Take an event, in whatever thread."""
        self._loop.call_soon_threadsafe(self._texts.put_nowait, event.printed)

    async def finish(self) -> None:
        """There is no more: show all that has come."""
        # Behind the events that are on their way here.
        self._loop.call_soon(self._texts.put_nowait, None)
        await self._following

    def drop(self) -> None:
        """Show nothing more."""
        self._following.cancel()

    async def _follow(self) -> None:
        until = 0.0
        while (text := await self._texts.get()) is not None:
            for one in self._reader.feed(text):
                self._take(one)
                if time.monotonic() >= until:
                    await asyncio.sleep(0)
                    until = time.monotonic() + TURN
        rest = self._reader.rest()
        if rest:
            self._print(rest)

    def _take(self, one: str | Json) -> None:
        if isinstance(one, str):
            self._print(one)
        elif one.get("kind") == "absent":
            self.absent = str(one.get("call"))
        elif one.get("kind") == "end":
            self.ended = True
            payload = one.get("payload")
            self.payload = [part for part in payload if isinstance(part, dict)] if isinstance(payload, list) else []
        else:
            self.error = self._show(one) or self.error
