"""Serves the calls of one session's cells. What arrives is the attacker's: every byte of it may be made up."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import json
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sandbox_kernel.errors import (
    ToolArgumentsError,
    ToolDeniedError,
    ToolError,
    ToolExecutionError,
    ToolTimeoutError,
    UnknownToolError,
)
from sandbox_kernel.host_tools import FRAME, Cells, CellScope, ToolSession, asked_number, new_correlation_id
from sandbox_kernel.link.protocol import Buffer

from .approval import Approvals
from .audit import AuditLog, redacted
from .checking import ArgumentChecker
from .context import RuntimeContext, enter
from .results import codec_source, encode
from .tool import Policy, Tool

if TYPE_CHECKING:
    from .registry import ToolRegistry

MAX_REQUEST = 4 * 1024 * 1024
MAX_CALLS = 1000
"""Requests of one session that are served or wait; what comes beyond is refused."""
WAITING_RESULTS = 4
"""Times `Tools.max_result` that the results of one session may have which wait for the sandbox to take them."""
MAX_LEFT_BEHIND = 100
"""Blocking tools that nobody waits for any more and that have not ended; then no other one is started."""
MAX_MESSAGE = 4000
"""Characters of an exception's message that a cell gets to see."""
PROGRESS_INTERVAL = 0.05
"""Seconds between two words of progress that are passed on."""
MAX_PROGRESS = 1024 * 1024
"""Bytes that wait to leave for the sandbox beyond which nobody hears of progress, or of requests that were dropped."""
MAX_CONTEXT = 100
"""Variables that a call may set."""


@dataclass(frozen=True)
class Request:
    """A call, as far as its form goes."""

    kind: str
    name: str
    arguments: dict[str, Any]
    cell: str
    timeout: float | None
    context: Mapping[str, Any]


@dataclass
class Outcome:
    """What the audit log says at a call's end."""

    outcome: str = "ok"
    error: str = ""
    approved_by: str = ""
    result_bytes: int = 0
    fields: dict[str, Any] = field(default_factory=dict)


