"""Gives commands what serves the tools of a session."""

from __future__ import annotations

from typing import Any, Protocol

from sandbox_kernel.errors import CommandError
from sandbox_kernel.host_tools import HostTools, LateTools, NoTools

from .calls import ToolCalls


class _Session(Protocol):
    @property
    def host_tools(self) -> HostTools | None:
        """What serves its tools."""


def calls_of(session: _Session | Any) -> ToolCalls:
    """Return what serves the calls of a session's cells. Raises CommandError where nothing does, with the reason."""
    found = session.host_tools
    if isinstance(found, LateTools):
        found = found.served
    if isinstance(found, ToolCalls):
        return found
    reason = found.reason if isinstance(found, NoTools) else "nothing serves them."
    raise CommandError(f"Cells of this session cannot call tools: {reason}")
