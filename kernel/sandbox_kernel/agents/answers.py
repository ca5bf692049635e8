"""What goes to an agent, and what comes back: requests as JSON; answers whole, as server-sent events or as lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Union

from sandbox_kernel.errors import InvocationError

Request = Union[str, Mapping[str, Any]]

EVENT_STREAM, LINES = "text/event-stream", "application/x-ndjson"
MAX_LINE = 16 * 1024 * 1024
"""Characters of one piece of an answer."""
_DATA = "data:"


def request_body(request: Request) -> dict[str, Any]:
    """Return what is sent: an object as it is, also where it is written as text; other text as a prompt."""
    if isinstance(request, Mapping):
        return dict(request)
    try:
        said = json.loads(request)
    except (ValueError, RecursionError):
        return {"prompt": request}
    return said if isinstance(said, dict) else {"prompt": request}


def is_stream(content_type: str) -> bool:
    """Whether an answer of this type comes in pieces."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind in (EVENT_STREAM, LINES)


def looks_like_stream(beginning: str) -> bool:
    """Whether an answer is one of events although its type does not say so."""
    return beginning.lstrip("\ufeff").startswith((_DATA, "event:", ": "))


def whole_answer(text: str) -> Any:
    """Return the value of an answer in one piece. Raises InvocationError."""
    if not text.strip():
        raise InvocationError(
            "The agent answered with nothing; does each of its ways return something, and is everything awaited?"
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise InvocationError(f"The agent's answer is no JSON: {text[:200]!r}.") from exc


class Pieces:
    """Puts the pieces of an answer together from text as it arrives: server-sent events, or a value on each line.

    An event may have several lines of data. A piece that is JSON is returned as its value, else as text.
    """

    def __init__(self) -> None:
        self._rest = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, text: str) -> list[Any]:
        """Return the pieces that are whole now. Raises InvocationError."""
        *lines, self._rest = (self._rest + text).replace("\r\n", "\n").split("\n")
        self._check(len(self._rest))
        return [piece for line in lines for piece in self._take(line)]

    def end(self) -> list[Any]:
        """Return what is left when no more comes. Raises InvocationError."""
        rest, self._rest = self._rest, ""
        return [*(self._take(rest) if rest.strip() else []), *self._finish()]

    def _check(self, size: int) -> None:
        if size > MAX_LINE:
            raise InvocationError(f"A piece of the agent's answer has more than {MAX_LINE} characters.")

    def _take(self, line: str) -> list[Any]:
        if not line.strip():
            return self._finish()
        if line.startswith(_DATA):
            # With what each line costs besides its text: an event may be of nothing but empty ones.
            self._size += len(line)
            self._check(self._size)
            self._data.append(line[len(_DATA) :].removeprefix(" "))
            return []
        if line.startswith((":", "event:", "id:", "retry:")):
            # Comments, which keep a connection alive, and what else events have.
            return []
        return [*self._finish(), _value(line)]

    def _finish(self) -> list[Any]:
        data, self._data, self._size = "\n".join(self._data), [], 0
        return [_value(data)] if data.strip() and data.strip() != "[DONE]" else []


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, dict) and set(value) == {"error"}:
        raise InvocationError(f"The agent failed in the middle of its answer: {value['error']}")
    return value


def text_of(piece: Any) -> str:
    """Return what a piece says to people: the text in it, where it is clear which that is, else the piece as JSON."""
    if isinstance(piece, str):
        return piece
    if isinstance(piece, dict):
        for name in ("chunk", "text", "content", "delta", "response", "answer", "result", "message", "output"):
            if isinstance(piece.get(name), str):
                return str(piece[name])
    return json.dumps(piece, ensure_ascii=False)
