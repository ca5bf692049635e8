"""The service's operations: sessions with their times, calls with their errors, and the switches for faults."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from traitlets.config import Config

from sandbox_kernel.emulators.http import Answer, DropConnection, Request, Server
from sandbox_kernel.library.sandbox import Sandbox

from .faults import Behaviour, Fault, Faults
from .frames import CONTENT_TYPE, exception_frame, result_frame
from .interpreters import Interpreters
from .refusals import Refusal
from .tools import Json, Tools

SESSION_HEADER = "x-amzn-code-interpreter-session-id"
MAX_STRING = 100 * 1024 * 1024
TOOLS = set(
    "executeCode executeCommand startCommandExecution getTask stopTask readFiles listFiles removeFiles "
    "writeFiles".split()
)
LANGUAGES = {"python", "javascript", "typescript"}
WATCH = 0.05
"""Seconds between two looks at the sessions' times."""
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PATH = re.compile(r"/code-interpreters/([^/]+)/(sessions/\w+|tools/invoke)")


@dataclass
class Session:
    """One session. Times in seconds since the epoch, by the emulator's clock."""

    interpreter: str
    name: str
    timeout: float
    created: float
    token: str
    sandbox: Sandbox
    tools: Tools
    folder: tempfile.TemporaryDirectory[str]
    session_id: str = field(default_factory=lambda: "01" + "".join(secrets.choice(_CROCKFORD) for _ in range(24)))
    updated: float = 0.0
    status: str = "READY"
    running: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Service:
    """One emulated region. Everything happens on the event loop on which it was made."""

    def __init__(self, *, trace: Callable[[str], None] = lambda line: None) -> None:
        self.behaviour = Behaviour()
        self.faults = Faults()
        self.calls: list[Json] = []
        self._offset = 0.0
        self._trace = trace
        self._sessions: dict[str, Session] = {}
        self._starting = asyncio.Lock()
        self._interpreters = Interpreters(self.now)
        self._server = Server(self._handle, self.now)
        self._watching: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def now(self) -> float:
        """The emulator's time."""
        return time.time() + self._offset

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; return the port."""
        self._watching = asyncio.ensure_future(self._watch())
        return await self._server.start(host, port)

    async def close(self) -> None:
        """End all sessions."""
        if self._watching is not None:
            self._watching.cancel()
        await self._server.close()
        for session in list(self._sessions.values()):
            self._terminate(session)
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH)
            for session in list(self._sessions.values()):
                if self.now() >= session.created + session.timeout:
                    self._terminate(session)

    # ---- requests

    async def _handle(self, request: Request, answer: Answer) -> None:
        if request.path.startswith("/_emulator/"):
            await self._control(request, answer)
            return
        began = time.monotonic()
        operation, tool = "?", ""
        try:
            operation, interpreter, content = self._parse(request)
            tool = str(content.get("name", "")) if operation == "InvokeCodeInterpreter" else ""
            call = {"operation": operation, "tool": tool, "began": time.time(), "bytes": len(request.body)}
            call["trace"] = request.headers.get("x-amzn-trace-id", "")
            self.calls.append(call)
            late = await self._travel()
            fault = self._refused(operation, tool, request)
            if operation == "InvokeCodeInterpreter":
                await self._invoke(request, interpreter, content, answer, fault, late)
            else:
                said = await self._serve(operation, interpreter, content)
                await self._spoil(fault)
                await self._travel(late)
                await answer.whole(200, json.dumps(said).encode(), {"Content-Type": "application/json"})
        except Refusal as refusal:
            await self._travel()
            await answer.whole(
                refusal.status,
                json.dumps(refusal.content).encode(),
                {"Content-Type": "application/json", "x-amzn-errortype": refusal.name},
            )
            tool = f"{tool} {refusal.name}"
        finally:
            self._trace(f"{operation} {tool} {1000 * (time.monotonic() - began):.0f} ms")

    async def _travel(self, late: float = 0.0) -> float:
        """Take half of the latency, but for what an earlier half came late; return how much this one does.

        The event loop wakes up a millisecond late or more, twice for each call.
        """
        due = time.monotonic() + max(0.0, self.behaviour.latency / 2 - late)
        await asyncio.sleep(due - time.monotonic())
        return time.monotonic() - due

    def _parse(self, request: Request) -> tuple[str, str, Json]:
        """Return operation, interpreter and content. Raises Refusal."""
        if "/bedrock-agentcore/aws4_request" not in request.headers.get("authorization", ""):
            raise Refusal("UnrecognizedClientException", "The security token included in the request is invalid.")
        try:
            content = json.loads(request.body) if request.body else {}
        except ValueError:
            raise Refusal("ValidationException", "The body cannot be parsed.", reason="CannotParse") from None
        content = {**request.query, **content}
        found = _PATH.fullmatch(request.path)
        if found is None:
            return self._interpreters.operation(request.method, request.path), request.path, content
        what = found[2].rpartition("/")[2]
        methods = {"start": "PUT", "stop": "PUT", "get": "GET", "list": "POST", "invoke": "POST"}
        if methods.get(what) != request.method:
            raise Refusal("ValidationException", f"{request.method} {request.path} is no operation.")
        name = "InvokeCodeInterpreter" if what == "invoke" else f"{what.capitalize()}CodeInterpreterSession"
        return ("ListCodeInterpreterSessions" if what == "list" else name), found[1], content

    def _refused(self, operation: str, tool: str, request: Request) -> Fault | None:
        """Return the fault that comes later. Raises what a fault does before anything is done."""
        fault = self.faults.take(operation, tool)
        match fault.kind if fault else "":
            case "throttle":
                raise Refusal("ThrottlingException", "Rate exceeded")
            case "error":
                raise Refusal("InternalServerException", "An internal error occurred.")
            case "quota":
                raise Refusal("ServiceQuotaExceededException", "Maximum number of sessions reached; retry in 5 seconds")
            case "deny":
                raise Refusal(
                    "AccessDeniedException",
                    "User: arn:aws:iam::123456789012:user/emulated is not authorized to perform: "
                    f"bedrock-agentcore:{operation} on resource: {request.path}",
                )
            case "drop-before":
                raise DropConnection
        return fault

    async def _serve(self, operation: str, interpreter: str, content: Json) -> Json:
        handlers: dict[str, Callable[[str, Json], Awaitable[Json]]] = {
            "StartCodeInterpreterSession": self._start_session,
            "GetCodeInterpreterSession": self._get_session,
            "ListCodeInterpreterSessions": self._list_sessions,
            "StopCodeInterpreterSession": self._stop_session,
        }
        handler = handlers.get(operation)
        if handler is None:
            return self._interpreters.serve(operation, interpreter, content)
        return await handler(interpreter, content)

    async def _spoil(self, fault: Fault | None) -> None:
        if fault is None:
            return
        if fault.kind == "error-after":
            raise Refusal("InternalServerException", "An internal error occurred.")
        if fault.kind in ("drop", "truncate"):
            raise DropConnection
        if fault.kind == "slow":
            await asyncio.sleep(fault.seconds)

    # ---- sessions

    async def _start_session(self, interpreter: str, content: Json) -> Json:
        self._interpreters.require(interpreter)
        name, timeout = content.get("name", ""), content.get("sessionTimeoutSeconds", 900)
        if len(str(name)) > 100:
            raise Refusal("ValidationException", "name has more than 100 characters", field_name="name")
        if not isinstance(timeout, int) or not 1 <= timeout <= 28800:
            raise Refusal("ValidationException", "must be 1 to 28800", field_name="sessionTimeoutSeconds")
        async with self._starting:
            token = str(content.get("clientToken", ""))
            known = next((one for one in self._sessions.values() if token and one.token == token), None)
            session = known or await self._new_session(interpreter, str(name), float(timeout), token)
        return {
            "codeInterpreterIdentifier": interpreter,
            "sessionId": session.session_id,
            "createdAt": _iso(session.created),
        }

    async def _new_session(self, interpreter: str, name: str, timeout: float, token: str) -> Session:
        folder = tempfile.TemporaryDirectory(prefix="agentcore-")
        config = Config()
        config.Guard.trusted_output = True
        config.Guard.max_cell_output = config.Guard.max_message_rate = 0
        config.Workspace.mode = "private"
        sandbox = Sandbox("local", directory=folder.name, config=config)
        tools = Tools(sandbox, lambda: self.behaviour)
        await tools.prepare()
        session = Session(interpreter, name, timeout, self.now(), token, sandbox, tools, folder)
        self._sessions[session.session_id] = session
        return session

    def _session(self, interpreter: str, session_id: str) -> Session:
        session = self._sessions.get(session_id)
        if session is None or session.interpreter != interpreter:
            raise Refusal("ResourceNotFoundException", f"Session {session_id} not found")
        if self.now() >= session.created + session.timeout:
            self._terminate(session)
        return session

    async def _get_session(self, interpreter: str, content: Json) -> Json:
        session = self._session(interpreter, str(content.get("sessionId", "")))
        return {**_summary(session), "sessionTimeoutSeconds": int(session.timeout)}

    async def _list_sessions(self, interpreter: str, content: Json) -> Json:
        self._interpreters.require(interpreter)
        wanted, first = content.get("status"), int(content.get("nextToken") or 0)
        count = int(content.get("maxResults") or 100)
        found = [one for one in reversed(self._sessions.values()) if one.interpreter == interpreter]
        found = [one for one in found if wanted in (None, one.status)]
        said: Json = {"items": [_summary(one) for one in found[first : first + count]]}
        if first + count < len(found):
            said["nextToken"] = str(first + count)
        return said

    async def _stop_session(self, interpreter: str, content: Json) -> Json:
        session = self._session(interpreter, str(content.get("sessionId", "")))
        self._terminate(session)
        await asyncio.gather(*self._ending)
        return {
            "codeInterpreterIdentifier": interpreter,
            "sessionId": session.session_id,
            "lastUpdatedAt": _iso(session.updated),
        }

    def _terminate(self, session: Session) -> None:
        if session.status == "READY":
            session.status, session.updated = "TERMINATED", self.now()
            session.ended.set()
            self._spawn(self._bury(session))

    async def _bury(self, session: Session) -> None:
        await session.tools.close()
        session.folder.cleanup()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    # ---- tools

    async def _invoke(
        self, request: Request, interpreter: str, content: Json, answer: Answer, fault: Fault | None, late: float
    ) -> None:
        session_id = request.headers.get(SESSION_HEADER, "")
        session = self._session(interpreter, session_id)
        if fault is not None and fault.kind == "expire":
            self._terminate(session)
        if session.status != "READY":
            raise Refusal("ResourceNotFoundException", f"Session {session_id} is terminated")
        name, arguments = _checked(content)
        if session.running >= self.behaviour.parallel:
            raise Refusal("ServiceQuotaExceededException", "Too many concurrent operations in this session")
        headers = {"Content-Type": CONTENT_TYPE, SESSION_HEADER: session_id}
        begun = False

        async def emit(result: Json) -> None:
            nonlocal begun
            if not begun:
                await self._travel(late)
                await answer.begin(headers)
                begun = True
            await answer.chunk(result_frame(result))

        session.running += 1
        working = asyncio.ensure_future(session.tools.call(name, arguments, emit))
        ended = asyncio.ensure_future(session.ended.wait())
        try:
            await asyncio.wait([working, ended], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                # Its time is over: nothing more is said.
                raise DropConnection
            last = working.result()
            await self._spoil_stream(fault)
            if not begun:
                await self._travel(late)
                await answer.begin(headers)
            await self._send_last(answer, last, fault)
        except (asyncio.CancelledError, ConnectionError):
            if self.behaviour.stops_when_left:
                session.tools.interrupt()
            raise
        finally:
            session.running -= 1
            working.cancel()
            ended.cancel()
            with suppress(asyncio.CancelledError):
                await working

    async def _spoil_stream(self, fault: Fault | None) -> None:
        if fault is not None and fault.kind != "truncate":
            await self._spoil(fault)

    async def _send_last(self, answer: Answer, result: Json, fault: Fault | None) -> None:
        frame = result_frame(result)
        match fault.kind if fault else "":
            case "truncate":
                await answer.chunk(frame[: len(frame) // 2])
            case "exception":
                await answer.chunk(exception_frame("ThrottlingException", {"message": "Rate exceeded"}))
            case "empty":
                pass
            case _:
                await answer.chunk(frame)
        await answer.end()

    # ---- the switches

    async def _control(self, request: Request, answer: Answer) -> None:
        """What tests and people tell the emulator itself."""
        content = json.loads(request.body) if request.body else {}
        said: object = {}
        status = 200
        try:
            match request.path.rpartition("/")[2]:
                case "faults":
                    if content:
                        self.faults.plan(content)
                    said = [asdict(fault) for fault in self.faults.waiting]
                case "behaviour":
                    self.behaviour = self.behaviour.changed(content)
                    said = asdict(self.behaviour)
                case "clock":
                    self._offset += float(content.get("advance", 0.0))
                    said = {"now": self.now()}
                case "calls":
                    said = self.calls
                case "reset":
                    self.calls, self.behaviour = [], Behaviour()
                    self.faults.waiting.clear()
                case other:
                    status, said = 404, {"message": f"there is no switch {other}"}
        except (ValueError, TypeError) as exc:
            status, said = 400, {"message": str(exc)}
        await answer.whole(status, json.dumps(said).encode(), {"Content-Type": "application/json"})


def _checked(content: Json) -> tuple[str, Json]:
    name, arguments = content.get("name"), content.get("arguments") or {}
    if name not in TOOLS:
        raise Refusal("ValidationException", f"no tool {name!r}", field_name="name")
    if not isinstance(arguments, dict) or arguments.get("language", "python") not in LANGUAGES:
        raise Refusal("ValidationException", "no such language", field_name="language")
    if any(isinstance(one, str) and len(one) > MAX_STRING for one in arguments.values()):
        raise Refusal("ValidationException", "more than 100 MB", field_name="arguments")
    return str(name), arguments


def _summary(session: Session) -> Json:
    said = {
        "codeInterpreterIdentifier": session.interpreter,
        "sessionId": session.session_id,
        "status": session.status,
        "createdAt": _iso(session.created),
        "lastUpdatedAt": _iso(session.updated or session.created),
    }
    return {**said, "name": session.name} if session.name else said


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")
