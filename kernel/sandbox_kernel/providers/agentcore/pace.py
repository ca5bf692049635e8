"""How often a sandbox is called while output comes: at once as long as that is seldom, then about once a second."""

from __future__ import annotations

import time
from collections.abc import Callable

AT_ONCE = 0.03
"""Seconds that the first output waits for more to come with it."""
BURST = 22.0
"""Calls that may be made in quick succession."""
PER_SECOND = 1.0
"""Calls in a second in the long run."""
CALM = 8.0
"""So many calls left: no reason to wait longer."""
LONGEST = 1.2
"""Seconds that a call waits at least when no calls are left, unless the service throttles."""
SLOWEST = 5.0


class Pace:
    """A bucket of calls that fills with time. After the service has throttled, it fills more slowly for a while."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left, self._at = BURST, clock()
        self._slowed = 1.0

    def take(self) -> None:
        """A call is made."""
        self._fill()
        self._left = max(0.0, self._left - 1.0)

    def throttled(self) -> None:
        """The service has refused a call because there were too many."""
        self._fill()
        self._left = 0.0
        self._slowed = min(8.0, self._slowed * 2)

    @property
    def spacing(self) -> float:
        """Seconds that the next call should take at least, where output comes and nothing else ends it.

        So output that comes seldom leaves at once, whatever was before it.
        """
        self._fill()
        if self._left >= CALM:
            return 0.0
        # Steep: people notice who wait for one line, and a flood of them is slowed down all the same.
        return min(SLOWEST, LONGEST * self._slowed) * (1 - self._left / CALM) ** 4

    def _fill(self) -> None:
        now = self._clock()
        passed, self._at = now - self._at, now
        self._left = min(BURST, self._left + passed * PER_SECOND / self._slowed)
        if self._left >= BURST:
            self._slowed = max(1.0, self._slowed / 2)
