"""Requests that the bridge itself makes of the kernel: their replies, statuses and outputs concern nobody else."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

from sandbox_kernel.link import envelope
from sandbox_kernel.link.protocol import Buffer

DELIMITER = b"<IDS|MSG>"
MAX_REQUESTS = 1000
"""Requests of which the reply or the idle status may still come; the oldest are forgotten."""

Then = Callable[[bytes], None]
"""What to do with a reply's content."""


class OwnRequests:
    """Those that are under way in one life of the kernel, by their ids."""

    def __init__(self) -> None:
        self._thens: dict[str, Then] = {}
        self._owed: dict[int, str] = {}
        """Operations that a reply ends, and the request that it is to."""

    @property
    def owes(self) -> bool:
        """Whether an operation waits for a reply."""
        return bool(self._owed)

    def ask(self, sock: Any, msg_type: str, content: dict[str, Any], then: Then | None = None) -> str:
        """Send a request whose reply and statuses stay here; ``then`` gets the reply's content. Return its id."""
        msg_id = f"sandbox-{os.urandom(8).hex()}"
        header = {
            "msg_id": msg_id,
            "msg_type": msg_type,
            "session": "sandbox-bridge",
            "username": "sandbox",
            "date": time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime()),
            "version": "5.3",
        }
        self._thens[msg_id] = then or heard
        if len(self._thens) > MAX_REQUESTS:
            del self._thens[next(iter(self._thens))]
        frames = [envelope.NO_TOKEN, DELIMITER, b"", json.dumps(header).encode(), b"{}", b"{}"]
        sock.send_multipart([*frames, json.dumps(content).encode()])
        return msg_id

    def ask_for(self, number: int, sock: Any, msg_type: str, content: dict[str, Any], tell: Then) -> None:
        """Ask for what ends an operation; until then there is work under way."""

        def told(content: bytes) -> None:
            self._owed.pop(number, None)
            tell(content)

        self._owed[number] = self.ask(sock, msg_type, content, told)

    def give_up(self, number: int) -> None:
        """Do nothing with the reply that would end an operation, if it ever comes: nobody waits for it any more."""
        msg_id = self._owed.pop(number, "")
        if msg_id in self._thens:
            self._thens[msg_id] = heard

    def give_up_all(self) -> None:
        """Do so for every operation."""
        for number in list(self._owed):
            self.give_up(number)

    def clear(self) -> None:
        """The kernel that was asked has ended."""
        self._thens.clear()
        self._owed.clear()

    def take_output(self, frames: list[Buffer]) -> bool:
        """Whether an output belongs to one of them."""
        parent = bytes(frames[4])
        if b'"sandbox-' not in parent:
            return False
        own = self._id_in(parent)
        if own and b'"idle"' in bytes(frames[6]) and self._thens[own] is heard:
            # Else its reply is still to come: that takes another way, and may be slower.
            del self._thens[own]
        return bool(own)

    def take_reply(self, frames: list[Buffer]) -> None:
        """Do with a reply what was wanted."""
        own = self._id_in(bytes(frames[4]))
        if own:
            then, self._thens[own] = self._thens[own], heard
            then(bytes(frames[6]))

    def _id_in(self, parent: bytes) -> str:
        msg_id = json.loads(parent).get("msg_id")
        return msg_id if msg_id in self._thens else ""


def heard(content: bytes) -> None:
    """Do nothing: what to do with a reply when nobody wants it, or has it."""
