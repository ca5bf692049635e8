"""Outputs that nobody has seen: what cells of an earlier kernel process sent, shown in a cell of this one.

A sandbox may outlive its kernel process. What it sent meanwhile is in its bridge's journal, and is asked for when a
person runs the first cell, or attaches: that cell is the *host*, whose outputs the past ones become, grouped by the
cell that they belong to. A cell that still runs goes on in the host, questions and all. Everything passes the guard as
if the host had sent it: the journal may be anybody's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import answers
from .bridge_events import Ready, Replayed
from .link import envelope
from .link.protocol import Buffer
from .requests import PendingRequests, Request

if TYPE_CHECKING:
    from .frontend import Frontend
    from .session import SandboxSession

MAX_HELD = 8 * 1024 * 1024
"""Bytes of one past cell that wait for its end, because what it cleared is not shown."""
MAX_QUESTIONS = 100
"""Questions of one cell that wait for an answer."""
MAX_LINE = 80
"""Characters of a cell's first line that name it."""
NOT_SHOWN = {"status", "debug_event"}

Json = dict[str, Any]


class PastOutputs:
    """The cells of earlier kernel processes that are not done, and where their outputs are shown."""

    def __init__(
        self,
        frontend: Frontend,
        pending: PendingRequests,
        session: SandboxSession,
        on_asked: Callable[[Request], None],
    ) -> None:
        """``on_asked`` is called when the front end was asked a question of that request."""
        self._frontend = frontend
        self._pending = pending
        self._session, self._guard = session, session.guard
        self._on_asked = on_asked
        self._adopted: dict[str, Request] = {}
        self._hidden: set[str] = set()
        self._host: Request | None = None
        self._group = ""
        self._groups = 0
        self._held: list[tuple[Buffer, list[Buffer]]] = []
        self._held_size = 0
        self._all_done: asyncio.Future[None] | None = None
        self.waiting = False
        """There is something to show, and no cell to show it in yet."""
        self.showing = False
        self._replaying = False
        """Messages that are new are not shown yet, since they come again behind those that are past."""

    def __contains__(self, request: Request) -> bool:
        return request.msg_id in self._adopted

    @property
    def streams(self) -> bool:
        """Whether a cell of before runs, and is seen."""
        return self._host is not None and bool(self._adopted)

    def adopt(self, ready: Ready) -> None:
        """Take over the cells that are under way in a sandbox that was attached."""
        self.reset()
        for cell in ready.open:
            header = {"msg_id": cell.msg_id, "msg_type": "execute_request"}
            request = Request("shell", [], [json.dumps(header).encode(), b"{}", b"{}", b"{}"], header)
            # Nobody listens under its own name, and it neither stops nor numbers what this front end sends.
            request.deferred, request.counts, request.stop_on_error = True, False, False
            self._adopted[cell.msg_id] = request
            if cell.hidden:
                self._hidden.add(cell.msg_id)
            self._pending.adopt(request, cell.token)
        self.waiting = ready.missed > 0

    def reset(self) -> None:
        """The sandbox, or its kernel, has ended: nothing more comes of what was before."""
        self._adopted.clear()
        self._hidden.clear()
        self._held.clear()
        self._host = None
        self.waiting = False
        self._tell_done()

    # ---- showing

    async def show(self, host: Request, count: int | None, *, wait: bool) -> None:
        """Show in a cell what was missed, or what the cell of a number sent; ``wait`` until all that runs is done.

        Raises SandboxKernelError.
        """
        self._host, self._group, self._groups = host, "", 0
        self.showing = self._replaying = True
        self.waiting = False
        missed = self._session.attached.missed if count is None and self._session.attached else 0
        if missed:
            cells = "One cell" if missed == 1 else f"{missed} cells"
            self._say(f"{cells} ran, or went on, while no kernel was connected:")
        try:
            replayed = await self._session.replay(count, self._on_replayed)
        finally:
            self.showing = False
            self._on_replayed()
        self._conclude(replayed, count)
        if wait and self._adopted:
            self._all_done = asyncio.get_running_loop().create_future()
            await self._all_done
        if not self._adopted:
            self._host = None

    def _on_replayed(self) -> None:
        """All that is past is here; the next message may be new, and is to be shown."""
        self._replaying = False
        self._release()

    def _conclude(self, replayed: Replayed, count: int | None) -> None:
        if not replayed.whole:
            self._say("Of the oldest outputs only results and errors are left: the journal was full.")
        if count is not None and not replayed.cells:
            self._say(f"The sandbox remembers no cell {count}." if count else "The sandbox remembers no cell.")

    def on_past(self, parts: list[Buffer]) -> None:
        """Take a message that was sent before."""
        host = self._host
        if host is None or not parts:
            return
        kind = bytes(parts[0])
        if kind == envelope.IOPUB and len(parts) >= 6:
            self._on_output(host, parts[1], parts[2:], held=True)
        elif kind[:1] == envelope.STDIN:
            request = self._pending.by_token(kind[1:])
            if request is not None and request in self:
                self.on_question(request, parts[1:])

    def on_live(self, request: Request, topic: Buffer, message: list[Buffer]) -> None:
        """Take an output, just sent, of a cell of before. Without a host it comes again when there is one."""
        if self._host is not None and not self._replaying and request.msg_id not in self._hidden:
            self._on_output(self._host, topic, message, held=False)

    def on_question(self, request: Request, message: list[Buffer]) -> None:
        """Ask in the host what a cell of before asks."""
        host = self._host
        if request.questions >= MAX_QUESTIONS:
            return
        request.questions += 1
        question = self._guard.question(host.header, message) if host is not None and host.stdin else None
        if question is not None and host is not None:
            self._release()
            self._on_asked(request)
            self._frontend.send("stdin", host.idents, question)

    def on_done(self, request: Request) -> None:
        """A cell of before has ended."""
        self._adopted.pop(request.msg_id, None)
        self._hidden.discard(request.msg_id)
        if not self._adopted and not self.showing:
            self._tell_done()

    def _tell_done(self) -> None:
        if self._all_done is not None and not self._all_done.done():
            self._all_done.set_result(None)

    def _on_output(self, host: Request, topic: Buffer, message: list[Buffer], *, held: bool) -> None:
        header = json.loads(bytes(message[0]))
        parent = str(json.loads(bytes(message[1])).get("msg_id"))
        checked = self._guard.output([message[0], host.header, *message[2:]], header, json.loads(bytes(host.header)))
        msg_type = header["msg_type"]
        if checked is None or msg_type in NOT_SHOWN:
            return
        if msg_type == "execute_input":
            self._release()
            self._group, self._groups = parent, self._groups + 1
            self._say(_title(answers.load(checked[3])))
        elif msg_type == "clear_output":
            self._clear(topic, checked)
        elif held:
            self._hold(topic, checked)
        else:
            self._frontend.broadcast(topic, checked)

    def _hold(self, topic: Buffer, message: list[Buffer]) -> None:
        self._held.append((topic, message))
        self._held_size += sum(map(len, message))
        if self._held_size > MAX_HELD:
            self._release()

    def _release(self) -> None:
        for topic, message in self._held:
            self._frontend.broadcast(topic, message)
        self._held.clear()
        self._held_size = 0

    def _clear(self, topic: Buffer, message: list[Buffer]) -> None:
        """Clear what the cell itself has shown, which the front end can do only where nothing else is shown."""
        self._held.clear()
        self._held_size = 0
        if self._groups <= 1 and not self._replaying:
            self._frontend.broadcast(topic, message)

    def _say(self, text: str) -> None:
        if self._host is not None:
            self._frontend.publish("display_data", answers.notice(text), self._host.header)


def _title(content: Json) -> str:
    lines = [line.strip() for line in str(content.get("code", "")).splitlines() if line.strip()]
    first = lines[0] if lines else ""
    shown = first[:MAX_LINE] + ("…" if len(first) > MAX_LINE or len(lines) > 1 else "")
    return f"In [{content.get('execution_count')}]: {shown}"
