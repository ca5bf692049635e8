"""Where a configuration's tools come from: import paths, entry points, MCP servers."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Coroutine, Mapping
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, Union

from sandbox_kernel.errors import ConfigurationError, SandboxKernelError, ToolRegistrationError
from sandbox_kernel.library.loop_thread import LoopThread

from .adapters import make_tool
from .context import RuntimeContext, enter
from .settings import POLICIES, Tools
from .tool import Arguments, Policy, Tool

if TYPE_CHECKING:
    from .mcp_source import McpServer

GROUP = "sandbox_kernel.tools"
KEYS = {"call", "policy", "timeout", "description", "input_schema", "options", "secrets"}
SERVER_KEYS = {"command", "env", "url", "headers", "policy", "timeout", "tools"}

T = TypeVar("T")
Found = Union[Tool, str]
"""A tool, or what is wrong with an entry."""


class Sources:
    """Makes the tools. Their coroutines run in a loop of its own: one that blocks does not stop the kernel."""

    def __init__(self, settings: Tools) -> None:
        self._settings = settings
        self._thread = LoopThread()
        self._servers: list[McpServer] = []

    async def tools(self) -> AsyncGenerator[Found, None]:
        """Give all of them, and for those that cannot be used the reason."""
        for kind, entries in (("tool", self._settings.tools), ("agent", self._settings.agents)):
            for name, entry in entries.items():
                # Importing what somebody named may take long.
                yield await asyncio.to_thread(self._imported, kind, name, entry)
        for name in self._settings.entry_points:
            yield await asyncio.to_thread(self._entry_point, name)
        for name, entry in self._settings.mcp_servers.items():
            for found in await self._of_server(name, entry):
                yield found

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

    async def _of_server(self, name: str, entry: Mapping[str, Any]) -> list[Found]:
        from .mcp_source import tool_name

        place = f"Tools.mcp_servers[{name!r}]"
        try:
            _check_keys(place, entry, SERVER_KEYS)
            if ("command" in entry) == ("url" in entry):
                raise ConfigurationError(f'{place} needs either "command" or "url".')
            server, described = await self._there(_started(name, entry))
        except SandboxKernelError as exc:
            return [str(exc)]
        self._servers.append(server)
        wanted = entry.get("tools")
        found: list[Found] = []
        for one in described:
            if wanted is None or one.name in wanted:
                settings = {key: entry[key] for key in ("policy", "timeout") if key in entry}
                try:
                    live = _remote(server, one, tool_name(name, one.name))
                    found.append(
                        self._made("tool", tool_name(name, one.name), live, settings, f"mcp:{name}/{one.name}")
                    )
                except (ToolRegistrationError, ConfigurationError) as exc:
                    found.append(str(exc))
        return found

    async def close(self) -> None:
        """End the connections, and the loop."""
        for server in self._servers:
            await self._there(server.close())
        self._servers.clear()
        await asyncio.to_thread(self._thread.close)


async def _started(name: str, entry: Mapping[str, Any]) -> tuple[McpServer, list[Any]]:
    from .mcp_source import McpServer

    server = McpServer(name, entry)
    return server, await server.start()


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
    except Exception as exc:
        raise ConfigurationError(f"{place}: {path} cannot be used: {type(exc).__name__}: {str(exc)[:300]}") from exc
    if options:
        raise ConfigurationError(f'{place}: "options" are for classes, and {path} is none.')
    return found
