"""The order in which requests go to the sandbox.

Cells go to the inner kernel as they come, and it queues them. They wait here only while no inner kernel is ready, or
behind a cell of `%sandbox` commands, which is run here when all cells before it are done.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from . import answers
from .cells import CommandCell
from .errors import InvocationError, SandboxKernelError, SandboxLostError
from .kernel_outputs import KernelOutputs
from .lifecycle import State
from .link import envelope
from .requests import Request

if TYPE_CHECKING:
    from .past import PastOutputs


Json = dict[str, Any]


class KernelQueue(KernelOutputs):
    """Lets requests go, wait, or be answered without a sandbox."""

    # ---- beside cells

    def _is_complete(self, request: Request) -> None:
        # Where no ipykernel is there nobody knows more of Python than this process.
        basic = self.session.mode == "basic" and self.session.language == "python"
        if self._open and not basic:
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

    def _cell_that_waits(self) -> CommandCell | None:
        """Return where something can be shown that a person waits for: in a command, or in the first cell."""
        if self._command_cell is not None:
            return self._command_cell
        first = next((request for request in self._waiting if request.is_cell and request.counts), None)
        return CommandCell(self.frontend, self.session, first) if first is not None and first.busy else None

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
            # Of one that was lost the session has told already.
            if self.session.state is State.PAUSED:
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
            urgent = kind in (envelope.CONTROL, envelope.ASIDE)
            request.sent = self.session.send([kind + token, *frames], urgent=urgent)
        except ValueError as exc:
            self._fail_and_forget(request, InvocationError(f"The message is too large for a sandbox: {exc}."))
        if self.session.is_cut_off:
            self._on_cut_off()

    def _on_cut_off(self) -> None:
        """Say once, in the first cell that waits, why nothing comes."""
        cell = next((one for one in self._pending.main_cells() if not one.idle and one.counts), None)
        if cell is not None and not cell.told_cut_off:
            cell.told_cut_off = True
            text = (
                f"sandbox: the connection has been lost for {self.session.reconnect_notice:.0f} s or more. It is made "
                "again, and what a running cell prints comes then; a cell that has not left yet can be interrupted."
            )
            self.frontend.publish("display_data", answers.notice(text), cell.header)

    def _made_ready(self, request: Request) -> bool:
        """Let the sandbox make ready for a cell; False if it was given up instead, which the cell then tells."""
        try:
            notice = self.session.before_cell()
        except SandboxLostError as exc:
            self._fail(request, exc)
            return False
        self._notice = notice + self._notice
        return True

    # ---- what cells sent before

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
