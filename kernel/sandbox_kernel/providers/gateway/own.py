"""Requests of the relay's own: it asks kernels who they are, whether they answer, and how far they have counted."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

from sandbox_kernel.link.protocol import Buffer

from .sent import Lane

Json = dict[str, Any]


class Answer(NamedTuple):
    """A reply's header and content."""

    header: Json
    content: Json


class OwnRequest:
    """One of them, under way."""

    def __init__(self, msg_id: str) -> None:
        self.msg_id = msg_id
        self.replied: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.idle = asyncio.Event()


class OwnRequests:
    """What comes for them is for nobody else."""

    def __init__(self, send: Callable[[str, list[Buffer]], None]) -> None:
        """``send`` takes a channel and a message's parts."""
        self._send = send
        self.mark = uuid.uuid4().hex
        """Is in the ids of all of them, and in no other."""
        self._number = 0
        self._open: dict[str, OwnRequest] = {}
        self.heard = asyncio.Event()
        """An output of a kernel has come for one of them since the last `forget`."""

    def ask(self, lane: Lane, msg_type: str, content: Json | None = None) -> OwnRequest:
        """Send a request."""
        self._number += 1
        header = {**make_header(f"{self.mark}_{self._number}", msg_type, self.mark)}
        if lane.subshell is not None:
            header["subshell_id"] = lane.subshell
        request = self._open[header["msg_id"]] = OwnRequest(header["msg_id"])
        self._send(lane.channel, [json.dumps(part).encode() for part in (header, {}, {}, content or {})])
        return request

    def takes(self, parent: Buffer) -> bool:
        """Whether a message with this parent header belongs to one of them."""
        return self.mark.encode() in bytes(parent)

    def take_reply(self, parts: Sequence[Buffer]) -> None:
        """Take a reply. Raises ValueError, KeyError for one that is broken."""
        request = self._open.get(json.loads(bytes(parts[1]))["msg_id"])
        answer = Answer(json.loads(bytes(parts[0])), json.loads(bytes(parts[3])))
        if not isinstance(answer.header, dict) or not isinstance(answer.content, dict):
            raise ValueError("no reply")  # noqa: TRY004 - of the wrong shape, like others
        if request is not None and not request.replied.done():
            request.replied.set_result(answer)

    def take_output(self, parts: Sequence[Buffer]) -> None:
        """Take an output. Raises ValueError, KeyError for one that is broken."""
        self.heard.set()
        request = self._open.get(json.loads(bytes(parts[1]))["msg_id"])
        if request is not None and b'"idle"' in bytes(parts[3]):
            request.idle.set()

    def done(self, *requests: OwnRequest) -> None:
        """Forget requests whose answers are not waited for any more."""
        for request in requests:
            self._open.pop(request.msg_id, None)
            request.replied.cancel()

    def forget(self) -> None:
        """Forget all of them: the kernel that was asked has ended."""
        self.done(*self._open.values())
        self.heard.clear()


def make_header(msg_id: str, msg_type: str, session: str) -> Json:
    """Return a message's header."""
    return {
        "msg_id": msg_id,
        "msg_type": msg_type,
        "session": session,
        "username": "sandbox",
        "date": datetime.now(timezone.utc).isoformat(),
        "version": "5.3",
    }
