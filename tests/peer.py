"""The kernel process's end of a link as a test drives it: one cell after the other, over any blocking stream."""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any

from sandbox_kernel.link import envelope
from sandbox_kernel.link.protocol import Link, Message

TIMEOUT = 60.0


class Peer:
    """Sends requests and keeps what comes, in order; a stream that ends can be replaced by another."""

    def __init__(self, stream: socket.socket) -> None:
        self.link = Link(os.urandom(16))
        self.received: list[list[bytes]] = []
        self.tokens: dict[str, bytes] = {}
        self._operations = 0
        self.attach(stream)

    def attach(self, stream: socket.socket) -> None:
        """Go on over this stream."""
        self.stream = stream
        stream.settimeout(0.05)
        self.link.connect()
        self.flush()

    def lose(self) -> None:
        """End the stream without a word."""
        self.stream.close()
        self.link.disconnect()

    def execute(self, code: str, **options: object) -> str:
        """Send a cell; return the request's id."""
        msg_id = uuid.uuid4().hex
        self.tokens[msg_id] = token = os.urandom(4)
        header = {"msg_id": msg_id, "msg_type": "execute_request", "session": "test", "username": "", "version": "5.3"}
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": True, **options}
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        self.link.send([envelope.SHELL + token, *parts])
        self.flush()
        return msg_id

    def command(self, op: str, **fields: object) -> None:
        """Send the bridge a command."""
        self.link.send([envelope.COMMAND, json.dumps({"op": op, **fields}).encode()], urgent=True)
        self.flush()

    def flush(self) -> None:
        """Send what may be sent."""
        while buffers := self.link.data_to_send():
            self.stream.sendall(b"".join(buffers))

    def turn(self) -> bool:
        """Take what has arrived; return False if the stream has ended. Raises LinkError."""
        try:
            data = self.stream.recv(1 << 20)
        except TimeoutError:
            return True
        except OSError:
            data = b""
        if not data:
            return False
        for event in self.link.receive(memoryview(data)):
            if isinstance(event, Message):
                self.received.append([bytes(part) for part in event.parts])
        self.link.acknowledge()
        self.flush()
        return True

    def until(self, condition: Callable[[], Any]) -> Any:
        """Take what arrives until the condition holds; return what it says."""
        deadline = time.monotonic() + TIMEOUT
        while not (found := condition()):
            assert self.turn(), "the stream ended"
            assert time.monotonic() < deadline, f"this came: {self.received}"
        return found

    def event(self, name: str) -> dict[str, Any]:
        """Wait for an event; return it."""
        return self.until(lambda: next((one for one in self.events() if one["event"] == name), None))

    def events(self) -> list[dict[str, Any]]:
        """Return the events that have come."""
        return [json.loads(parts[1]) for parts in self.received if parts[0] == envelope.EVENT]

    def reply(self, msg_id: str) -> dict[str, Any]:
        """Wait for a cell's reply; return its content."""
        kind = envelope.SHELL + self.tokens[msg_id]
        return json.loads(self.until(lambda: next((parts[4] for parts in self.received if parts[0] == kind), None)))

    def printed(self, msg_id: str) -> str:
        """Return what a cell has printed so far."""
        return "".join(content["text"] for kind, content in self.outputs(msg_id) if kind == "stream")

    def replayed(self, count: int | None) -> list[tuple[str, str, dict[str, Any]]]:
        """Ask for past messages; return the parent's id, type and content of those that came."""
        number = self._operations = self._operations + 1
        self.received = []
        self.command("journal", id=number, count=count)
        self.event("replayed")
        past = [parts[1:] for parts in self.received if parts[0] == envelope.JOURNAL]
        outputs = [parts for parts in past if parts[0] == envelope.IOPUB]
        return [(json.loads(one[3])["msg_id"], json.loads(one[2])["msg_type"], json.loads(one[5])) for one in outputs]

    def outputs(self, msg_id: str) -> list[tuple[str, dict[str, Any]]]:
        """Return type and content of what a cell has sent so far."""
        return [
            (json.loads(parts[2])["msg_type"], json.loads(parts[5]))
            for parts in self.received
            if parts[0] == envelope.IOPUB and json.loads(parts[3]).get("msg_id") == msg_id
        ]

    def idle(self, msg_id: str) -> None:
        """Wait until a cell is done: its reply and its idle status."""
        self.reply(msg_id)
        idle = ("status", {"execution_state": "idle"})
        self.until(lambda: idle in self.outputs(msg_id))

    def run(self, code: str) -> str:
        """Run a cell; return what it printed."""
        msg_id = self.execute(code)
        self.idle(msg_id)
        return self.printed(msg_id)
