"""Speaks with the ipykernel in a sandbox as a front end does: cells go in one by one, and what comes is theirs.

Knows Jupyter messages as they travel over a session (link/envelope.py); everything else of the library sees outputs.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Any

from sandbox_kernel.cell_clock import CellClock
from sandbox_kernel.cell_memory import run_cell
from sandbox_kernel.errors import (
    CommandError,
    InvocationError,
    SandboxKernelError,
    SandboxLostError,
    SandboxTimeoutError,
    StateError,
)
from sandbox_kernel.host_tools import CellScope, NoTools, ToolSource, new_correlation_id
from sandbox_kernel.lifecycle import State
from sandbox_kernel.link import envelope
from sandbox_kernel.link.protocol import Buffer
from sandbox_kernel.session import SandboxSession

from .outputs import (
    Clear,
    Display,
    Error,
    ExecuteResult,
    InputRequest,
    Json,
    Notice,
    Other,
    Output,
    Status,
    Stream,
    size_of,
)

PROTOCOL_VERSION = "5.3"
REPLY_GRACE = 2.0
"""Seconds after its idle status in which a cell's reply may come."""
KILL_AFTER = 5.0
"""Seconds after the interrupt at the end of its time in which a cell must have ended."""
MAX_UNREAD = 8 * 1024 * 1024
"""Bytes of outputs that nobody has taken yet before the sandbox has to wait."""
INTERRUPT_AFTER = 0.02
"""Seconds from a cell's busy status until an interrupt that came before it finds the cell's own code."""
TOKEN = (1).to_bytes(envelope.TOKEN_SIZE, "big")
"""One is enough: there is one cell at a time in the sandbox, and replies name their request anyway."""

VALUE = "sandbox_value"
"""The type of the messages that carry variables; see inside.py."""

_DROPPED = {"execute_input", "iopub_welcome"}


ANSWERING: ContextVar[Cell | None] = ContextVar("answering", default=None)
"""The cell that waits for an answer of the program, in what makes that answer."""


