"""What of a configuration's tools is there yet: each source gets ready by itself, and none waits for another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Union

from .tool import Tool

Key = tuple[str, str]
"""``tool`` or ``agent``, and a name."""
Found = Union[Tool, str]
"""A tool, or what is wrong with an entry."""


@dataclass(eq=False)
class Source:
    """One entry of the configuration, or one server."""

    label: str
    """What cells are told when it is missing, such as "the MCP server 'files'"."""
    place: str
    """Where it stands in the configuration."""
    make: Callable[[], Awaitable[Sequence[Found]]]
    """Makes its tools; has a time limit of its own."""
    gives: Callable[[str, str], bool]
    """Whether a tool of this kind and name may come from it."""
    patience: float
    """Seconds from the beginning in which a list of all tools waits for it, if it is not there yet."""
    tools: dict[Key, Tool] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    failed: bool = False
    """Whether it is ready and has nothing but problems."""
    task: asyncio.Task[None] | None = None

    @property
    def is_pending(self) -> bool:
        """Whether it is not known yet what it has."""
        return self.task is None or not self.task.done()


class Loading:
    """Gets sources ready, all at once. Where two have a tool of one name, the first one's counts."""

    def __init__(self, sources: Sequence[Source], on_change: Callable[[], None]) -> None:
        """Begin; ``on_change`` is called whenever there are other tools than before."""
        self._sources = sources
        self._on_change = on_change
        self._began = time.monotonic()
        for source in sources:
            source.task = asyncio.ensure_future(self._get_ready(source))

    async def _get_ready(self, source: Source) -> None:
        try:
            found = await source.make()
        except Exception as exc:  # noqa: BLE001 - the edge: what one source raises must not cost the others theirs
            found = [f"{source.place}: {type(exc).__name__}: {str(exc)[:300]}"]
        for one in found:
            if isinstance(one, str):
                source.problems.append(one)
            else:
                source.tools[one.kind, one.name] = one
        source.failed = bool(source.problems) and not source.tools
        self._on_change()

    def tools(self) -> dict[Key, Tool]:
        """Return what is there now."""
        found: dict[Key, Tool] = {}
        for source in self._sources:
            for key, tool in source.tools.items():
                found.setdefault(key, tool)
        return found

    def remove(self, key: Key) -> bool:
        """Forget a tool; return whether there was one."""
        return bool([source for source in self._sources if source.tools.pop(key, None) is not None])

    def problems(self) -> list[str]:
        """Return what cannot be used, or not yet, and why."""
        return [problem for source in self._sources for problem in self._problems(source)]

    def _problems(self, source: Source) -> Iterator[str]:
        if source.is_pending:
            yield f"{source.place} is not there yet: no answer for {time.monotonic() - self._began:.0f} s."
        yield from source.problems
        for kind, name in source.tools:
            if self.tools()[kind, name] is not source.tools[kind, name]:
                yield f"{source.place}: there is a {kind} {name!r} already."

    def missing(self) -> list[str]:
        """Return which sources give nothing, in words that cells may read: reasons may hold this machine's secrets."""
        return [source.label for source in self._sources if source.is_pending or source.failed]

    async def until_found(self, kind: str, name: str) -> None:
        """Wait until it is known whether there is a tool of this name, and for no other source."""
        for source in self._sources:
            if source.is_pending and source.gives(kind, name):
                await self._wait([source])
            if (kind, name) in source.tools:
                return

    async def briefly(self) -> None:
        """Wait for all, but not long."""
        for source in self._sources:
            await self._wait([source], max(0.0, self._began + source.patience - time.monotonic()))

    async def completely(self) -> None:
        """Wait for all."""
        await self._wait(self._sources)

    async def _wait(self, sources: Sequence[Source], timeout: float | None = None) -> None:
        waited = [source.task for source in sources if source.task is not None and not source.task.done()]
        if waited:
            await asyncio.wait(waited, timeout=timeout)

    async def close(self) -> None:
        """End what is under way."""
        for source in self._sources:
            if source.task is not None:
                source.task.cancel()
        await self.completely()
