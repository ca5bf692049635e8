"""Calls take effect once: one that comes again under its number gets the answer that it had."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from sandbox_kernel.errors import InvocationError

MAX_KEPT = 10_000
"""Calls that are remembered. Repetitions come within seconds."""

Key = tuple[str, str, str]
"""Owner, method and number: what another owner says under the same number is another call."""


class Numbers:
    """Remembers calls that are under way or had success. One that failed may be tried again."""

    def __init__(self) -> None:
        self._calls: OrderedDict[Key, asyncio.Task[Any]] = OrderedDict()

    async def run(self, key: Key, work: Callable[[], Awaitable[Any]]) -> Any:
        """Return what the work returns, which goes on when whoever waits for it does not."""
        task = self._calls.get(key)
        if task is None:
            task = self._calls[key] = asyncio.ensure_future(work())
            task.add_done_callback(lambda done: self._done(key, done))
            while len(self._calls) > MAX_KEPT:
                self._calls.popitem(last=False)
        return await asyncio.shield(task)

    def _done(self, key: Key, task: asyncio.Task[Any]) -> None:
        # Asked for its error in any case: nobody may be waiting any more.
        if (task.cancelled() or task.exception() is not None) and self._calls.get(key) is task:
            del self._calls[key]


class OnceOnly:
    """For calls whose answer is not kept: a number that comes again is refused."""

    def __init__(self) -> None:
        self._used: OrderedDict[tuple[str, str], None] = OrderedDict()

    def use(self, owner: str, number: str) -> None:
        """Take note of a number. Raises InvocationError where it was used before."""
        if (owner, number) in self._used:
            raise InvocationError("The connection was lost when this had begun, and it was not begun again.")
        self._used[owner, number] = None
        while len(self._used) > MAX_KEPT:
            self._used.popitem(last=False)
