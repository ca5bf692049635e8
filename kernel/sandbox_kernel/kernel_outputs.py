"""What comes from the sandbox: outputs, questions, replies, and cells that take too long."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from . import answers
from .errors import InvocationError, SandboxKernelError, SandboxTimeoutError
from .frontend import Frontend
from .kernel_core import KernelCore
from .link import envelope
from .link.protocol import Buffer
from .requests import Request
from .tool_cells import ToolCells

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

Json = dict[str, Any]


class KernelOutputs(KernelCore):
    """Passes on what the inner kernel sends, and takes note of what it says of requests."""

    def __init__(self, frontend: Frontend) -> None:
        super().__init__(frontend)
        self._tool_cells = ToolCells(frontend, self._pending, self._pass_question)

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

    # ---- questions

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

    # ---- outputs

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
            if request.interrupt_due:
                request.interrupt_due = False
                self.session.interrupt()
            if request.notice:
                self.frontend.publish("stream", {"name": "stderr", "text": request.notice}, request.header)
                request.notice = ""

    def _on_debug_event(self, content: Json) -> None:
        event = content.get("event")
        if event in ("stopped", "continued", "terminated", "exited"):
            self._debugger_stopped = event == "stopped"

    # ---- replies

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

    def _await_exit(self, request: Request) -> None:
        """Keep what comes for the next Python: this one ends in a moment, and would take a cell with it."""
        self._open, self._leaving = False, request
        asyncio.get_running_loop().call_later(EXIT_GRACE, self._stop_awaiting_exit, request)

    def _stop_awaiting_exit(self, request: Request) -> None:
        if self._leaving is request:
            self._leaving, self._open = None, self.session.ready
            self._advance()

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
