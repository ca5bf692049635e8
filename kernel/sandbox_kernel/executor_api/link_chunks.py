"""A link's chunks as gRPC carries them: `LinkChunk` of executor.proto, whose data is written and read by hand.

On the wire there is no difference. But protobuf copies the data twice at each end, and of a flood that is a good part
of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Union

from . import executor_pb2 as pb

Buffer = Union[bytes, bytearray, memoryview]
DATA = bytes([pb.LinkChunk.DATA_FIELD_NUMBER << 3 | 2])
"""With what a chunk of data begins: the field's number, and that its length follows (wire type 2)."""
MAX_LENGTH = 5
"""Bytes of a length; more would be no message that either end takes."""


def data_chunk(buffers: Sequence[Buffer]) -> bytes:
    """Return a chunk of data, encoded."""
    size = sum(map(len, buffers))
    length = bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return b"".join((DATA, length, *buffers))


def serialize(chunk: bytes | pb.LinkChunk) -> bytes:
    """Return a chunk as it travels: one that was encoded here, or a message."""
    return chunk if isinstance(chunk, bytes) else chunk.SerializeToString()


def parse(encoded: bytes) -> memoryview | pb.LinkChunk:
    """Return a chunk's data, or its message if it is of another kind or another way of writing the same."""
    if encoded[:1] == DATA:
        size = shift = 0
        for index in range(1, 1 + MAX_LENGTH):
            byte = encoded[index] if index < len(encoded) else 0
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte <= 0x7F:
                if index + 1 + size == len(encoded):
                    return memoryview(encoded)[index + 1 :]
                break
    return pb.LinkChunk.FromString(encoded)
