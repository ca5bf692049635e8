"""The kernel: decides for each message of a front end whether it is answered here, waits, or goes to the sandbox.

Cells go to the inner kernel as they come, and it queues them. They wait here only while no inner kernel is ready, or
behind a cell of `%sandbox` commands, which is run here when all cells before it are done.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from traitlets import TraitError

from . import answers
from .cell_clock import CellClock
from .cell_memory import run_cell
from .cells import CommandCell, KeyboardInterruptError
from .errors import InvocationError, SandboxKernelError, SandboxLostError, SandboxTakenError, SandboxTimeoutError
from .frontend import Frontend
from .host_tools import HostTools, LateTools, NoTools
from .lifecycle import State
from .link import envelope
from .link.protocol import Buffer
from .requests import PendingRequests, Request, told_notebook
from .session import SandboxSession
from .subshells import Subshells
from .tool_cells import ToolCells

if TYPE_CHECKING:
    from .bridge_events import Ready
    from .past import PastOutputs

MAX_DEFERRED = 20
"""Hidden cells that are remembered until a billed sandbox exists."""
REPLY_GRACE = 2.0
"""Seconds after its idle status in which a request's reply may come."""
EXIT_GRACE = 5.0
"""Seconds in which Python must have ended after a cell that said so, as `quit()` does."""
KILL_AFTER = 5.0
"""Seconds after the interrupt at the end of `execution_timeout` in which a cell must have ended."""
BESIDE_CELLS = {"complete_request", "inspect_request", "history_request", "is_complete_request"}
"""Shell requests that are answered while a cell runs."""
MAX_QUESTIONS = 100
"""Questions of one cell that wait for an answer; what is sent to a front end is kept for it without another bound."""
SUBSHELL_REQUESTS = {"create_subshell_request", "delete_subshell_request"}
OF_THE_SOCKETS = {"iopub_welcome", "status"}
"""Outputs that without a parent speak of the inner kernel's own sockets and start."""

SAME_SANDBOX = (
    "The sandbox's Python is a fresh one: the variables of earlier cells are gone; files and packages are kept.\n"
)
OTHER_SANDBOX = (
    "The sandbox is a fresh one: the variables of earlier cells are gone, and so are added packages and files outside "
    "the notebook's folder.\n"
)

Json = dict[str, Any]


