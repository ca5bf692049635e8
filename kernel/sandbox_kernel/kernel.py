"""The kernel: decides for each message of a front end whether it is answered here, waits, or goes to the sandbox."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from traitlets import TraitError

from . import answers
from .cells import CommandCell, KeyboardInterruptError
from .errors import InvocationError, SandboxKernelError, SandboxLostError, SandboxTakenError
from .frontend import Frontend
from .host_tools import HostTools, LateTools, NoTools
from .kernel_outputs import BESIDE_CELLS
from .kernel_queue import KernelQueue
from .lifecycle import State
from .link import envelope
from .requests import Request, told_notebook
from .session import SandboxSession

if TYPE_CHECKING:
    from .bridge_events import Ready

SAME_SANDBOX = (
    "The sandbox's Python is a fresh one: the variables of earlier cells are gone; files and packages are kept.\n"
)
OTHER_SANDBOX = (
    "The sandbox is a fresh one: the variables of earlier cells are gone, and so are added packages and files outside "
    "the notebook's folder.\n"
)
LEFT = (
    "interrupted while the connection to the gateway is lost; the cell had left, so it may run there yet, and is "
    "interrupted when it is seen to begin"
)

Json = dict[str, Any]


class Kernel(KernelQueue):
    """Serves front ends. Everything runs on the event loop's thread; nothing here waits."""

    def __init__(self, frontend: Frontend) -> None:
        super().__init__(frontend)
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
        session.on_news = self._on_news
        session.on_waiting = self._on_waiting
        session.on_cut_off = self._on_cut_off
        session.idle_since = lambda: 0.0 if self._pending.cells else self._idle_since
        session.runs_command = lambda: self._command_cell is not None
        session.host_tools = LateTools(self._load_tools)
        if session.folder.enabled:
            from .progress import CopyProgress

            session.folder.step = CopyProgress(self._cell_that_waits).step
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
        elif self._open and self._stdin_request is not None and not self._stdin_request.done:
            # Python drops what it did not ask for when it asks next, but not what is still on its way there.
            self._stdin_request.questions = 0
            self.session.send([envelope.STDIN + self._stdin_request.token, *frames], urgent=True)
            self._tool_cells.advance()

    # ---- answered here

    def _kernel_info(self, request: Request) -> None:
        self._answer(request, answers.kernel_info(*self.session.versions(), self.session.language))

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
            self._interrupt_sent()
        self._answer(request, {"status": "ok"})

    def _interrupt_sent(self) -> None:
        """Interrupt the first of the cells that were sent: at once where it runs, else when it begins.

        Where the connection is lost it may not have left; then it never will, nor those behind it.
        """
        cells = [] if self.session.state is State.PAUSED else self._pending.main_cells()
        if any(one.failed and one.interrupt_due for one in cells):
            # They are interrupted when they begin.
            cells = [one for one in cells if one.began or not one.failed] or cells
        if not cells or cells[0].began or cells[0].idle or cells[0].deferred:
            self.session.interrupt()
        elif self.session.withdraw(cells[0].sent):
            self._withdrawn(cells[0], cells[1:])
        else:
            cells[0].interrupt_due = True
            if self.session.mode == "relay" and self.session.is_mending and not cells[0].failed:
                # Nobody knows when it can be asked about.
                self._fail(cells[0], KeyboardInterruptError(LEFT))
                self._withdraw_behind(cells[0], cells[1:])

    def _withdrawn(self, cell: Request, behind: Sequence[Request]) -> None:
        self._pending.remove(cell)
        self._notice = cell.notice + self._notice
        self._fail(cell, KeyboardInterruptError("interrupted before it was sent to the sandbox"))
        self._withdraw_behind(cell, behind)
        self._advance()

    def _withdraw_behind(self, cell: Request, behind: Sequence[Request]) -> None:
        """Abort what waits behind a cell that was interrupted, where the front end wants that."""
        if cell.stop_on_error:
            # What has not left stands behind all that has.
            aborted = [one for one in behind if self.session.withdraw(one.sent)]
            for one in aborted:
                self._pending.remove(one)
            self._waiting.extendleft(reversed(aborted))
            self._abort_waiting()

    def _interrupt_waiting(self) -> None:
        """Nothing runs yet: the first cell that waits is the one that a person sees as running."""
        for index, request in enumerate(self._waiting):
            if request.is_cell:
                del self._waiting[index]
                if self.session.stop_waiting():
                    # Nobody wants it any more, and it might wait for hours.
                    self._spawn(self._fail_when_given_up(request))
                else:
                    self._fail(request, KeyboardInterruptError("interrupted before the sandbox was ready"))
                self._abort_waiting()
                return

    async def _fail_when_given_up(self, request: Request) -> None:
        """Fail a cell when the start that it waited for has ended: the next cell begins another."""
        await self.session.settle()
        self._fail(request, KeyboardInterruptError("interrupted before the sandbox was ready"))

    def interrupt(self) -> None:
        """What SIGINT does: the same as an interrupt request."""
        if self._command_cell is not None and not (self._past is not None and self._past.streams):
            self._command_cell.cancel()
        elif self._open:
            self._interrupt_sent()

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

    def _on_news(self, text: str) -> None:
        """Show lines in the cell that runs, else in the next one."""
        running = self._pending.running_cell()
        if running is not None and running.counts and not running.deferred:
            self.frontend.publish("stream", {"name": "stderr", "text": text}, running.header)
        else:
            self._notice += text

    def _on_waiting(self, text: str) -> None:
        """Show what the start waits for in the cell that waits for it."""
        cell = self._cell_that_waits()
        if cell is None:
            return
        if self._wait is None:
            from .progress import Wait

            self._wait = Wait()
        self._wait.show(cell, cell.request, text)

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
            if request.failed:
                continue
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
        # A command that ends the sandbox says so itself; that it ended beside the command nobody would say, nor why.
        beside = self._command_cell is not None and self.session.state is State.ERROR
        if lost and self._used and (beside or self._command_cell is None):
            fresh = SAME_SANDBOX if self.session.info.sandbox_id else OTHER_SANDBOX
            why = f"{str(error).partition('. ')[0]}.\n" if beside else ""
            if isinstance(error, SandboxTakenError):
                why, fresh = f"{str(error).partition(';')[0]}.\n", OTHER_SANDBOX
            self._notice = why + fresh
        self._used = self._used and not lost
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._advance)
