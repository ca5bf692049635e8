"""Counters of the life of tools, and a line in the log for each step."""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sandbox_kernel.events import EventLog

KEPT_DURATIONS = 1000


class Stats:
    """Counts registrations, executions and errors of this process."""

    def __init__(self, log: EventLog, owner: str) -> None:
        self._log = log
        self._owner = owner
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._durations: deque[float] = deque(maxlen=KEPT_DURATIONS)

    @contextmanager
    def step(self, name: str, tool: str, **fields: Any) -> Iterator[dict[str, Any]]:
        """Count and log one step; what is put into the dict stands in the log, too."""
        began = time.monotonic()
        said: dict[str, Any] = dict(fields)
        try:
            yield said
        except Exception as exc:
            self.counts[f"{name} failures"] += 1
            self.errors[type(exc).__name__] += 1
            self._write(f"tool_{name}", "error", tool, began, {**said, "error": f"{type(exc).__name__}: {exc}"[:1000]})
            raise
        self.counts[f"{name}s"] += 1
        if name == "execution":
            self._durations.append(time.monotonic() - began)
        self._write(f"tool_{name}", "info", tool, began, said)

    def _write(self, event: str, level: str, tool: str, began: float, fields: dict[str, Any]) -> None:
        seconds = round(time.monotonic() - began, 4)
        self._log.write(event, level=level, tool=tool, owner=self._owner, seconds=seconds, **fields)

    def lines(self) -> list[str]:
        """Return what `%sandbox tool stats` shows."""
        found = [f"{name}: {count}" for name, count in sorted(self.counts.items())]
        if self._durations:
            ordered = sorted(self._durations)
            high = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
            found.append(f"execution seconds: median {statistics.median(ordered):.3f}, 95 % {high:.3f}")
        found += [f"errors of the kind {name}: {count}" for name, count in sorted(self.errors.items())]
        return found or ["nothing has happened yet in this session"]
