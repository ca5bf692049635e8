"""Takes the bridge's place in basic mode: requests become calls of the service, and what they return messages.

Cells run one after the other. What cannot be had is answered with a sentence.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from importlib.resources import files as resources
from typing import Any

from sandbox_kernel.errors import InvocationError, NotFoundError, SandboxError, SandboxKernelError
from sandbox_kernel.link import envelope
from sandbox_kernel.link.protocol import Buffer

from .api import Api, Call
from .commands import TaskCommand
from .faults import PROVIDER
from .marks import Json, MarkReader
from .messages import Asked, error_content
from .results import ToolResult
from .shim import as_mark
from .shown import Shown

SHIM = "_sandbox_shim"
SNAPSHOTS = "_sandbox_snapshots"
_LOAD = "import sys, types\nm = types.ModuleType({name!r})\nexec({source!r}, m.__dict__)\nsys.modules[{name!r}] = m\n"
_LOOK = "import os, sys; print('<sbx>', sys.version.split()[0], os.getcwd())"
_CALL = '__import__("sys").modules[{name!r}].{what}'
_SAY = (
    'import json as _sbx_json\nprint("<sbx-snapshot>" + _sbx_json.dumps(__import__("sys").modules[{name!r}].{what}))\n'
)
_RUN = (
    '(lambda m: m.run{arguments!r} if m else print("", {absent!r}, sep="<", end=""))'
    '(__import__("sys").modules.get({name!r}))'
)
"""Runs a cell, or prints a mark that only this call has: then the shim is not there, and the cell did not begin.

