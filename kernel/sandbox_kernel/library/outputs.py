"""What a cell in a sandbox produces, as values: its outputs one by one, and the result of it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

from sandbox_kernel.errors import CellError
from sandbox_kernel.link.protocol import Buffer

Json = dict[str, Any]

MAX_KEPT = 64 * 1024 * 1024
"""Bytes of output, about, that a result keeps by default."""


@dataclass(frozen=True)
class Status:
    """The cell began to run ("busy") or has ended ("idle")."""

    state: str


@dataclass(frozen=True)
class Notice:
    """Lines of the session's own, before the cell's output: what was newly hidden, or is here again."""

    text: str


@dataclass(frozen=True)
class Stream:
    """Printed text; ``name`` is "stdout" or "stderr"."""

    name: str
    text: str


@dataclass(frozen=True)
class Display:
    """Something shown: a MIME bundle. With ``update`` it replaces what was shown before under its ``display_id``."""

    data: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    display_id: str = ""
    update: bool = False


@dataclass(frozen=True)
class Clear:
    """What was shown so far is to be removed; with ``wait`` when the next output comes."""

    wait: bool = False


@dataclass(frozen=True)
class ExecuteResult:
    """The value of the cell's last expression, as a MIME bundle."""

    data: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    execution_count: int = 0
    display_id: str = ""


@dataclass(frozen=True)
class Error:
    """The exception that ended the cell; ``traceback`` holds lines, with colours as terminals know them."""

    name: str
    value: str
    traceback: Sequence[str] = ()


@dataclass(frozen=True)
class Other:
    """Another Jupyter message, such as a widget's: its type, content and binary buffers."""

    msg_type: str
    content: Mapping[str, Any]
    buffers: Sequence[Buffer] = ()


@dataclass(frozen=True)
class InputRequest:
    """What `input()` or `getpass()` in the cell asks for."""

    prompt: str
    password: bool = False


Output = Union[Status, Notice, Stream, Display, Clear, ExecuteResult, Error, Other]


@dataclass
class Result:
    """What one cell came to. An exception in the cell is data: see `error` and `raise_on_error`."""

    correlation_id: str = ""
    """Names this run in the log; the caller may have given it."""
    execution_count: int | None = None
    outputs: list[Output] = field(default_factory=list)
    """What a notebook would keep, in order: printed text, things shown (updates are made in place), result, error."""
    error: Error | None = None
    notice: str = ""
    """What the session had to say before the cell, as lines: what was newly hidden from it, or is here again."""
    duration: float = 0.0
    """Seconds from the cell's beginning to its end, without the time that it waited for its turn or for a sandbox."""
    dropped: int = 0
    """Outputs that were left out because the others were larger than `Sandbox.max_output` already."""

    @property
    def ok(self) -> bool:
        """Whether the cell ended without an exception."""
        return self.error is None

    @property
    def stdout(self) -> str:
        """What was printed."""
        return self._printed("stdout")

    @property
    def stderr(self) -> str:
        """What was printed to standard error."""
        return self._printed("stderr")

    @property
    def text(self) -> str:
        """The value of the last expression as text; "" if there is none."""
        for output in reversed(self.outputs):
            if isinstance(output, ExecuteResult):
                return str(output.data.get("text/plain", ""))
        return ""

    def raise_on_error(self) -> Result:
        """Return this result. Raises CellError if the cell ended by an exception."""
        if self.error is not None:
            raise cell_error(self.error)
        return self

    def _printed(self, name: str) -> str:
        return "".join(one.text for one in self.outputs if isinstance(one, Stream) and one.name == name)


def cell_error(error: Error) -> CellError:
    """Return the exception for an error in a cell. It is of a class with that error's name, as notebooks show it."""
    name = error.name if error.name.isidentifier() else "CellError"
    kind: type[CellError] = type(name, (CellError,), {})
    return kind(error.name, error.value, list(error.traceback))


class Recording:
    """Makes a cell's result out of its outputs, which may be many: what is above ``limit`` bytes is left out."""

    def __init__(self, result: Result, limit: int) -> None:
        self.result = result
        self._left = limit
        self._clear_due = False

    def add(self, output: Output) -> None:
        """Take the next output."""
        match output:
            case Status():
                return
            case Notice(text):
                self.result.notice += text
                return
            case Clear(wait):
                self._clear_due = True
                if not wait:
                    self._clear()
                return
            case Display(update=True):
                self._replace(output)
                return
            case Error():
                self.result.error = output
            case ExecuteResult():
                self.result.execution_count = output.execution_count
        self._clear()
        self._left -= size_of(output)
        # The error is told whatever came before it.
        if self._left < 0 and not isinstance(output, Error):
            self.result.dropped += 1
            return
        outputs = self.result.outputs
        last = outputs[-1] if outputs else None
        if (
            isinstance(output, Stream)
            and isinstance(last, Stream)
            and last.name == output.name
            and self._is_short(last)
        ):
            outputs[-1] = Stream(output.name, last.text + output.text)
        else:
            outputs.append(output)

    @staticmethod
    def _is_short(stream: Stream) -> bool:
        # Joining long texts again and again would take time that grows with the square of their length.
        return len(stream.text) < 64 * 1024

    def _clear(self) -> None:
        if self._clear_due:
            self._clear_due = False
            self.result.outputs.clear()

    def _replace(self, update: Display) -> None:
        outputs = self.result.outputs
        for index, one in enumerate(outputs):
            if isinstance(one, (Display, ExecuteResult)) and one.display_id == update.display_id != "":
                # An update takes the place of what it replaces also in what is left.
                self._left += size_of(one) - size_of(update)
                if self._left < 0:
                    self.result.dropped += 1
                elif isinstance(one, Display):
                    outputs[index] = Display(update.data, update.metadata, update.display_id)
                else:
                    outputs[index] = ExecuteResult(update.data, update.metadata, one.execution_count, one.display_id)


def size_of(output: Output) -> int:
    """Return about how many bytes of memory an output takes."""
    match output:
        case Stream():
            return 100 + len(output.text)
        case Display() | ExecuteResult():
            return 200 + sum(
                len(value) if isinstance(value, str) else len(repr(value)) for value in output.data.values()
            )
        case Other():
            return 200 + len(repr(output.content)) + sum(len(buffer) for buffer in output.buffers)
    return 200
