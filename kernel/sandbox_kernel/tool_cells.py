"""The kernel's cells as the tools outside see them, and the questions that are asked about their calls.

A cell can ask something, too, by `input()`. So that no answer to a cell is taken for an approval, the front end has one
question at a time: that of a cell waits while one of these is open, and the other way round.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import CommandError
from .frontend import Frontend
from .host_tools import CellScope, new_correlation_id
from .link.protocol import Buffer
from .requests import PendingRequests, Request

MAX_REMEMBERED = 1000
SETTLE_TIMEOUT, SETTLE_INTERVAL = 2.0, 0.005
CALLERS = ("execute_request", "comm_msg", "comm_open")
"""Requests whose code may call tools: cells, and the callbacks of widgets that a person used."""
MAX_HELD = 100
"""Questions of cells that wait until one about a call is answered."""


OnReleased = Callable[[Request, list[Buffer]], None]


@dataclass
class _Question:
    request: Request
    prompt: str
    answer: asyncio.Future[str]
    msg_id: str = ""
    """Of the message that asks; "" before it is sent."""


class ToolCells:
    """Knows the cells that are under way (contract `Cells`)."""

    def __init__(self, frontend: Frontend, pending: PendingRequests, release: OnReleased) -> None:
        """``release`` asks a cell's own question that was held."""
        self._frontend = frontend
        self._pending = pending
        self._release = release
        self._ids: dict[str, str] = {}
        self._questions: deque[_Question] = deque()
        self._held: deque[tuple[Request, list[Buffer]]] = deque()

    # ---- contract

    async def settle(self, cell: str) -> None:
        """Wait for the status of a cell that was sent; one behind it in the queue does not begin in that time."""
        deadline = time.monotonic() + SETTLE_TIMEOUT
        while (request := self._pending.by_id(cell)) is not None and time.monotonic() < deadline:
            if request.busy or request.idle or request.failed or request.deferred:
                return
            await asyncio.sleep(SETTLE_INTERVAL)

    def scope(self, cell: str) -> CellScope | None:
        """Return what holds for a cell that runs, or a widget's callback; None if no such one does."""
        request = self._pending.by_id(cell)
        if request is None or request.msg_type not in CALLERS or request.idle or request.failed:
            return None
        # The status of a cell that an earlier kernel process sent is not this one's to publish.
        return CellScope(self._correlation_id(cell)) if request.busy or request.deferred else None

    def scopes(self) -> Iterator[CellScope]:
        """Give none that narrows anything: in the kernel that is a matter of the session."""
        return iter(())

    async def ask(self, cell: str, prompt: str) -> str:
        """Ask who ran the cell. Raises CommandError where nobody can be asked."""
        request = self._running(cell)
        if request is None:
            raise CommandError("the cell that it belongs to is not running.")
        if not request.stdin:
            raise CommandError("this front end takes no input; allow the tool in the configuration (Tools.policies).")
        question = _Question(request, prompt, asyncio.get_running_loop().create_future())
        self._questions.append(question)
        self.advance()
        try:
            return await question.answer
        finally:
            if question in self._questions:
                self._questions.remove(question)
            self.advance()

    def _running(self, cell: str) -> Request | None:
        request = self._pending.by_id(cell)
        if request is None or not request.is_cell or not request.busy or request.idle or request.failed:
            return None
        # On the main shell only: while one of its cells runs, no `%sandbox` line asks anything.
        return request if request.subshell is None else None

    def _correlation_id(self, cell: str) -> str:
        if cell not in self._ids:
            self._ids[cell] = new_correlation_id()
            if len(self._ids) > MAX_REMEMBERED:
                del self._ids[next(iter(self._ids))]
        return self._ids[cell]

    # ---- for the kernel

    @property
    def asking(self) -> bool:
        """Whether a question about a call is shown, so that no cell may ask one."""
        return bool(self._questions and self._questions[0].msg_id)

    def hold(self, request: Request, question: list[Buffer]) -> None:
        """Keep a cell's own question until those about calls are answered."""
        if len(self._held) < MAX_HELD:
            self._held.append((request, question))

    def take_answer(self, frames: Sequence[Buffer]) -> bool:
        """Take a front end's answer, if it is one about a call; return whether it was."""
        if not self.asking:
            return False
        question = self._questions[0]
        try:
            parent: Any = json.loads(bytes(frames[1]))
            value = json.loads(bytes(frames[3])).get("value", "")
        except (ValueError, AttributeError):
            return True
        # Not all front ends say what they answer. One that does may be late with another one's answer.
        named = parent.get("msg_id") if isinstance(parent, dict) else None
        if named in (None, "", question.msg_id) and not question.answer.done():
            question.answer.set_result(str(value))
        return True

    def advance(self) -> None:
        """Ask what waits, those of the cells first; drop what belongs to cells that have ended."""
        for question in list(self._questions):
            if (question.request.idle or question.request.failed) and not question.answer.done():
                question.answer.set_exception(CommandError("its cell has ended."))
                self._questions.remove(question)
        while self._held and not self.asking:
            request, asked = self._held.popleft()
            if self._pending.by_id(request.msg_id) is request:
                self._release(request, asked)
        if not self._questions or self.asking or self._pending.has_questions:
            return
        question = self._questions[0]
        content = {"prompt": question.prompt, "password": False}
        request = question.request
        header = self._frontend.reply("stdin", request.idents, "input_request", content, request.header)
        question.msg_id = json.loads(header)["msg_id"]

    def cancel(self) -> None:
        """End the questions: a person interrupted, or the sandbox is gone."""
        for question in self._questions:
            if not question.answer.done():
                question.answer.set_exception(CommandError("it was interrupted."))
        self._questions.clear()
        self._held.clear()
