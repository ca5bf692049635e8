"""Couples a link with the transport that carries it at the moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Union

from .protocol import Buffer, Excess, Link, LinkError, Message, Opened
from .transport import Receiver, Transport

OnMessage = Callable[[list[Buffer]], None]
OnExcess = Callable[[list[Buffer], int], None]
OnLost = Callable[[str, Union[LinkError, None]], None]
OnOpened = Callable[[], None]

ACKNOWLEDGE_AFTER = 0.1
"""Seconds after which a bridge that keeps a journal learns that its messages have arrived."""


class LinkChannel(Receiver):
    """A link in use: messages in by `send`, out by ``on_message``; ``on_lost`` when its transport ends or it fails.

    ``on_lost`` gets a clause for people and, where the link itself has failed, its error; ``on_excess`` the first
    parts, and the size in bytes, of a message that was too large. ``on_opened`` is called when both ends have greeted.
    One that is ``prompt`` acknowledges soon what it has received, however little it is.
    """

    def __init__(
        self,
        link: Link,
        on_message: OnMessage,
        on_excess: OnExcess,
        on_lost: OnLost,
        on_opened: OnOpened = lambda: None,
        *,
        prompt: bool = False,
    ) -> None:
        self._link = link
        self._on_message = on_message
        self._on_excess = on_excess
        self._on_lost = on_lost
        self._on_opened = on_opened
        self._prompt = prompt
        self._acknowledging = False
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

    def send(self, parts: Sequence[Buffer], *, urgent: bool = False) -> list[Buffer]:
        """Send a message, or keep it until there is a transport; return what `withdraw` knows it by."""
        message = self._link.send(parts, urgent=urgent)
        if not self._receiving:
            self._flush()
        return message

    def withdraw(self, message: list[Buffer]) -> bool:
        """Take back a message of which nothing has left; return False where something has."""
        return self._link.withdraw(message)

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
            self._end(f"its bridge broke the protocol: {exc}", exc)
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
                elif isinstance(event, Opened):
                    self._on_opened()
        finally:
            self._receiving = False
        self._flush()
        if self._prompt and not self._acknowledging:
            self._acknowledging = True
            asyncio.get_running_loop().call_later(ACKNOWLEDGE_AFTER, self._acknowledge)

    def _acknowledge(self) -> None:
        self._acknowledging = False
        if self._link.acknowledge():
            self._flush()

    def writable(self) -> None:
        self._writable = True
        self._flush()

    def connection_lost(self, reason: str) -> None:
        self._transport = None
        self._link.disconnect()
        self._on_lost(reason, None)

    def _flush(self) -> None:
        transport = self._transport
        while transport is not None and self._writable:
            buffers = self._link.data_to_send()
            if not buffers:
                return
            self._writable = transport.write(buffers)

    def drop(self) -> None:
        """End the transport, because nothing comes over it."""
        if self._transport is not None:
            self._transport.close()
            self.connection_lost("nothing came over the connection")

    def _end(self, reason: str, error: LinkError) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None
            self._on_lost(reason, error)
