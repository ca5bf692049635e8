"""A bare Jupyter client over ZeroMQ: signs, sends and receives messages, and does nothing else.

jupyter_client's own client costs about as much per cell as a kernel does, which would hide the ratio of two kernels.
"""

from __future__ import annotations

import hmac
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from hashlib import sha256
from typing import Any

import zmq

DELIMITER = b"<IDS|MSG>"
PROTOCOL_VERSION = "5.4"
LOOK_MILLISECONDS = 500
"""How often, while nothing comes, to see whether the process still lives."""
RECONNECT_MILLISECONDS = 5
"""ZeroMQ retries a refused connection after 100 ms by default: a start would be measured in steps of that."""


class SilentKernelError(TimeoutError):
    """A message that was waited for did not come; `wire` says from whom."""

    def __init__(self, wire: Wire, reason: str) -> None:
        super().__init__(reason)
        self.wire = wire


@dataclass(frozen=True)
class Message:
    """One received message; its content is decoded only when asked for, as some are 50 MB."""

    channel: str
    kind: str
    parent_id: str
    body: zmq.Frame
    received: float

    @cached_property
    def content(self) -> dict[str, Any]:
        """The decoded content."""
        content: dict[str, Any] = json.loads(self.body.bytes)
        return content

    def ends(self, msg_id: str) -> bool:
        """Whether this is the idle status that ends the request `msg_id`."""
        return self.kind == "status" and self.parent_id == msg_id and self.content["execution_state"] == "idle"


@dataclass
class Cell:
    """What one execute_request brought: seconds from sending it to reply and idle, the reply, the outputs."""

    seconds: float
    reply: dict[str, Any]
    outputs: list[Message] = field(default_factory=list)


class Wire:
    """Sockets of one client to one kernel; to be used in the thread that made it."""

    def __init__(self, connection: Mapping[str, Any], is_alive: Callable[[], bool]) -> None:
        self._is_alive = is_alive
        self._key = str(connection["key"]).encode()
        self._session = uuid.uuid4().hex
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        address = f"{connection['transport']}://{connection['ip']}"
        self._sockets = {
            "iopub": self._connect(zmq.SUB, f"{address}:{connection['iopub_port']}"),
            "shell": self._connect(zmq.DEALER, f"{address}:{connection['shell_port']}"),
            "control": self._connect(zmq.DEALER, f"{address}:{connection['control_port']}"),
        }
        self._channels = {socket: name for name, socket in self._sockets.items()}

    def _connect(self, kind: int, address: str) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        socket.linger = 0
        socket.rcvhwm = 0  # a bound would drop output while this client decodes, and the count would be wrong
        socket.reconnect_ivl = RECONNECT_MILLISECONDS
        if kind == zmq.SUB:
            socket.subscribe(b"")
        else:
            socket.identity = self._session.encode()
        socket.connect(address)
        self._poller.register(socket, zmq.POLLIN)
        return socket

    def close(self) -> None:
        """Drop the sockets and whatever they still hold."""
        self._context.destroy(linger=0)

    def send(self, channel: str, kind: str, content: Mapping[str, Any] | None = None) -> str:
        """Send one request and return its msg_id."""
        msg_id = uuid.uuid4().hex
        header = {
            "msg_id": msg_id,
            "session": self._session,
            "username": "benchmark",
            "date": datetime.now(timezone.utc).isoformat(),
            "msg_type": kind,
            "version": PROTOCOL_VERSION,
        }
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content or {})]
        self._sockets[channel].send_multipart([DELIMITER, self._sign(parts), *parts])
        return msg_id

    def _sign(self, parts: list[bytes]) -> bytes:
        return hmac.new(self._key, b"".join(parts), sha256).hexdigest().encode() if self._key else b""

    def receive(self, timeout: float) -> Message:
        """The next message of any channel; SilentKernelError after `timeout` seconds, or when the process has ended."""
        socket = self._await_socket(timeout)
        received = time.perf_counter()
        frames = socket.recv_multipart(copy=False)
        start = [frame.bytes for frame in frames[:3]].index(DELIMITER)
        header, parent = (json.loads(frames[start + place].bytes) for place in (2, 3))
        return Message(
            self._channels[socket], header["msg_type"], parent.get("msg_id", ""), frames[start + 5], received
        )

    def _await_socket(self, timeout: float) -> zmq.Socket[bytes]:
        remaining = round(timeout * 1000)
        while True:
            if ready := self._poller.poll(max(0, min(remaining, LOOK_MILLISECONDS))):
                socket: zmq.Socket[bytes] = ready[0][0]
                return socket
            remaining -= LOOK_MILLISECONDS
            if remaining <= 0:
                raise SilentKernelError(self, "what was waited for did not come in time")
            if not self._is_alive():
                raise SilentKernelError(self, "the process has ended")

    def messages(self, timeout: float) -> Iterator[Message]:
        """Messages as they come; SilentKernelError when `timeout` seconds have passed in all."""
        deadline = time.perf_counter() + timeout
        while True:
            yield self.receive(deadline - time.perf_counter())

    def request(
        self, channel: str, kind: str, content: Mapping[str, Any] | None = None, timeout: float = 30
    ) -> Message:
        """Send a request and return its reply; what else arrives meanwhile is dropped."""
        msg_id = self.send(channel, kind, content)
        return next(
            message for message in self.messages(timeout) if message.parent_id == msg_id and message.channel == channel
        )

    def start(self, code: str) -> str:
        """Send a cell and return its msg_id."""
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        }
        return self.send("shell", "execute_request", content)

    def finish(
        self, msg_id: str, timeout: float = 60, *, sent: float, on_output: Callable[[Message], None] | None = None
    ) -> Cell:
        """Wait for reply and idle status of a cell that was sent at `sent` (time.perf_counter)."""
        reply: Message | None = None
        outputs: list[Message] = []
        idle = False
        for message in self.messages(timeout):
            if message.parent_id != msg_id:
                continue
            if message.kind == "execute_reply":
                reply = message
            elif message.ends(msg_id):
                idle = True
            elif message.channel == "iopub" and message.kind not in {"status", "execute_input"}:
                outputs.append(message)
                if on_output:
                    on_output(message)
            if reply and idle:
                return Cell(time.perf_counter() - sent, reply.content, outputs)
        raise AssertionError("messages() ends only by an error")

    def execute(self, code: str, timeout: float = 60, on_output: Callable[[Message], None] | None = None) -> Cell:
        """Run a cell to its end, whatever its status."""
        sent = time.perf_counter()
        return self.finish(self.start(code), timeout, sent=sent, on_output=on_output)

    def run(self, code: str, timeout: float = 60) -> Cell:
        """Run a cell that has to succeed; RuntimeError if it does not."""
        cell = self.execute(code, timeout)
        if cell.reply["status"] != "ok":
            raise RuntimeError(f"cell failed: {cell.reply.get('ename')}: {cell.reply.get('evalue')}")
        return cell

    def start_and_await_output(self, code: str, timeout: float = 60) -> str:
        """Send a cell that prints at once and then stays busy; return its msg_id when the print is here."""
        msg_id = self.start(code)
        next(message for message in self.messages(timeout) if message.kind == "stream" and message.parent_id == msg_id)
        return msg_id
