"""How much of an answer is taken: whoever answers from a sandbox may be a cell, whose answer has no end."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx

from sandbox_kernel.errors import InvocationError

MAX_ANSWER = 64 * 1024 * 1024
"""Bytes of an answer that is read whole; a list of a hundred thousand files fits."""
MAX_LINE = 64 * 1024 * 1024
"""Bytes of one line of an answer in lines."""
MAX_REFUSAL = 64 * 1024
"""Bytes that are read of a refusal; of them a sentence is shown."""
ENCODINGS = "gzip, deflate"
"""What is asked for, one at a time: others, and one in the other, make gigabytes of one piece that arrives."""
_TAKEN = ("", "identity", *ENCODINGS.split(", "))
_OF_TRANSFER = ("content-encoding", "content-length", "transfer-encoding")


async def read_whole(response: httpx.Response, limit: int = MAX_ANSWER) -> httpx.Response:
    """Return the response with its body. Raises InvocationError where it has more than ``limit`` bytes."""
    body = await _beginning(response, limit)
    if len(body) > limit:
        raise _too_long("An answer", response, limit)
    return _with_body(response, body)


async def read_refusal(response: httpx.Response) -> httpx.Response:
    """Return the response with the beginning of its body."""
    return _with_body(response, (await _beginning(response, MAX_REFUSAL))[:MAX_REFUSAL])


async def lines_of(response: httpx.Response, limit: int = MAX_LINE) -> AsyncGenerator[str, None]:
    """Yield the lines as they come. Raises InvocationError where one has more than ``limit`` bytes."""
    line = bytearray()
    async for piece in response.aiter_bytes():
        first, *others = piece.split(b"\n")
        line += first
        for other in others:
            yield line.decode(errors="replace")
            line = bytearray(other)
        if len(line) > limit:
            raise _too_long("A line of an answer", response, limit)
    if line:
        yield line.decode(errors="replace")


def check_encoding(response: httpx.Response) -> None:
    """Raise InvocationError for a body that is packed in a way that was not asked for."""
    encoding = response.headers.get("content-encoding", "")
    if encoding.strip().lower() not in _TAKEN:
        raise InvocationError(f"{_source(response)} packs its answer in a way that is not taken: {encoding[:100]!r}.")


def _too_long(what: str, response: httpx.Response, limit: int) -> InvocationError:
    """Return the error for what has more than ``limit`` bytes."""
    return InvocationError(f"{what} of {_source(response)} has more than {limit} bytes, and was not read on.")


async def _beginning(response: httpx.Response, limit: int) -> bytes:
    """Return the body, or where it has more than ``limit`` bytes more than these."""
    check_encoding(response)
    body = bytearray()
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > limit:
            break
    return bytes(body)


def _with_body(response: httpx.Response, body: bytes) -> httpx.Response:
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _OF_TRANSFER]
    return httpx.Response(response.status_code, headers=headers, content=body, request=response.request)


def _source(response: httpx.Response) -> str:
    return f"{response.request.method} {response.request.url.path[:200]}"
