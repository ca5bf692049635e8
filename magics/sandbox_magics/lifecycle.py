"""`%sandbox start`, `stop`, `restart`, `pause` and `resume`."""

from __future__ import annotations

from argparse import Namespace

from sandbox_kernel.commands import CommandContext
from sandbox_kernel.errors import CommandError
from sandbox_kernel.lifecycle import State

from .registry import command

_GONE = (State.INACTIVE, State.ERROR, State.CLOSED)


@command("start")
async def start(context: CommandContext, arguments: Namespace) -> None:  # noqa: ARG001
    """Start a sandbox now, instead of with the next cell."""
    if context.session.state is State.ACTIVE:
        context.write(f"The sandbox {context.session.info.sandbox_id} is running already.\n")
        return
    await context.session.start()
    context.write(f"The sandbox {context.session.info.sandbox_id} is running.\n")


@command("stop")
async def stop(context: CommandContext, arguments: Namespace) -> None:  # noqa: ARG001
    """Give the sandbox back; its variables are gone, and the next cell starts a fresh one."""
    if context.session.state in _GONE:
        context.write("No sandbox is running.\n")
        return
    sandbox_id = context.session.info.sandbox_id
    await context.session.stop()
    context.write(f"The sandbox {sandbox_id} is stopped. The next cell starts a fresh one.\n")


@command("restart")
async def restart(context: CommandContext, arguments: Namespace) -> None:  # noqa: ARG001
    """Restart Python in the sandbox: variables are gone, files and installed packages stay."""
    await context.session.restart()
    context.write("Python was restarted in the sandbox; its variables are gone.\n")


@command("pause")
async def pause(context: CommandContext, arguments: Namespace) -> None:  # noqa: ARG001
    """Freeze the sandbox with all that runs in it; it keeps its variables and uses no processor time.

    The next cell resumes it, and so does `%sandbox resume`. While a cell runs: `jupyter sandbox pause` in a terminal.
    """
    if context.session.state in _GONE:
        raise CommandError("No sandbox is running that could be paused; `%sandbox start` starts one.")
    await context.session.pause()
    context.write(f"The sandbox {context.session.info.sandbox_id} is paused. The next cell resumes it.\n")


@command("resume")
async def resume(context: CommandContext, arguments: Namespace) -> None:  # noqa: ARG001
    """Let a paused sandbox go on where it was."""
    if context.session.state in _GONE:
        raise CommandError("No sandbox is paused; `%sandbox start` starts one.")
    await context.session.resume()
    context.write(f"The sandbox {context.session.info.sandbox_id} is running.\n")
