"""Runs `%sandbox` lines: the entry point by which the kernel process finds the commands."""

from __future__ import annotations

from sandbox_kernel.commands import CommandContext

# Imported for their commands: a new family is a file and its name here.
from . import durable, files, help, install, lifecycle, shell, status, variables, workspace  # noqa: A004, F401
from .registry import find_command, wants_help


async def run_line(line: str, context: CommandContext) -> None:
    """Run the text after `%sandbox`; without any, help. Raises CommandError, and what a command raises."""
    name, _, text = (line.strip() or "help").partition(" ")
    command = find_command(name)
    if wants_help(command, text):
        context.write(f"{command.help}\n")
        return
    await command.run(context, command.parse(text.strip()))
