"""Asks the person in front of the notebook whether a call may be made, and remembers what holds for the session."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from sandbox_kernel.errors import CommandError, ToolDeniedError
from sandbox_kernel.host_tools import Cells

from .tool import Policy, Tool

MAX_SHOWN = 4000
"""Characters of the arguments: nobody approves what he cannot read."""


class Approvals:
    """The decisions of one session. Each answer is for one call, which was shown whole, unless the person says more."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._always: set[tuple[str, str]] = set()
        self._never: set[tuple[str, str]] = set()
        self._asking = asyncio.Lock()

    def refuse_denied(self, tool: Tool) -> None:
        """Raise ToolDeniedError where no call of a tool can be approved, whatever its arguments."""
        if tool.policy is Policy.DENY:
            raise ToolDeniedError(f"the {tool.kind} {tool.name!r} is denied by the configuration")
        if tool.policy is Policy.ASK and (tool.kind, tool.name) in self._never:
            raise ToolDeniedError(f"calls of the {tool.kind} {tool.name!r} were refused for this session")

    async def require(self, tool: Tool, arguments: dict[str, Any], cell: str) -> str:
        """Return how the call was approved. Raises ToolDeniedError."""
        self.refuse_denied(tool)
        if tool.policy is Policy.ALLOW:
            return "configuration"
        key = (tool.kind, tool.name)
        async with self._asking:
            # Looked at when it is this call's turn: the one before may have settled it.
            self.refuse_denied(tool)
            if key in self._always:
                return "session"
            answer = await self._ask(tool, arguments, cell)
        if answer in ("a", "always"):
            self._always.add(key)
        elif answer == "never":
            self._never.add(key)
        if answer not in ("y", "yes", "a", "always"):
            raise ToolDeniedError(f"the call of the {tool.kind} {tool.name!r} was not approved")
        return "person"

    async def _ask(self, tool: Tool, arguments: dict[str, Any], cell: str) -> str:
        # ASCII: no character that a cell chose can hide, or turn around, what stands there.
        shown = ", ".join(f"{json.dumps(name)[1:-1]}={json.dumps(value)}" for name, value in arguments.items())
        if len(shown) > MAX_SHOWN:
            raise ToolDeniedError(
                f"the call of {tool.name!r} would have to be approved, and its arguments are too long to be shown "
                f"({len(shown)} characters, at most {MAX_SHOWN})"
            )
        prompt = (
            f"A cell calls the {tool.kind} {tool.name}({shown}) outside of the sandbox. "
            "Allow it? [y]es, [a]lways in this session, [N]o, never: "
        )
        try:
            answer = await self._cells.ask(cell, prompt)
        except CommandError as exc:
            raise ToolDeniedError(
                f"the call of {tool.name!r} has to be approved, and nobody can be asked: {exc}"
            ) from exc
        return answer.strip().lower()
