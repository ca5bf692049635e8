"""Runs `%sandbox` lines: the entry point by which the kernel process finds the commands."""

from __future__ import annotations

from sandbox_kernel.commands import CommandContext

# Imported for their commands: a new family is a file and its name here.
from . import (  # noqa: F401
    agents,
    cluster,
    durable,
    files,
    generate,
    generated,
    help,  # noqa: A004
    install,
    kept,
    languages,
    lifecycle,
    mapping,
    replicas,
    shell,
    snapshots,
    status,
    templates,
    tool_calls,
    variables,
    workshop,
    workspace,
)
from .registry import find_cell_command, find_command, split, wants_help


async def run_line(line: str, context: CommandContext, body: str | None = None) -> None:
    """Run the text after `%sandbox`; without any, help. Raises CommandError, and what a command raises.

    With a ``body`` it is the text after `%%sandbox`, and the body is what stands below it in the cell.
    """
    if body is not None:
        await _run_cell(line, context, body)
        return
    name, _, text = (line.strip() or "help").partition(" ")
    command = find_command(name)
    if wants_help(command, text):
        context.write(f"{command.help}\n")
        return
    await command.run(context, command.parse(text.strip()))


async def _run_cell(line: str, context: CommandContext, body: str) -> None:
    name, _, text = line.strip().partition(" ")
    command = find_cell_command(name)
    if wants_help(command, text):
        context.write(f"{command.help}\n")
        return
    await command.run(context, command.parser.parse_args(split(text)), body)
