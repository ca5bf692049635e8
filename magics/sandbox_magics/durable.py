"""`%sandbox attach`, `detach` and `replay`: sandboxes that outlive their kernel process."""

from __future__ import annotations

from argparse import Namespace

from sandbox_kernel.commands import CommandContext
from sandbox_kernel.errors import CommandError, SandboxKernelError
from sandbox_kernel.lifecycle import State

from .registry import argument, command


@command(
    "attach",
    argument("id", nargs="?", metavar="ID", help="the sandbox, or the beginning of its id"),
    argument("--force", action="store_true", help="take it away from the kernel process that uses it"),
)
async def attach(context: CommandContext, arguments: Namespace) -> None:
    """Go on with a sandbox that was detached, or whose kernel has died: show what was missed, and what still runs.

    Without ID it is this notebook's own, or the only one that there is.
    """
    session = context.session
    await session.settle()
    sandbox_id = await _find(context, arguments.id)
    if session.state is State.ACTIVE and session.info.sandbox_id == sandbox_id:
        context.write(f"The sandbox {sandbox_id} is attached already.\n")
    else:
        await session.attach(sandbox_id, force=arguments.force)
        context.write(f"The sandbox {sandbox_id} is attached: variables, files and packages are as they were left.\n")
    await context.show_past(None)


async def _find(context: CommandContext, beginning: str | None) -> str:
    session = context.session
    attachable = await session.attachable()
    found = [record.sandbox_id for record in attachable]
    if beginning:
        matching = [one for one in found if one.startswith(beginning)]
        if len(matching) > 1 and beginning not in matching:
            raise CommandError(f"{beginning!r} is the beginning of several ids: {', '.join(matching)}.")
        if matching:
            return beginning if beginning in matching else matching[0]
        # One that is not recorded here may exist all the same: the provider knows.
        return await _find_other(context, beginning)
    if session.attached is not None and session.state is State.ACTIVE:
        return session.info.sandbox_id
    if not found:
        raise CommandError("There is no sandbox to attach to; `%sandbox list` shows all.")
    own = [record.sandbox_id for record in attachable if record.notebook == session.notebook != ""]
    if own:
        return own[-1]
    if len(found) > 1:
        raise CommandError(f"Which one? There are: {', '.join(found)}.")
    return found[0]


async def _find_other(context: CommandContext, beginning: str) -> str:
    """Return the id of one that others have made, as the provider lists them; some providers list none."""
    try:
        others = [one.sandbox_id for one in await context.session.others()]
    except SandboxKernelError:
        return beginning
    matching = [one for one in others if one.startswith(beginning)]
    if len(matching) > 1 and beginning not in matching:
        raise CommandError(f"{beginning!r} is the beginning of several ids: {', '.join(matching)}.")
    return matching[0] if len(matching) == 1 else beginning


@command("detach")
async def detach(context: CommandContext, arguments: Namespace) -> None:  # noqa: ARG001
    """Leave the sandbox running, with its variables; the next cell here starts another.

    It is not stopped by anything but `%sandbox stop ID`, or by its provider's own time-outs. While a cell runs:
    `jupyter sandbox detach` in a terminal.
    """
    sandbox_id = await context.session.detach()
    context.write(f"The sandbox {sandbox_id} goes on. `%sandbox attach {sandbox_id}` comes back to it.\n")


@command("replay", argument("count", nargs="?", type=int, default=0, metavar="N", help="the cell's number"))
async def replay(context: CommandContext, arguments: Namespace) -> None:
    """Show again what the cell N, or the last one, sent, as far as the sandbox's journal has it."""
    if arguments.count < 0:
        raise CommandError("`%sandbox replay`: a cell's number is 1 or more.")
    await context.show_past(arguments.count)
