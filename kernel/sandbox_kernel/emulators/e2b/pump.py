"""Carries bytes from one connection to another, as late as the emulator is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

READ_SIZE = 256 * 1024
MAX_WAITING = 64
"""Pieces on their way."""
END_OF_HEAD = b"\r\n\r\n"
CONNECTION = (b"connection", b"keep-alive")


async def pump(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    delay: float = 0.0,
    limit: int = -1,
    *,
    last: bool = False,
) -> None:
    """Carry until one end closes; each piece ``delay`` seconds late; at most ``limit`` bytes, if that is not -1.

    With ``last`` they are an HTTP answer, which is told to be the connection's last.
    """
    pieces = _pieces(reader, last=last)
    with suppress(OSError, asyncio.IncompleteReadError):
        async for data in _late(pieces, delay) if delay else pieces:
            writer.write(data[:limit] if limit >= 0 else data)
            await writer.drain()
            if limit >= 0:
                limit -= min(limit, len(data))
                if not limit:
                    return


async def _pieces(reader: asyncio.StreamReader, *, last: bool) -> AsyncIterator[bytes]:
    if last:
        yield with_close((await reader.readuntil(END_OF_HEAD))[: -len(END_OF_HEAD)])
    while data := await reader.read(READ_SIZE):
        yield data


async def _late(pieces: AsyncIterator[bytes], delay: float) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(MAX_WAITING)

    async def take() -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            async for data in pieces:
                await way.put((loop.time() + delay, data))
        await way.put((loop.time() + delay, b""))

    taking = asyncio.ensure_future(take())
    try:
        while True:
            due, data = await way.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                return
            yield data
    finally:
        taking.cancel()


def with_close(head: bytes) -> bytes:
    """Return the first lines of a request or an answer that is the connection's last."""
    lines = [line for line in head.split(b"\r\n") if line.partition(b":")[0].lower() not in CONNECTION]
    return b"\r\n".join([*lines, b"Connection: close"]) + END_OF_HEAD