class Cell:
    """Code on its way through a sandbox. What it produces is put into `outputs`; its end is in `ended`."""

    def __init__(
        self,
        code: str,
        *,
        correlation_id: str = "",
        hidden: bool = False,
        timeout: float = 0.0,
        on_input: Callable[[InputRequest], None] | None = None,
        on_value: Callable[[Json, list[Buffer]], None] | None = None,
        buffers: Sequence[Buffer] = (),
        approve: Callable[[str], Awaitable[str]] | None = None,
        available_tools: Sequence[str] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the code of a cell.

        ``hidden``: neither counted nor kept in the history, and its outputs are dropped. ``on_value`` takes messages of
        the type `sandbox_value`. ``buffers`` go with the request. ``approve`` answers questions about its calls of
        tools, of which it may use those that match ``available_tools``; ``variables`` are of their context.
        """
        self.code = code
        self.msg_id = uuid.uuid4().hex
        self.correlation_id = correlation_id or new_correlation_id()
        self.hidden = hidden
        self.timeout = timeout
        self.on_input = on_input
        self.on_value = on_value
        self.buffers = buffers
        self.approve = approve
        self.scope = CellScope(
            self.correlation_id, None if available_tools is None else frozenset(available_tools), variables or {}
        )
        """What holds for its calls of tools."""
        self.ended: asyncio.Future[Json] = asyncio.get_running_loop().create_future()
        """The content of the reply; or the error because of which there is none."""
        self.running = False
        """Its busy status has come."""
        self.began = self.finished = 0.0
        """By the monotonic clock, in seconds."""
        self.timed_out = False
        self.interrupt_due = False
        """It was interrupted before it began."""
        self._reply: Json | None = None
        self._idle = False
        self._abandoned = False
        self._unread = 0
        self._outputs: deque[Output] = deque()
        self._news = asyncio.Event()

    # ---- for who wants its outputs

    async def next_output(self) -> Output | None:
        """Return the next output; None when no more will come. Raises what ended the cell before its reply."""
        while not self._outputs:
            if self.ended.done():
                self.ended.result()
                return None
            self._news.clear()
            await self._news.wait()
        output = self._outputs.popleft()
        self._unread -= size_of(output)
        return output

    @property
    def is_full(self) -> bool:
        """Whether so many outputs have not been taken that the sandbox should wait."""
        return self._unread > MAX_UNREAD

    # ---- for the client

    def put(self, output: Output) -> None:
        """Take an output, unless nobody wants it."""
        if not (self._abandoned or self.hidden):
            self._outputs.append(output)
            self._unread += size_of(output)
            self._news.set()

    def take_reply(self, content: Json) -> bool:
        """Take the reply's content; return whether the cell is done."""
        self._reply = content
        return self._idle

    @property
    def reply(self) -> Json:
        """The reply's content; empty where none came."""
        return self._reply or {}

    def take_idle(self) -> bool:
        """Take the idle status; return whether the cell is done."""
        self._idle = True
        return self._reply is not None

    def finish(self, error: SandboxKernelError | None = None) -> None:
        """End it, with the reply that came or with an error."""
        self.finished = time.monotonic()
        if not self.ended.done():
            if error is None:
                self.ended.set_result(self._reply or {"status": "ok"})
            else:
                self.ended.set_exception(error)
                # That nobody may ask is no fault.
                self.ended.exception()
        self._news.set()

    def abandon(self) -> None:
        """Let go of what nobody wants any more."""
        self._abandoned = True
        self._outputs.clear()
        self._unread = 0
        self.on_input = self.on_value = None


class Client:
    """Sends cells to the session's inner kernel, one at a time; is the session's listener. On the loop's thread."""

    session: SandboxSession

    def __init__(self) -> None:
        self.loss: SandboxLostError | None = None
        """Why the variables of earlier cells are gone, while nobody has been told."""
        self._waiting: deque[Cell] = deque()
        self._current: Cell | None = None
        self._used = False
        self._held = False
        self._question: bytes = b""
        self._notice = ""
        self._clock: CellClock[Cell] = CellClock()
        self._session_id = uuid.uuid4().hex
        self._tasks: set[asyncio.Task[None]] = set()

    def attach(self, session: SandboxSession) -> None:
        """Serve this session."""
        self.session = session
        self._idle_since = time.time()
        session.idle_since = lambda: 0.0 if self._current or self._waiting else self._idle_since
        session.on_state = self._on_state
        session.on_news = self._on_news
        session.guard.on_notice = self._on_notice

    def _on_news(self, text: str) -> None:
        """Give lines of the session's own to the cell that runs, else to the next one."""
        if self._current is not None and not self._current.hidden:
            self._current.put(Notice(text))
        else:
            self._notice += text

    def serve_tools(
        self,
        source: ToolSource | None,
        variables: Mapping[str, Any] | None = None,
        available: Sequence[str] | None = None,
    ) -> None:
        """Let cells call the tools of a source; without one they hear that there are none."""
        if source is None:
            self.session.host_tools = NoTools(self.session, "this sandbox was made without tools: Sandbox(tools=…)")
        else:
            self.session.host_tools = source.attach(self.session, self, variables=variables, available=available)

    # ---- contract `Cells`

    async def settle(self, cell: str) -> None:
        """There is nothing to wait for: one cell at a time is sent, and it runs at once."""

    def scope(self, cell: str) -> CellScope | None:
        """Return what holds for the calls of a cell that runs."""
        current = self._current
        return current.scope if current is not None and current.msg_id == cell else None

    def scopes(self) -> Iterator[CellScope]:
        """Give that of the cell that runs."""
        if self._current is not None:
            yield self._current.scope

    async def ask(self, cell: str, prompt: str) -> str:
        """Ask who ran the cell. Raises CommandError where nobody can be asked."""
        current = self._current
        if self.scope(cell) is None or current is None:
            raise CommandError("the cell that it belongs to is not running.")
        if current.approve is None:
            raise CommandError(
                "the program answers no such questions (on_approval); allow the tool when you register it."
            )
        return await current.approve(prompt)

    # ---- cells

    def submit(self, cell: Cell) -> None:
        """Run a cell when those before it are done. Raises StateError where that cannot be."""
        asking = ANSWERING.get()
        if asking is not None and asking is self._current:
            raise StateError(
                "A cell of this sandbox waits for this answer, and no other runs in it meanwhile; run it afterwards, "
                "or in another sandbox."
            )
        self._waiting.append(cell)
        self._advance()

    def abandon(self, cell: Cell) -> None:
        """Forget a cell: one that waits is not run, one that runs is interrupted."""
        if cell.ended.done():
            return
        cell.abandon()
        if cell is self._current:
            self.look_again()
            self.interrupt()
            self._clock.start(cell, KILL_AFTER, self._kill)
        else:
            self._waiting.remove(cell)
            cell.finish(InvocationError("The cell was given up before it ran."))

    def interrupt(self) -> bool:
        """Interrupt the cell that runs; return whether there is one."""
        cell = self._current
        if cell is None:
            return False
        # A kernel that has not begun with it would ignore the signal.
        cell.interrupt_due = not cell.running
        if cell.running:
            self.session.interrupt()
        return True

    def answer(self, cell: Cell, value: str) -> None:
        """Answer what the cell asks for by `input()`."""
        if cell is self._current and self._question:
            parent, self._question = self._question, b""
            self.session.send(
                [envelope.STDIN + TOKEN, self._header("input_reply"), parent, b"{}", _dump({"value": value})],
                urgent=True,
            )

    def look_again(self) -> None:
        """Let the sandbox wait, or go on, by what has been taken of the outputs."""
        full = self._current is not None and self._current.is_full
        if full != self._held:
            self._held = full
            self.session.hold(full)

    def _advance(self) -> None:
        if self._current is not None or not self._waiting or not self.session.ready:
            return
        cell = self._current = self._waiting.popleft()
        self._used = self._used or not cell.hidden
        self._log("cell", cell)
        if not cell.hidden and not self._made_ready(cell):
            return
        try:
            self._execute(cell)
        except ValueError as exc:
            self._end(cell, InvocationError(f"The cell is too large for a sandbox: {exc}."))

    def _made_ready(self, cell: Cell) -> bool:
        """Let the sandbox make ready for a cell; False if it was given up instead, which the cell was told then."""
        try:
            notice = self._notice + self.session.before_cell()
        except SandboxLostError:
            return False
        self._notice = ""
        if notice:
            self.session.log.write("notice", correlation_id=cell.correlation_id, text=notice)
            cell.put(Notice(notice))
        return True

    def _execute(self, cell: Cell) -> None:
        content = {
            "code": cell.code,
            "silent": cell.hidden,
            "store_history": not cell.hidden,
            "user_expressions": {},
            "allow_stdin": cell.on_input is not None,
            "stop_on_error": False,
        }
        header = self._header("execute_request", cell.msg_id)
        self.session.send([envelope.SHELL + TOKEN, header, b"{}", b"{}", _dump(content), *cell.buffers])

    def _end(self, cell: Cell, error: SandboxKernelError | None = None) -> None:
        if cell is not self._current:
            return
        self._clock.stop(cell)
        if cell.timed_out and error is None:
            error = SandboxTimeoutError(
                f"The cell ran longer than {cell.timeout:g} s and was interrupted; its variables are still there.",
                correlation_id=cell.correlation_id,
            )
        self._current = None
        self._idle_since = time.time()
        self._question = b""
        cell.finish(error)
        if cell.began and not cell.hidden:
            self.session.cells.add(run_cell(cell.code, cell.finished - cell.began, cell.reply))
        self._log("cell_ended", cell, error=str(error or ""))
        self.look_again()
        self._advance()

    def _log(self, name: str, cell: Cell, **fields: str) -> None:
        info = self.session.info
        if not cell.hidden:
            self.session.log.write(
                name, correlation_id=cell.correlation_id, provider=info.provider, sandbox_id=info.sandbox_id, **fields
            )

    # ---- time

    def _interrupt_late(self, cell: Cell) -> None:
        if cell is self._current:
            self.session.interrupt()

    def _on_timeout(self, cell: Cell) -> None:
        cell.timed_out = True
        self.session.interrupt()
        self._clock.start(cell, KILL_AFTER, self._kill)

    def _kill(self, cell: Cell) -> None:
        error = SandboxTimeoutError(
            "The cell did not react to an interrupt, so its Python was ended; variables are gone.",
            correlation_id=cell.correlation_id,
        )
        self._spawn(self._restart(cell, error))

    async def _restart(self, cell: Cell, error: SandboxTimeoutError) -> None:
        # In this order: the restart tells all cells that they have ended, and this one a better reason.
        cell.finish(error)
        try:
            await self.session.restart()
        except SandboxKernelError as exc:
            self.on_ended(exc)

    def _on_state(self, state: State) -> None:
        self._clock.run(state is State.ACTIVE)

    # ---- what the session tells

    def on_ready(self) -> None:
        """An inner kernel takes requests."""
        self._notice += self.session.greeting()
        self._advance()

    def on_ended(self, error: SandboxKernelError) -> None:
        """All cells have ended, for the reason given."""
        cells = [*([self._current] if self._current else []), *self._waiting]
        self._current = None
        self._waiting.clear()
        self._question = b""
        for cell in cells:
            self._clock.stop(cell)
            cell.finish(error)
        # The interrupted transfer of a hidden cell is told to its caller, too.
        if self._used and isinstance(error, SandboxLostError) and not cells:
            self.loss = error
        self._used = False
        self.look_again()

    def on_message(self, parts: list[Buffer]) -> None:
        """Take one message of the inner kernel; one that is broken is dropped."""
        try:
            self._take_message(parts)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as exc:
            self.session.log.write("output_dropped", level="debug", error=repr(exc))

    def on_past(self, parts: list[Any]) -> None:
        """Nothing past is ever asked for."""

    def on_skipped(self, messages: int) -> None:
        """Nothing is skipped: the sandbox ends with this process."""

    def on_excess(self, parts: list[Buffer], size: int) -> None:
        """Tell what became of a message that was too large."""
        kind = bytes(parts[0][:1]) if parts else b""
        if kind == envelope.IOPUB:
            self.session.guard.excess(size, parts[2:])
        elif kind == envelope.SHELL and (cell := self._current) is not None:
            self._end(cell, self.session.guard.too_large(size))

    def _take_message(self, parts: list[Buffer]) -> None:
        kind = bytes(parts[0][:1])
        if kind == envelope.IOPUB:
            parts = parts[1:]
        message = parts[1:]
        header, parent = (json.loads(bytes(part)) for part in message[:2])
        cell = self._current
        if cell is None or parent.get("msg_id") != cell.msg_id:
            return
        if kind == envelope.IOPUB:
            self._on_output(cell, message, header, parent)
        elif kind == envelope.STDIN:
            question = self.session.guard.question(message[1], message)
            if question is not None:
                self._on_question(cell, bytes(message[0]), json.loads(bytes(question[3])))
        elif kind == envelope.SHELL and cell.take_reply(json.loads(bytes(message[3]))):
            self._end(cell)

    def _on_output(self, cell: Cell, message: list[Buffer], header: Json, parent: Json) -> None:
        if header["msg_type"] == VALUE and cell.on_value is not None:
            cell.on_value(json.loads(bytes(message[3])), message[4:])
            return
        # The only way in which outputs leave this module.
        checked = self.session.guard.output(message, header, parent)
        if checked is None:
            return
        content = json.loads(bytes(checked[3]))
        if header["msg_type"] == "status":
            self._on_status(cell, content["execution_state"])
        elif header["msg_type"] not in _DROPPED:
            cell.put(_read(header["msg_type"], content, checked[4:]))
            self.look_again()

    def _on_notice(self, text: str, parent: Json) -> None:
        if self._current is not None and parent.get("msg_id") == self._current.msg_id:
            self._current.put(Display({"text/plain": text}))

    def _on_status(self, cell: Cell, state: str) -> None:
        if state == "busy" and not cell.running:
            cell.running = True
            cell.began = time.monotonic()
            if not cell.interrupt_due:
                self._clock.start(cell, cell.timeout, self._on_timeout)
            else:
                asyncio.get_running_loop().call_later(INTERRUPT_AFTER, self._interrupt_late, cell)
            cell.put(Status("busy"))
        elif state == "idle":
            cell.put(Status("idle"))
            if cell.take_idle():
                self._end(cell)
            else:
                # A reply that cannot be made never comes.
                asyncio.get_running_loop().call_later(REPLY_GRACE, self._end, cell)

    def _on_question(self, cell: Cell, header: bytes, content: Json) -> None:
        self._question = header
        if cell.on_input is not None:
            cell.on_input(InputRequest(str(content.get("prompt", "")), bool(content.get("password", False))))

    # ---- messages

    def _header(self, msg_type: str, msg_id: str = "") -> bytes:
        return _dump(
            {
                "msg_id": msg_id or uuid.uuid4().hex,
                "msg_type": msg_type,
                "username": "library",
                "session": self._session_id,
                "date": datetime.now(timezone.utc).isoformat().replace("+00:00", "Z"),
                "version": PROTOCOL_VERSION,
            }
        )

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _read(msg_type: str, content: Json, buffers: list[Buffer]) -> Output:
    """Make an output of a message's content. Raises LookupError or TypeError where it is not what Jupyter sends."""
    match msg_type:
        case "stream":
            return Stream("stderr" if content["name"] == "stderr" else "stdout", _text(content["text"]))
        case "display_data" | "update_display_data":
            update = msg_type == "update_display_data"
            return Display(_mapping(content["data"]), _metadata(content), _display_id(content), update)
        case "execute_result":
            count = int(content["execution_count"])
            return ExecuteResult(_mapping(content["data"]), _metadata(content), count, _display_id(content))
        case "clear_output":
            return Clear(bool(content.get("wait", False)))
        case "error":
            lines = [_text(line) for line in content["traceback"]]
            return Error(_text(content["ename"]), _text(content["evalue"]), lines)
    return Other(msg_type, content, buffers)


def _metadata(content: Json) -> Mapping[str, Any]:
    return _mapping(content.get("metadata") or {})


def _display_id(content: Json) -> str:
    return str((content.get("transient") or {}).get("display_id") or "")


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("a MIME bundle is a mapping")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("text is expected")
    return value


def _dump(content: Json) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()
