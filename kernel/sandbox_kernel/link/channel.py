"""Couples a link with the transport that carries it at the moment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .protocol import Buffer, Excess, Link, LinkError, Message
from .transport import Receiver, Transport

OnMessage = Callable[[list[Buffer]], None]
OnExcess = Callable[[list[Buffer], int], None]
OnLost = Callable[[str], None]


class LinkChannel(Receiver):
    """A link in use: messages in by `send`, out by ``on_message``; ``on_lost`` when its transport ends or it fails.

    ``on_excess`` gets the first parts, and the size in bytes, of a message that was too large.
    """

    def __init__(self, link: Link, on_message: OnMessage, on_excess: OnExcess, on_lost: OnLost) -> None:
        self._link = link
        self._on_message = on_message
        self._on_excess = on_excess
        self._on_lost = on_lost
        self._transport: Transport | None = None
        self._writable = False
        self._receiving = False

    def attach(self, transport: Transport) -> None:
        """Go on over this transport; what is unacknowledged is sent again."""
        self._transport = transport
        self._writable = True
        self._link.connect()
        transport.start(self)
        self._flush()

    def send(self, parts: Sequence[Buffer], *, urgent: bool = False) -> None:
        """Send a message, or keep it until there is a transport."""
        self._link.send(parts, urgent=urgent)
        if not self._receiving:
            self._flush()

    @property
    def backlog(self) -> int:
        """Bytes of messages, urgent ones not counted, that have not left."""
        return self._link.bulk_backlog

    @property
    def is_receiving(self) -> bool:
        """Whether a part of a message has arrived."""
        return self._link.is_receiving

    def hold(self) -> None:
        """Let the other end wait: what it sent cannot be passed on."""
        self._link.hold()

    def release(self) -> None:
        """Let the other end go on."""
        self._link.release()
        self._flush()

    def close(self) -> None:
        """End the transport without a word to ``on_lost``."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None
            self._link.disconnect()

    # ---- what the transport says

    def data_received(self, data: memoryview) -> None:
        try:
            events = self._link.receive(data)
        except LinkError as exc:
            self._end(f"its bridge broke the protocol: {exc}")
            return
        self._receiving = True
        try:
            for event in events:
                if self._transport is None:
                    # What was said made somebody end it; the rest has no one to go to.
                    return
                if isinstance(event, Message):
                    self._on_message(event.parts)
                elif isinstance(event, Excess):
                    self._on_excess(event.parts, event.size)
        finally:
            self._receiving = False
        self._flush()

    def writable(self) -> None:
        self._writable = True
        self._flush()

    def connection_lost(self, reason: str) -> None:
        self._transport = None
        self._link.disconnect()
        self._on_lost(reason)

    def _flush(self) -> None:
        transport = self._transport
        while transport is not None and self._writable:
            buffers = self._link.data_to_send()
            if not buffers:
                return
            self._writable = transport.write(buffers)

    def _end(self, reason: str) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None
            self._on_lost(reason)