class ToolCalls:
    """Answers `list` and `call`; its methods are called on the event loop's thread (contract `HostTools`)."""

    def __init__(self, registry: ToolRegistry, session: ToolSession, cells: Cells) -> None:
        self.registry = registry
        self.approvals = Approvals(cells)
        self.variables: dict[str, Any] = {}
        """Of the session's context, as the notebook set them."""
        self.available: frozenset[str] | None = None
        """Patterns of the names that the notebook has narrowed the session to."""
        self._session = session
        self._cells = cells
        self._audit = AuditLog(registry.settings.audit_path) if registry.settings.audit else None
        self._room = asyncio.Semaphore(max(1, registry.settings.max_parallel))
        self._under_way: dict[tuple[int, int], asyncio.Task[None]] = {}
        self._left_behind = 0
        self._waiting = 0
        """Bytes of results that wait until there is room."""
        self._checker = ArgumentChecker()
        self._numbers = itertools.count(1)
        self._session_id = new_correlation_id()
        self.dropped = 0
        """Frames that were broken, or too many."""

    # ---- from the sandbox

    def on_frame(self, connection: int, data: Buffer) -> None:
        """Take a frame; who sent one that is broken, or one too many, hears that."""
        if not len(data):
            for key in [key for key in self._under_way if key[0] == connection]:
                self._under_way[key].cancel()
            return
        try:
            request = _read(data)
            number, do = _number(request, "id"), request.get("do")
        except (ValueError, RecursionError):
            said = "the request cannot be read: it is no JSON, is nested too deeply or has too long a number in it"
            self._drop(connection, asked_number(data), said)
            return
        key = (connection, number)
        if do == "cancel":
            if key in self._under_way:
                self._under_way[key].cancel()
        elif key in self._under_way:
            self.dropped += 1
        elif len(self._under_way) >= MAX_CALLS:
            self._drop(connection, number, f"{MAX_CALLS} calls of this session are under way; wait for some of them")
        elif do in ("list", "call"):
            task = asyncio.ensure_future(self._serve(key, request, len(data)))
            self._under_way[key] = task
            task.add_done_callback(lambda done: self._done(key, done))
        else:
            self._drop(connection, number, "the request is neither a list nor a call")

    def _drop(self, connection: int, number: int | None, message: str) -> None:
        """Do nothing for a request but say why, to who takes his answers. The number is None where none was found."""
        self.dropped += 1
        if self._session.tool_backlog < MAX_PROGRESS:
            text = json.dumps({"id": number, "do": "error", "error": "ToolError", "message": message}).encode()
            self._session.send_tool_frame(connection, [FRAME.pack(len(text), 0), text])

    def on_lost(self) -> None:
        """The sandbox is gone."""
        for task in self._under_way.values():
            task.cancel()

    async def close(self) -> None:
        """End what runs, and the registry with its servers where it belongs to this session."""
        self.on_lost()
        self._checker.close()
        if self._audit is not None:
            self._audit.close()
        if self.registry.of_session:
            await self.registry.close()

    def narrow(self, patterns: Iterable[str], known: Iterable[str]) -> None:
        """Let cells use those tools only that match one of the patterns. Raises UnknownToolError where none does."""
        names = list(known)
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UnknownToolError(f"There is no tool {pattern!r}; there are: {', '.join(names) or 'none'}.")
        self.available = frozenset(patterns)

    def may_use(self, name: str) -> bool:
        """Whether the session's cells may use a tool of that name."""
        return self._may_use(name, None)

    async def offered(self) -> list[str]:
        """Return a line for each tool and agent that cells may call (contract `HostTools`)."""
        await self.registry.load_some()
        await self.registry.refresh()
        return [
            one.line
            for kind in ("tool", "agent")
            for one in self.registry.all(kind)
            if one.policy is not Policy.DENY and self.may_use(one.name)
        ]

    def _done(self, key: tuple[int, int], task: asyncio.Task[None]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._session.log.write("tool_failed", level="error", error=f"{type(error).__name__}: {error}"[:1000])
            # Nobody is to wait for what will not come; what it was may be none of the sandbox's business.
            self._send(key, {"do": "error", "error": "ToolError", "message": "this failed outside the sandbox"}, [])

    async def _serve(self, key: tuple[int, int], request: dict[str, Any], size: int) -> None:
        kind, name = request.get("kind"), request.get("name")
        # Outside of the room, which others need.
        await self.registry.load_some(kind, name)
        async with self._room:
            # Who takes no answers gets nothing done that would be answered.
            await self._session.room_for_tools()
            if request["do"] == "list":
                await self.registry.refresh(kind, name)
                await self._list(key, codec=request.get("codec") is True)
            else:
                await self._call(key, request, size)

    async def _reply(self, key: tuple[int, int], said: dict[str, Any], data: list[Buffer] | None = None) -> None:
        """Answer when there is room: who takes no answers gets no further ones made."""
        await self._session.room_for_tools()
        self._send(key, said, data or [])

    def _send(self, key: tuple[int, int], said: dict[str, Any], data: list[Buffer]) -> None:
        text = json.dumps({"id": key[1], "version": self._version(), **said}).encode()
        size = _size(data)
        self._session.send_tool_frame(key[0], [FRAME.pack(len(text), size), text, *data])

    def _version(self) -> str:
        narrowed = sorted(self.available) if self.available is not None else None
        return f"{self.registry.version} {narrowed}"

    # ---- what there is

    async def _list(self, key: tuple[int, int], *, codec: bool) -> None:
        listed = {
            kind: [
                {
                    "name": one.name,
                    "description": one.description,
                    "input_schema": dict(one.input_schema),
                    "policy": one.policy.value,
                }
                for one in self.registry.all(kind)
                if self._may_use(one.name, None)
            ]
            for kind in ("tool", "agent")
        }
        said = {"do": "listed", **listed, "missing": self.registry.missing}
        await self._reply(key, said, [codec_source()] if codec else [])

    def _may_use(self, name: str, scope: CellScope | None) -> bool:
        """Whether the notebook, the cell, and every other cell that is under way leave a tool to the caller.

        Who calls is what the sandbox says, so what one cell may not do no other one may while it runs.
        """
        limits = [self.available, scope.available if scope else None, *(one.available for one in self._cells.scopes())]
        return all(limit is None or any(fnmatchcase(name, pattern) for pattern in limit) for limit in limits)

    def _find(self, request: Request, scope: CellScope) -> Tool:
        tool = self.registry.find(request.name, request.kind)
        if not self._may_use(tool.name, scope):
            raise UnknownToolError(f"the {tool.kind} {tool.name!r} may not be used by this cell")
        return tool

    # ---- calls

    async def _call(self, key: tuple[int, int], raw: dict[str, Any], size: int) -> None:
        began = time.monotonic()
        ids = {"correlation_id": f"{self._session_id}.{next(self._numbers)}"}
        outcome = Outcome()
        try:
            said, buffers = await self._answer(key, raw, ids, outcome, size)
            # The error is let go by now: its frames would keep a large value while this waits.
            self._waiting += outcome.result_bytes
            try:
                await self._reply(key, {**said, **ids}, buffers)
            finally:
                self._waiting -= outcome.result_bytes
        except asyncio.CancelledError:
            outcome.outcome = "cancelled"
            raise
        finally:
            self._note_end(ids["correlation_id"], outcome, time.monotonic() - began)

    async def _answer(
        self, key: tuple[int, int], raw: dict[str, Any], ids: dict[str, str], outcome: Outcome, size: int
    ) -> tuple[dict[str, Any], list[Buffer]]:
        """Call the tool; return what is said of it, and the bytes of its value."""
        try:
            request = _read_call(raw)
            await self._cells.settle(request.cell)
            scope = self._cells.scope(request.cell)
            if scope is not None:
                ids["correlation_id"] = f"{scope.correlation_id}.{ids['correlation_id'].rpartition('.')[2]}"
            outcome.fields = {"kind": request.kind, "tool": request.name}
            header, buffers = await self._value(key, request, scope, ids["correlation_id"], outcome, size)
        except Exception as exc:  # noqa: BLE001 - the edge: a tool may raise anything, and the cell is to hear of it
            outcome.outcome, outcome.error = _outcome(exc), f"{type(exc).__name__}: {exc}"[:MAX_MESSAGE]
            # KeyError shows its message as Python would write it.
            message = str(exc.args[0]) if isinstance(exc, KeyError) and len(exc.args) == 1 else str(exc)
            return {"do": "error", "error": type(exc).__name__, "message": message[:MAX_MESSAGE]}, []
        outcome.result_bytes = _size(buffers)
        return {"do": "result", "value": header}, buffers

    async def _value(
        self,
        key: tuple[int, int],
        request: Request,
        scope: CellScope | None,
        correlation_id: str,
        outcome: Outcome,
        size: int,
    ) -> tuple[dict[str, Any], list[Buffer]]:
        if scope is None:
            raise ToolDeniedError(
                "the cell that this call belongs to is not running (any more): threads and tasks call tools while "
                "their cell waits for them"
            )
        await self.registry.refresh(request.kind, request.name)
        tool = self._find(request, scope)
        shown = redacted(request.arguments, tool.input_schema, tool.secrets)
        outcome.fields = {"kind": tool.kind, "tool": tool.name, "source": tool.source, "arguments": shown}
        # In this order: nothing is done for a call that is refused anyway, and nobody is asked about a wrong one.
        self.approvals.refuse_denied(tool)
        await self._checker.check(tool, request.arguments, size)
        outcome.approved_by = await self.approvals.require(tool, request.arguments, request.cell)
        self._note("tool_call", correlation_id, approved_by=outcome.approved_by, **outcome.fields)
        context = self._context(request, scope, correlation_id, self._progress(key))
        timeout = tool.timeout if request.timeout is None else min(request.timeout, tool.timeout)
        value = await self._run(tool, request.arguments, context, timeout)
        limit = self.registry.settings.max_result
        # Large values are brought into their form beside the loop.
        found = await asyncio.to_thread(encode, value, limit) if _is_large(value) else encode(value, limit)
        waiting, most = self._waiting, WAITING_RESULTS * limit
        if waiting and waiting + _size(found[1]) > most:
            raise ToolExecutionError(
                f"the tool was called, and its value of {_size(found[1])} bytes is lost: {waiting} bytes of other "
                f"calls' wait to be taken, and at most {most} may; make fewer calls at once"
            )
        return found

    def _context(self, request: Request, scope: CellScope, correlation_id: str, on_progress: Any) -> RuntimeContext:
        fixed = self.registry.settings.context
        variables = {**self.variables, **scope.variables, **request.context, **fixed}
        return RuntimeContext(MappingProxyType(variables), correlation_id, frozenset(fixed), on_progress=on_progress)

    def _progress(self, key: tuple[int, int]) -> Any:
        loop = asyncio.get_running_loop()
        last = 0.0

        def tell(fraction: float | None, message: str) -> None:
            nonlocal last
            now = time.monotonic()
            # Whoever reports each of a million steps must not fill the link.
            if now - last >= PROGRESS_INTERVAL or fraction == 1:
                last = now
                said = {"do": "progress", "fraction": fraction, "message": message}
                loop.call_soon_threadsafe(self._send_progress, key, said)

        return tell

    def _send_progress(self, key: tuple[int, int], said: dict[str, Any]) -> None:
        if key in self._under_way and self._session.tool_backlog < MAX_PROGRESS:
            self._send(key, said, [])

    async def _run(self, tool: Tool, arguments: dict[str, Any], context: RuntimeContext, timeout: float) -> Any:
        work = self._in_thread(tool, arguments, context) if tool.blocking else _in_task(tool, arguments, context)
        running = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait([running], timeout=timeout)
            if done:
                return running.result()
            raise ToolTimeoutError(f"the {tool.kind} {tool.name!r} took longer than {timeout:g} s")
        finally:
            if not running.done():
                context.cancel()
                running.cancel()

    async def _in_thread(self, tool: Tool, arguments: dict[str, Any], context: RuntimeContext) -> Any:
        """Run it in a thread of its own, which nobody can end: one that hangs must not hold up the others."""
        if self._left_behind >= MAX_LEFT_BEHIND:
            raise ToolDeniedError(f"{self._left_behind} earlier calls were given up and still run; no other is started")
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Any] = loop.create_future()
        started = contextvars.copy_context()

        def deliver(value: Any, error: BaseException | None) -> None:
            if result.cancelled():
                self._left_behind -= 1
            elif error is not None:
                result.set_exception(error)
            else:
                result.set_result(value)

        def run() -> None:
            value, error = None, None
            try:
                started.run(enter, context)
                value = started.run(tool.call, arguments, context)
            except BaseException as exc:  # noqa: BLE001 - it belongs to who waits
                # A future takes no StopIteration, and SystemExit would end the loop.
                odd = isinstance(exc, StopIteration) or not isinstance(exc, Exception)
                error = ToolExecutionError(f"{type(exc).__name__}: {exc}") if odd else exc
            if not loop.is_closed():
                loop.call_soon_threadsafe(deliver, value, error)

        threading.Thread(target=run, name=f"tool-{tool.name}", daemon=True).start()
        try:
            return await result
        except asyncio.CancelledError:
            self._left_behind += 1
            raise

    # ---- what is written down

    def _note(self, event: str, correlation_id: str, **fields: Any) -> None:
        if self._audit is not None:
            sandbox = self._session.sandbox_ids
            ids = {
                "provider": sandbox["provider"],
                "sandbox_id": sandbox["sandbox_id"],
                "directory": str(self._session.directory),
            }
            self._audit.write(event, correlation_id=correlation_id, **fields, **ids)

    def _note_end(self, correlation_id: str, outcome: Outcome, seconds: float) -> None:
        said = {"outcome": outcome.outcome, "seconds": round(seconds, 4)}
        if outcome.error:
            said["error"] = outcome.error
        if outcome.result_bytes:
            said["result_bytes"] = outcome.result_bytes
        try:
            self._note("tool_ended", correlation_id, **outcome.fields, **said)
        except ToolDeniedError as exc:
            # It has happened; the next call is refused.
            self._session.log.write("audit_failed", level="error", error=str(exc))


