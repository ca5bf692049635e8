"""What a `%sandbox` command is given, and how the kernel process finds the commands without importing them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from .errors import ConfigurationError

if TYPE_CHECKING:
    from .session import SandboxSession

GROUP = "sandbox_kernel.commands"


class CommandContext(Protocol):
    """Where a command was called from: a cell of this kernel, a plain ipykernel, or a terminal."""

    @property
    def session(self) -> SandboxSession:
        """The session that the command is about."""

    def write(self, text: str, *, error: bool = False) -> None:
        """Show text as it is, at once."""

    def display(self, data: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        """Show a MIME bundle; a terminal shows its text/plain."""

    async def ask(self, prompt: str) -> str:
        """Ask the person in front of the notebook. Raises CommandError where nobody can answer."""


RunLine = Callable[[str, CommandContext], Awaitable[None]]
"""Runs the text after `%sandbox`. Raises CommandError or another error of the project's."""


def load_commands() -> RunLine:
    """Return what runs command lines, from the installed entry point."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP):
        module, _, name = entry.value.partition(":")
        run_line: RunLine = getattr(import_module(module), name)
        return run_line
    raise ConfigurationError("the %sandbox commands are not installed; install the package sandbox-kernel again")
