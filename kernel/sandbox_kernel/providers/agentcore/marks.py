"""Reads what shim.py prints: text, and marks between it; in pieces as they come."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from .shim import BEGIN, END

Json = dict[str, Any]
MAX_MARK = 200 * 1024 * 1024


class MarkReader:
    """Takes printed text in pieces, and gives it back as texts and marks in their order.

    It takes time in proportion to the text, however that is cut and whatever it holds: a cell may print anything.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        """What is not complete: a mark's beginning, or what may be the beginning of a tag."""
        self._size = 0
        self._seam = ""
        """The end of that, in which a tag may have begun."""

    def feed(self, text: str) -> Iterator[str | Json]:
        """Yield what is complete."""
        if self._size >= len(BEGIN) and END not in self._seam + text:
            # A mark goes on.
            self._keep(text)
            return
        held, at = self.rest() + text, 0
        while at < len(held):
            start = held.find(BEGIN, at)
            if start < 0:
                # The beginning of a tag may be the end of this piece.
                keep = next((n for n in range(len(BEGIN) - 1, 0, -1) if held.endswith(BEGIN[:n], at)), 0)
                if len(held) - at > keep:
                    yield held[at : len(held) - keep]
                at = len(held) - keep
                break
            if start > at:
                yield held[at:start]
                at = start
            end = held.find(END, start)
            if end < 0:
                break
            mark = _parsed(held[start + len(BEGIN) : end])
            at = end + len(END)
            if mark is not None:
                yield mark
        self._keep(held[at:])

    def _keep(self, text: str) -> None:
        self._pieces.append(text)
        self._size += len(text)
        self._seam = (self._seam + text)[1 - len(END) :]
        if self._size >= MAX_MARK:
            self.rest()

    def rest(self) -> str:
        """Return what was never completed, at the end."""
        held = "".join(self._pieces)
        self._pieces, self._size, self._seam = [], 0, ""
        return held


def _parsed(text: str) -> Json | None:
    try:
        mark = json.loads(base64.b64decode("".join(text.split()), validate=True))
    except (ValueError, RecursionError):
        return None
    return mark if isinstance(mark, dict) else None
