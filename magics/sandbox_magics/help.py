"""`%sandbox help`: what the commands are and how each is called."""

from __future__ import annotations

from argparse import Namespace

from sandbox_kernel.commands import CommandContext

from .registry import all_commands, argument, command, find_command


@command("help", argument("name", nargs="?", metavar="NAME", help="a command"))
async def show_help(context: CommandContext, arguments: Namespace) -> None:
    """Show the commands, or how one is called."""
    if arguments.name:
        context.write(f"{find_command(arguments.name).help}\n")
        return
    commands = all_commands()
    width = max(len(one.name) for one in commands)
    lines = [f"  {one.name:{width}}  {one.summary}" for one in commands]
    context.write("\n".join(["%sandbox COMMAND …", *lines, "`%sandbox help COMMAND` tells more of one.", ""]))