async def _in_task(tool: Tool, arguments: dict[str, Any], context: RuntimeContext) -> Any:
    enter(context)
    call: Any = tool.call
    return await call(arguments, context)


def _is_large(value: Any) -> bool:
    return not isinstance(value, (str, bytes, bytearray, int, float, bool, type(None))) and (
        not isinstance(value, (list, dict)) or len(value) > 100
    )


def _size(buffers: list[Buffer]) -> int:
    return sum(memoryview(one).nbytes for one in buffers)


def _outcome(error: Exception) -> str:
    kinds: dict[type[Exception], str] = {
        UnknownToolError: "unknown",
        ToolDeniedError: "denied",
        ToolArgumentsError: "invalid",
        ToolTimeoutError: "timeout",
    }
    return kinds.get(type(error), "refused" if type(error) is ToolError else "error")


# ---- reading


def _read(data: Buffer) -> dict[str, Any]:
    """Read a frame. Raises ValueError, RecursionError where it is none."""
    raw = bytes(data)
    if len(raw) < FRAME.size:
        raise ValueError("no frame")
    size, rest = FRAME.unpack_from(raw)
    if rest or size != len(raw) - FRAME.size or size > MAX_REQUEST:
        raise ValueError("no frame")
    request = json.loads(raw[FRAME.size :], parse_constant=_refuse)
    if not isinstance(request, dict):
        raise ValueError("no request")  # noqa: TRY004 - of the wrong shape, like the others
    return request


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _number(request: dict[str, Any], name: str) -> int:
    value = request.get(name)
    if type(value) is not int or not 0 <= value < 1 << 53:
        raise ValueError(f"{name} is no number")
    return value


def _read_call(raw: dict[str, Any]) -> Request:
    kind, name, arguments = raw.get("kind"), raw.get("name"), raw.get("arguments")
    cell, timeout, context = raw.get("cell"), raw.get("timeout"), raw.get("context", {})
    if kind not in ("tool", "agent") or not isinstance(name, str) or len(name) > 200:
        raise UnknownToolError("the call names no tool")
    if not isinstance(arguments, dict):
        raise ToolArgumentsError("the arguments are no object")
    if not isinstance(cell, str) or len(cell) > 200:
        raise ToolArgumentsError("the call names no cell")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or timeout <= 0):
        raise ToolArgumentsError("the time-out is no number of seconds")
    if not isinstance(context, dict) or len(context) > MAX_CONTEXT:
        raise ToolArgumentsError("the context is no object, or has too many variables")
    return Request(kind, name, arguments, cell, timeout, context)
