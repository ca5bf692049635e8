"""The inputs of a map: taken from whoever has them no sooner than they are needed, and given to workers."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sandbox_kernel.errors import CommandError, TransferError
from sandbox_kernel.library.contents import Call
from sandbox_kernel.link.protocol import Buffer

from .outcomes import NOT_SENT, Failure, Outcome
from .shipping import Json, of_input

MAX_AHEAD_BYTES = 8 * 1024 * 1024
"""Bytes of inputs that wait for a worker, and that one worker has, before no more are taken."""
PULL_TIME = 0.01
"""Seconds for which inputs are taken, and made ready, in one turn."""
MAX_PULL = 2000
"""Inputs in one turn."""
MAX_UNREAD = 1000
"""Outcomes that nobody has taken yet before no more inputs are given out."""
MAX_UNREAD_BYTES = 64 * 1024 * 1024


@dataclass
class Item:
    """An input on its way."""

    index: int
    header: Json
    buffers: Sequence[Buffer]
    size: int
    runs: int = field(default=0)
    """How often a sandbox was lost while the function ran with it."""


class Work:
    """All inputs of one map, and what has become of them. On the loop's thread, but for the inputs' own iterator."""

    def __init__(self, inputs: Iterable[Any] | AsyncIterable[Any], workers: int, call: Call) -> None:
        """``call`` is what an iterator's next inputs are made by, which may take time. Raises CommandError."""
        self._call = call
        self._workers = workers
        self._iterator = _iterator_of(inputs)
        self._ready: deque[Item] = deque()
        self._ready_bytes = 0
        self._exhausted = False
        self._wanted = workers
        self._unread_bytes = 0
        self.outcomes: deque[tuple[Outcome, int]] = deque()
        """Not taken yet, with the bytes that they came in."""
        self.given = self.done = self.failed = self.under_way = 0
        """Inputs that were taken; that have an outcome; of these, a failure; that a worker has."""
        self.has_begun = False
        """Whether any worker has begun with any input."""
        self.unmade = 0
        """Sandboxes in a row that were lost while they made the function."""
        self.listeners: list[asyncio.Event] = []
        """Set when there may be something to do for a worker."""
        self.heard = asyncio.Event()
        """Set when there are outcomes to take, or all is over."""
        self._news = asyncio.Event()

    def tell(self) -> None:
        """Wake everybody who waits for something."""
        self._news.set()
        self.heard.set()
        for listener in self.listeners:
            listener.set()

    @property
    def over(self) -> bool:
        """Whether every input has an outcome."""
        return self._exhausted and not self._ready and not self.under_way

    # ---- for workers

    def take(self, count: int) -> list[Item]:
        """Return up to so many inputs; none where there are none now, or where outcomes wait to be taken."""
        if self.is_full:
            return []
        # A share, so that the last inputs go to all workers.
        count = min(count, max(1, math.ceil(len(self._ready) / self._workers)))
        items: list[Item] = []
        size = 0
        while self._ready and len(items) < count and (size < MAX_AHEAD_BYTES or not items):
            item = self._ready.popleft()
            size += item.size
            items.append(item)
        self._ready_bytes -= size
        self.under_way += len(items)
        self._news.set()
        return items

    def want(self, count: int) -> None:
        """Note how many inputs one worker takes at a time."""
        self._wanted = max(self._wanted, count * self._workers)

    def give_back(self, item: Item) -> None:
        """Take an input back that no worker has begun with, or that may be run again."""
        self.under_way -= 1
        self._ready.appendleft(item)
        self._ready_bytes += item.size
        self.tell()

    def finish(self, outcome: Outcome, size: int = 0) -> None:
        """Note what became of an input that a worker had."""
        self.under_way -= 1
        self._add(outcome, size)
        self.heard.set()
        if self.over:
            self.tell()

    def _add(self, outcome: Outcome, size: int = 0) -> None:
        self.done += 1
        self.failed += not outcome.ok
        self.outcomes.append((outcome, size))
        self._unread_bytes += size

    # ---- for who wants the outcomes

    @property
    def is_full(self) -> bool:
        """Whether so many outcomes wait that no more inputs are given out."""
        return len(self.outcomes) >= MAX_UNREAD or self._unread_bytes >= MAX_UNREAD_BYTES

    def next_outcome(self) -> Outcome:
        """Return one that has not been taken; there has to be one."""
        was_full = self.is_full
        outcome, size = self.outcomes.popleft()
        self._unread_bytes -= size
        if was_full and not self.is_full:
            self.tell()
        return outcome

    # ---- the inputs

    async def pull(self) -> None:
        """Keep inputs ready until there are no more. Raises what the inputs' iterator raises."""
        while not self._exhausted:
            while self.is_full or len(self._ready) >= self._wanted or self._ready_bytes >= MAX_AHEAD_BYTES:
                self._news.clear()
                await self._news.wait()
            if isinstance(self._iterator, AsyncIterator):
                found = await self._pull_one(self._iterator)
            else:
                iterator, first, count = self._iterator, self.given, min(MAX_PULL, self._wanted - len(self._ready))
                found = await self._call(lambda: _pulled(iterator, first, count))  # noqa: B023 - it is called at once
            self._take_in(found)

    async def _pull_one(self, iterator: AsyncIterator[Any]) -> list[Item | Outcome | None]:
        try:
            value = await anext(iterator)
        except StopAsyncIteration:
            return [None]
        return [_item(self.given, value)]

    def _take_in(self, found: list[Item | Outcome | None]) -> None:
        for one in found:
            if one is None:
                self._exhausted = True
                break
            self.given += 1
            if isinstance(one, Item):
                self._ready.append(one)
                self._ready_bytes += one.size
            else:
                self._add(one)
        self.tell()


def _iterator_of(inputs: Any) -> Iterator[Any] | AsyncIterator[Any]:
    if isinstance(inputs, AsyncIterable):
        return aiter(inputs)
    if isinstance(inputs, Iterable) and not isinstance(inputs, (str, bytes)):
        return iter(inputs)
    raise CommandError(f"The inputs of map are an iterable of values, as a list is, and this is {_kind(inputs)}.")


def _kind(value: object) -> str:
    return type(value).__name__


def _pulled(iterator: Iterator[Any], first: int, count: int) -> list[Item | Outcome | None]:
    """Return the next inputs, as they travel; None stands for the end."""
    found: list[Item | Outcome | None] = []
    deadline = time.monotonic() + PULL_TIME
    while len(found) < count and (not found or time.monotonic() < deadline):
        try:
            value = next(iterator)
        except StopIteration:
            return [*found, None]
        found.append(_item(first + len(found), value))
    return found


def _item(index: int, value: Any) -> Item | Outcome:
    try:
        header, buffers = of_input(value)
    except TransferError as exc:
        return Outcome(index, failure=Failure(index, NOT_SENT, "TransferError", str(exc)))
    return Item(index, header, buffers, 200 + sum(memoryview(one).nbytes for one in buffers))
