"""One WebSocket to a kernel's channels, through its gateway."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from sandbox_kernel.link import websocket
from sandbox_kernel.link.protocol import MAX_MESSAGE, Buffer

from . import messages
from .messages import ChannelMessage

MAX_HEAD, MAX_BODY = 64 * 1024, 64 * 1024
BODY_TIMEOUT = 2.0
"""Seconds for the rest of a refusal."""
SWITCHING = 101
QUICK_ACKNOWLEDGE = getattr(socket, "TCP_QUICKACK", 0)
"""The socket's option, which Linux has; 0 elsewhere."""
CLOSE_REASONS = {
    1009: "it takes no message of that size",
    1012: "it is restarting",
}


class UpgradeRefusedError(Exception):
    """There is no WebSocket at that address: the answer's status, its body's beginning, where it sends us."""

    def __init__(self, status: int, body: bytes, location: str) -> None:
        super().__init__(f"{status}")
        self.status, self.body, self.location = status, body, location


class MessageTooLargeError(Exception):
    """The gateway would close the WebSocket for this message; it was not sent."""


@dataclass(frozen=True)
class SocketSettings:
    """Times in seconds, sizes in bytes."""

    keepalive: float
    """After so much silence the gateway is asked whether it is there."""
    patience: float
    """Beyond that the connection is lost."""
    largest: int
    """Of messages that are sent."""
    subprotocols: tuple[str, ...] = (messages.V1,)
    """What is offered; a gateway that takes none of it gets JSON."""