class Kernel:
    """Serves front ends. Everything runs on the event loop's thread; nothing here waits."""

    def __init__(self, frontend: Frontend) -> None:
        self.frontend = frontend
        self.session: SandboxSession
        self.ended = asyncio.Event()
        """Set when the kernel was asked to shut down and may exit."""
        self._open = False
        self._pending = PendingRequests()
        self._tool_cells = ToolCells(frontend, self._pending, self._pass_question)
        self._waiting: deque[Request] = deque()
        self._beside: deque[Request] = deque()
        self._deferred: deque[Request] = deque(maxlen=MAX_DEFERRED)
        self._command_cell: CommandCell | None = None
        self._renewing = False
        self._stdin_request: Request | None = None
        self._count = 1
        self._uncounted: list[str] | None = None
        self._notice = ""
        self._used = False
        self.dropped = 0
        """Messages of the sandbox that were broken."""
        self._debugger_stopped = False
        self._fresh = True
        self._leaving: Request | None = None
        """A cell that ended Python, while that has not been seen to end."""
        self._settling: Request | None = None
        """A failed cell whose idle status is out: until then the inner kernel might abort what comes next, too."""
        self._subshells = Subshells()
        self._past: PastOutputs | None = None
        """Made when a sandbox is attached that was another kernel process's."""
        self._past_task: asyncio.Task[None] | None = None
        """Shows past outputs in a cell that waits for it."""
        self._idle_since = 0.0
        self._clock: CellClock[Request] = CellClock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._handlers: dict[str, Callable[[Request], None]] = {
            "kernel_info_request": self._kernel_info,
            "connect_request": self._connect,
            "interrupt_request": self._interrupt,
            "shutdown_request": self._shutdown,
            "execute_request": self._shell,
            "is_complete_request": self._is_complete,
            "complete_request": self._beside_cells,
            "inspect_request": self._beside_cells,
            "history_request": self._beside_cells,
            "sandbox_command_request": self._outside_command,
        }

    def start(self, session: SandboxSession) -> None:
        """Begin to serve; the sandbox is started in the background where that costs nothing."""
        self.session = session
        self._guard = session.guard
        self._guard.on_notice = self._on_notice
        session.on_state = self._on_state
        session.idle_since = lambda: 0.0 if self._pending.cells else self._idle_since
        session.host_tools = LateTools(self._load_tools)
        self.frontend.on_blocked = session.hold
        self.frontend.start(self.on_request)
        self.frontend.publish("status", {"execution_state": "starting"}, {})
        if not session.capabilities.billed:
            session.begin_start()

    def _load_tools(self) -> HostTools:
        from .tools import ToolRegistry
        from .tools.serving import live_tools_of

        try:
            registry = ToolRegistry.of_config(self.session.config)
            registry.live_source = live_tools_of(self.session)
            return registry.attach(self.session, self._tool_cells)
        except TraitError as exc:
            return NoTools(self.session, f"the configuration of the tools cannot be used: {exc}")

    # ---- from the front end

    def on_request(self, channel: str, idents: list[bytes], frames: list[bytes]) -> None:
        """Take one message of a front end."""
        try:
            self._take_request(channel, idents, frames)
        except Exception as exc:  # noqa: BLE001 - the edge: no message, however odd, may cost the others theirs
            self.frontend.dropped += 1
            self.session.log.write("message_failed", level="warning", channel=channel, error=repr(exc))

    def _take_request(self, channel: str, idents: list[bytes], frames: list[bytes]) -> None:
        if channel == "stdin":
            self._on_stdin(frames)
            return
        request = None
        try:
            request = Request(channel, idents, frames, json.loads(frames[0]))
            if request.is_cell:
                request.read_cell()
                self._look_for_notebook(request)
        except (ValueError, KeyError, TypeError) as exc:
            self.frontend.dropped += 1
            if request is not None:
                self._fail(request, InvocationError(f"The content of this {request.msg_type} cannot be used: {exc!r}."))
            return
        handler = self._handlers.get(request.msg_type)
        if handler is not None:
            handler(request)
        elif channel == "control":
            self._control(request)
        else:
            self._shell(request)

    def _look_for_notebook(self, request: Request) -> None:
        """Look into hidden cells for the notebook's name, which VS Code tells in no other way."""
        if request.counts or self._used or self._renewing:
            return
        notebook = told_notebook(request.code)
        if notebook and self.session.belongs_to(notebook):
            self._renewing = True
            self._spawn(self._renew())

    async def _renew(self) -> None:
        """Change to a new sandbox before a person has run anything; front ends' hidden cells are sent again."""
        held = list(self._pending.take_all())
        try:
            await self.session.stop("its notebook has changes that were kept")
        finally:
            self._renewing = False
        self._waiting.extendleft(reversed(held))
        self._advance()

    def _on_stdin(self, frames: list[bytes]) -> None:
        cell = self._command_cell
        if cell is not None and cell.asking:
            cell.answer(str(answers.load(frames[3]).get("value", "")))
        elif self._tool_cells.take_answer(frames):
            pass
        elif self._open and self._stdin_request is not None:
            self._stdin_request.questions = 0
            self.session.send([envelope.STDIN + self._stdin_request.token, *frames], urgent=True)
            self._tool_cells.advance()

    # ---- answered here

    def _answer(self, request: Request, content: Json) -> None:
        """Answer a request here, with its statuses around."""
        self._publish_status(request, "busy")
        self._reply(request, content)
        self._publish_status(request, "idle")

    def _reply(self, request: Request, content: Json, metadata: Json | None = None) -> None:
        request.replied = True
        if not request.deferred:
            reply_type = request.msg_type.removesuffix("_request") + "_reply"
            self.frontend.reply(request.channel, request.idents, reply_type, content, request.header, metadata)

    def _publish_status(self, request: Request, status: str) -> None:
        """Publish busy or idle, each once for a request."""
        if status == "busy":
            if request.busy:
                return
            request.busy = True
        else:
            request.idle = True
        if not request.deferred:
            self.frontend.publish("status", {"execution_state": status}, request.header)

    def _kernel_info(self, request: Request) -> None:
        self._answer(request, answers.kernel_info(*self.session.versions()))

    def _connect(self, request: Request) -> None:
        ports = {name: port for name, port in self.frontend.connection.info.items() if name.endswith("_port")}
        names = {name.removesuffix("_port"): port for name, port in ports.items()}
        self._answer(request, {"status": "ok", **ports, **names})

    def _interrupt(self, request: Request) -> None:
        if self._past is not None and self._past.streams:
            self.session.interrupt()
        elif self._past_task is not None:
            self._past_task.cancel()
            self._interrupt_waiting()
        elif self._command_cell is not None:
            self._command_cell.cancel()
        elif self._waiting and not self._pending.cells:
            self._interrupt_waiting()
        elif self._open or self.session.state is State.PAUSED:
            self.session.interrupt()
        self._answer(request, {"status": "ok"})

    def _interrupt_waiting(self) -> None:
        """Nothing runs yet: the first cell that waits is the one that a person sees as running."""
        for index, request in enumerate(self._waiting):
            if request.is_cell:
                del self._waiting[index]
                self._fail(request, KeyboardInterruptError("interrupted before the sandbox was ready"))
                self._abort_waiting()
                return

    def interrupt(self) -> None:
        """What SIGINT does: the same as an interrupt request."""
        if self._command_cell is not None and not (self._past is not None and self._past.streams):
            self._command_cell.cancel()
        elif self._open:
            self.session.interrupt()

    def _shutdown(self, request: Request) -> None:
        restart = bool(answers.load(request.frames[3]).get("restart", False))
        self._publish_status(request, "busy")
        self._spawn(self._shut_down(request, {"status": "ok", "restart": restart}))

    async def _shut_down(self, request: Request, content: Json) -> None:
        self._open = False
        await self.session.close(restart=bool(content["restart"]))
        self._reply(request, content)
        self.frontend.publish("shutdown_reply", content, request.header)
        self._publish_status(request, "idle")
        self.ended.set()

    # ---- beside cells

    def _is_complete(self, request: Request) -> None:
        if self._open:
            self._forward(request, envelope.ASIDE)
        else:
            code = str(answers.load(request.frames[3]).get("code", ""))
            self._answer(request, answers.is_complete(code))

    def _beside_cells(self, request: Request) -> None:
        if self._open and self._debugger_stopped and request.channel == "shell":
            # The control channel serves the debugger now, and a completion could hold it.
            self._shell(request)
        elif self._open:
            self._forward(request, envelope.ASIDE)
        elif self._is_coming():
            self._beside.append(request)
        else:
            self._answer(request, answers.without_sandbox(request.msg_type, answers.load(request.frames[3])))

    def _control(self, request: Request) -> None:
        """Requests that the inner kernel answers on its control channel."""
        if self._open:
            self._forward(request, envelope.CONTROL)
        elif self._is_coming():
            self._beside.append(request)
        else:
            self._answer(request, answers.without_sandbox(request.msg_type, answers.load(request.frames[3])))

    def _is_coming(self) -> bool:
        """Whether a sandbox will answer soon; one that costs nothing is started for it."""
        state = self.session.state
        if state is State.INACTIVE and not self.session.capabilities.billed:
            self.session.begin_start()
            return True
        return state in (State.STARTING, State.RESUMING) or (state is State.ACTIVE and not self.session.ready)

    # ---- cells, comms and whatever else is in order with them

    def _shell(self, request: Request) -> None:
        if (
            self._open
            and request.subshell is None
            and not (self._waiting or self._command_cell or self._settling or request.has_commands)
            and not self._must_show_past
        ):
            self._forward(request, envelope.SHELL)
            return
        if self._open and request.subshell is not None:
            if self._subshells.is_renewed_for(request):
                self._forward(request, envelope.SHELL)
            return
        self._waiting.append(request)
        self._advance()

    def _advance(self) -> None:
        """Let go what waits, as far as it may."""
        while self._waiting and self._command_cell is None and self._settling is None and not self._shows_past:
            request = self._waiting[0]
            if self._open and self._must_show_past and request.is_cell and request.counts:
                self._begin_past(request)
                return
            if request.has_commands:
                if self._pending.cells:
                    return
                self._waiting.popleft()
                self._run_commands(request)
            elif self._open:
                self._waiting.popleft()
                if self._subshells.is_renewed_for(request):
                    self._forward(request, envelope.SHELL)
            elif self._refused_without_sandbox(request):
                self._waiting.popleft()
            else:
                self._call_for_sandbox(request)
                return

    @property
    def _must_show_past(self) -> bool:
        """Whether the next cell of a person's has to show first what earlier cells sent to nobody."""
        return self._past is not None and self._past.waiting

    @property
    def _shows_past(self) -> bool:
        return self._past is not None and self._past.showing

    def _begin_past(self, host: Request) -> None:
        """Show in a cell, before it runs, what an earlier kernel process of the notebook did not get."""
        assert self._past is not None
        self._past.showing = True
        self._publish_status(host, "busy")
        notice, self._notice = self._notice, ""
        if notice:
            self.frontend.publish("stream", {"name": "stderr", "text": notice}, host.header)
        self._past_task = asyncio.ensure_future(self._show_past(self._past, host))

    async def _show_past(self, past: PastOutputs, host: Request) -> None:
        try:
            await past.show(host, None, wait=False)
        except SandboxKernelError as exc:
            text = f"What cells sent while no kernel was connected could not be read: {exc}\n"
            self.frontend.publish("stream", {"name": "stderr", "text": text}, host.header)
        finally:
            self._past_task = None
            past.showing = False
            self._advance()

    async def show_past(self, host: Request, count: int | None) -> None:
        """Show in a cell of commands what cells sent before; see `PastOutputs.show`."""
        await self._past_outputs().show(host, count, wait=count is None)

    def _past_outputs(self) -> PastOutputs:
        if self._past is None:
            # Imported here: most kernels start with a sandbox of their own.
            from .past import PastOutputs

            self._past = PastOutputs(self.frontend, self._pending, self.session, self._on_asked)
        return self._past

    def _refused_without_sandbox(self, request: Request) -> bool:
        """Answer at once what must not start a sandbox that is billed."""
        session = self.session
        if session.state not in (State.INACTIVE, State.ERROR, State.PAUSED) or not session.capabilities.billed:
            return False
        if request.is_cell and request.counts:
            return False
        self._publish_status(request, "busy")
        if request.is_cell:
            content = {"status": "ok", "execution_count": self._count - 1, "payload": [], "user_expressions": {}}
            self._reply(request, content)
            self._defer(request)
        elif not request.replied:
            self._reply(request, answers.without_sandbox(request.msg_type, answers.load(request.frames[3])))
        self._publish_status(request, "idle")
        return True

    def _defer(self, request: Request) -> None:
        """Remember a hidden cell, such as a front end's preparations, for the sandbox that may come."""
        # Its error must not abort the cell that a person waits for.
        content = {**answers.load(request.frames[3]), "stop_on_error": False}
        frames = [bytes(frame) for frame in request.frames]
        frames[3] = json.dumps(content).encode()
        later = Request(request.channel, [], frames, json.loads(frames[0]))
        later.read_cell()
        later.deferred = True
        self._deferred.append(later)

    def _call_for_sandbox(self, request: Request) -> None:
        if request.is_cell:
            # Front ends show that the cell has been taken.
            self._publish_status(request, "busy")
        match self.session.state:
            case State.INACTIVE | State.ERROR:
                self.session.begin_start()
            case State.PAUSED:
                self._spawn(self._resume())

    async def _resume(self) -> None:
        try:
            await self.session.resume()
        except SandboxKernelError as exc:
            self.on_ended(exc)

    def _forward(self, request: Request, kind: bytes) -> None:
        if request.is_cell and request.counts and not self._made_ready(request):
            return
        if self._uncounted is not None and request.is_cell:
            self.session.set_count(self._count, self._uncounted)
            self._uncounted = None
        if self._notice and request.is_cell and request.counts:
            request.notice, self._notice = self._notice, ""
        token = self._pending.add(request)
        frames = self._subshells.translated(request)
        try:
            self.session.send([kind + token, *frames], urgent=kind in (envelope.CONTROL, envelope.ASIDE))
        except ValueError as exc:
            self._fail_and_forget(request, InvocationError(f"The message is too large for a sandbox: {exc}."))

    def _made_ready(self, request: Request) -> bool:
        """Let the sandbox make ready for a cell; False if it was given up instead, which the cell then tells."""
        try:
            notice = self.session.before_cell()
        except SandboxLostError as exc:
            self._fail(request, exc)
            return False
        self._notice = notice + self._notice
        return True

    # ---- from the sandbox

    def on_message(self, parts: list[Buffer]) -> None:
        """Take one message of the inner kernel; one that is broken is dropped and counted."""
        try:
            self._take_message(parts)
        except Exception as exc:  # noqa: BLE001 - the edge: whatever a hostile bridge sends, the next message counts
            self.dropped += 1
            self.session.log.write("output_dropped", level="debug", error=repr(exc)[:200])

    def on_past(self, parts: list[Buffer]) -> None:
        """Take one message that was sent before; one that is broken is dropped and counted."""
        try:
            self._past_outputs().on_past(parts)
        except Exception as exc:  # noqa: BLE001 - the edge, as for other messages
            self.dropped += 1
            self.session.log.write("output_dropped", level="debug", error=repr(exc)[:200])

    def on_skipped(self, messages: int) -> None:
        """Tell in the cell that runs that some of its outputs are not there."""
        running = self._pending.running_cell()
        if running is not None and not running.deferred:
            text = f"{messages} messages of output were dropped: nobody could take them for too long"
            self.frontend.publish("display_data", answers.notice(f"sandbox: {text}"), running.header)

    def on_excess(self, parts: list[Buffer], size: int) -> None:
        """Tell what became of a message that was too large."""
        self.dropped += 1
        kind = bytes(parts[0]) if parts else b""
        if kind == envelope.IOPUB:
            self._guard.excess(size, parts[2:])
        elif (request := self._pending.by_token(kind[1:])) is not None and not request.replied:
            self._fail_and_forget(request, self._guard.too_large(size))

    def _take_message(self, parts: list[Buffer]) -> None:
        kind = bytes(parts[0])
        if kind == envelope.IOPUB:
            self._on_output(parts[1], parts[2:])
            return
        request = self._pending.by_token(kind[1:])
        if request is None or len(parts) < 5:
            return
        if kind[:1] == envelope.STDIN:
            self._on_question(request, parts[1:])
        elif not request.replied:
            reply = self._guard.reply(request.msg_type, request.header, parts[1:])
            if reply is None:
                self.dropped += 1
                error = InvocationError("The sandbox's answer was broken and was dropped; run the cell again.")
                self._fail_and_forget(request, error)
                return
            self._on_reply(request, reply)

    def _on_question(self, request: Request, message: list[Buffer]) -> None:
        if self._past is not None and request in self._past:
            self._past.on_question(request, message)
            return
        may_ask = request.stdin and not request.failed and request.questions < MAX_QUESTIONS
        question = self._guard.question(request.header, message) if may_ask else None
        if question is None:
            self.dropped += 1
            return
        if self._tool_cells.asking:
            self._tool_cells.hold(request, question)
        else:
            self._pass_question(request, question)

    def _pass_question(self, request: Request, question: list[Buffer]) -> None:
        request.questions += 1
        self._stdin_request = request
        self.frontend.send("stdin", request.idents, question)

    def _on_asked(self, request: Request) -> None:
        self._stdin_request = request

    def _on_output(self, topic: Buffer, message: list[Buffer]) -> None:
        header = json.loads(bytes(message[0]))
        parent = json.loads(bytes(message[1]))
        msg_type = header["msg_type"]
        self._subshells.restore(parent, message)
        if not parent and msg_type in OF_THE_SOCKETS:
            return
        request = self._pending.by_id(parent.get("msg_id"))
        if request is None and not self._may_come_late(parent):
            return
        if self._past is not None and request is not None and request in self._past and msg_type != "status":
            self._past.on_live(request, topic, message)
            return
        checked = self._guard.output(message, header, parent)
        if checked is None:
            self.dropped += 1
            return
        if request is not None and msg_type == "status":
            self._on_status(request, topic, checked)
        elif request is None or self._is_shown(request, msg_type, checked):
            if msg_type == "debug_event":
                self._on_debug_event(answers.load(checked[3]))
            self.frontend.broadcast(topic, checked)

    def _is_shown(self, request: Request, msg_type: str, message: list[Buffer]) -> bool:
        """Take notice of an output of a request that is under way; return whether it is passed on as it is."""
        if request.deferred or request.failed:
            return False
        if msg_type == "error" and request.timed_out:
            self.frontend.publish("error", answers.error(self._timeout_error()), request.header)
            return False
        if msg_type != "execute_input":
            return True
        if request.counts and not request.replied:
            # For a cell that never gets its reply; the reply, which may come first, knows better: an empty cell has
            # no number.
            self._counted(answers.load(message[3]).get("execution_count"))
        return not request.echoed

    def _may_come_late(self, parent: Json) -> bool:
        """Whether an output that belongs to no pending request may be shown: to one of earlier, or to none."""
        msg_id = parent.get("msg_id")
        if self._pending.is_abandoned(msg_id):
            return False
        if parent and not self._guard.trusted_output and not self._pending.was_sent(msg_id):
            self.dropped += 1
            return False
        return True

    def _on_notice(self, text: str, parent: Json) -> None:
        """Show what the guard has to say, in small print, where the output would have stood."""
        request = self._pending.by_id(parent.get("msg_id"))
        if request is not None and (request.deferred or request.failed or not request.counts):
            return
        self.frontend.publish("display_data", answers.notice(text), request.header if request else parent)

    def _on_status(self, request: Request, topic: Buffer, message: list[Buffer]) -> None:
        if b'"busy"' in bytes(message[3]):
            self._on_busy(request, topic, message)
        elif b'"idle"' in bytes(message[3]) and not request.idle:
            if request.on_ended is not None and not request.ended and request.held_idle is None:
                # What became of it is shown before, and only the reply tells it.
                request.held_idle = lambda: self._on_status(request, topic, message)
                asyncio.get_running_loop().call_later(REPLY_GRACE, self._on_no_reply, request)
                return
            request.idle = True
            if not (request.deferred or request.failed):
                self.frontend.broadcast(topic, message)
                if request.msg_type in BESIDE_CELLS:
                    self._publish_running()
            if not request.replied:
                # Replies come on another way, so one may follow; one that cannot be made never comes.
                asyncio.get_running_loop().call_later(REPLY_GRACE, self._on_no_reply, request)
            self._finish(request)

    def _on_no_reply(self, request: Request) -> None:
        if not request.replied and self.session.is_receiving:
            # A large one may be on its way.
            asyncio.get_running_loop().call_later(REPLY_GRACE, self._on_no_reply, request)
        elif not request.replied and self._pending.remove(request):
            # It may have come, and been broken: nobody is to wait for it for ever.
            self._fail(request, InvocationError("Python in the sandbox gave this request no reply that can be read."))
            self._advance()

    def _publish_running(self) -> None:
        """Say again that a cell runs: front ends take the last status, of whatever request, for the kernel's."""
        running = self._pending.running_cell()
        if running is not None:
            self.frontend.publish("status", {"execution_state": "busy"}, running.header)

    def _on_busy(self, request: Request, topic: Buffer, message: list[Buffer]) -> None:
        if not request.busy and not (request.deferred or request.failed):
            request.busy = True
            self.frontend.broadcast(topic, message)
        if request.is_cell:
            self._used = self._used or request.counts
            self.session.used = self.session.used or request.counts
            # Once: a cell that is said to begin again would never end otherwise.
            if not request.deferred and not self._clock.knows(request):
                request.began = time.monotonic()
                self._clock.start(request, self.session.execution_timeout, self._on_timeout)
            if request.notice:
                self.frontend.publish("stream", {"name": "stderr", "text": request.notice}, request.header)
                request.notice = ""

    def _on_reply(self, request: Request, message: list[Buffer]) -> None:
        request.replied = True
        if request.subshell is not None:
            message[1] = request.header
        if request.msg_type in SUBSHELL_REQUESTS:
            for waiting in self._subshells.on_reply(request, answers.load(message[3])):
                self._forward(waiting, envelope.SHELL)
        if request.is_cell:
            message = self._on_cell_reply(request, message)
        if not (request.deferred or request.failed):
            self.frontend.send(request.channel, request.idents, message)
        if request.held_idle is not None:
            request.held_idle()
        self._finish(request)

    def _on_cell_reply(self, request: Request, message: list[Buffer]) -> list[Buffer]:
        content = answers.load(message[3])
        self._clock.stop(request)
        if request.counts and request.subshell is None:
            self._counted(content.get("execution_count"))
        if request.timed_out and content.get("status") == "error":
            content.update(answers.error(self._timeout_error()))
            message = [*message[:3], json.dumps(content).encode(), *message[4:]]
        if request.payloads:
            payload = content.get("payload")
            content["payload"] = [*(payload if isinstance(payload, list) else ()), *request.payloads]
            message = [*message[:3], json.dumps(content).encode(), *message[4:]]
        self._note_end(request, content)
        if self._open and answers.ends_python(content):
            self._await_exit(request)
        if content.get("status") == "error" and request.stop_on_error and request.subshell is None:
            self._abort_waiting()
            self._settling = None if request.idle else request
        return message

    def _note_end(self, request: Request, reply: Json) -> None:
        """Remember once what became of a cell's code; who put that there shows it before the cell has ended."""
        if request.ended or not (request.is_cell and request.counts):
            return
        request.ended = True
        seconds = time.monotonic() - request.began if request.began else 0.0
        cell = run_cell(request.code, seconds, reply)
        if request.began:
            self.session.cells.add(cell)
        if request.on_ended is not None:
            try:
                request.on_ended(cell)
            except Exception as exc:  # noqa: BLE001 - the edge: a command's own fault must not cost the cell its reply
                self.session.log.write("command_failed", level="error", error=repr(exc)[:200])

    def _await_exit(self, request: Request) -> None:
        """Keep what comes for the next Python: this one ends in a moment, and would take a cell with it."""
        self._open, self._leaving = False, request
        asyncio.get_running_loop().call_later(EXIT_GRACE, self._stop_awaiting_exit, request)

    def _stop_awaiting_exit(self, request: Request) -> None:
        if self._leaving is request:
            self._leaving, self._open = None, self.session.ready
            self._advance()

    def _counted(self, execution_count: object) -> None:
        if isinstance(execution_count, int) and 0 <= execution_count < 1 << 53:
            self._count = execution_count + 1

    def _finish(self, request: Request) -> None:
        if request is self._settling and request.idle:
            self._settling = None
        if request.done:
            self._clock.stop(request)
            removed = self._pending.remove(request)
            if request.is_cell:
                self._idle_since = time.time()
                if self._past is not None:
                    self._past.on_done(request)
            if removed:
                self._tool_cells.advance()
                if self._waiting:
                    self._advance()

    def _on_debug_event(self, content: Json) -> None:
        event = content.get("event")
        if event in ("stopped", "continued", "terminated", "exited"):
            self._debugger_stopped = event == "stopped"

    # ---- the execution time-out

    def _timeout_error(self) -> SandboxTimeoutError:
        limit = self.session.execution_timeout
        return SandboxTimeoutError(
            f"The cell ran longer than {limit:g} s and was interrupted (SandboxSession.execution_timeout)."
        )

    def _on_timeout(self, request: Request) -> None:
        request.timed_out = True
        self.session.interrupt()
        self._clock.start(request, KILL_AFTER, self._on_second_timeout)

    def _on_second_timeout(self, request: Request) -> None:
        limit = self.session.execution_timeout
        self._fail_and_forget(
            request,
            SandboxTimeoutError(
                f"The cell ran longer than {limit:g} s and did not react to an interrupt, so its Python was ended; "
                "variables are gone."
            ),
        )
        self._spawn(self._restart_inner())

    async def _restart_inner(self) -> None:
        try:
            await self.session.restart()
        except SandboxKernelError as exc:
            self.on_ended(exc)

    # ---- what happens to the sandbox

    def _on_state(self, state: State) -> None:
        self._clock.run(state is State.ACTIVE)
        if state is not State.ACTIVE:
            self._open = False
        if state is State.INACTIVE:
            self._drop_beside()
        if self._waiting and state in (State.INACTIVE, State.PAUSED):
            # Not from inside the move: what waits may want another one.
            asyncio.get_running_loop().call_soon(self._advance)

    def on_ready(self) -> None:
        """A fresh inner kernel, or one that was resumed, takes requests."""
        if not self.session.ready:
            return
        self._open, self._leaving = True, None
        self._notice = self.session.greeting() + self._notice
        if self.session.attached is not None and self._fresh:
            self._continue_from(self.session.attached)
        if self._fresh and self._count != 1 and self._uncounted is None:
            self._uncounted = []
        if self._fresh:
            for request in self._subshells.renewals():
                self._forward(request, envelope.CONTROL)
        self._fresh = False
        while self._deferred:
            self._forward(self._deferred.popleft(), envelope.SHELL)
        while self._beside:
            request = self._beside.popleft()
            self._forward(request, envelope.ASIDE if request.msg_type in BESIDE_CELLS else envelope.CONTROL)
        self._advance()

    def _continue_from(self, attached: Ready) -> None:
        """Go on where an earlier kernel process left off: it is the same inner kernel, with its numbers and cells."""
        self._fresh = False
        self._uncounted = None
        self._pending.begin_elsewhere()
        self._counted(attached.count)
        self._past_outputs().adopt(attached)

    def on_ended(self, error: SandboxKernelError) -> None:
        """What was sent gets no answer any more; tell it to everyone who waits."""
        if self._past is not None:
            self._past.reset()
        self._open = False
        self._fresh = True
        self._debugger_stopped = False
        self._stdin_request = self._settling = None
        self._tool_cells.cancel()
        lost = isinstance(error, SandboxLostError)
        told = False
        for request in self._pending.take_all():
            self._fail(request, error)
            told = told or (request.is_cell and request.counts)
        waiting = [request for request in self._waiting if not request.has_commands]
        if not (lost and (self._command_cell is not None or self._renewing or self._leaving)):
            self._waiting = deque(request for request in self._waiting if request.has_commands)
            for request in waiting:
                self._fail(request, error)
        for request in self._subshells.take_waiting():
            self._fail(request, error)
        self._drop_beside()
        # A command that ends the sandbox says so itself; that it ended beside the command nobody would say.
        failed = self.session.state is State.ERROR
        if lost and self._used and (failed or self._command_cell is None):
            fresh = SAME_SANDBOX if self.session.info.sandbox_id else OTHER_SANDBOX
            why = f"{str(error).partition('. ')[0]}.\n" if failed else ""
            self._notice = f"{error}\n" if isinstance(error, SandboxTakenError) else why + fresh
        self._used = self._used and not lost
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._advance)

    def _drop_beside(self) -> None:
        while self._beside:
            request = self._beside.popleft()
            self._answer(request, answers.without_sandbox(request.msg_type, answers.load(request.frames[3])))

    def _fail(self, request: Request, error: BaseException) -> None:
        """Give a request its error, reply and idle, whatever of them it has not had."""
        request.failed = True
        self._clock.stop(request)
        content = answers.error(error)
        self._publish_status(request, "busy")
        self._note_end(request, content)
        if not request.replied:
            if request.is_cell:
                if not request.deferred:
                    self.frontend.publish("error", content, request.header)
                count, payload = max(0, self._count - 1), request.payloads
                content = {**content, "execution_count": count, "payload": payload, "user_expressions": {}}
            self._reply(request, {"status": "error", **content})
        if not request.idle:
            self._publish_status(request, "idle")

    def _fail_and_forget(self, request: Request, error: BaseException) -> None:
        if self._pending.remove(request):
            # What it still prints while it is being ended belongs to nobody.
            self._pending.abandon(request)
            self._fail(request, error)

    def _abort_waiting(self) -> None:
        """An error stops the cells behind it: those that have not been sent yet, too."""
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            if request.is_cell and request.subshell is None:
                self._publish_status(request, "busy")
                self._reply(
                    request, {"status": "aborted"}, {"status": "aborted", "dependencies_met": True, "engine": ""}
                )
                self._publish_status(request, "idle")
            else:
                self._waiting.append(request)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._advance)

    # ---- `%sandbox`

    def _run_commands(self, request: Request) -> None:
        cell = CommandCell(self.frontend, self.session, request, show_past=self.show_past)
        self._command_cell = cell
        self._publish_status(request, "busy")
        if request.counts:
            request.echoed = True
            content = {"code": request.code, "execution_count": self._count}
            self.frontend.publish("execute_input", content, request.header)
        self._spawn(self._run_command_cell(cell))

    async def _run_command_cell(self, cell: CommandCell) -> None:
        request = cell.request
        rest_follows = False
        try:
            error = await cell.run()
            rest_follows = error is None and (request.has_code or cell.rest is not None)
            if not rest_follows:
                self._end_command_cell(request, error)
            elif cell.rest is None:
                request.drop_commands()
            else:
                request.replace_code(cell.rest)
        finally:
            self._command_cell = None
            if rest_follows:
                self._waiting.appendleft(request)
            self._advance()

    def _end_command_cell(self, request: Request, error: BaseException | None) -> None:
        # Not the one that was announced, where the cell attached a sandbox that has counted further.
        count = self._count
        if request.counts:
            self._count += 1
            self._uncounted = [*(self._uncounted or []), request.code]
        content: Json = {"status": "ok", "execution_count": count, "user_expressions": {}, "payload": request.payloads}
        if error is not None:
            self.frontend.publish("error", answers.error(error), request.header)
            content.update(answers.error(error), status="error")
        self._reply(request, content)
        self._publish_status(request, "idle")
        if error is not None and request.stop_on_error:
            self._abort_waiting()

    def _outside_command(self, request: Request) -> None:
        """A `%sandbox` command from a terminal; it does not wait for cells."""
        self._publish_status(request, "busy")
        self._spawn(self._run_outside_command(request))

    async def _run_outside_command(self, request: Request) -> None:
        request.lines = [str(answers.load(request.frames[3]).get("line", ""))]
        cell = CommandCell(self.frontend, self.session, request, silent=True)
        error = await cell.run()
        content: Json = {"status": "ok", "text": cell.text}
        if error is not None:
            content.update(answers.error(error), status="error")
        self._reply(request, content)
        self._publish_status(request, "idle")

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
