"""What families of commands keep with a session, from their first use to its end."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from .errors import SandboxKernelError

S = TypeVar("S")
T = TypeVar("T")


class Companions:
    """Of one session, by what has made them. ``report`` takes the name, level and fields of an event."""

    def __init__(self, report: Callable[[str, str, dict[str, Any]], None]) -> None:
        self._report = report
        self._made: dict[Callable[..., Any], Any] = {}

    def of(self, make: Callable[[S], T], session: S) -> T:
        """Return what this makes of the session; the same one each time."""
        if make not in self._made:
            self._made[make] = make(session)
        found: T = self._made[make]
        return found

    async def close(self) -> None:
        """Call the coroutine methods `close` of those that have one."""
        for companion in self._made.values():
            if inspect.iscoroutinefunction(close := getattr(companion, "close", None)):
                try:
                    await close()
                except SandboxKernelError as exc:
                    # The session ends all the same.
                    self._report("not_given_back", "error", {"error": str(exc)})