class KernelSocket(asyncio.Protocol):
    """Made by `open_socket`. Messages that come are given to ``on_message``, its end, once, to ``on_lost``."""

    def __init__(
        self, settings: SocketSettings, on_message: Callable[[ChannelMessage], None], on_lost: Callable[[str], None]
    ) -> None:
        self.protocol = ""
        """The subprotocol; "" stands for JSON."""
        self.dropped = 0
        """Messages that were none."""
        self._settings = settings
        self._on_message, self._on_lost = on_message, on_lost
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._transport: asyncio.Transport | None = None
        self._socket: socket.socket | None = None
        self._decoder = websocket.MessageDecoder(MAX_MESSAGE)
        self._head = bytearray()
        self._opened: asyncio.Future[bytes] = self._loop.create_future()
        self._is_open = self._closed = self._paused = False
        self._watcher: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether messages go through, as far as is known."""
        return self._is_open

    # ---- the handshake

    async def upgrade(self, request: bytes, accept: str, timeout: float) -> None:
        """Become a WebSocket. Raises UpgradeRefusedError, OSError, asyncio.TimeoutError."""
        assert self._transport is not None
        self._write(request)
        head = await asyncio.wait_for(self._opened, timeout)
        first, *lines = head.decode("latin-1").split("\r\n")
        words = first.split()
        status = int(words[1]) if first.startswith("HTTP/1.") and words[1:] and words[1].isdigit() else 0
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if status != SWITCHING or headers.get("sec-websocket-accept") != accept:
            body = await self._body(headers.get("content-length", ""))
            raise UpgradeRefusedError(status, body, headers.get("location", ""))
        self.protocol = headers.get("sec-websocket-protocol", "")
        if self.protocol and self.protocol not in self._settings.subprotocols:
            raise UpgradeRefusedError(status, b"it speaks a protocol that was not offered", "")
        self._is_open = True
        self._watcher = asyncio.ensure_future(self._watch())
        early, self._head = bytes(self._head), bytearray()
        if early:
            self._take(early)

    async def _body(self, length: str) -> bytes:
        size = min(MAX_BODY, int(length) if length.isdigit() else 0)
        deadline = self._loop.time() + BODY_TIMEOUT
        while len(self._head) < size and not self._closed and self._loop.time() < deadline:  # noqa: ASYNC110 - seldom
            await asyncio.sleep(0.01)
        return bytes(self._head[:size])

    # ---- sending

    def send(self, channel: str, parts: Sequence[Buffer]) -> None:
        """Send a message. Raises MessageTooLargeError."""
        kind, payload = messages.encode(self.protocol, channel, parts)
        if len(payload) > self._settings.largest:
            raise MessageTooLargeError
        self._write(websocket.encode(kind, payload, masked=True))

    def _write(self, data: bytes) -> None:
        # One that has failed is told so with the next turn of the loop; asyncio complains of writes until then.
        if self._transport is not None and not self._closed and not self._transport.is_closing():
            self._transport.write(data)
            self._acknowledge_quickly()

    def pause(self, paused: bool) -> None:
        """Take nothing more for now, so that the gateway has to wait; or go on."""
        if self._transport is None or self._closed or paused == self._paused:
            return
        self._paused = paused
        self._heard = self._loop.time()
        if paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def close(self) -> None:
        """End it without a word to ``on_lost``. Idempotent."""
        if not self._closed:
            self._write(websocket.encode(websocket.CLOSE, b"\x03\xe8", masked=True))
            self._end()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._socket = transport.get_extra_info("socket")
        if self._socket is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _acknowledge_quickly(self) -> None:
        """Have what comes acknowledged at once.

        Gateways send a cell's messages in small pieces, each of which waits for the acknowledgement of the one before,
        and without this that comes after 40 ms. The system forgets the wish by itself, so it is told again and again.
        """
        if QUICK_ACKNOWLEDGE and self._socket is not None and self._socket.fileno() >= 0:
            self._socket.setsockopt(socket.IPPROTO_TCP, QUICK_ACKNOWLEDGE, 1)

    def data_received(self, data: bytes) -> None:
        self._heard = self._loop.time()
        self._acknowledge_quickly()
        if self._is_open:
            self._take(data)
            return
        self._head += data
        if not self._opened.done():
            head, end, rest = bytes(self._head).partition(b"\r\n\r\n")
            if end:
                self._head = bytearray(rest)
                self._opened.set_result(head)
            elif len(self._head) > MAX_HEAD:
                self._opened.set_exception(OSError("the answer has no end"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(str(exc) if exc else "the gateway closed it")

    # ---- receiving

    def _take(self, data: bytes) -> None:
        try:
            frames = self._decoder.receive(data)
        except websocket.WebSocketError as exc:
            self._fail(str(exc))
            return
        for kind, payload in frames:
            if self._closed:
                return
            if kind == websocket.PING:
                self._write(websocket.encode(websocket.PONG, payload, masked=True))
            elif kind == websocket.CLOSE:
                code = int.from_bytes(payload[:2], "big")
                self._fail(f"the gateway closed it{f': {CLOSE_REASONS[code]}' if code in CLOSE_REASONS else ''}")
            elif kind != websocket.PONG:
                self._read(kind, payload)

    def _read(self, kind: int, payload: bytes) -> None:
        try:
            message = messages.decode(self.protocol, kind, payload)
        except ValueError:
            self.dropped += 1
            return
        self._on_message(message)

    async def _watch(self) -> None:
        """Ask now and then whether the gateway is there, until nothing is heard of it."""
        keepalive, limit = self._settings.keepalive, self._settings.keepalive + self._settings.patience
        while self._paused or (silent := self._loop.time() - self._heard) < limit:
            if not self._paused and silent >= keepalive:
                self._write(websocket.encode(websocket.PING, b"", masked=True))
            await asyncio.sleep(keepalive / 2)
        self._fail("nothing was heard of the gateway")

    def _fail(self, reason: str) -> None:
        if not self._opened.done():
            self._opened.set_exception(OSError(reason))
        if self._closed:
            return
        was_open = self._is_open
        self._end(abort=True)
        if was_open:
            self._on_lost(reason)

    def _end(self, *, abort: bool = False) -> None:
        self._closed, self._is_open = True, False
        if self._watcher is not None and not _is_current(self._watcher):
            self._watcher.cancel()
        if self._transport is not None:
            if abort:
                self._transport.abort()
            else:
                self._transport.close()


async def open_socket(
    url: str,
    headers: Mapping[str, str],
    context: ssl.SSLContext | None,
    settings: SocketSettings,
    on_message: Callable[[ChannelMessage], None],
    on_lost: Callable[[str], None],
    *,
    timeout: float,
) -> KernelSocket:
    """Return a WebSocket at an http or https address.

    It has ``timeout`` seconds for the connection, and for the answer. Raises UpgradeRefusedError, OSError,
    asyncio.TimeoutError.
    """
    parts = urlsplit(url)
    key = websocket.new_key()
    own = {
        "Host": parts.netloc,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }
    if settings.subprotocols:
        own["Sec-WebSocket-Protocol"] = ", ".join(settings.subprotocols)
    lines = [f"GET {parts.path}?{parts.query} HTTP/1.1", *(f"{k}: {v}" for k, v in {**headers, **own}.items())]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    connecting = asyncio.get_running_loop().create_connection(
        lambda: KernelSocket(settings, on_message, on_lost),
        parts.hostname or "",
        parts.port or (443 if context is not None else 80),
        ssl=context,
    )
    _, opened = await asyncio.wait_for(connecting, timeout)
    try:
        await opened.upgrade(request, websocket.accept_of(key), timeout)
    except BaseException:
        opened.close()
        raise
    return opened


def _is_current(task: asyncio.Task[None]) -> bool:
    try:
        return asyncio.current_task() is task
    except RuntimeError:
        return False
