"""WebSocket (RFC 6455) as a byte stream: bytes in, events out. No sockets, no clock; both ends use it.

Binary frames carry the stream, whose pieces have no meaning of their own; so a fragment is a piece like any other.
"""

from __future__ import annotations

import base64
import hashlib
import os

DATA, CLOSE, PING, PONG = 2, 8, 9, 10
_CONTINUATION, _TEXT = 0, 1
MAX_FRAME = 16 * 1024 * 1024
"""Bytes of a frame; ours have far fewer."""
MAX_CONTROL = 125
"""Bytes of a CLOSE, PING or PONG (RFC 6455, section 5.5), which are in one piece, too."""
PIECE = 256 * 1024
"""Bytes of the frames that are sent, at most."""
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class WebSocketError(Exception):
    """The other end sent what is no WebSocket."""


def new_key() -> str:
    """Return what a client sends as Sec-WebSocket-Key."""
    return base64.b64encode(os.urandom(16)).decode()


def accept_of(key: str) -> str:
    """Return what a server answers to a key as Sec-WebSocket-Accept."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()  # noqa: S324 - as RFC 6455 wants it


def encode(opcode: int, payload: bytes | bytearray | memoryview, *, masked: bool) -> bytes:
    """Return one frame; a client's are ``masked``."""
    size = len(payload)
    mark = 0x80 if masked else 0
    head = bytearray((0x80 | opcode,))
    if size < 126:
        head.append(mark | size)
    elif size < 1 << 16:
        head.append(mark | 126)
        head += size.to_bytes(2, "big")
    else:
        head.append(mark | 127)
        head += size.to_bytes(8, "big")
    if not masked:
        return bytes(head) + bytes(payload)
    key = os.urandom(4)
    return bytes(head) + key + apply_mask(payload, key)


def apply_mask(payload: bytes | bytearray | memoryview, key: bytes) -> bytes:
    """Mask a payload, or unmask it."""
    size = len(payload)
    stream = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(stream, "little")).to_bytes(size, "little")


class Decoder:
    """Reads frames as they arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive(self, data: bytes | bytearray | memoryview) -> list[tuple[int, bytes]]:
        """Return the frames that are whole now, as DATA, CLOSE, PING or PONG and a payload. Raises WebSocketError."""
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> tuple[int, bytes] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        opcode, masked, size, at = buffer[0] & 15, buffer[1] & 0x80, buffer[1] & 127, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(buffer) < at + width:
                return None
            size, at = int.from_bytes(buffer[at : at + width], "big"), at + width
        if buffer[0] & 0x70 or opcode not in (_CONTINUATION, _TEXT, DATA, CLOSE, PING, PONG) or size > MAX_FRAME:
            raise WebSocketError("what arrived is no WebSocket frame of this protocol")
        if opcode >= CLOSE and (size > MAX_CONTROL or not buffer[0] & 0x80):
            raise WebSocketError("a control frame that is too long, or in pieces")
        key_size = 4 if masked else 0
        if len(buffer) < at + key_size + size:
            return None
        key = bytes(buffer[at : at + key_size])
        payload = bytes(buffer[at + key_size : at + key_size + size])
        del buffer[: at + key_size + size]
        return DATA if opcode in (_CONTINUATION, _TEXT) else opcode, apply_mask(payload, key) if masked else payload
