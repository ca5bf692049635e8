"""How often and when something that failed is tried again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from .errors import SandboxError

T = TypeVar("T")


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential back-off with jitter. Delays in seconds; the jitter is a fraction of the delay."""

    attempts: int = 3
    first_delay: float = 1.0
    longest_delay: float = 10.0
    jitter: float = 0.1

    def delay(self, attempt: int, random_number: float) -> float:
        """Seconds to wait after the given failed attempt (1, 2, …); ``random_number`` is between 0 and 1."""
        delay = min(self.longest_delay, self.first_delay * 2.0 ** (attempt - 1))
        return delay * (1 + self.jitter * (2 * random_number - 1))

    def delay_at_random(self, attempt: int) -> float:
        """Seconds to wait after the given failed attempt."""
        return self.delay(attempt, random.random())  # noqa: S311 - jitter is no secret


@dataclass
class Retry:
    """Runs an operation by a policy; clock and chance are given for tests."""

    policy: RetryPolicy
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random

    async def run(
        self,
        operation: Callable[[], Awaitable[T]],
        on_retry: Callable[[int, float, SandboxError], None] = lambda attempt, delay, error: None,
    ) -> T:
        """Return what the operation returns. Errors that are not ``retryable``, and the last one, are raised."""
        attempt = 1
        while True:
            try:
                return await operation()
            except SandboxError as exc:
                if not exc.retryable or attempt >= self.policy.attempts:
                    raise
                delay = self.policy.delay(attempt, self.random())
                on_retry(attempt, delay, exc)
            await self.sleep(delay)
            attempt += 1
