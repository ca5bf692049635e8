"""`%sandbox start`, `stop`, `restart`, `pause`, `resume` and `list`."""

from __future__ import annotations

import asyncio
import math
from argparse import Namespace

from sandbox_kernel.commands import CommandContext, require_approval
from sandbox_kernel.errors import CommandError, SandboxKernelError
from sandbox_kernel.lifecycle import State
from sandbox_kernel.providers.base import Resources
from sandbox_kernel.providers.local.limits import parse_size

from .registry import argument, command

_GONE = (State.INACTIVE, State.ERROR, State.CLOSED)


@command(
    "start",
    argument("--template", default="", metavar="NAME", help="what it is made of: a template, or a snapshot's id"),
    argument("--cpus", default="", metavar="N", help="processors, where the provider takes that from a notebook"),
    argument("--gpus", default="", metavar="N", help="GPUs, likewise"),
    argument("--memory", default="", metavar="SIZE", help="memory such as 8GB (units of 1024), likewise"),
)
async def start(context: CommandContext, arguments: Namespace) -> None:
    """Start a sandbox now, instead of with the next cell.

    What --cpus, --gpus and --memory ask for holds until `%sandbox stop` or the next `%sandbox start`, also for the
    fresh sandbox after one that was lost. What is not asked for is as the configuration says.
    """
    resources = _resources(arguments)
    if context.session.state in _GONE:
        if arguments.template:
            context.session.choose_template(arguments.template)
        # Without options, too: what an earlier start asked for counts no more.
        context.session.choose_resources(resources)
    elif arguments.template or resources != Resources():
        raise CommandError("A sandbox is there already; `%sandbox stop` ends it, then another can be made.")
    if context.session.state is State.ACTIVE:
        context.write(f"The sandbox {context.session.info.sandbox_id} is running already.\n")
        return
    await context.session.start()
    context.write(f"The sandbox {context.session.info.sandbox_id} is running.\n")


def _resources(arguments: Namespace) -> Resources:
    return Resources(
        _number("--cpus", arguments.cpus), _number("--gpus", arguments.gpus), _size("--memory", arguments.memory)
    )


def _number(option: str, text: str) -> float | None:
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise CommandError(f"`%sandbox start`: {option} takes a number such as 4 or 0.5, not {text!r}.")
    return number


def _size(option: str, text: str) -> int | None:
    try:
        return parse_size(text) if text else None
    except ValueError as exc:
        raise CommandError(f"`%sandbox start`: {option}: {exc}.") from exc


@command(
    "stop",
    argument("id", nargs="?", metavar="ID", help="another sandbox than this notebook's"),
    argument("--all", action="store_true", help="all sandboxes of this user's kernels"),
    argument("--orphans", action="store_true", help="those whose kernel has died; not detached ones"),
)
async def stop(context: CommandContext, arguments: Namespace) -> None:
    """Give the sandbox back; its variables are gone, and the next cell starts a fresh one."""
    if arguments.id or arguments.all or arguments.orphans:
        await _stop_others(context, arguments)
        return
    context.session.choose_resources(Resources())
    if context.session.state in _GONE:
        context.write("No sandbox is running.\n")
        return
    sandbox_id, goes_on = context.session.info.sandbox_id, context.session.is_foreign
    await context.session.stop()
    _write_stopped(context, sandbox_id, goes_on=goes_on)


def _write_stopped(context: CommandContext, sandbox_id: str, *, goes_on: bool) -> None:
    what = "is left, and goes on: others have made it" if goes_on else "is stopped"
    context.write(f"The sandbox {sandbox_id} {what}. The next cell starts a fresh one.\n")


async def _stop_others(context: CommandContext, arguments: Namespace) -> None:
    if [bool(arguments.id), arguments.all, arguments.orphans].count(True) != 1:
        raise CommandError("`%sandbox stop`: say either ID or --all or --orphans.")
    from sandbox_kernel.cli.sandboxes import TIMEOUT, choose, stop_records
    from sandbox_kernel.records import RecordFile

    session = context.session
    chosen = await asyncio.to_thread(choose, RecordFile(), arguments.id or "", orphans=arguments.orphans)
    if not chosen:
        context.write("There are no orphans.\n" if arguments.orphans else "There are no sandboxes.\n")
        return
    own = session.info.sandbox_id
    others = [record for record in chosen if record.sandbox_id != own]
    if others:
        names = ", ".join(f"{one.sandbox_id} ({one.notebook or one.directory or one.provider})" for one in others)
        await require_approval(context, "stop", f"Stop {names}?")
    for text, _ in await stop_records(others, session.config, TIMEOUT):
        context.write(f"{text}\n")
    if len(others) < len(chosen):
        session.choose_resources(Resources())
        goes_on = session.is_foreign
        await session.stop()
        _write_stopped(context, own, goes_on=goes_on)


@command("list")
async def show_list(context: CommandContext, arguments: Namespace) -> None:  # noqa: ARG001
    """Show the sandboxes of this user's kernels: state, age, how long idle, whose, and what they cost if known."""
    from sandbox_kernel.cli.sandboxes import list_text, look
    from sandbox_kernel.records import RecordFile

    records, silent = await look(RecordFile(), context.session.config)
    context.write("".join(f"{text}\n" for text in (*silent, list_text(records))))
    try:
        others = await context.session.others()
    except SandboxKernelError as exc:
        context.write(f"Whether others have made any cannot be said: {exc}\n")
        return
    known = {record.sandbox_id for record in records}
    shown = [f"  {one.sandbox_id}  {one.state}\n" for one in others if one.sandbox_id not in known]
    if shown:
        name = context.session.info.provider
        context.write(f"Made by others, at the provider {name} (`%sandbox attach ID` uses one):\n{''.join(shown)}")


@command("restart")
async def restart(context: CommandContext, arguments: Namespace) -> None:  # noqa: ARG001
    """Restart Python in the sandbox: variables are gone, files and installed packages stay."""
    session = context.session
    if session.is_foreign:
        question = f"Others have made {session.info.sandbox_id}: restart it, so that their variables are gone, too?"
        await require_approval(context, "restart", question)
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
