"""Questions to the porter, and its answers, as text that a call carries (bridge/porter.py, bridge/asker.py)."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from sandbox_kernel.bridge.asker import deflated

_SIZE = struct.Struct("!II")
MARK = "<sbx:"
"""What an answer begins with."""
_MARKED = re.compile(MARK + r"(\d{1,9}):([0-9a-f]{8}):([A-Za-z0-9+/=\s]*):sbx>")
MAX_ANSWER = 64 * 1024 * 1024
"""Bytes that an answer may have when it is inflated: a cell owns the porter."""


MAX_HEAD = 64 * 1024
"""Bytes of an answer's head: what JSON of one is parsed to takes thirty times as many."""


class BrokenAnswerError(Exception):
    """What a call returned is no answer of the porter's, or only a part of one."""


@dataclass(frozen=True)
class Answer:
    """What the porter says; every field is the sandbox's word, which may be a lie."""

    taken: int
    at: int
    working: bool
    lively: bool
    ended: str
    unknown: bool
    data: bytes


def packed(head: dict[str, Any], data: bytes) -> bytes:
    """Return a question as bytes, deflated where that pays."""
    said = json.dumps(head, separators=(",", ":")).encode()
    return deflated(_SIZE.pack(len(said), len(data)) + said + data)


def as_text(question: bytes) -> str:
    """Return a packed question as text."""
    return base64.b64encode(question).decode()


def read_answer(printed: str) -> Answer:
    """Read an answer out of what a call printed. Raises BrokenAnswerError."""
    found = _MARKED.search(printed)
    if found is None:
        raise BrokenAnswerError(printed[-300:])
    text = "".join(found[3].split())
    try:
        raw = base64.b64decode(text, validate=True)
        if len(text) != int(found[1]) or zlib.crc32(raw) != int(found[2], 16):
            raise BrokenAnswerError("an answer of another length or checksum")
        plain = _inflated(raw)
        head, body = _SIZE.unpack_from(plain)
        if head > MAX_HEAD:
            raise BrokenAnswerError("an answer with a head that is too large")
        said = json.loads(plain[_SIZE.size : _SIZE.size + head])
        data = plain[_SIZE.size + head :]
        if len(data) != body or not isinstance(said, dict):
            raise BrokenAnswerError("an answer of another shape")
        return Answer(
            _offset(said.get("taken", 0)),
            _offset(said.get("at", 0)),
            bool(said.get("working")),
            bool(said.get("lively")),
            str(said.get("ended") or "")[:500],
            bool(said.get("unknown")),
            data,
        )
    except (ValueError, TypeError, struct.error, zlib.error, RecursionError) as exc:
        raise BrokenAnswerError(str(exc)) from exc


def _offset(said: object) -> int:
    # An exact type: true and false are integers, too.
    if type(said) is not int or said < 0:
        raise BrokenAnswerError("an answer with an offset that is none")
    return said


def _inflated(raw: bytes) -> bytes:
    if raw[:1] != b"z":
        return raw[1:]
    inflating = zlib.decompressobj()
    plain = inflating.decompress(raw[1:], MAX_ANSWER)
    if inflating.unconsumed_tail:
        raise BrokenAnswerError("an answer that is too large")
    return plain
