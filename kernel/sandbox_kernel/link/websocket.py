"""WebSocket (RFC 6455): bytes in, events out. No sockets, no clock; both ends use it.

As a byte stream (`Decoder`) binary frames carry pieces that have no meaning of their own; so a fragment is a piece like
any other. Where messages have a meaning, `MessageDecoder` puts them together.
"""

from __future__ import annotations

import base64
import hashlib
import os

TEXT, DATA, CLOSE, PING, PONG = 1, 2, 8, 9, 10
_CONTINUATION = 0
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

    _max_frame = MAX_FRAME

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive(self, data: bytes | bytearray | memoryview) -> list[tuple[int, bytes]]:
        """Return the frames that are whole now, as DATA, CLOSE, PING or PONG and a payload. Raises WebSocketError."""
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            _, opcode, payload = frame
            frames.append((DATA if opcode in (_CONTINUATION, TEXT) else opcode, payload))
        return frames

    def _next(self) -> tuple[bool, int, bytes] | None:
        """Return whether a frame is its message's last, its opcode and payload; None where none is whole."""
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        opcode, masked, size, at = buffer[0] & 15, buffer[1] & 0x80, buffer[1] & 127, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(buffer) < at + width:
                return None
            size, at = int.from_bytes(buffer[at : at + width], "big"), at + width
        if buffer[0] & 0x70 or opcode not in (_CONTINUATION, TEXT, DATA, CLOSE, PING, PONG) or size > self._max_frame:
            raise WebSocketError("what arrived is no WebSocket frame of this protocol")
        final = bool(buffer[0] & 0x80)
        if opcode >= CLOSE and (size > MAX_CONTROL or not final):
            raise WebSocketError("a control frame that is too long, or in pieces")
        key_size = 4 if masked else 0
        if len(buffer) < at + key_size + size:
            return None
        key = bytes(buffer[at : at + key_size])
        payload = bytes(buffer[at + key_size : at + key_size + size])
        del buffer[: at + key_size + size]
        return final, opcode, apply_mask(payload, key) if masked else payload


class MessageDecoder(Decoder):
    """Reads whole messages as they arrive."""

    def __init__(self, max_message: int) -> None:
        """``max_message`` is in bytes."""
        super().__init__()
        self._max_frame = max_message
        self._opcode = 0
        """Of the message of which a part is here; 0 where there is none."""
        self._parts: list[bytes] = []

    def receive(self, data: bytes | bytearray | memoryview) -> list[tuple[int, bytes]]:
        """Return the messages that are whole now, as TEXT, DATA, CLOSE, PING or PONG and a payload.

        Raises WebSocketError.
        """
        self._buffer += data
        messages = []
        while (frame := self._next()) is not None:
            final, opcode, payload = frame
            if opcode < CLOSE:
                if (opcode == _CONTINUATION) is not bool(self._opcode):
                    raise WebSocketError("a message begins before another one has ended, or none has begun")
                if final and not self._opcode:
                    messages.append((opcode, payload))
                    continue
                opcode, payload = self._join(opcode, payload, final=final)
                if not final:
                    continue
            messages.append((opcode, payload))
        return messages

    def _join(self, opcode: int, payload: bytes, *, final: bool) -> tuple[int, bytes]:
        """Add a part; return the message as far as it is here where this was the last."""
        self._opcode = opcode = opcode or self._opcode
        self._parts.append(payload)
        if sum(map(len, self._parts)) > self._max_frame:
            raise WebSocketError("a message that is too large")
        if not final:
            return opcode, b""
        whole, self._parts, self._opcode = b"".join(self._parts), [], 0
        return opcode, whole
