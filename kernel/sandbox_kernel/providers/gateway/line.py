"""One WebSocket to a gateway's kernel in bridge mode, with the stream that goes over it.

What the carrier in the kernel says, and hears, is told in bridge/carrier.py.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from sandbox_kernel.errors import SandboxConnectionError, SandboxError, SandboxLostError, SandboxTimeoutError
from sandbox_kernel.link.pieces import GapError, Piece, Pieces
from sandbox_kernel.link.protocol import Buffer
from sandbox_kernel.link.transport import Receiver, Transport

from . import words
from .channels import KernelSocket
from .ends import GatewayKernel
from .greeting import Greeting
from .messages import ChannelMessage
from .own import Answer, Json, OwnRequests, make_header
from .sent import Lane
from .starting import NoBridgeError, finding, said, starting

T = TypeVar("T")

MSG_TYPE = "sandbox_link"
ANSWER_TIMEOUT = 2.0
"""Seconds in which a carrier answers, which waits for nothing else."""
FIND_TIMEOUT = 4.0
"""Seconds beyond that in which the kernel itself answers."""
KNOWN_TIMEOUT = 15.0
"""Seconds in which a kernel that was there before tells of itself, on a busy machine, too."""
GIVE_UP = 4
"""Questions in a row that nobody answers: then the connection is of no use."""
_SHELL, _CONTROL = Lane("shell"), Lane("control")


class CarriedTransport(Transport):
    """A stream to the bridge, as pieces on a kernel's stdin channel."""

    def __init__(self, send: Callable[[Json, Buffer], None], on_closed: Callable[[], None]) -> None:
        self.name = uuid.uuid4().hex
        self._send, self._on_closed = send, on_closed
        self._loop = asyncio.get_running_loop()
        self._pieces = Pieces()
        self._receiver: Receiver | None = None
        self._early = bytearray()
        self._asking: asyncio.TimerHandle | None = None
        self._over = False
        self._blocked = False
        self._reason = ""
        self.answered: asyncio.Future[SandboxError | None] = self._loop.create_future()
        """None when the carrier knows the stream, else why there is none."""

    def knock(self) -> None:
        """Have the carrier begin the stream."""
        self._send({"stream": self.name, "open": True, "at": 0, "have": 0, "asks": True}, b"")

    # ---- Transport

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        if self._reason:
            self._loop.call_soon(receiver.connection_lost, self._reason)
        elif self._early:
            self._loop.call_soon(self._deliver, b"")

    def write(self, buffers: Sequence[Buffer]) -> bool:
        self._pieces.write(b"".join(buffers))
        self._flush()
        self._blocked = self._pieces.backlog > 0
        return not self._blocked

    def close(self) -> None:
        if not self._over:
            self._send({"stream": self.name, "close": True, "at": 0, "have": 0, "asks": False}, b"")
            self._end()
        self._on_closed()

    def _end(self) -> None:
        self._over = True
        if self._asking is not None:
            self._asking.cancel()

    # ---- what comes

    def take(self, content: Json, data: Buffer) -> None:
        """Take a message of the carrier's. Raises KeyError, TypeError, ValueError for one that is broken."""
        if self._over or content["stream"] != self.name:
            return
        if "ended" in content:
            reason = str(content["ended"])
            self.lose(reason, SandboxLostError(reason) if content.get("final") else None)
            return
        if not self.answered.done():
            self.answered.set_result(None)
        piece = Piece(int(content["at"]), int(content["have"]), bool(content["asks"]), data)
        try:
            fresh = self._pieces.receive(piece, time.monotonic())
        except GapError as exc:
            self.lose(str(exc))
            return
        if len(fresh):
            self._deliver(fresh)
        self._flush()
        if self._blocked and self._pieces.has_room and self._receiver is not None:
            self._blocked = False
            self._receiver.writable()

    def lose(self, reason: str, error: SandboxError | None = None) -> None:
        """Take note that it has ended, for a reason in one clause."""
        if self._over:
            return
        self._end()
        self._reason = reason
        if not self.answered.done():
            self.answered.set_result(error or SandboxConnectionError(f"The connection has ended: {reason}."))
        self._on_closed()
        if self._receiver is not None:
            self._receiver.connection_lost(reason)

    def _deliver(self, data: Buffer) -> None:
        self._early += data
        if self._receiver is None or self._over:
            return
        taken, self._early = self._early, bytearray()
        self._receiver.data_received(memoryview(taken))
        self._pieces.take(len(taken))

    def _flush(self) -> None:
        if self._over:
            return
        for piece in self._pieces.to_send(time.monotonic()):
            self._send({"stream": self.name, "at": piece.at, "have": piece.have, "asks": piece.asks}, piece.data)
        due = self._pieces.due
        if due is not None and self._asking is None:
            self._asking = self._loop.call_later(max(0.0, due - time.monotonic()), self._ask)

    def _ask(self) -> None:
        self._asking = None
        if self._pieces.unanswered >= GIVE_UP:
            self.lose("nothing was heard of the kernel")
        else:
            self._flush()


