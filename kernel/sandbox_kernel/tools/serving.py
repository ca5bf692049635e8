"""Gives commands what serves the tools of a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from sandbox_kernel.errors import CommandError
from sandbox_kernel.host_tools import HostTools, LateTools, NoTools

from .calls import ToolCalls
from .registry import LiveSource
from .tool import Tool

if TYPE_CHECKING:
    from sandbox_kernel.session import SandboxSession

    from .workshop import Workshop


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


def workshop_of(session: SandboxSession) -> Workshop:
    """Return what keeps and runs the tools that are written in a session's notebook."""
    return session.companion(_make_workshop)


def _make_workshop(session: SandboxSession) -> Workshop:
    from .workshop import Workshop

    return Workshop(config=session.config, log=session.log)


class _NotebooksTools:
    """The tools that are written in notebooks, as they are now."""

    def __init__(self, session: SandboxSession) -> None:
        self._session = session

    async def tools(self) -> Sequence[Tool]:
        workshop = workshop_of(self._session)
        return await workshop.tools() if workshop.settings.callable_from_cells else []


def live_tools_of(session: SandboxSession) -> LiveSource:
    """Return where the registry of a session looks for the tools that are written in notebooks."""
    return _NotebooksTools(session)
