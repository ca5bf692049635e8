"""What is known of a front end's requests from their arrival to their last answer."""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .cell_memory import RunCell
from .link.envelope import TOKEN_SIZE
from .link.protocol import Buffer

COMMAND = "%sandbox"
CELL_COMMAND = "%%sandbox"
MAX_SENT = 20_000
"""Requests that are remembered after they were done: outputs may name them later."""
NOTEBOOK_VARIABLE = "__vsc_ipynb_file__"
"""What VS Code sets in a hidden cell to the notebook's path."""


class CellCommand(NamedTuple):
    """A cell that a command is given: what follows `%%sandbox` on its first line, and all below that."""

    line: str
    body: str


class Request:
    """One request of a front end. ``frames`` are header, parent header, metadata, content, buffers as they came."""

    __slots__ = (
        "began",
        "busy",
        "cell_command",
        "channel",
        "code",
        "counts",
        "deferred",
        "echoed",
        "ended",
        "failed",
        "frames",
        "held_idle",
        "idents",
        "idle",
        "interrupt_due",
        "lines",
        "msg_id",
        "msg_type",
        "notice",
        "on_ended",
        "payloads",
        "questions",
        "replied",
        "sent",
        "stdin",
        "stop_on_error",
        "subshell",
        "timed_out",
        "token",
        "told_cut_off",
    )

    def __init__(self, channel: str, idents: list[bytes], frames: list[bytes], header: dict[str, Any]) -> None:
        self.channel = channel
        self.idents = idents
        self.frames: list[Buffer] = list(frames)
        self.msg_id = str(header["msg_id"])
        self.msg_type = str(header["msg_type"])
        self.subshell: str | None = header.get("subshell_id")
        if self.subshell is not None and not isinstance(self.subshell, str):
            raise TypeError("the id of a subshell is text")
        self.token = b""
        self.busy = False
        """Its busy status was published."""
        self.replied = not self.msg_type.endswith("_request")
        self.idle = False
        self.failed = False
        """It was answered here, with an error; what comes for it later is dropped."""
        self.deferred = False
        """Nobody listens: it was answered before there was a sandbox, or is the kernel process's own."""
        self.notice = ""
        """A line that is shown before its own output."""
        self.timed_out = False
        # Of execute requests.
        self.code = ""
        self.counts = True
        """A cell that a person ran: it gets a number and enters the history."""
        self.stop_on_error = True
        self.stdin = False
        self.questions = 0
        """How many of its questions wait for an answer."""
        self.echoed = False
        """Its text was published here, as it came."""
        self.lines: list[str] = []
        """The `%sandbox` lines at its beginning that have not been run yet."""
        self.cell_command: CellCommand | None = None
        """The `%%sandbox NAME` cell that it is, if that has not been run yet."""
        self.payloads: list[dict[str, Any]] = []
        """What its commands ask of the front end with its reply, such as a new cell."""
        self.on_ended: Callable[[RunCell], None] | None = None
        """Told what became of its code, before the front end is told that it ended."""
        self.sent: list[Buffer] = []
        """The message to the sandbox, by which it can be withdrawn."""
        self.told_cut_off = False
        self.interrupt_due = False
        """It was interrupted before it began: it is when it begins."""
        self.began = 0.0
        """When its code began, in seconds of the monotonic clock."""
        self.ended = False
        """What became of its code has been noted."""
        self.held_idle: Callable[[], None] | None = None
        """Takes the idle status that came before its reply."""

    @property
    def header(self) -> Buffer:
        """The header as it came: the parent header of everything that belongs to this request."""
        return self.frames[0]

    @property
    def is_cell(self) -> bool:
        """Whether it executes code, on the main shell or a subshell."""
        return self.msg_type == "execute_request"

    @property
    def done(self) -> bool:
        """Whether nothing more has to be sent for it."""
        return self.replied and self.idle

    def read_cell(self) -> None:
        """Read an execute request's content. Raises ValueError or KeyError where it has none."""
        content = json.loads(bytes(self.frames[3]))
        if not isinstance(content["code"], str):
            raise TypeError("the code of a cell is text")
        self.code = content["code"]
        silent = bool(content.get("silent", False))
        self.counts = not silent and bool(content.get("store_history", True))
        self.stop_on_error = bool(content.get("stop_on_error", True)) and not silent
        self.stdin = bool(content.get("allow_stdin", False))
        if COMMAND in self.code:
            self.lines = leading_commands(self.code)
            self.cell_command = cell_command(self.code)

    @property
    def has_commands(self) -> bool:
        """Whether something of it is to be run in the kernel process first."""
        return bool(self.lines) or self.cell_command is not None

    @property
    def has_code(self) -> bool:
        """Whether anything for the sandbox stands behind the `%sandbox` lines."""
        return self.cell_command is None and _end_of_commands(self.code) is not None

    def drop_commands(self) -> None:
        """Empty the `%sandbox` lines, which have been run; line numbers stay, and a cell magic may follow."""
        lines = self.code.split("\n")
        for index in range(_end_of_commands(self.code) or 0):
            if _command(lines[index]) is not None:
                lines[index] = ""
        self.replace_code("\n".join(lines))

    def replace_code(self, code: str) -> None:
        """Give the sandbox this code. Commands in it, of whosever writing, are not looked for any more."""
        content = json.loads(bytes(self.frames[3]))
        content["code"] = self.code = code
        self.frames[3] = json.dumps(content).encode()
        self.lines = []
        self.cell_command = None


