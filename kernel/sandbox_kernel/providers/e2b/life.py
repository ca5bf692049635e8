"""How long a sandbox is there, and for how long it has run: while it is paused it costs next to nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

FRESH = 0.75
"""Share of its time that a sandbox may have left for it not to be prolonged yet."""


class Life:
    """Times in seconds, moments since the epoch. What other programs do to the sandbox is not known here."""

    def __init__(
        self,
        timeout: float,
        started: float,
        *,
        auto_pause: bool,
        idle: float = 0.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """``timeout`` from its last use on; with ``auto_pause`` it is paused then, not ended.

        After ``idle`` seconds without a cell the session pauses it; 0: it does not.
        """
        self.timeout, self.auto_pause, self.idle = timeout, auto_pause, idle
        self._now = now
        self._since: float | None = started
        """When it began to run; None while it is paused."""
        self._ran = 0.0
        """Before that."""
        self._ends = now() + timeout

    @property
    def left(self) -> float:
        """Seconds until its time is over."""
        return max(0.0, self._ends - self._now())

    @property
    def is_fresh(self) -> bool:
        """Whether so much is left that it need not be prolonged."""
        return self.left >= self.timeout * FRESH

    @property
    def ran(self) -> float:
        """Seconds for which it has run."""
        # When its time is over the service pauses or ends it, and may not have said so yet.
        return self._ran + (0.0 if self._since is None else max(0.0, min(self._now(), self._ends) - self._since))

    def prolonged(self) -> None:
        """Take note that its time begins anew."""
        if self._since is not None and not self.left:
            # It had stood still since its time was over.
            self._ran, self._since = self.ran, self._now()
        self._ends = self._now() + self.timeout

    def paused(self) -> None:
        """Take note that it stands still."""
        self._ran, self._since = self.ran, None

    def resumed(self) -> None:
        """Take note that it goes on."""
        self.paused()
        self._since = self._now()
        self.prolonged()
