"""Where a configuration's tools come from: import paths, entry points, MCP servers."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from sandbox_kernel.errors import ConfigurationError, SandboxKernelError, ToolRegistrationError
from sandbox_kernel.library.loop_thread import LoopThread

from .adapters import make_tool
from .context import RuntimeContext, enter
from .loading import Found, Source
from .settings import POLICIES, Tools
from .tool import Arguments, Policy, Tool

if TYPE_CHECKING:
    from .mcp_source import McpServer

GROUP = "sandbox_kernel.tools"
KEYS = {"call", "policy", "timeout", "description", "input_schema", "options", "secrets"}
SERVER_KEYS = {"command", "env", "url", "headers", "policy", "timeout", "tools"}

IMPORT_TURN = 4.0
"""Seconds after which the next import begins beside one that has not ended, and a list no longer waits for it."""
SERVER_PATIENCE = 2.0
"""Seconds in which most servers are there."""
IMPORT_TIMEOUT = 30.0
"""Seconds that an import may take."""

T = TypeVar("T")


class Sources:
    """Makes the tools. Their coroutines run in a loop of its own: one that blocks does not stop the kernel."""

    def __init__(self, settings: Tools) -> None:
        self._settings = settings
        self._thread = LoopThread()
        self._servers: list[McpServer] = []
        self._turn = asyncio.Lock()

    def all(self) -> list[Source]:
        """Return them; none has begun."""
        return [
            *(
                self._import(kind, name, f"Tools.{kind}s[{name!r}]", partial(self._imported, kind, name, entry))
                for kind, entries in (("tool", self._settings.tools), ("agent", self._settings.agents))
                for name, entry in entries.items()
            ),
            *(
                self._import("tool", name, f"Tools.entry_points: {name!r}", partial(self._entry_point, name))
                for name in self._settings.entry_points
            ),
            *(
                Source(
                    f"the MCP server {name!r}",
                    f"Tools.mcp_servers: the server {name!r}",
                    partial(self._of_server, name, entry),
                    partial(_may_be_of_server, name),
                    SERVER_PATIENCE,
                )
                for name, entry in self._settings.mcp_servers.items()
            ),
        ]

    def _import(self, kind: str, name: str, place: str, work: Callable[[], Found]) -> Source:
        make = partial(self._made_by, place, work)
        return Source(f"the {kind} {name!r}", place, make, lambda *wanted: wanted == (kind, name), IMPORT_TURN)

    async def _made_by(self, place: str, work: Callable[[], Found]) -> Sequence[Found]:
        """Import what somebody named: one after the other, as a program does, unless one does not end."""
        running: asyncio.Task[Found] | None = None
        try:
            async with self._turn:
                running = asyncio.ensure_future(_in_thread(work))
                await asyncio.wait([running], timeout=IMPORT_TURN)
            await asyncio.wait([running], timeout=IMPORT_TIMEOUT - IMPORT_TURN)
            return [running.result() if running.done() else f"{place}: not imported within {IMPORT_TIMEOUT:g} s."]
        finally:
            if running is not None:
                running.cancel()

    def _imported(self, kind: str, name: str, entry: Any) -> Found:
        place = f"Tools.{kind}s[{name!r}]"
        try:
            settings: dict[str, Any] = {"call": entry} if isinstance(entry, str) else dict(entry)
            _check_keys(place, settings, KEYS)
            live = load(place, settings.get("call"), settings.get("options"))
            return self._made(kind, name, live, settings, str(settings["call"]))
        except SandboxKernelError as exc:
            return str(exc)
        except (TypeError, ValueError) as exc:
            return f"{place}: {exc}"

    def _entry_point(self, name: str) -> Found:
        from importlib.metadata import entry_points

        for entry in entry_points(group=GROUP, name=name):
            return self._imported("tool", name, entry.value)
        return f"Tools.entry_points: no installed package has a tool {name!r} (group {GROUP})."

    def _made(self, kind: str, name: str, live: Any, entry: Mapping[str, Any], source: str) -> Tool:
        own = entry.get("policy")
        if own is not None and own not in POLICIES:
            raise ConfigurationError(f"Tools.{kind}s[{name!r}]: the policy {own!r} is none of {', '.join(POLICIES)}.")
        made = make_tool(
            name,
            live,
            kind=kind,
            input_schema=entry.get("input_schema"),
            description=str(entry.get("description", "")),
            policy=Policy(self._settings.policy_of(name, own)),
            timeout=float(entry.get("timeout", self._settings.timeout)),
            source=source,
            secrets=frozenset(entry.get("secrets", ())),
        )
        return made if made.blocking else self._elsewhere(made)

    def _elsewhere(self, tool: Tool) -> Tool:
        """Return the same tool, whose coroutine runs in the loop of the tools."""
        call: Any = tool.call

        async def run(arguments: Arguments, context: RuntimeContext) -> Any:
            enter(context)
            return await call(arguments, context)

        return replace(tool, call=lambda arguments, context: self._there(run(arguments, context)))

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(self._thread.submit(work))

    async def _of_server(self, name: str, entry: Mapping[str, Any]) -> Sequence[Found]:
        from .mcp_source import McpServer

        place = f"Tools.mcp_servers[{name!r}]"
        try:
            _check_keys(place, entry, SERVER_KEYS)
            if ("command" in entry) == ("url" in entry):
                raise ConfigurationError(f'{place} needs either "command" or "url".')
            server = McpServer(name, entry)
            # Before it is there: who closes ends those, too, that are being started.
            self._servers.append(server)
            described = await self._there(server.start())
        except SandboxKernelError as exc:
            return [str(exc)]
        wanted = entry.get("tools")
        return [
            self._of_described(name, entry, server, one) for one in described if wanted is None or one.name in wanted
        ]

    def _of_described(self, name: str, entry: Mapping[str, Any], server: McpServer, one: Any) -> Found:
        from .mcp_source import tool_name

        own = tool_name(name, one.name)
        settings = {key: entry[key] for key in ("policy", "timeout") if key in entry}
        try:
            return self._made("tool", own, _remote(server, one, own), settings, f"mcp:{name}/{one.name}")
        except (ToolRegistrationError, ConfigurationError) as exc:
            return str(exc)

    async def close(self) -> None:
        """End the connections, and the loop."""
        await asyncio.gather(*(self._there(server.close()) for server in self._servers))
        self._servers.clear()
        await asyncio.to_thread(self._thread.close)


def _may_be_of_server(server: str, kind: str, name: str) -> bool:
    from .mcp_source import tool_name

    return kind == "tool" and name.startswith(tool_name(server, ""))


async def _in_thread(work: Callable[[], T]) -> T:
    """Run it in a thread that nobody has to wait for at the end of the program."""
    result: Future[T] = Future()

    def run() -> None:
        result.set_running_or_notify_cancel()
        try:
            result.set_result(work())
        except Exception as exc:  # noqa: BLE001 - it belongs to who waits
            result.set_exception(exc)

    threading.Thread(target=run, name="tool-import", daemon=True).start()
    return await asyncio.wrap_future(result)


def _remote(server: McpServer, described: Any, name: str) -> Tool:
    def call(arguments: Arguments, context: RuntimeContext) -> Any:
        return server.call(described.name, arguments, context)

    return Tool(name, described.description or described.name, described.input_schema, call, blocking=False)


def _check_keys(place: str, entry: Mapping[str, Any], known: set[str]) -> None:
    odd = sorted(set(entry) - known)
    if odd:
        raise ConfigurationError(f"{place}: there is no {odd[0]!r}; there are: {', '.join(sorted(known))}.")


def load(place: str, path: object, options: Mapping[str, Any] | None = None) -> Any:
    """Return what an import path names; of a class, an object. Raises ConfigurationError."""
    if not isinstance(path, str) or ":" not in path:
        raise ConfigurationError(f'{place}: "call" is an import path such as "package.module:function", not {path!r}.')
    module, _, names = path.partition(":")
    try:
        found: Any = import_module(module)
        for name in names.split("."):
            found = getattr(found, name)
        if inspect.isclass(found):
            return found(**(options or {}))
    except (Exception, SystemExit) as exc:
        raise ConfigurationError(f"{place}: {path} cannot be used: {type(exc).__name__}: {str(exc)[:300]}") from exc
    if options:
        raise ConfigurationError(f'{place}: "options" are for classes, and {path} is none.')
    return found