def told_notebook(code: str) -> str:
    """Return the notebook's file where a cell of VS Code's tells it; else ""."""
    if NOTEBOOK_VARIABLE not in code:
        return ""
    import ast

    found = re.search(rf"^{NOTEBOOK_VARIABLE} = (r?(['\"]).+\2)\s*$", code, re.MULTILINE)
    try:
        return str(ast.literal_eval(found[1])) if found else ""
    except (SyntaxError, ValueError):
        return ""


def _command(line: str) -> str | None:
    """Return what follows `%sandbox` on a line; None where it is another line."""
    text = line.strip()
    if text == COMMAND or text.startswith((COMMAND + " ", COMMAND + "\t")):
        return text[len(COMMAND) :].strip()
    return None


def _end_of_commands(code: str) -> int | None:
    """Return the index of the first line that is no command, comment or blank; None if there is none."""
    for index, line in enumerate(code.split("\n")):
        if line.strip() and not line.lstrip().startswith("#") and _command(line) is None:
            return index
    return None


def leading_commands(code: str) -> list[str]:
    """Return what follows `%sandbox` on the lines with which a cell begins; blank and comment lines do not count."""
    lines = code.split("\n")[: _end_of_commands(code)]
    return [text for line in lines if (text := _command(line)) is not None]


def cell_command(code: str) -> CellCommand | None:
    """Return the `%%sandbox NAME` cell that stands behind the `%sandbox` lines; None where another thing does.

    A `%%sandbox` without a name is none of ours: it is for the extension in ordinary kernels.
    """
    end = _end_of_commands(code)
    if end is None:
        return None
    lines = code.split("\n")
    magic, _, text = lines[end].strip().replace("\t", " ").partition(" ")
    text = named(text)
    if magic != CELL_COMMAND or not names_command(text):
        return None
    return CellCommand(text.strip(), "\n".join(lines[end + 1 :]))


def named(text: str) -> str:
    """Return what follows `%%sandbox` with the command's name, also where an option stands for it."""
    text = text.strip()
    if text.startswith("--language"):
        return f"run {text}"
    return re.sub(r"^--replicas(=|\s+)", "replicas ", text)


def names_command(text: str) -> bool:
    """Whether what follows `%%sandbox` is the name of a command, and not an option of the cell."""
    return bool(text.strip()) and not text.lstrip().startswith("-")


class PendingRequests:
    """The requests that were sent to the sandbox and are not done, by token and by message id."""

    def __init__(self) -> None:
        self._by_token: dict[bytes, Request] = {}
        self._by_id: dict[str, Request] = {}
        self._abandoned: deque[str] = deque(maxlen=100)
        self._sent: dict[str, None] = {}
        self._last = 0
        self.cells = 0
        """Cells on the main shell among them."""

    def add(self, request: Request) -> bytes:
        """Remember a request and return its token."""
        self._last = self._last % 0xFFFFFFFF + 1
        self.adopt(request, self._last.to_bytes(TOKEN_SIZE, "big"))
        return request.token

    def begin_elsewhere(self) -> None:
        """Go on with other tokens than an earlier kernel process had, whose replies must find no request here."""
        self._last = int.from_bytes(os.urandom(TOKEN_SIZE), "big")

    def adopt(self, request: Request, token: bytes) -> None:
        """Remember a request that was sent by an earlier kernel process with this token."""
        request.token = token
        self._by_token[request.token] = request
        self._by_id[request.msg_id] = request
        self._sent[request.msg_id] = None
        if len(self._sent) > MAX_SENT:
            del self._sent[next(iter(self._sent))]
        if request.is_cell and request.subshell is None:
            self.cells += 1

    def by_token(self, token: bytes) -> Request | None:
        """Return the request that a reply belongs to."""
        return self._by_token.get(token)

    def by_id(self, msg_id: object) -> Request | None:
        """Return the request that an output belongs to."""
        return self._by_id.get(msg_id) if isinstance(msg_id, str) else None

    def was_sent(self, msg_id: object) -> bool:
        """Whether a request of this id was ever sent to the sandbox, as far back as is remembered."""
        return isinstance(msg_id, str) and msg_id in self._sent

    def running_cell(self) -> Request | None:
        """Return the cell that the inner kernel says it is busy with."""
        if not self.cells:
            return None
        return next((one for one in self._by_token.values() if one.is_cell and one.busy and not one.idle), None)

    def main_cells(self) -> Sequence[Request]:
        """Return the cells on the main shell, in the order in which they were sent."""
        return [one for one in self._by_token.values() if one.is_cell and one.subshell is None]

    @property
    def has_questions(self) -> bool:
        """Whether a cell waits for an answer of a person's."""
        return any(one.questions for one in self._by_token.values())

    def remove(self, request: Request) -> bool:
        """Forget a request; return whether it was there."""
        if self._by_token.pop(request.token, None) is None:
            return False
        if self._by_id.get(request.msg_id) is request:
            del self._by_id[request.msg_id]
        if request.is_cell and request.subshell is None:
            self.cells -= 1
        return True

    def abandon(self, request: Request) -> None:
        """Remember that what comes for a request is to be dropped."""
        self._abandoned.append(request.msg_id)

    def is_abandoned(self, msg_id: object) -> bool:
        """Whether an output belongs to a request that was given up."""
        return msg_id in self._abandoned

    def take_all(self) -> Sequence[Request]:
        """Forget and return all of them, in the order in which they were sent."""
        requests = list(self._by_token.values())
        for request in requests:
            self.remove(request)
        return requests
