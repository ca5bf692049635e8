"""How Jupyter messages travel over a gateway's WebSocket: bytes in, parts out. No sockets.

A message is a channel's name and its *parts*: header, parent header, metadata and content as JSON, then buffers. With
the subprotocol `V1` they travel as they are, behind their offsets; older servers want one JSON object, in a text frame,
or with buffers behind it in a binary one.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import NamedTuple

from sandbox_kernel.link.protocol import Buffer
from sandbox_kernel.link.websocket import DATA, TEXT

V1 = "v1.kernel.websocket.jupyter.org"
CHANNELS = frozenset(("shell", "control", "stdin", "iopub"))
MAX_PARTS = 10_000
_FIELDS = ("header", "parent_header", "metadata", "content")


class ChannelMessage(NamedTuple):
    """A message, and the channel that it came on."""

    channel: str
    parts: list[Buffer]


def encode(protocol: str, channel: str, parts: Sequence[Buffer]) -> tuple[int, bytes]:
    """Return a frame's kind, TEXT or DATA, and its payload, in a protocol: `V1`, or "" for JSON."""
    if protocol == V1:
        return DATA, _encode_v1(channel, parts)
    text = _encode_json(channel, parts)
    return (DATA, _with_buffers(text, parts[4:])) if len(parts) > 4 else (TEXT, text)


def decode(protocol: str, kind: int, payload: bytes) -> ChannelMessage:
    """Read the payload of a frame of this kind. Raises ValueError where it is no message."""
    if protocol == V1:
        return _decode_v1(payload)
    buffers: list[Buffer] = []
    if kind == DATA:
        text, *buffers = _split(payload, _legacy_offsets(payload))
        payload = bytes(text)
    try:
        said = json.loads(payload)
    except RecursionError as exc:
        raise ValueError("a message that is nested too deep") from exc
    if not isinstance(said, dict) or any(not isinstance(said.get(name), dict) for name in _FIELDS):
        raise ValueError("no message")
    parts: list[Buffer] = [json.dumps(said[name]).encode() for name in _FIELDS]
    return ChannelMessage(_channel(said.get("channel")), [*parts, *buffers])


def _encode_v1(channel: str, parts: Sequence[Buffer]) -> bytes:
    name = channel.encode()
    count = len(parts) + 2
    offsets = [8 * (count + 1), 8 * (count + 1) + len(name)]
    for part in parts:
        offsets.append(offsets[-1] + len(part))
    return b"".join((struct.pack(f"<{count + 1}Q", count, *offsets), name, *parts))


def _decode_v1(payload: bytes) -> ChannelMessage:
    count = int.from_bytes(payload[:8], "little")
    if not 6 <= count <= MAX_PARTS or len(payload) < 8 * (count + 1):
        raise ValueError("no message of this protocol")
    name, *parts = _split(payload, [*struct.unpack_from(f"<{count}Q", payload, 8)][:-1])
    return ChannelMessage(_channel(bytes(name).decode()), parts)


def _encode_json(channel: str, parts: Sequence[Buffer]) -> bytes:
    """The parts are JSON, so they are put together as they are."""
    pieces = [b'{"channel": "', channel.encode(), b'"']
    for name, part in zip(_FIELDS, parts, strict=False):
        pieces += [b', "', name.encode(), b'": ', bytes(part)]
    return b"".join((*pieces, b', "buffers": []}'))


def _with_buffers(text: bytes, buffers: Sequence[Buffer]) -> bytes:
    count = len(buffers) + 1
    offsets = [4 * (count + 1)]
    for part in (text, *buffers[:-1]):
        offsets.append(offsets[-1] + len(part))
    return b"".join((struct.pack(f"!{count + 1}I", count, *offsets), text, *buffers))


def _legacy_offsets(payload: bytes) -> list[int]:
    count = int.from_bytes(payload[:4], "big")
    if not 1 <= count <= MAX_PARTS or len(payload) < 4 * (count + 1):
        raise ValueError("no message with buffers")
    return [*struct.unpack_from(f"!{count}I", payload, 4)]


def _split(payload: bytes, offsets: Sequence[int]) -> list[Buffer]:
    """Return what begins at each of the offsets and ends at the next one, the last at the end."""
    view = memoryview(payload)
    ends = [*offsets[1:], len(payload)]
    if any(not 0 <= begin <= end <= len(payload) for begin, end in zip(offsets, ends, strict=True)):
        raise ValueError("offsets that are none")
    return [view[begin:end] for begin, end in zip(offsets, ends, strict=True)]


def _channel(name: object) -> str:
    if name not in CHANNELS:
        raise ValueError("no channel")
    return str(name)
