"""The requests that were sent to a kernel, and what is known of them: a gateway may lose what it was sent, or sends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sandbox_kernel.link import envelope
from sandbox_kernel.link.protocol import Buffer

_TELLING = (b'"status"', b'"execute_input"', b'"error"')
"""Types of the outputs that tell how a request is."""
ON_CONTROL = (envelope.CONTROL, envelope.ASIDE)


class Lane(NamedTuple):
    """Requests of one lane are answered in the order in which they were sent."""

    channel: str
    subshell: str | None = None


@dataclass(eq=False)
class Sent:
    """One request."""

    kind: bytes
    """How the link names it: a letter and its token (link/envelope.py)."""
    header: bytes
    msg_id: str
    msg_type: str
    lane: Lane
    connection: int
    """The number of the WebSocket over which it was sent."""
    busy: bool = False
    """The kernel has begun with it."""
    idle: bool = False
    replied: bool = False
    session: str = ""
    """By which the kernel that began with it tells itself."""
    failure: dict[str, Any] | None = None
    """The error with which it ended, as far as it was heard."""
    held: Sequence[Buffer] | None = None
    """Its idle status, where that waits for the reply."""
    reply: Sequence[Buffer] | None = None
    """Its reply, where that waits for what becomes of the kernel."""
    interrupted: bool = False
    """An interrupt was asked for while it was under way."""
    count: int = 0
    """Its number, where it is a cell that has begun."""

    @property
    def is_cell(self) -> bool:
        """Whether it executes code."""
        return self.msg_type == "execute_request"

    @property
    def lacks_reply(self) -> bool:
        """Whether it is a cell that has ended with an error, and has no reply."""
        return self.is_cell and self.idle and self.failure is not None and not self.replied


class SentRequests:
    """Those that are not done, in the order in which they were sent."""

    def __init__(self) -> None:
        self._by_id: dict[str, Sent] = {}
        self.count = 0
        """The number of the last cell that began."""

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, kind: bytes, channel: str, header: bytes, connection: int) -> Sent | None:
        """Remember a request, and return it; other messages have no answer."""
        read = json.loads(header)
        msg_type = str(read["msg_type"])
        if not msg_type.endswith("_request"):
            return None
        lane = Lane(channel, read.get("subshell_id"))
        sent = self._by_id[read["msg_id"]] = Sent(kind, header, read["msg_id"], msg_type, lane, connection)
        return sent

    def of(self, parent: dict[str, Any]) -> Sent | None:
        """Return the request that a message with this parent header belongs to."""
        msg_id = parent.get("msg_id")
        return self._by_id.get(msg_id) if isinstance(msg_id, str) else None

    def on_reply(self, parent: dict[str, Any]) -> Sent | None:
        """Take note of a reply; return what it belongs to."""
        sent = self.of(parent)
        if sent is not None:
            sent.replied = True
            self._forget_done(sent)
        return sent

    def on_output(self, parts: Sequence[Buffer]) -> Sent | None:
        """Take note of what an output says of its request; return that if it says anything.

        Raises ValueError for one that is broken.
        """
        header = bytes(parts[0])
        if not any(name in header for name in _TELLING):
            return None
        sent = self.of(json.loads(bytes(parts[1])))
        if sent is None:
            return None
        content = json.loads(bytes(parts[3]))
        if b'"status"' in header:
            sent.session = sent.session or str(json.loads(header).get("session"))
            sent.busy = sent.busy or content.get("execution_state") == "busy"
            sent.idle = sent.idle or content.get("execution_state") == "idle"
            self._forget_done(sent)
        elif b'"error"' in header:
            sent.failure = content
        elif isinstance(count := content.get("execution_count"), int):
            sent.count = self.count = count
        return sent

    def _forget_done(self, sent: Sent) -> None:
        if sent.replied and sent.idle:
            self._by_id.pop(sent.msg_id, None)

    def doubtful(self, connection: int) -> list[Sent]:
        """Return those that were sent over earlier WebSockets than the one of this number."""
        return [sent for sent in self._by_id.values() if sent.connection < connection]

    def running(self) -> Sent | None:
        """Return the cell that runs, as far as is known."""
        return next((one for one in self._by_id.values() if one.is_cell and one.busy and not one.idle), None)

    def failed(self) -> list[Sent]:
        """Return the cells that ended with an error and have no reply."""
        return [one for one in self._by_id.values() if one.lacks_reply]

    def begun_before(self, session: str) -> list[Sent]:
        """Return what another kernel than that of this session began with."""
        return [one for one in self._by_id.values() if one.busy and one.session != session]

    def not_begun(self) -> list[Sent]:
        """Return what no kernel has begun with, as far as is known."""
        return [one for one in self._by_id.values() if not one.busy]

    def interrupt(self) -> None:
        """Note that an interrupt was asked for."""
        for sent in self._by_id.values():
            sent.interrupted = True

    def has(self, sent: Sent) -> bool:
        """Whether a request is not done."""
        return sent.msg_id in self._by_id

    def forget(self, sent: Sent) -> bool:
        """Forget a request; return whether it was there."""
        return self._by_id.pop(sent.msg_id, None) is not None

    def clear(self) -> None:
        """Forget all of them: their kernel has ended."""
        self._by_id.clear()
        self.count = 0
