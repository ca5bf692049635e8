"""Calls take effect once: one that comes again under its number gets the answer that it had."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Any

from sandbox_kernel.errors import InvocationError

MAX_KEPT = 10_000
"""Calls of each owner that are remembered when they are done. Repetitions come within seconds."""

Key = tuple[str, str, str]
"""Owner, method and number: what another owner says under the same number is another call."""


class Numbers:
    """Remembers calls that are under way or had success. One that failed may be tried again."""

    def __init__(self) -> None:
        self._calls: defaultdict[str, OrderedDict[Key, asyncio.Task[Any]]] = defaultdict(OrderedDict)

    async def run(self, key: Key, work: Callable[[], Awaitable[Any]]) -> Any:
        """Return what the work returns, which goes on when whoever waits for it does not."""
        calls = self._calls[key[0]]
        task = calls.get(key)
        if task is None:
            task = calls[key] = asyncio.ensure_future(work())
            task.add_done_callback(lambda done: self._done(key, done))
            self._forget(calls)
        return await asyncio.shield(task)

    def _forget(self, calls: OrderedDict[Key, asyncio.Task[Any]]) -> None:
        """Drop the oldest that are too many. One that is under way would take effect again."""
        done = (key for key, task in calls.items() if task.done())
        for key in list(islice(done, max(0, len(calls) - MAX_KEPT))):
            del calls[key]

    def _done(self, key: Key, task: asyncio.Task[Any]) -> None:
        # Asked for its error in any case: nobody may be waiting any more.
        calls = self._calls[key[0]]
        if (task.cancelled() or task.exception() is not None) and calls.get(key) is task:
            del calls[key]


class OnceOnly:
    """For calls whose answer is not kept: a number that comes again is refused."""

    def __init__(self) -> None:
        self._used: defaultdict[str, OrderedDict[str, None]] = defaultdict(OrderedDict)

    def use(self, owner: str, number: str) -> None:
        """Take note of a number. Raises InvocationError where it was used before."""
        used = self._used[owner]
        if number in used:
            raise InvocationError("The connection was lost when this had begun, and it was not begun again.")
        used[number] = None
        while len(used) > MAX_KEPT:
            used.popitem(last=False)
