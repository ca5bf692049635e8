"""The framing of AWS's event streams.

A frame is: its length and that of its headers as big-endian u32, the CRC-32 of these eight bytes, the headers (length
of the name as u8, name, type 7 for text, length of the value as u16, value), the payload, and the CRC-32 of all before.
"""

from __future__ import annotations

import json
import struct
import zlib

CONTENT_TYPE = "application/vnd.amazon.eventstream"


def result_frame(result: object) -> bytes:
    """Return a result event as a frame."""
    headers = {":message-type": "event", ":event-type": "result", ":content-type": "application/json"}
    return _frame(headers, json.dumps(result, separators=(",", ":")).encode())


def exception_frame(name: str, content: dict[str, object]) -> bytes:
    """Return an exception in the middle of a stream; there its name begins with a small letter."""
    kind = name[:1].lower() + name[1:]
    headers = {":message-type": "exception", ":exception-type": kind, ":content-type": "application/json"}
    return _frame(headers, json.dumps(content).encode())


def _frame(headers: dict[str, str], payload: bytes) -> bytes:
    packed = b"".join(
        struct.pack("!B", len(name)) + name.encode() + struct.pack("!BH", 7, len(value)) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack("!II", 16 + len(packed) + len(payload), len(packed))
    head = prelude + struct.pack("!I", zlib.crc32(prelude)) + packed + payload
    return head + struct.pack("!I", zlib.crc32(head))
