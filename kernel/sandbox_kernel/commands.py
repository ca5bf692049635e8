"""What a `%sandbox` command is given, and how the kernel process finds the commands without importing them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from .errors import CommandError, ConfigurationError

if TYPE_CHECKING:
    from .cell_memory import RunCell
    from .session import SandboxSession

GROUP = "sandbox_kernel.commands"


class CommandContext(Protocol):
    """Where a command was called from: a cell of this kernel, a plain ipykernel, or a terminal."""

    @property
    def session(self) -> SandboxSession:
        """The session that the command is about."""

    def write(self, text: str, *, error: bool = False) -> None:
        """Show text as it is, at once."""

    def display(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *,
        display_id: str = "",
        update: bool = False,
    ) -> None:
        """Show a MIME bundle; a terminal shows its text/plain.

        One with a DISPLAY_ID can be replaced later: ``update`` says that this call does so. It shows how far something
        has come, so a context that shows everything at the end leaves it out.
        """

    async def show_past(self, count: int | None) -> None:
        """Show what cells of this sandbox sent before, and go on with those that run.

        ``count`` is a cell's number, 0 for the last one; None stands for all that no kernel process got. Raises
        CommandError where it cannot be shown here, SandboxKernelError.
        """

    def add_cell(self, text: str) -> None:
        """Put a new cell with this text below.

        What a sandbox or a model wrote of it has to go through `guard.replies.without_commands` first.
        """

    def run_rest(self, code: str, on_ended: Callable[[RunCell], None] | None = None) -> None:
        """Run code in the sandbox as the rest of this cell, when its commands are done; its output is the cell's.

        `%sandbox` lines in it are not run. ``on_ended`` is told what became of it, and may still display something.
        Raises CommandError where other code stands in the cell, or where there is no cell.
        """

    async def ask(self, prompt: str) -> str:
        """Ask the person in front of the notebook. Raises CommandError where nobody can answer."""


async def require_approval(context: CommandContext, action: str, question: str) -> None:
    """Return if the action may be done: allowed by the configuration, or by the person who is asked.

    ``action`` is the command's name, such as "apply"; ``question`` says what will be done, and is shown with
    " [y/N] " behind it. The text of a cell may not be the user's own, so the notebook cannot answer itself.

    Raises CommandError where it is denied, or where nobody can be asked.
    """
    policy = context.session.approval_of(action)
    option = f'c.SandboxSession.approvals = {{"{action}": "allow"}}'
    if policy == "deny":
        raise CommandError(f"`%sandbox {action}` is denied by the configuration (SandboxSession.approvals).")
    if policy == "allow":
        return
    try:
        answer = await context.ask(f"{question} [y/N] ")
    except CommandError as exc:
        raise CommandError(
            f"`%sandbox {action}` has to be confirmed, and nobody can be asked here. To allow it, write into "
            f"jupyter_sandbox_config.py: {option}"
        ) from exc
    if answer.strip().lower() not in ("y", "yes"):
        raise CommandError(f"`%sandbox {action}` was not confirmed; nothing was done.")


def require_bridge(context: CommandContext, command: str) -> None:
    """Raise CommandError where a gateway's kernel runs the cells, with nothing of ours beside it."""
    if context.session.mode == "relay":
        raise CommandError(
            f"`%sandbox {command}` needs bridge mode; in relay mode there is nothing but the gateway's own kernel."
        )


class RunCommand(Protocol):
    """Runs commands."""

    def __call__(self, line: str, context: CommandContext, body: str | None = None) -> Awaitable[None]:
        """Run the text after `%sandbox`; or that after `%%sandbox`, with the ``body`` of the cell below it.

        Raises CommandError or another error of the project's.
        """


def load_commands() -> RunCommand:
    """Return what runs commands, from the installed entry point."""
    from importlib.metadata import entry_points

    for entry in entry_points(group=GROUP):
        module, _, name = entry.value.partition(":")
        run_command: RunCommand = getattr(import_module(module), name)
        return run_command
    raise ConfigurationError("the %sandbox commands are not installed; install the package sandbox-kernel again")
