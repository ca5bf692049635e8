"""A link's transport over a WebSocket, through a provider's ingress."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from sandbox_kernel.link import websocket
from sandbox_kernel.link.transport import Buffer, Receiver, Transport

MAX_HEAD = 64 * 1024
MAX_BODY = 4096
BODY_TIMEOUT = 2.0
"""Seconds for the rest of a refusal."""
HIGH_WATER = 1024 * 1024
"""Bytes that wait to leave before the link has to wait, too."""
SWITCHING = 101


class UpgradeRefusedError(Exception):
    """There is no WebSocket at that address: the answer's status, and the beginning of its body."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status} {body}")
        self.status, self.body = status, body


class WebSocketTransport(Transport, asyncio.Protocol):
    """One WebSocket. Made by `open_websocket`."""

    def __init__(self, keepalive: float, patience: float) -> None:
        """After ``keepalive`` seconds of silence the other end is asked; after ``patience`` seconds it is lost."""
        self._keepalive, self._patience = keepalive, patience
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._transport: asyncio.Transport | None = None
        self._receiver: Receiver | None = None
        self._decoder = websocket.Decoder()
        self._early = bytearray()
        self._opened: asyncio.Future[bytes] = self._loop.create_future()
        self._full = self._closed = False
        self._lost_reason = ""
        self._watcher: asyncio.Task[None] | None = None

    # ---- the handshake

    async def upgrade(self, request: bytes, accept: str, timeout: float) -> None:
        """Become a WebSocket. Raises UpgradeRefusedError, OSError, asyncio.TimeoutError."""
        assert self._transport is not None
        self._transport.write(request)
        head = await asyncio.wait_for(self._opened, timeout)
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split()[1]) if first.startswith("HTTP/1.") and first.split()[1:2] else 0
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if status != SWITCHING:
            raise UpgradeRefusedError(status, await self._body(headers, timeout))
        if headers.get("sec-websocket-accept") != accept:
            raise UpgradeRefusedError(status, "the handshake's answer is wrong")

    async def _body(self, headers: Mapping[str, str], timeout: float) -> str:
        size = min(MAX_BODY, int(headers.get("content-length", "0") or 0))
        deadline = self._loop.time() + min(timeout, BODY_TIMEOUT)
        while len(self._early) < size and not self._closed and self._loop.time() < deadline:  # noqa: ASYNC110 - seldom
            await asyncio.sleep(0.01)
        return bytes(self._early[:size]).decode(errors="replace")

    # ---- Transport

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._watcher = asyncio.ensure_future(self._watch())
        if self._lost_reason:
            self._loop.call_soon(self._tell_lost, self._lost_reason)
            return
        early, self._early = bytes(self._early), bytearray()
        if early:
            # Not from inside the call: the link is not ready for it yet.
            self._loop.call_soon(self._take, early)

    def write(self, buffers: Sequence[Buffer]) -> bool:
        if self._closed or self._transport is None:
            return False
        for piece in _pieces(buffers):
            self._transport.write(websocket.encode(websocket.DATA, piece, masked=True))
        return not self._full

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._watcher is not None:
                self._watcher.cancel()
            if self._transport is not None:
                self._transport.write(websocket.encode(websocket.CLOSE, b"\x03\xe8", masked=True))
                self._transport.close()

    def abandon(self) -> None:
        """Lose it: whoever was at the other end is not there any more, and nobody may have said so."""
        if not self._closed:
            if self._transport is not None:
                self._transport.abort()
            self._lost("the sandbox was paused")

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(HIGH_WATER)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        if self._receiver is not None and not self._early:
            self._take(data)
            return
        self._early += data
        if not self._opened.done():
            head, end, rest = bytes(self._early).partition(b"\r\n\r\n")
            if end:
                self._early = bytearray(rest)
                self._opened.set_result(head)
            elif len(self._early) > MAX_HEAD:
                self._opened.set_exception(OSError("the answer has no end"))
        elif len(self._early) > MAX_HEAD:
            # A bridge says nothing but its greeting before it is greeted.
            self._fail("it sent more than a greeting")

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._receiver is not None and not self._closed:
            self._receiver.writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(str(exc) if exc else "the other side closed it")

    # ---- receiving

    def _take(self, data: bytes) -> None:
        assert self._receiver is not None
        try:
            frames = self._decoder.receive(data)
        except websocket.WebSocketError as exc:
            self._fail(str(exc))
            return
        for kind, payload in frames:
            if self._closed:
                return
            if kind == websocket.DATA:
                self._receiver.data_received(memoryview(payload))
            elif kind == websocket.PING and self._transport is not None and not self._full:
                # Who does not take answers gets none: they would pile up here.
                self._transport.write(websocket.encode(websocket.PONG, payload, masked=True))
            elif kind == websocket.CLOSE:
                self._fail("the other side closed it")

    async def _watch(self) -> None:
        """Ask now and then whether the other end is there, until nothing is heard of it."""
        while (silent := self._loop.time() - self._heard) < self._patience:
            if silent >= self._keepalive and self._transport is not None:
                self._transport.write(websocket.encode(websocket.PING, b"", masked=True))
            await asyncio.sleep(self._keepalive / 2)
        self._fail("nothing was heard of the sandbox")

    def _fail(self, reason: str) -> None:
        if self._transport is not None:
            self._transport.abort()
        self._lost(reason)

    def _lost(self, reason: str) -> None:
        if not self._opened.done():
            self._opened.set_exception(OSError(reason))
        if self._closed:
            return
        self._closed = True
        if self._watcher is not None and self._watcher is not _current_task():
            self._watcher.cancel()
        if self._receiver is None:
            self._lost_reason = reason
        else:
            self._tell_lost(reason)

    def _tell_lost(self, reason: str) -> None:
        assert self._receiver is not None
        self._receiver.connection_lost(reason)


async def open_websocket(
    url: str,
    headers: Mapping[str, str],
    context: ssl.SSLContext | None,
    *,
    timeout: float,
    silence: tuple[float, float],
) -> WebSocketTransport:
    """Return a WebSocket at an http or https address; ``silence`` is keepalive and patience, in seconds.

    Raises UpgradeRefusedError, OSError, asyncio.TimeoutError.
    """
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    key = websocket.new_key()
    lines = [
        f"GET {parts.path or '/'} HTTP/1.1",
        f"Host: {parts.netloc}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    loop = asyncio.get_running_loop()
    connecting = loop.create_connection(
        lambda: WebSocketTransport(*silence),
        parts.hostname or "",
        parts.port or (443 if secure else 80),
        ssl=context if secure else None,
    )
    _, transport = await asyncio.wait_for(connecting, timeout)
    try:
        await transport.upgrade(request, websocket.accept_of(key), timeout)
    except BaseException:
        transport.close()
        raise
    return transport


def _pieces(buffers: Sequence[Buffer]) -> Sequence[Buffer]:
    """Return buffers of a size for frames: small ones joined, large ones cut."""
    total = sum(len(buffer) for buffer in buffers)
    if total <= websocket.PIECE:
        return [b"".join(buffers)]
    pieces: list[Buffer] = []
    for buffer in buffers:
        view = memoryview(buffer)
        pieces.extend(view[at : at + websocket.PIECE] for at in range(0, len(view), websocket.PIECE))
    return pieces


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
