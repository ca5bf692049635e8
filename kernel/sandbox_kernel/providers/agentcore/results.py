"""What a tool of the service answers, read from its events: one at the end, or several as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sandbox_kernel.errors import InvocationError

from .faults import PROVIDER

MAX_ANSWER = 256 * 1024 * 1024
"""Characters and bytes that one call may answer in all its events; text that comes in two ways counts twice.

botocore takes events of 24 MB at most, any number of them; the service's own limit is 100 MB of text.
"""
EMPTY = 64
"""Bytes that an object costs with nothing in it."""


class NoResultError(Exception):
    """A call was answered without a result: the stream was cut off, or empty, which the SDK does not tell."""


@dataclass
class ToolResult:
    """What all events of a call say together."""

    stdout: str = ""
    stderr: str = ""
    text: str = ""
    """The text blocks; in most tools the same as stdout and stderr."""
    exit_code: int | None = None
    is_error: bool = False
    task_id: str = ""
    task_status: str = ""
    blocks: list[Mapping[str, Any]] = field(default_factory=list)
    """All other content."""
    structured: bool = False

    @property
    def printed(self) -> str:
        """What was printed, whichever way the service tells it."""
        return self.stdout if self.structured else self.text


def read_events(
    stream: Iterable[Mapping[str, Any]], on_event: Callable[[ToolResult], None] | None = None
) -> ToolResult:
    """Read a call's events to their end; ``on_event`` gets each by itself.

    Raises NoResultError if there are none, and InvocationError where they have no end.
    """
    total = ToolResult()
    found = False
    size = 0
    for event in stream:
        result = event.get("result")
        if not isinstance(result, Mapping):
            continue
        found = True
        size += _size(result)
        if size > MAX_ANSWER:
            raise InvocationError(
                f"The answer has more than {MAX_ANSWER} bytes; it was not read on.", provider=PROVIDER
            )
        one = _read(result)
        if on_event is not None:
            on_event(one)
        _add(total, one)
    if not found:
        raise NoResultError
    return total


def _size(value: object) -> int:
    match value:
        case str() | bytes() | bytearray():
            return len(value)
        case Mapping():
            # Empty ones are kept, too.
            return EMPTY + sum(map(_size, value.values()))
        case list():
            return sum(map(_size, value))
    return 0


def _read(result: Mapping[str, Any]) -> ToolResult:
    read = ToolResult(is_error=bool(result.get("isError")))
    texts = []
    for block in result.get("content") or []:
        if block.get("type") == "text":
            texts.append(str(block.get("text", "")))
        else:
            read.blocks.append(block)
    read.text = "\n".join(texts)
    said = result.get("structuredContent")
    if isinstance(said, Mapping):
        # Of a task nothing may be there but its state.
        read.structured = said.get("stdout") is not None
        read.stdout, read.stderr = str(said.get("stdout") or ""), str(said.get("stderr") or "")
        code = said.get("exitCode")
        read.exit_code = int(code) if isinstance(code, (int, float)) else None
        read.task_id, read.task_status = str(said.get("taskId") or ""), str(said.get("taskStatus") or "")
    return read


def _add(total: ToolResult, one: ToolResult) -> None:
    total.stdout += one.stdout
    total.stderr += one.stderr
    total.text += one.text
    total.structured = total.structured or one.structured
    total.is_error = total.is_error or one.is_error
    total.exit_code = one.exit_code if one.exit_code is not None else total.exit_code
    total.task_id, total.task_status = one.task_id or total.task_id, one.task_status or total.task_status
    total.blocks += one.blocks
