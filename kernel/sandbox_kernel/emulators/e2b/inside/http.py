"""HTTP/1.1 as far as the emulated services need it: one request on each stream, answered whole or in chunks."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

MAX_HEAD = 64 * 1024
"""Bytes of a request's first lines."""


@dataclass
class Request:
    """One request, its body read whole."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    """By names in lower case."""
    body: bytes

    def json(self) -> Any:
        """Return the body's value; an empty body is an empty object."""
        return json.loads(self.body) if self.body.strip() else {}


class HttpError(Exception):
    """Becomes an answer."""

    def __init__(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"{status} {body}")
        self.status = status
        self.body = body
        self.headers = headers or {}


def parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Return method, target and headers of a request's first lines. Raises ValueError."""
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip().lower()] = value.strip()
    return method, target, headers


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    """Return a request's body."""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        pieces = []
        while size := int((await reader.readline()).split(b";")[0], 16):
            pieces.append(await reader.readexactly(size))
            await reader.readexactly(2)
        while (await reader.readline()).strip():
            pass
        return b"".join(pieces)
    return await reader.readexactly(int(headers.get("content-length", "0")))


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Return the next request. Raises asyncio.IncompleteReadError where the stream ends first, ValueError."""
    head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
    method, target, headers = parse_head(head)
    return make_request(method, target, headers, await read_body(reader, headers))


def make_request(method: str, target: str, headers: dict[str, str], body: bytes) -> Request:
    """Return a request of its parts."""
    parts = urlsplit(target)
    query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    return Request(method, unquote(parts.path), query, headers, body)


def encode(body: Any) -> tuple[str, bytes]:
    """Return a content type and the bytes of a body: text, bytes, or what JSON can say."""
    if isinstance(body, bytes):
        return "application/octet-stream", body
    if isinstance(body, str):
        return "text/plain; charset=utf-8", body.encode()
    return "application/json", json.dumps(body).encode()


def answer(status: int, body: Any = None, headers: dict[str, str] | None = None, *, keep: bool = False) -> bytes:
    """Return a whole answer; no body for None."""
    content_type, data = encode(body) if body is not None else ("", b"")
    fields = {"content-length": str(len(data)), "connection": "keep-alive" if keep else "close"}
    if status == HTTPStatus.NO_CONTENT:
        del fields["content-length"]
    if content_type:
        fields["content-type"] = content_type
    return _head(status, {**fields, **(headers or {})}) + data


def _head(status: int, headers: dict[str, str]) -> bytes:
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Unknown"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Exchange:
    """One request on one stream, and the answer to it."""

    def __init__(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self._reader, self._writer = reader, writer
        self.answered = False

    def answer(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        """Answer at once."""
        self.answered = True
        self._writer.write(answer(status, body, headers))

    def begin(self, content_type: str, status: int = 200) -> None:
        """Begin an answer in chunks."""
        self.answered = True
        fields = {"transfer-encoding": "chunked", "connection": "close"}
        if content_type:
            fields["content-type"] = content_type
        self._writer.write(_head(status, fields))

    async def send(self, data: bytes) -> None:
        """Send a chunk."""
        if data:
            self._writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await self._writer.drain()

    def end(self) -> None:
        """End an answer in chunks."""
        self._writer.write(b"0\r\n\r\n")

    async def gone(self) -> None:
        """Return when the client has closed the connection."""
        while await self._reader.read(4096):
            pass
