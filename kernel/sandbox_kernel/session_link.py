"""A session's link: to one sandbox after the other, at times to none."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from .link import envelope
from .link.channel import LinkChannel, OnExcess, OnMessage
from .link.protocol import Buffer, Link, LinkError
from .retry import RetryPolicy

if TYPE_CHECKING:
    from .connection import Connection, Report
    from .errors import SandboxError
    from .providers.base import Sandbox

CALL_RETRY = RetryPolicy(attempts=3, first_delay=0.1, longest_delay=10.0, jitter=0.2)
"""How a connection that was lost is made again; it is not the number of attempts that ends that."""


class OnLost(Protocol):
    """Who is told that the link is lost for good."""

    def __call__(self, reason: str, error: SandboxError | LinkError | None) -> None:
        """``error`` is None where the transport has ended; the sandbox knows why, if anybody does."""


@dataclass(frozen=True)
class LinkListener:
    """Who is told what comes over the link."""

    on_message: OnMessage
    on_excess: OnExcess
    on_lost: OnLost
    report: Report


class SessionLink:
    """Opens links, and sends over the one that is open."""

    def __init__(self, listener: LinkListener, max_received: int) -> None:
        """``max_received`` is the size in bytes of the largest message that is taken."""
        self._listener = listener
        self._max_received = max_received
        self._channel: LinkChannel | Connection | None = None
        self._connection: Connection | None = None
        """The channel, where it is made again when it is lost."""
        self._last: Connection | None = None
        """The last such channel."""
        self._blocked = self._asleep = False

    @property
    def answers(self) -> bool:
        """Whether what is asked is answered: a sandbox that is paused hears nothing."""
        return self.is_open and not self._asleep

    @property
    def is_open(self) -> bool:
        """Whether there is a sandbox at the other end, as far as is known."""
        return self._channel is not None

    @property
    def is_receiving(self) -> bool:
        """Whether a part of a message has arrived."""
        return self._channel is not None and self._channel.is_receiving

    @property
    def backlog(self) -> int:
        """Bytes of messages, urgent ones not counted, that have not left."""
        return self._channel.backlog if self._channel is not None else 0

    @property
    def lost_for(self) -> float | None:
        """Seconds for which the connection has been lost; None while it is there."""
        return self._connection.lost_for if self._connection is not None else None

    def describe(self) -> dict[str, str]:
        """Return rows for people."""
        lost_for = self.lost_for
        return {} if lost_for is None else {"connection": f"lost for {lost_for:.0f} s; it is made again"}

    # ---- its life

    async def open(self, sandbox: Sandbox) -> None:
        """Open the link of a sandbox that ends with it. Raises SandboxError."""
        listener = self._listener
        channel = LinkChannel(self._new(), listener.on_message, listener.on_excess, self._watch(lambda: channel))
        transport = await sandbox.open_link()
        self._channel = channel
        channel.attach(transport)
        if self._blocked:
            channel.hold()

    async def open_lasting(self, sandbox: Sandbox, *, longest_delay: float, patience: float) -> None:
        """Open the link of a sandbox that outlives it, and make it again when it is lost. Raises SandboxError.

        For ``patience`` seconds, 0 for ever, with ``longest_delay`` seconds between two attempts at most.
        """
        # Imported here: the local provider's sandboxes end with their link.
        from .connection import Connection

        listener = self._listener
        connection = Connection(
            sandbox,
            self._new(),
            listener.on_message,
            listener.on_excess,
            self._watch(lambda: connection),
            policy=replace(CALL_RETRY, longest_delay=longest_delay),
            patience=patience,
            report=listener.report,
        )
        await connection.open()
        self._channel = self._connection = self._last = connection
        if self._blocked:
            connection.hold()

    def close(self) -> None:
        """End it without a word to `on_lost`. Idempotent."""
        if self._channel is not None:
            self._channel.close()
            self._channel = self._connection = None

    async def wait_closed(self) -> None:
        """Wait until nothing tries any more to make the closed link again."""
        if self._last is not None:
            await self._last.wait_closed()

    def sleep(self, asleep: bool) -> None:
        """While the sandbox is paused nobody answers, so no connection is made."""
        self._asleep = asleep
        if self._connection is not None:
            self._connection.sleep(asleep)

    def _new(self) -> Link:
        return Link(os.urandom(16), max_received=self._max_received)

    def _watch(self, channel: Callable[[], LinkChannel | Connection]) -> OnLost:
        """Return what is told of a channel's end; only that of the present one counts."""

        def on_lost(reason: str, error: SandboxError | LinkError | None) -> None:
            if channel() is self._channel:
                self._listener.on_lost(reason, error)

        return on_lost

    # ---- sending

    def send(self, parts: Sequence[Buffer], *, urgent: bool = False) -> list[Buffer]:
        """Send a message (see link/envelope.py); return what `withdraw` knows it by. Only while it is open."""
        assert self._channel is not None
        return self._channel.send(parts, urgent=urgent)

    def withdraw(self, message: list[Buffer]) -> bool:
        """Take back a message of which nothing has left, as where the connection is lost; False where something has."""
        return self._channel is not None and self._channel.withdraw(message)

    def command(self, op: str, **fields: object) -> None:
        """Send the bridge a command, past everything that waits; to nobody, if there is none."""
        if self._channel is not None:
            self._channel.send([envelope.COMMAND, json.dumps({"op": op, **fields}).encode()], urgent=True)

    def send_operation(self, fields: dict[str, Any], data: Buffer | None) -> None:
        """Send a command of an operation, in order with its data; to nobody, if there is none."""
        if self._channel is not None:
            parts: list[Buffer] = [envelope.COMMAND, json.dumps(fields).encode()]
            self._channel.send(parts if data is None else [*parts, data], urgent=data is None)

    def hold(self, blocked: bool) -> None:
        """Slow the sandbox down while nobody takes what it sends."""
        self._blocked = blocked
        if self._channel is not None:
            if blocked:
                self._channel.hold()
            else:
                self._channel.release()
