"""`%%sandbox --language NAME`: a cell in another language than the notebook's, where the provider runs it."""

from __future__ import annotations

from argparse import Namespace

from sandbox_kernel.commands import CommandContext
from sandbox_kernel.errors import CommandError
from sandbox_kernel.lifecycle import State

from .registry import argument, cell_command


class CodeFailedError(CommandError):
    """The cell's code ended with an error, which its output shows."""


@cell_command("run", argument("--language", required=True, metavar="NAME", help="python, javascript or typescript"))
async def run(context: CommandContext, arguments: Namespace, body: str) -> None:
    """Run the cell in another language; `%%sandbox --language NAME` is the same."""
    session = context.session
    if session.state is not State.ACTIVE:
        await session.start()
    outcome = await session.run_code(body, arguments.language)
    if outcome.stdout:
        context.write(f"{outcome.stdout}\n")
    if outcome.stderr:
        context.write(f"{outcome.stderr}\n", error=True)
    if outcome.failed:
        raise CodeFailedError(f"The {arguments.language} code ended with an error.")
