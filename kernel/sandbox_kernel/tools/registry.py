"""The tools that cells may call: those of a configuration, and those that a program registers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Protocol

from sandbox_kernel.errors import ToolRegistrationError, UnknownToolError

from .settings import Tools
from .tool import Policy, Tool

if TYPE_CHECKING:
    from traitlets.config import Config

    from sandbox_kernel.host_tools import Cells, ToolSession

    from .calls import ToolCalls
    from .sources import Sources

KINDS = ("tool", "agent")


class LiveSource(Protocol):
    """Tools that may change at any time."""

    async def tools(self) -> Sequence[Tool]:
        """Return those that there are now. Raises ToolError."""


class ToolRegistry:
    """Tools and agents by name. It may serve several sandboxes; its methods belong to one event loop."""

    def __init__(self, settings: Tools | None = None, *, config: Config | None = None) -> None:
        """Without arguments it is empty; with the configuration's it has the tools that are named there."""
        self.settings = settings or Tools(config=config)
        self.of_session = False
        """Whether it ends with the session that it serves."""
        self.version = 0
        """Grows with each change."""
        self._tools: dict[tuple[str, str], Tool] = {}
        self._live: dict[tuple[str, str], Tool] = {}
        self.live_source: LiveSource | None = None
        """Such as the tools that are written in notebooks; those of the configuration go before them."""
        self._sources: Sources | None = None
        self._loading: asyncio.Task[None] | None = None
        self.problems: list[str] = []
        """What of the configuration cannot be used, and why."""

    @classmethod
    def configured(cls, argv: Iterable[str] = ()) -> ToolRegistry:
        """Return the tools that the kernel's configuration files name. Raises ConfigurationError."""
        from sandbox_kernel.configuration import check, load_configuration

        config, said = load_configuration(list(argv))
        if said.error is not None:
            raise said.error
        if "Tools" in config:
            check(config.__class__({"Tools": config.Tools}), [Tools], said)
        return cls.of_config(config)

    @classmethod
    def of_config(cls, config: Config) -> ToolRegistry:
        """Return the tools of a configuration that was read; they end with their session. Raises TraitError."""
        made = cls(config=config)
        made.of_session = True
        return made

    # ---- registering

    def register_tool(
        self,
        name: str,
        tool: Any,
        *,
        input_schema: Mapping[str, Any] | None = None,
        description: str = "",
        policy: str = "allow",
        timeout: float | None = None,
        secrets: Iterable[str] = (),
    ) -> Tool:
        """Let cells call TOOL under a name: a function, an object with `run`, a tool of LangChain or of CrewAI.

        The schema is made of type hints or of pydantic models where none is given. A coroutine function runs in the
        loop of the sandbox, anything else in a thread. ``timeout`` in seconds. ``secrets`` are arguments that are never
        written down.

        Raises ToolRegistrationError.
        """
        return self._register("tool", name, tool, input_schema, description, policy, timeout, secrets)

    def register_agent(
        self,
        name: str,
        agent: Any,
        *,
        input_schema: Mapping[str, Any] | None = None,
        description: str = "",
        policy: str = "allow",
        timeout: float | None = None,
        secrets: Iterable[str] = (),
    ) -> Tool:
        """Let cells call an agent, as ``agents[name].run(…)``; see `register_tool`."""
        return self._register("agent", name, agent, input_schema, description, policy, timeout, secrets)

    def _register(
        self,
        kind: str,
        name: str,
        live: Any,
        input_schema: Mapping[str, Any] | None,
        description: str,
        policy: str,
        timeout: float | None,
        secrets: Iterable[str],
    ) -> Tool:
        from .adapters import make_tool

        seconds = self.settings.timeout if timeout is None else timeout
        made = make_tool(
            name,
            live,
            kind=kind,
            input_schema=input_schema,
            description=description,
            policy=Policy(policy),
            timeout=seconds,
            secrets=frozenset(secrets),
        )
        self.add(made)
        return made

    def add(self, tool: Tool) -> None:
        """Take a tool. Raises ToolRegistrationError where there is another one of that name."""
        key = (tool.kind, tool.name)
        if key in self._tools:
            raise ToolRegistrationError(f"There is a {tool.kind} {tool.name!r} already; remove it first.")
        self._tools[key] = tool
        self.version += 1

    def remove(self, name: str, kind: str = "tool") -> None:
        """Let nobody call it any more. Raises UnknownToolError."""
        if self._tools.pop((kind, name), None) is None:
            raise UnknownToolError(f"There is no {kind} {name!r}.")
        self.version += 1

    # ---- using

    async def load(self) -> None:
        """Make ready what the configuration names; done once. What cannot be used is in `problems`."""
        if self._loading is None:
            self._loading = asyncio.ensure_future(self._load())
        await asyncio.shield(self._loading)

    async def _load(self) -> None:
        if any((self.settings.tools, self.settings.agents, self.settings.entry_points, self.settings.mcp_servers)):
            from .sources import Sources

            self._sources = Sources(self.settings)
            async for made in self._sources.tools():
                if isinstance(made, Tool):
                    try:
                        self.add(made)
                    except ToolRegistrationError as exc:
                        self.problems.append(str(exc))
                else:
                    self.problems.append(made)

    async def refresh(self, kind: str = "", name: str = "") -> None:
        """Look again for the tools that may change, unless the one of this name is another one."""
        if self.live_source is None or (kind, name) in self._tools:
            return
        found = {(one.kind, one.name): one for one in await self.live_source.tools()}
        if {key: one.origin for key, one in found.items()} != {key: one.origin for key, one in self._live.items()}:
            self._live = found
            self.version += 1

    def find(self, name: str, kind: str = "tool") -> Tool:
        """Return a tool. Raises UnknownToolError with the nearest name."""
        import difflib

        usable = {one.name: one for one in self.all(kind)}
        if name in usable:
            return usable[name]
        names = list(usable)
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}."
        raise UnknownToolError(f"There is no {kind} {name[:80]!r}; {hint}")

    def all(self, kind: str = "tool") -> list[Tool]:
        """Return the tools, or the agents, that the configuration lets be called, by name."""
        patterns = self.settings.available_tools
        tools = {**self._live, **self._tools}
        return [
            tools[key]
            for key in sorted(tools)
            if key[0] == kind and (not patterns or any(fnmatchcase(key[1], pattern) for pattern in patterns))
        ]

    def attach(
        self,
        session: ToolSession,
        cells: Cells,
        *,
        variables: Mapping[str, Any] | None = None,
        available: Iterable[str] | None = None,
    ) -> ToolCalls:
        """Serve the cells of a session (contract `ToolSource`)."""
        from .calls import ToolCalls

        calls = ToolCalls(self, session, cells)
        calls.variables.update(variables or {})
        calls.available = None if available is None else frozenset(available)
        return calls

    async def close(self) -> None:
        """End the connections to MCP servers. Idempotent."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait([self._loading])
        if self._sources is not None:
            await self._sources.close()
            self._sources = None
