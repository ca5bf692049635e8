"""The tools that cells may call: those of a configuration, and those that a program registers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Protocol

from traitlets import TraitError

from sandbox_kernel.errors import SandboxKernelError, ToolRegistrationError, UnknownToolError

from .settings import Tools
from .tool import Policy, Tool

if TYPE_CHECKING:
    from traitlets.config import Config

    from sandbox_kernel.host_tools import Cells, ToolSession

    from .calls import ToolCalls
    from .loading import Loading
    from .sources import Sources

KINDS = ("tool", "agent")
LIVE = "the tools that are written in notebooks"
LIVE_TIMEOUT = 5.0
"""Seconds in which those must be known, less than a cell waits for a list."""


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
        self._loading: Loading | None = None
        self._live_problem = ""

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
        if key in self._own():
            raise ToolRegistrationError(f"There is a {tool.kind} {tool.name!r} already; remove it first.")
        self._tools[key] = tool
        self.version += 1

    def remove(self, name: str, kind: str = "tool") -> None:
        """Let nobody call it any more. Raises UnknownToolError."""
        of_configuration = self._loading is not None and self._loading.remove((kind, name))
        if self._tools.pop((kind, name), None) is None and not of_configuration:
            raise UnknownToolError(f"There is no {kind} {name!r}.")
        self.version += 1

    # ---- using

    async def load(self) -> None:
        """Make ready what the configuration names, all of it, which is done once. See `problems`."""
        await self._begun().completely()

    async def load_some(self, kind: object = "", name: object = "") -> None:
        """Wait for the source that a tool of this name comes from; without a name shortly for all.

        Whatever is not there yet goes on getting ready.
        """
        loading = self._begun()
        if isinstance(kind, str) and isinstance(name, str) and name:
            if (kind, name) not in self._tools:
                await loading.until_found(kind, name)
        else:
            await loading.briefly()

    def _begun(self) -> Loading:
        if self._loading is None:
            from .loading import Loading

            named = (self.settings.tools, self.settings.agents, self.settings.entry_points, self.settings.mcp_servers)
            if any(named):
                from .sources import Sources

                self._sources = Sources(self.settings)
            self._loading = Loading(self._sources.all() if self._sources is not None else [], self._changed)
        return self._loading

    def _changed(self) -> None:
        self.version += 1

    @property
    def problems(self) -> list[str]:
        """What cannot be used, or not yet, and why."""
        of_configuration = self._loading.problems() if self._loading is not None else []
        return [*of_configuration, *([self._live_problem] if self._live_problem else [])]

    @property
    def missing(self) -> list[str]:
        """Which sources give nothing, or nothing yet; cells may read it."""
        of_configuration = self._loading.missing() if self._loading is not None else []
        return [*of_configuration, *([LIVE] if self._live_problem else [])]

    def _own(self) -> dict[tuple[str, str], Tool]:
        """Return what was registered and what the configuration names, as far as it is there."""
        return {**(self._loading.tools() if self._loading is not None else {}), **self._tools}

    async def refresh(self, kind: object = "", name: object = "") -> None:
        """Look again for the tools that may change, unless the one of this name is another one.

        Where that does not work, those that were known stay; see `problems`.
        """
        if self.live_source is None or (kind, name) in self._own():
            return
        try:
            listed = await asyncio.wait_for(self.live_source.tools(), LIVE_TIMEOUT)
        except (SandboxKernelError, TraitError) as exc:
            self._live_problem = f"{LIVE.capitalize()} cannot be used: {exc}"
            return
        except asyncio.TimeoutError:
            self._live_problem = (
                f"{LIVE.capitalize()} cannot be used: their store did not answer in {LIVE_TIMEOUT:g} s."
            )
            return
        self._live_problem = ""
        found = {(one.kind, one.name): one for one in listed}
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
        if self.missing:
            hint += f" Not there: {', '.join(self.missing)}; `%sandbox tools` says why."
        raise UnknownToolError(f"There is no {kind} {name[:80]!r}; {hint}")

    def all(self, kind: str = "tool") -> list[Tool]:
        """Return the tools, or the agents, that the configuration lets be called, by name."""
        patterns = self.settings.available_tools
        tools = {**self._live, **self._own()}
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
            await self._loading.close()
        if self._sources is not None:
            await self._sources.close()
            self._sources = None