class Line:
    """Is connected once, and carries one stream."""

    def __init__(self, kernel: GatewayKernel, ids: dict[str, Any]) -> None:
        """``ids`` go into errors."""
        self._kernel, self._ids = kernel, ids
        self._own = OwnRequests(self._put)
        self._session = uuid.uuid4().hex
        self._number = 0
        self._socket: KernelSocket | None = None
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._transport: CarriedTransport | None = None
        self._taken = False
        """Somebody has the stream."""
        self.on_death: Callable[[str], None] = lambda reason: None
        """Told that the kernel has ended, with the bridge in it; why, as a clause."""

    @property
    def protocol(self) -> str:
        """How messages travel; "" where they do not."""
        return "" if self._socket is None else self._socket.protocol or "JSON"

    @property
    def is_usable(self) -> bool:
        """Whether a stream can be opened over it."""
        return self._socket is not None and not self._taken and not self._lost.done()

    async def connect(self) -> None:
        """Connect to the kernel. Raises SandboxKernelError."""
        self._socket = await self._kernel.open(self._take, self._on_lost, fresh=True)
        if not self._socket.is_open:
            raise SandboxConnectionError("The gateway closed the connection at once.", **self._ids)

    def close(self) -> None:
        """End it. Idempotent."""
        self._own.forget()
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close()

    # ---- the kernel that is there

    async def start(self, arguments: Sequence[str], timeout: float) -> None:
        """Start the bridge in a new kernel; each step may take so many seconds. Raises NoBridgeError, SandboxError."""
        info = await self._in_time(Greeting(self._own).run(counts=False), timeout)
        if not info.is_ipython:
            raise NoBridgeError("it is no ipykernel")
        request = self._own.ask(_SHELL, "execute_request", starting(arguments))
        lacks = said((await self._in_time(request.replied, timeout)).content)
        if lacks:
            raise NoBridgeError(str(lacks))

    async def has_carrier(self) -> bool | None:
        """Whether a bridge was started in the kernel; None if nothing in it answers. Raises SandboxError.

        Beside a carrier cells run in another process, so the kernel that has one answers soon. Nothing is sent to its
        stdin channel before that is known: a kernel without one would take it for the answer to its question.
        """
        found = self._own.ask(_SHELL, "execute_request", finding())
        control = self._own.ask(_CONTROL, "kernel_info_request")
        try:
            waited: list[asyncio.Future[Any]] = [found.replied, self._lost]
            done = await _first([*waited, control.replied], KNOWN_TIMEOUT)
            if not done & set(waited) and control.replied in done:
                await _first(waited, ANSWER_TIMEOUT)
            if self._lost.done():
                raise self._cut_off()
            if found.replied.done():
                return _tells_true(found.replied.result())
            return False if control.replied.done() else None
        finally:
            self._own.done(found, control)

    # ---- the stream

    async def open(self) -> CarriedTransport:
        """Return a stream to the bridge. Raises SandboxLostError where there is none any more, SandboxError."""
        transport = self._transport or self._knock()
        self._taken = True
        done, _ = await asyncio.wait([transport.answered], timeout=ANSWER_TIMEOUT)
        if not done:
            await self._look_for_carrier()
            transport.knock()
            done, _ = await asyncio.wait([transport.answered], timeout=ANSWER_TIMEOUT)
        error = (
            transport.answered.result() if done else SandboxConnectionError("The kernel does not answer.", **self._ids)
        )
        if error is not None:
            raise error
        return transport

    async def _look_for_carrier(self) -> None:
        """Raise SandboxLostError where the kernel is another one than that in which the bridge was started."""
        found = self._own.ask(_SHELL, "execute_request", finding())
        waited: list[asyncio.Future[Any]] = [found.replied, self._lost]
        try:
            done = await _first(waited, FIND_TIMEOUT)
            if found.replied in done and not _tells_true(found.replied.result()):
                raise SandboxLostError(words.RENEWED, **self._ids)
        finally:
            self._own.done(found)

    def _knock(self) -> CarriedTransport:
        self._transport = CarriedTransport(self._send, self.close)
        self._transport.knock()
        return self._transport

    def _cut_off(self) -> SandboxConnectionError:
        return SandboxConnectionError(f"The connection to the kernel was lost: {self._lost.result()}.", **self._ids)

    async def _in_time(self, work: Awaitable[T], timeout: float) -> T:
        """Return what is awaited. Raises SandboxTimeoutError, SandboxConnectionError where the WebSocket is lost."""
        task = asyncio.ensure_future(work)
        waited: list[asyncio.Future[Any]] = [task, self._lost]
        try:
            done = await _first(waited, timeout)
            if task in done:
                return task.result()
            if self._lost in done:
                raise self._cut_off()
            raise SandboxTimeoutError("The gateway's kernel does not answer in time.", **self._ids)
        finally:
            task.cancel()

    # ---- messages

    def _take(self, message: ChannelMessage) -> None:
        channel, parts = message
        try:
            if self._own.takes(parts[1]):
                if channel == "iopub":
                    self._own.take_output(parts)
                else:
                    self._own.take_reply(parts)
            elif channel == "stdin":
                if self._transport is not None and MSG_TYPE.encode() in bytes(parts[0]):
                    self._transport.take(json.loads(bytes(parts[3])), parts[4] if len(parts) > 4 else b"")
            elif channel == "iopub" and bytes(parts[1]) == b"{}" and b'"status"' in bytes(parts[0]):
                self._on_status(json.loads(bytes(parts[3])).get("execution_state"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            # Whatever a kernel sends, the next message counts.
            return

    def _on_status(self, state: object) -> None:
        if state in ("restarting", "dead"):
            self.on_death(words.RENEWED_BY_GATEWAY if state == "restarting" else words.DEAD)
            self._on_lost("its kernel has ended")

    def _on_lost(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)
        if self._transport is not None:
            self._transport.lose(reason)
        self.close()

    def lose(self, reason: str) -> None:
        """End it, and tell who holds the stream."""
        self._on_lost(reason)

    def _send(self, content: Json, data: Buffer) -> None:
        self._number += 1
        header = make_header(f"{self._session}_{self._number}", MSG_TYPE, self._session)
        parts: list[Buffer] = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        self._put("stdin", [*parts, data] if len(data) else parts)

    def _put(self, channel: str, parts: list[Buffer]) -> None:
        if self._socket is not None:
            self._socket.send(channel, parts)


async def _first(waited: Iterable[asyncio.Future[Any]], seconds: float) -> set[asyncio.Future[Any]]:
    done: set[asyncio.Future[Any]]
    done, _ = await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    return done


def _tells_true(answer: Answer) -> bool:
    try:
        return said(answer.content) is True
    except NoBridgeError:
        return False
