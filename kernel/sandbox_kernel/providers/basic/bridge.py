"""The other end of a session's link in basic mode: takes Jupyter requests, has code run, and answers with messages."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime, timezone
from typing import Any

from sandbox_kernel.errors import SandboxKernelError
from sandbox_kernel.link import envelope
from sandbox_kernel.link.protocol import Buffer, Link, Message

from .backlog import Backlog
from .memory import MemoryTransport
from .runner import Display, Failure, Runner, Text

Json = dict[str, Any]

LACKS = "basic mode has no completion, no input(), no widgets, no debugger"
REFUSED = "this needs bridge mode; in basic mode code runs in the service's own interpreter"
INTERRUPTED = "\x1b[0;31mKeyboardInterrupt\x1b[0m: the cell was interrupted"


class BasicBridge:
    """Lives with its sandbox, on one event loop."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._link = Link(os.urandom(16))
        self._backlog = Backlog(lambda: self._link)
        self._transport: MemoryTransport | None = None
        self._queue: asyncio.Queue[tuple[bytes, list[Buffer]]] = asyncio.Queue()
        self._working: asyncio.Task[None] | None = None
        self._cell: asyncio.Task[None] | None = None
        self._errands: dict[int, asyncio.Task[None]] = {}
        self._aside: set[asyncio.Task[None]] = set()
        self._count = 0
        self._life = 1
        self._abort = False
        self._session = uuid.uuid4().hex

    def open(self) -> MemoryTransport:
        """Return a transport to this bridge, in the place of the one before."""
        if self._transport is not None:
            self._link = Link(os.urandom(16))
        self._transport = transport = MemoryTransport(self._receive)
        self._link.connect()
        if self._working is None:
            self._working = asyncio.ensure_future(self._work())
        self._flush()
        self._say_ready()
        return transport

    def lose(self, reason: str) -> None:
        """End the link: the sandbox is known to be gone. What is under way gets no answer."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.lose(reason)

    def close(self) -> None:
        """End what is under way."""
        for task in (self._working, self._cell, *self._errands.values(), *self._aside):
            if task is not None:
                task.cancel()
        self._working = self._cell = None

    # ---- the link

    def _receive(self, data: memoryview) -> None:
        for event in self._link.receive(data):
            if isinstance(event, Message):
                self._on_message(event.parts)
        self._flush()

    def _flush(self) -> None:
        while self._transport is not None and (buffers := self._link.data_to_send()):
            self._transport.send(b"".join(buffers))
        self._backlog.changed()

    def _send(self, parts: Sequence[Buffer], *, urgent: bool = False) -> None:
        self._link.send(parts, urgent=urgent)
        self._flush()

    def _event(self, name: str, data: bytes = b"", **fields: object) -> None:
        self._send([envelope.EVENT, json.dumps({"event": name, **fields}).encode(), data])

    def _say_ready(self) -> None:
        self._event("ready", life=self._life, python=self._runner.version)

    # ---- requests

    def _on_message(self, parts: list[Buffer]) -> None:
        kind = bytes(parts[0])
        if kind[:1] == envelope.COMMAND:
            self._on_command(json.loads(bytes(parts[1])))
        elif kind[:1] == envelope.SHELL:
            self._queue.put_nowait((kind, parts[1:]))
        elif kind[:1] in (envelope.CONTROL, envelope.ASIDE):
            self._answer(kind, parts[1:])

    def _on_command(self, command: Json) -> None:
        match command["op"]:
            case "interrupt":
                if self._cell is not None:
                    self._cell.cancel()
            case "restart":
                self._spawn(self._restart())
            case "count":
                self._count = int(command["execution_count"]) - 1
            case "run":
                self._errands[command["id"]] = asyncio.ensure_future(self._shell(command["id"], command["text"]))
            case "kill":
                if command["id"] in self._errands:
                    self._errands[command["id"]].cancel()
            case _:
                self._refuse(command)

    def _refuse(self, command: Json) -> None:
        """Say of what only a real bridge does that this one does not."""
        match command["op"]:
            case "packages":
                self._event("output", f"{REFUSED}\n".encode(), id=command["id"])
                self._event("finished", id=command["id"], exit=1)
            case "describe" | "installed":
                self._event("operation", json.dumps({"failed": REFUSED}).encode(), id=command["id"], end=True)
            case op if "id" in command and op != "file-cancel":
                self._event("operation", id=command["id"], end=True, code="EBASIC", reason=REFUSED)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    async def _restart(self) -> None:
        if self._cell is not None:
            self._cell.cancel()
        try:
            await self._runner.restart()
        except SandboxKernelError as exc:
            self._event("died", exit=1, stderr=str(exc))
            return
        self._life += 1
        self._count = 0
        self._say_ready()

    async def _shell(self, number: int, text: str) -> None:
        status = -9
        try:
            async with aclosing(_generator(self._runner.shell(text))) as events:
                async for event in events:
                    if isinstance(event, int):
                        status = event
                    else:
                        self._event("output", event, id=number)
                    await self._backlog.room()
        except SandboxKernelError as exc:
            self._event("output", f"{exc}\n".encode(), id=number)
            status = 126
        finally:
            del self._errands[number]
            self._event("finished", id=number, exit=status)

    # ---- in order with cells

    async def _work(self) -> None:
        while True:
            kind, message = await self._queue.get()
            if json.loads(bytes(message[0]))["msg_type"] != "execute_request":
                self._answer(kind, message)
                continue
            self._cell = asyncio.ensure_future(self._execute(kind, message))
            await asyncio.wait([self._cell])
            if not self._cell.cancelled() and (error := self._cell.exception()) is not None:
                raise error
            self._cell = None

    async def _execute(self, kind: bytes, message: list[Buffer]) -> None:
        request = json.loads(bytes(message[3]))
        parent = bytes(message[0])
        self._publish("status", {"execution_state": "busy"}, parent)
        counted = request.get("store_history", True) and not request.get("silent")
        self._count += bool(counted)
        if not request.get("silent"):
            content = {"code": request["code"], "execution_count": self._count}
            self._publish("execute_input", content, parent)
        failure = await self._run(request["code"], parent) if request["code"].strip() else None
        reply: Json = {"status": "ok", "execution_count": self._count, "user_expressions": {}, "payload": []}
        if failure is not None:
            content = {"ename": failure.name, "evalue": failure.value, "traceback": failure.traceback}
            self._publish("error", content, parent)
            reply = {"status": "error", "execution_count": self._count, "user_expressions": {}, **content}
        self._reply(kind, parent, "execute_reply", reply)
        self._publish("status", {"execution_state": "idle"}, parent)
        if failure is not None and request.get("stop_on_error", True):
            self._abort_queued()

    async def _run(self, code: str, parent: bytes) -> Failure | None:
        """Run a cell's code; return what it failed of."""
        failure = None
        try:
            async with aclosing(_generator(self._runner.run(code))) as events:
                async for event in events:
                    if isinstance(event, Failure):
                        failure = event
                    else:
                        self._show(event, parent)
                    # Not fetching more is what slows the service down.
                    await self._backlog.room()
        except SandboxKernelError as exc:
            name = type(exc).__name__
            return Failure(name, str(exc), [f"\x1b[0;31m{name}\x1b[0m: {exc}"])
        except asyncio.CancelledError:
            # By `interrupt`, or by the sandbox's end, after which nobody hears it.
            return Failure("KeyboardInterrupt", "", [INTERRUPTED])
        return failure

    def _show(self, event: Text | Display, parent: bytes) -> None:
        if isinstance(event, Text):
            self._publish("stream", {"name": event.name, "text": event.text}, parent)
        elif event.result:
            content = {"data": event.data, "metadata": event.metadata, "execution_count": self._count}
            self._publish("execute_result", content, parent)
        else:
            content = {"data": event.data, "metadata": event.metadata, "transient": {}}
            self._publish("display_data", content, parent)

    def _abort_queued(self) -> None:
        """An error stops the cells that have come meanwhile, as ipykernel does it."""
        waiting = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        for kind, message in waiting:
            parent = bytes(message[0])
            if json.loads(parent)["msg_type"] != "execute_request":
                self._queue.put_nowait((kind, message))
                continue
            self._publish("status", {"execution_state": "busy"}, parent)
            self._reply(kind, parent, "execute_reply", {"status": "aborted"})
            self._publish("status", {"execution_state": "idle"}, parent)

    # ---- answers

    def _answer(self, kind: bytes, message: list[Buffer]) -> None:
        parent = bytes(message[0])
        msg_type = json.loads(parent)["msg_type"]
        if not msg_type.endswith("_request"):
            # Messages of comms have no reply.
            return
        answer = _ANSWERS.get(msg_type, _ok)
        self._publish("status", {"execution_state": "busy"}, parent)
        self._reply(kind, parent, msg_type.replace("_request", "_reply"), answer(json.loads(bytes(message[3]))))
        self._publish("status", {"execution_state": "idle"}, parent)

    def _publish(self, msg_type: str, content: Json, parent: bytes) -> None:
        self._send([envelope.IOPUB, msg_type.encode(), *self._message(msg_type, content, parent)])

    def _reply(self, kind: bytes, parent: bytes, msg_type: str, content: Json) -> None:
        parts = [kind, *self._message(msg_type, content, parent)]
        self._send(parts, urgent=kind[:1] in (envelope.CONTROL, envelope.ASIDE))

    def _message(self, msg_type: str, content: Json, parent: bytes) -> list[bytes]:
        header = {
            "msg_id": uuid.uuid4().hex,
            "msg_type": msg_type,
            "session": self._session,
            "username": "sandbox",
            "date": datetime.now(timezone.utc).isoformat(),
            "version": "5.3",
        }
        return [json.dumps(header).encode(), parent, b"{}", json.dumps(content).encode()]


async def _generator(events: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    """Make what is only an iterator one that can be closed, too."""
    try:
        async for event in events:
            yield event
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


def _ok(content: Json) -> Json:  # noqa: ARG001 - in the place of other answers
    return {"status": "ok"}


def _complete(content: Json) -> Json:
    position = content.get("cursor_pos", 0)
    return {"status": "ok", "matches": [], "cursor_start": position, "cursor_end": position, "metadata": {}}


_ANSWERS: dict[str, Callable[[Json], Json]] = {
    "complete_request": _complete,
    "inspect_request": lambda _: {"status": "ok", "found": False, "data": {}, "metadata": {}},
    "history_request": lambda _: {"status": "ok", "history": []},
    "comm_info_request": lambda _: {"status": "ok", "comms": {}},
    "is_complete_request": lambda _: {"status": "unknown"},
}
