"""Jupyter messages that are made here, in basic mode, in place of an ipykernel."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sandbox_kernel.link import envelope
from sandbox_kernel.link.protocol import Buffer

Json = dict[str, Any]
_SESSION = uuid.uuid4().hex


@dataclass
class Asked:
    """A request, and how it is answered: busy, outputs, reply, idle."""

    kind: bytes
    """Channel and token, which come back with the reply."""
    header: bytes
    msg_type: str
    content: Json
    send: Callable[[list[Buffer]], None]
    _busy: bool = field(default=False)

    @classmethod
    def read(cls, kind: bytes, parts: list[Buffer], send: Callable[[list[Buffer]], None]) -> Asked:
        """Read the parts of a request (see link/envelope.py)."""
        header = bytes(parts[1])
        return cls(kind, header, str(json.loads(header)["msg_type"]), json.loads(bytes(parts[4])), send)

    @property
    def wants_reply(self) -> bool:
        """Whether it is a request at all."""
        return self.msg_type.endswith("_request")

    def busy(self) -> None:
        """Say that it is being done."""
        self._busy = True
        self.publish("status", {"execution_state": "busy"})

    def publish(self, msg_type: str, content: Json) -> None:
        """Send an output."""
        head = [envelope.IOPUB, msg_type.encode(), _header(msg_type), self.header, b"{}"]
        self.send([*head, json.dumps(content).encode()])

    def reply(self, content: Json) -> None:
        """Answer it; all is said then."""
        if not self._busy:
            self.busy()
        reply_type = self.msg_type.removesuffix("_request") + "_reply"
        self.send([self.kind, _header(reply_type), self.header, b"{}", json.dumps(content).encode()])
        self.publish("status", {"execution_state": "idle"})

    def nothing(self) -> None:
        """Take a message that has no reply, and do nothing with it."""
        self.busy()
        self.publish("status", {"execution_state": "idle"})


def error_content(name: str, value: str, traceback: object = None) -> Json:
    """Return the content of an error."""
    lines = [str(line) for line in traceback] if isinstance(traceback, list) else [f"{name}: {value}"]
    return {"ename": name, "evalue": value, "traceback": lines}


def _header(msg_type: str) -> bytes:
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": msg_type,
        "session": _SESSION,
        "username": "sandbox",
        "date": time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime()),
        "version": "5.3",
    }
    return json.dumps(header).encode()