The mark's first character is apart, so that a traceback which shows this code has no mark."""
INTERRUPTED = (
    "interrupted: the call was ended, but AgentCore has no way to end the code, which may still run in the sandbox; "
    "the next cell may have to wait for it. `%sandbox restart` clears the interpreter, `%sandbox stop` ends everything."
)
NOT_HERE = "this is not there in basic mode"
_ERROR_LINE = re.compile(
    r"^(?:\w*Error: )?(?:Uncaught )?([A-Za-z_][\w.]*(?:Error|Exception|Interrupt)): (.*)$", re.MULTILINE
)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class Interpreter:
    """One session's interpreter, as the other end of a link."""

    def __init__(self, api: Api, session_id: str, language: str, correlation_id: str) -> None:
        self.folder = ""
        """The session's working folder."""
        self._api, self._session_id, self._language = api, session_id, language
        self._correlation_id = correlation_id
        self._version = "3.0"
        self._count = 0
        self._life = 1
        self._cells: deque[Asked] = deque()
        self._running: Asked | None = None
        self._call = Call()
        self._interrupted = False
        self._payload: list[Any] = []
        """What the cell left for its reply."""
        self._commands: dict[int, TaskCommand] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._send: Callable[[list[Buffer]], None] = lambda parts: None
        self._lose: Callable[[str], None] = lambda reason: None
        self._room: Callable[[], Awaitable[None]] = _at_once

    async def prepare(self) -> None:
        """Look at the session, and load what shows objects and errors. Raises SandboxError."""
        said = await self._execute(_LOOK)
        found = re.search(r"<sbx> (\d+\.\d+\S*) (.*)", said.printed)
        if found is not None:
            self._version, self.folder = found[1], found[2].strip()
        if self._language == "python":
            await self._load()

    def serve(
        self, send: Callable[[list[Buffer]], None], lose: Callable[[str], None], room: Callable[[], Awaitable[None]]
    ) -> None:
        """Begin: say that cells may come. ``room`` waits until what was sent has been taken."""
        self._send, self._lose, self._room = send, lose, room
        self._event("ready", pid=0, life=self._life, python=self._version, ipython="")

    def close(self) -> None:
        """Give up what is under way."""
        self._call.abort()
        for task in self._tasks:
            task.cancel()

    # ---- what comes

    def on_message(self, parts: list[Buffer]) -> None:
        """Take a message of the kernel process (see link/envelope.py)."""
        kind = bytes(parts[0])
        if kind == envelope.COMMAND:
            self._on_command(json.loads(bytes(parts[1])))
        elif kind[:1] in (envelope.SHELL, envelope.CONTROL, envelope.ASIDE):
            self._on_request(Asked.read(kind, parts, self._send))

    def _on_request(self, asked: Asked) -> None:
        if asked.msg_type == "execute_request":
            self._cells.append(asked)
            self._advance()
            return
        match asked.msg_type:
            case "kernel_info_request":
                asked.reply(self._kernel_info())
            case "comm_info_request":
                asked.reply({"status": "ok", "comms": {}})
            case "history_request":
                asked.reply({"status": "ok", "history": []})
            case "complete_request" | "inspect_request" | "is_complete_request" if self._can_help:
                self._spawn(self._help(asked))
            case "is_complete_request":
                asked.reply({"status": "unknown"})
            case "complete_request":
                asked.reply(_no_completion(asked))
            case "inspect_request":
                asked.reply({"status": "ok", "found": False, "data": {}, "metadata": {}})
            case _ if asked.wants_reply:
                asked.reply(
                    {"status": "error", **error_content("NotImplementedError", f"{asked.msg_type}: {NOT_HERE}")}
                )
            case _:
                asked.nothing()

    @property
    def _can_help(self) -> bool:
        """Whether the interpreter can be asked about code: it does one thing at a time."""
        return self._language == "python" and self._running is None

    def _kernel_info(self) -> Json:
        info = {"name": self._language, "version": self._version, "mimetype": f"text/x-{self._language}"}
        return {
            "status": "ok",
            "protocol_version": "5.3",
            "implementation": "agentcore",
            "implementation_version": "1",
            "language_info": {**info, "file_extension": ""},
            "banner": "",
        }

    def _on_command(self, command: Json) -> None:  # noqa: C901 - a table of commands
        number = command.get("id", 0)
        match command["op"]:
            case "interrupt":
                self._interrupt()
            case "restart":
                self._spawn(self._restart())
            case "count":
                self._count = int(command["execution_count"]) - 1
            case "run":
                task = TaskCommand(self._api, self._session_id, str(command["text"]))
                self._commands[number] = task
                self._spawn(self._run(number, task))
            case "kill":
                if number in self._commands:
                    self._spawn(self._commands[number].stop())
            case "packages":
                self._event("output", f"{NOT_HERE}; `%pip install` in a cell works\n".encode(), id=number)
                self._event("finished", id=number, exit=1)
            case "describe":
                self._spawn(self._describe(number, command["request"]))
            case "journal":
                self._event("replayed", id=number, cells=0, whole=True)
            case "file":
                self._event("operation", id=number, end=True, code="ENOSYS", reason=NOT_HERE)

    # ---- cells

    def _advance(self) -> None:
        if self._running is None and self._cells:
            self._running = asked = self._cells.popleft()
            self._spawn(self._run_cell(asked))

    async def _run_cell(self, asked: Asked) -> None:
        content = asked.content
        code, silent = str(content.get("code", "")), bool(content.get("silent"))
        counts = not silent and bool(content.get("store_history", True))
        self._count += counts
        asked.busy()
        if not silent:
            asked.publish("execute_input", {"code": code, "execution_count": self._count})
        try:
            error = await self._call_for(asked, code, silent=silent)
        except NotFoundError as exc:
            # The session has ended; no later cell would get further.
            self._lose(str(exc))
            return
        except SandboxKernelError as exc:
            error = error_content(type(exc).__name__, str(exc))
            asked.publish("error", error)
        status = {"status": "error", **error} if error else {"status": "ok"}
        payload, self._payload = self._payload, []
        asked.reply({**status, "execution_count": self._count, "payload": payload, "user_expressions": {}})
        if error and content.get("stop_on_error", True):
            self._abort_waiting()
        # A cell's output comes all at once; the next one's not before a slow reader has taken it.
        self._call = Call()
        await self._room()
        self._running = None
        self._advance()

    def _abort_waiting(self) -> None:
        while self._cells:
            self._cells.popleft().reply({"status": "aborted"})

    async def _call_for(self, asked: Asked, code: str, *, silent: bool) -> Json:
        """Run a cell; publish what it shows, and return its error, {} if it has none.

        Raises SandboxError; NotFoundError where the session has ended.
        """
        self._call, self._interrupted = Call(), False
        text, call_id = code, os.urandom(8).hex()
        if self._language == "python":
            mark = as_mark("absent", call=call_id)
            text = _RUN.format(name=SHIM, arguments=(code, self._count, silent), absent=mark[1:])
        try:
            said, shown = await self._show_call(asked, text)
            if shown.absent == call_id:
                # Somebody has cleared the interpreter, or it keeps nothing.
                said, shown = await self._show_call(asked, f"{_loading_shim()}\n{text}")
        except NotFoundError:
            raise
        except SandboxError as exc:
            if not self._interrupted:
                raise InvocationError(
                    f"{exc} Whether the cell ran is not known, so it was not run again.",
                    provider=PROVIDER,
                    sandbox_id=self._session_id,
                    correlation_id=self._correlation_id,
                ) from exc
            error = error_content("KeyboardInterrupt", INTERRUPTED)
            asked.publish("error", error)
            return error
        self._payload = shown.payload
        return shown.error if shown.ended else self._show_plain(asked, said) or shown.error

    async def _show_call(self, asked: Asked, code: str) -> tuple[ToolResult, Shown]:
        """Run code and show what comes of it; return when all is shown. Raises SandboxError."""
        shown = Shown(lambda mark: self._show(asked, mark), lambda text: _print(asked, text))
        try:
            said = await self._execute(code, call=self._call, on_event=shown.on_event)
            await shown.finish()
        except SandboxError:
            if not self._interrupted:
                await shown.finish()
            raise
        finally:
            shown.drop()
        return said, shown

    def _show(self, asked: Asked, mark: Json) -> Json:
        """Publish what a mark says; return the error that it tells, if it does."""
        match mark.get("kind"):
            case "stderr":
                asked.publish("stream", {"name": "stderr", "text": str(mark.get("text"))})
            case "display":
                content = {name: mark.get(name) or {} for name in ("data", "metadata", "transient")}
                asked.publish("update_display_data" if mark.get("update") else "display_data", content)
            case "result":
                shown = {name: mark.get(name) or {} for name in ("data", "metadata")}
                asked.publish("execute_result", {**shown, "execution_count": self._count})
            case "clear":
                asked.publish("clear_output", {"wait": bool(mark.get("wait"))})
            case "error":
                error = error_content(str(mark.get("ename")), str(mark.get("evalue")), mark.get("traceback"))
                asked.publish("error", error)
                return error
        return {}

    def _show_plain(self, asked: Asked, said: ToolResult) -> Json:
        """Publish what a cell without the shim's marks left: errors are text then."""
        if not said.is_error:
            if said.stderr:
                asked.publish("stream", {"name": "stderr", "text": said.stderr})
            return {}
        text = said.stderr or said.text
        found = [*_ERROR_LINE.finditer(_ANSI.sub("", text))]
        name, value = (
            (found[-1][1], found[-1][2]) if found else ("Error", text.strip().splitlines()[-1] if text else "")
        )
        error = error_content(name, value, text.splitlines())
        asked.publish("error", error)
        return error

    def _interrupt(self) -> None:
        if self._running is not None:
            self._interrupted = True
            self._call.abort()
            self._abort_waiting()

    async def _restart(self) -> None:
        arguments = {"code": "pass", "language": "python", "clearContext": True}
        await self._api.invoke(self._session_id, "executeCode", arguments, timeout=self._api.settings.session_timeout)
        if self._language == "python":
            await self._load()
        self._count = 0
        self._life += 1
        self._event("ready", pid=0, life=self._life, python=self._version, ipython="")

    async def _help(self, asked: Asked) -> None:
        code, position = str(asked.content.get("code", "")), int(asked.content.get("cursor_pos", 0))
        found: Json = {}
        if asked.msg_type == "is_complete_request":
            call = f"is_complete({code!r})"
        elif asked.msg_type == "complete_request":
            call = f"complete({code!r}, {position})"
        else:
            before = re.search(r"[\w.]*$", code[:position])
            behind = re.match(r"\w*", code[position:])
            call = f"inspect({(before[0] if before else '') + (behind[0] if behind else '')!r})"
        try:
            said = await self._execute(_CALL.format(name=SHIM, what=call))
            found = next((one for one in MarkReader().feed(said.printed) if isinstance(one, dict)), {})
        except SandboxError as exc:
            self._api.report("help_failed", "warning", {"error": str(exc)})
        if asked.msg_type == "is_complete_request":
            asked.reply({"status": found.get("status", "unknown"), "indent": found.get("indent", "")})
        elif asked.msg_type == "complete_request":
            bounds = {"cursor_start": found.get("start", position), "cursor_end": found.get("end", position)}
            asked.reply({"status": "ok", "matches": found.get("matches", []), **bounds, "metadata": {}})
        else:
            data = found.get("data") or {}
            asked.reply({"status": "ok", "found": bool(data), "data": data, "metadata": {}})

    # ---- commands

    async def _run(self, number: int, command: TaskCommand) -> None:
        try:
            async for data in command.output():
                self._event("output", data, id=number)
                await self._room()
        except SandboxError as exc:
            self._event("output", f"{exc}\n".encode(), id=number)
        self._event("finished", id=number, exit=command.exit_code)
        del self._commands[number]

    async def _describe(self, number: int, request: Json) -> None:
        """Make a snapshot, or bring one back; of variables nothing is told in this mode."""
        answer: Json = {"failed": NOT_HERE}
        if self._language == "python" and request.keys() & {"snapshot", "restore"}:
            path = request.get("snapshot") or request["restore"]
            what = (
                f"save(get_ipython(), {path!r}, files={bool(request.get('files'))!r})"
                if "snapshot" in request
                else f"restore(get_ipython(), {path!r})"
            )
            load = _loading(SNAPSHOTS, "sandbox_kernel.bridge", "snapshots.py")
            code = load + _SAY.format(name=SNAPSHOTS, what=what)
            try:
                said = await self._execute(code)
                found = re.search(r"<sbx-snapshot>(.*)", said.printed)
                answer = json.loads(found[1]) if found else {"failed": said.text[-300:]}
            except (SandboxError, ValueError, RecursionError) as exc:
                answer = {"failed": str(exc)}
        self._event("operation", json.dumps(answer).encode(), id=number, end=True)

    # ---- parts

    async def _load(self) -> None:
        await self._execute(_loading_shim())

    async def _execute(
        self, code: str, *, call: Call | None = None, on_event: Callable[[ToolResult], None] | None = None
    ) -> ToolResult:
        # What serves the kernel itself is Python, whatever the cells are in.
        language = self._language if on_event is not None else "python"
        return await self._api.invoke(
            self._session_id,
            "executeCode",
            {"code": code, "language": language},
            correlation_id=self._correlation_id,
            call=call,
            on_event=on_event,
        )

    def _event(self, name: str, data: bytes = b"", **fields: object) -> None:
        self._send([envelope.EVENT, json.dumps({"event": name, **fields}).encode(), data])

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._lose(f"its interpreter does not answer: {error}")


def _loading_shim() -> str:
    return _loading(SHIM, __package__, "shim.py")


def _loading(name: str, package: str, file: str) -> str:
    """Return code that loads a file of ours as a module of that name."""
    return _LOAD.format(name=name, source=(resources(package) / file).read_text(encoding="utf-8"))


async def _at_once() -> None:
    """Nobody is there who could be slow."""


def _print(asked: Asked, text: str) -> None:
    asked.publish("stream", {"name": "stdout", "text": text})


def _no_completion(asked: Asked) -> Json:
    position = asked.content.get("cursor_pos", 0)
    return {"status": "ok", "matches": [], "cursor_start": position, "cursor_end": position, "metadata": {}}
