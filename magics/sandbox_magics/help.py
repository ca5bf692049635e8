"""`%sandbox help`: what the commands are and how each is called."""

from __future__ import annotations

from argparse import Namespace

from sandbox_kernel.commands import CommandContext

from .registry import all_cell_commands, all_commands, argument, command, find_command


@command("help", argument("name", nargs="?", metavar="NAME", help="a command"))
async def show_help(context: CommandContext, arguments: Namespace) -> None:
    """Show the commands, or how one is called."""
    if arguments.name:
        context.write(f"{_help_of(arguments.name)}\n")
        return
    commands = [(one.name, one.summary) for one in all_commands()]
    cells = [(one.name, one.summary) for one in all_cell_commands()]
    width = max(len(name) for name, _ in commands + cells)
    lines = ["%sandbox COMMAND …", *(f"  {name:{width}}  {summary}" for name, summary in commands)]
    if cells:
        lines += ["%%sandbox COMMAND … with text below it, in a cell of its own"]
        lines += [f"  {name:{width}}  {summary}" for name, summary in cells]
    context.write("\n".join([*lines, "`%sandbox help COMMAND` tells more of one.", ""]))


def _help_of(name: str) -> str:
    lines = {one.name for one in all_commands()}
    cell_command = next((one for one in all_cell_commands() if one.name == name and name not in lines), None)
    return cell_command.help if cell_command else find_command(name).help
