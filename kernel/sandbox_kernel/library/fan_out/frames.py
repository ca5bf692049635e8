"""The frames in the pipes of a worker, as this side writes and reads them; inside.py is the other one.

What is read may come from a hostile sandbox: it is bounded before it is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from sandbox_kernel.errors import LinkProtocolError
from sandbox_kernel.link.protocol import Buffer

from .inside import FRAME

MAX_SAID = 512 * 1024
"""Bytes of a frame's JSON object: an exception's texts (inside.py) take up to 12 for each of their characters."""
LAST = FRAME.pack(0, 0)
"""The frame after which a worker ends."""

Json = dict[str, Any]


def frame(said: Json, buffers: Sequence[Buffer]) -> list[Buffer]:
    """Return the buffers of one frame."""
    text = json.dumps(said).encode()
    size = sum(memoryview(one).nbytes for one in buffers)
    return [FRAME.pack(len(text), size) + text, *buffers]


class Frames:
    """Cuts what comes into frames; one of them is in memory."""

    def __init__(self, largest: int) -> None:
        """``largest`` is how many bytes may follow a frame's object."""
        self._largest = largest
        self._data = bytearray()

    def feed(self, piece: bytes) -> Iterator[tuple[Json, bytes]]:
        """Give the frames that are whole now. Raises LinkProtocolError where there is another thing."""
        self._data += piece
        position = 0
        try:
            while len(self._data) - position >= FRAME.size:
                said_size, data_size = FRAME.unpack_from(self._data, position)
                self._check(said_size, data_size)
                begin = position + FRAME.size
                middle, end = begin + said_size, begin + said_size + data_size
                if len(self._data) < end:
                    return
                said, data = _read(bytes(self._data[begin:middle])), bytes(self._data[middle:end])
                position = end
                yield said, data
        finally:
            del self._data[:position]

    def _check(self, said_size: int, data_size: int) -> None:
        if not 0 < said_size <= MAX_SAID:
            raise LinkProtocolError(f"an object of {said_size} bytes")
        if data_size > self._largest:
            raise LinkProtocolError(f"a result of {data_size} bytes, and the limit is {self._largest} (max_result)")


def _read(text: bytes) -> Json:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise LinkProtocolError("what is no object")
    return said
