"""What a kernel knows of its front ends' requests, and how it answers them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from . import answers
from .cell_clock import CellClock
from .cell_memory import run_cell
from .cells import CommandCell
from .errors import SandboxKernelError
from .frontend import Frontend
from .guard import Guard
from .requests import PendingRequests, Request
from .session import SandboxSession
from .subshells import Subshells

if TYPE_CHECKING:
    from .past import PastOutputs
    from .progress import Wait

MAX_DEFERRED = 20
"""Hidden cells that are remembered until a billed sandbox exists."""

Json = dict[str, Any]


class KernelCore:
    """The state of a kernel. What comes in, and from where, is its subclasses' affair."""

    def __init__(self, frontend: Frontend) -> None:
        self.frontend = frontend
        self.session: SandboxSession
        self._guard: Guard
        self.ended = asyncio.Event()
        """Set when the kernel was asked to shut down and may exit."""
        self._open = False
        self._pending = PendingRequests()
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
        self._wait: Wait | None = None
        """Shows what a start waits for, where one has waited."""
        self._idle_since = 0.0
        self._clock: CellClock[Request] = CellClock()
        self._tasks: set[asyncio.Task[None]] = set()

    def _advance(self) -> None:
        """Let go what waits, as far as it may."""
        raise NotImplementedError

    def _forward(self, request: Request, kind: bytes) -> None:
        """Send a request to the sandbox, on the way that `link.envelope` names ``kind``."""
        raise NotImplementedError

    def on_ended(self, error: SandboxKernelError) -> None:
        """Tell everyone who waits that what was sent gets no answer any more."""
        raise NotImplementedError

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

    def _publish_running(self) -> None:
        """Say again that a cell runs: front ends take the last status, of whatever request, for the kernel's."""
        running = self._pending.running_cell()
        if running is not None:
            self.frontend.publish("status", {"execution_state": "busy"}, running.header)

    def _counted(self, execution_count: object) -> None:
        if isinstance(execution_count, int) and 0 <= execution_count < 1 << 53:
            self._count = execution_count + 1

    # ---- giving up

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

    def _drop_beside(self) -> None:
        while self._beside:
            request = self._beside.popleft()
            self._answer(request, answers.without_sandbox(request.msg_type, answers.load(request.frames[3])))

    def _past_outputs(self) -> PastOutputs:
        if self._past is None:
            # Imported here: most kernels start with a sandbox of their own.
            from .past import PastOutputs

            self._past = PastOutputs(self.frontend, self._pending, self.session, self._on_asked)
        return self._past

    def _on_asked(self, request: Request) -> None:
        self._stdin_request = request

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
