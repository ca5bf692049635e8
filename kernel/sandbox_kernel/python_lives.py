"""How often the Python in a sandbox has died, and when that is too often."""

from __future__ import annotations

import time
from collections import deque

MAX_DEATHS = 3
"""Times in a row that it may die before it was ready; then the sandbox is given up."""
MAX_LIVES, LIVES_PERIOD = 20, 60.0
"""How often it may die within so many seconds. No real one starts so fast."""


class PythonLives:
    """Counts the deaths of one session's inner kernels."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._times: deque[float] = deque(maxlen=MAX_LIVES)

    def begin(self) -> None:
        """Note that one takes requests, or that another sandbox is tried."""
        self._in_a_row = 0

    def end(self) -> bool:
        """Note that one died; return whether somebody makes that up, or it would go on for ever."""
        self._in_a_row += 1
        now = time.monotonic()
        if len(self._times) == MAX_LIVES and now - self._times[0] < LIVES_PERIOD:
            return True
        self._times.append(now)
        return False

    @property
    def cannot_start(self) -> bool:
        """Whether it has died so often that it never became ready."""
        return self._in_a_row >= MAX_DEATHS
