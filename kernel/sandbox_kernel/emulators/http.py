"""A small HTTP/1.1 server for emulators: requests with a length, answers whole or in chunks, connections kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit

MAX_HEAD = 64 * 1024
MAX_BODY = 400 * 1024 * 1024


class DropConnection(Exception):  # noqa: N818 - it is an order to the server, which only travels like an error
    """Ends the connection without another byte."""


@dataclass(frozen=True)
class Request:
    """One request. Names of headers are in small letters."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes


class Answer:
    """How a handler answers one request: `whole`, or `begin`, any number of `chunk`, and `end`."""

    def __init__(self, writer: asyncio.StreamWriter, date: Callable[[], float]) -> None:
        self._writer, self._date = writer, date

    async def whole(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send everything."""
        self._writer.write(self._head(status, {**headers, "Content-Length": str(len(body))}) + body)
        await self._writer.drain()

    async def begin(self, headers: dict[str, str]) -> None:
        """Send the status 200 and headers."""
        self._writer.write(self._head(200, {**headers, "Transfer-Encoding": "chunked"}))
        await self._writer.drain()

    async def chunk(self, data: bytes) -> None:
        """Send a piece of the body."""
        self._writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await self._writer.drain()

    async def end(self) -> None:
        """Send the end of the body."""
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    def _head(self, status: int, headers: dict[str, str]) -> bytes:
        said = {"Date": formatdate(self._date(), usegmt=True), **headers}
        lines = [
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            *(f"{name}: {text}" for name, text in said.items()),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


Handler = Callable[[Request, Answer], Awaitable[None]]


class Server:
    """Serves connections until it is closed. ``date`` gives the seconds since the epoch that answers tell."""

    def __init__(self, handler: Handler, date: Callable[[], float]) -> None:
        self._handler, self._date = handler, date
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port. Raises OSError."""
        self._server = await asyncio.start_server(self._connected, host, port, limit=MAX_HEAD)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while (request := await _read(reader, writer)) is not None:
                await self._handler(request, Answer(writer, self._date))
        except (DropConnection, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            # Either side has enough.
            writer.transport.abort()
        finally:
            self._connections.discard(task)
            writer.close()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """Return the next request; None at the end. Raises ValueError for what is none."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.strip().lower(): text.strip() for name, _, text in (line.partition(":") for line in lines if line)}
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = int(headers.get("content-length", "0"))
    if not 0 <= length <= MAX_BODY:
        raise ValueError(f"a body of {length} bytes")
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Request(method, unquote(parts.path), query, headers, await reader.readexactly(length))
