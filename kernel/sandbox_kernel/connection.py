"""A session's connection to a sandbox that outlives it: one link, and the transports that carry it one after the other.

A connection that is lost is made again: messages under way stay under way, and nobody notices but by the delay. Only
what cannot be mended is told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol, Union

from .errors import SandboxConnectionError, SandboxError, SandboxLostError, SandboxPausedError
from .link.channel import LinkChannel, OnExcess, OnMessage
from .link.protocol import Link, LinkError
from .providers.base import Sandbox
from .retry import RetryPolicy

GREETING_TIMEOUT = 10.0
"""Seconds in which the bridge must have greeted over a new transport; another one is tried then."""

STEADY_AFTER = 5.0
"""Seconds that a connection must have lasted for the next one to be made without a delay."""

Report = Callable[[str, str, dict[str, Any]], None]
"""Takes the name of an event, its level and its fields, for the log."""


class OnEnded(Protocol):
    """Who is told that the connection cannot be mended."""

    def __call__(self, reason: str, error: Union[SandboxError, LinkError, None]) -> None:
        """``error`` is None where the transport has ended; the sandbox knows why, if anybody does."""


class Connection:
    """One sandbox's link in use. Every method is called on the event loop's thread."""

    def __init__(
        self,
        sandbox: Sandbox,
        link: Link,
        on_message: OnMessage,
        on_excess: OnExcess,
        on_ended: OnEnded,
        *,
        policy: RetryPolicy,
        patience: float = 0.0,
        report: Report = lambda name, level, fields: None,
    ) -> None:
        """A connection that is lost is tried to be made for ``patience`` seconds, 0 for ever, and with no hurry."""
        self._sandbox = sandbox
        self._on_ended = on_ended
        self._policy = policy
        self._patience = patience
        self._report = report
        self._channel = LinkChannel(link, on_message, on_excess, self._on_lost, self._on_opened, prompt=True)
        self._greeted: asyncio.Future[bool] | None = None
        """Whether the bridge has greeted over the transport that was made last."""
        self._opened_at = 0.0
        self._awake = asyncio.Event()
        self._awake.set()
        self._mending: asyncio.Task[None] | None = None
        self._lost_at: float | None = None
        self._attempt = 0
        self._closed = False
        self.send = self._channel.send
        self.withdraw = self._channel.withdraw
        self.hold = self._channel.hold
        self.release = self._channel.release

    @property
    def backlog(self) -> int:
        """Bytes of messages, urgent ones not counted, that have not left."""
        return self._channel.backlog

    @property
    def is_receiving(self) -> bool:
        """Whether a part of a message has arrived, or all of it may be late because there was no connection."""
        late = self._lost_at is not None or time.monotonic() - self._opened_at < STEADY_AFTER
        return late or self._channel.is_receiving

    @property
    def lost_for(self) -> float | None:
        """Seconds since the connection was lost; None while there is one."""
        return None if self._lost_at is None else time.monotonic() - self._lost_at

    async def open(self) -> None:
        """Make the connection. Raises SandboxError."""
        try:
            transport = await asyncio.wait_for(self._sandbox.open_link(), GREETING_TIMEOUT)
        except asyncio.TimeoutError:
            raise self._unanswered() from None
        self._channel.attach(transport)
        asyncio.get_running_loop().call_later(GREETING_TIMEOUT, self._look_for_greeting)

    def _look_for_greeting(self) -> None:
        """Make another connection where the first one is dead, which nothing else would tell."""
        if not self._opened_at and self._lost_at is None and not self._closed:
            self._channel.drop()

    def sleep(self, asleep: bool) -> None:
        """While the sandbox is paused nobody answers, so no connection is made."""
        if asleep:
            self._awake.clear()
        else:
            self._awake.set()

    def close(self) -> None:
        """End it without a word to ``on_ended``. Idempotent."""
        self._closed = True
        if self._mending is not None:
            self._mending.cancel()
        self._channel.close()

    async def wait_closed(self) -> None:
        """Wait until an attempt that was under way at the end has been given up.

        Left to the loop's end, its calls would be cancelled out of order, and tell errors that nobody waits for.
        """
        if self._mending is not None:
            await asyncio.wait([self._mending])

    # ---- losing and mending

    def _on_opened(self) -> None:
        self._opened_at = time.monotonic()
        # One that breaks at once again is tried without hurry, and yet without the pauses of one that cannot be had.
        self._attempt = min(self._attempt, 1)
        if self._lost_at is not None:
            self._report("reconnected", "info", {"seconds": round(self._opened_at - self._lost_at, 3)})
            self._lost_at = None
        self._tell_mending(True)

    def _on_lost(self, reason: str, error: LinkError | None) -> None:
        if self._closed:
            return
        if error is not None or self._sandbox.is_gone:
            self._on_ended(reason, error)
            return
        now = time.monotonic()
        if self._lost_at is None:
            self._lost_at = now
            self._report("connection_lost", "warning", {"reason": reason})
        if now - self._opened_at > STEADY_AFTER:
            self._attempt = 0
        self._tell_mending(False)
        if self._mending is None or self._mending.done():
            self._mending = asyncio.ensure_future(self._mend(reason))

    def _tell_mending(self, greeted: bool) -> None:
        if self._greeted is not None and not self._greeted.done():
            self._greeted.set_result(greeted)

    async def _mend(self, reason: str) -> None:
        while self._lost_at is not None and not self._closed:
            await self._awake.wait()
            if self._attempt:
                await asyncio.sleep(self._policy.delay_at_random(self._attempt))
            self._attempt += 1
            failure = await self._try()
            if failure is None or self._closed:
                continue
            if isinstance(failure, SandboxLostError):
                self._on_ended(reason, None)
                return
            if isinstance(failure, SandboxPausedError):
                # It is not lost: it is made again when the sandbox goes on.
                self._attempt = 1
                self._on_ended(reason, failure)
                continue
            if not failure.retryable or self._is_too_late():
                self._on_ended(reason, failure)
                return
            self._report("reconnecting", "info", {"attempt": self._attempt, "error": str(failure)})

    async def _try(self) -> SandboxError | None:
        """Make a new transport and wait for the bridge's greeting; return what went wrong."""
        self._greeted = asyncio.get_running_loop().create_future()
        try:
            self._channel.attach(await asyncio.wait_for(self._sandbox.open_link(), GREETING_TIMEOUT))
            if await asyncio.wait_for(self._greeted, GREETING_TIMEOUT):
                return None
        except asyncio.TimeoutError:
            self._channel.drop()
        except SandboxError as exc:
            return exc
        except Exception as exc:  # noqa: BLE001 - the edge: unseen it would leave a cell that waits for ever
            self._report("reconnecting_failed", "error", {"error": repr(exc)[:500]})
            return SandboxConnectionError(str(exc), sandbox_id=self._sandbox.sandbox_id, retryable=False)
        return self._unanswered()

    def _unanswered(self) -> SandboxConnectionError:
        return SandboxConnectionError("The sandbox does not answer.", sandbox_id=self._sandbox.sandbox_id)

    def _is_too_late(self) -> bool:
        lost_for = self.lost_for
        return bool(self._patience) and lost_for is not None and lost_for > self._patience
