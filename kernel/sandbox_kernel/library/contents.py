"""What a file in a sandbox can be written from, and how that becomes the pieces that travel."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, BinaryIO, Union

from sandbox_kernel.errors import InvocationError

PIECE = 256 * 1024
"""Bytes."""

Content = Union[bytes, bytearray, memoryview, Iterable[bytes], AsyncIterable[bytes], BinaryIO]
"""A file's content: whole, in pieces that are made one by one, or a file that was opened for reading bytes."""

Call = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Calls a function that may take its time."""


def pieces_of(content: Content, call: Call) -> AsyncGenerator[bytes, None]:
    """Return the pieces of a content. Only one is in memory at a time, where the content itself is not.

    ``call`` is how a file is read, and how the next piece of an iterable is made. Raises InvocationError for a content,
    and with the first piece, that is none.
    """
    if isinstance(content, (bytes, bytearray, memoryview)):
        return _cut(content)
    if isinstance(content, AsyncIterable):
        return _of_async(content)
    read = getattr(content, "read", None)
    if read is not None:
        return _of_steps(lambda: read(PIECE) or None, call)
    if isinstance(content, Iterable) and not isinstance(content, (str, dict)):
        pieces = iter(content)
        return _of_steps(lambda: next(pieces, None), call)
    raise _none_of_bytes(content)


def _none_of_bytes(content: object) -> InvocationError:
    hint = "encode the text, or open the file with mode 'rb'" if isinstance(content, str) else "see Sandbox.write"
    return InvocationError(f"A file is written from bytes, and this is {type(content).__name__}: {hint}.")


async def _cut(piece: object) -> AsyncGenerator[bytes, None]:
    if not isinstance(piece, (bytes, bytearray, memoryview)):
        raise _none_of_bytes(piece)
    whole = memoryview(piece).cast("B")
    for start in range(0, len(whole), PIECE):
        yield bytes(whole[start : start + PIECE])


async def _of_async(content: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    async for piece in content:
        async for part in _cut(piece):
            yield part


async def _of_steps(step: Callable[[], object], call: Call) -> AsyncGenerator[bytes, None]:
    while (piece := await call(step)) is not None:
        async for part in _cut(piece):
            yield part
