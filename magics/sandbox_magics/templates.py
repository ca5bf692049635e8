"""`%sandbox templates` and `fork`: what sandboxes are made of, and a copy made of this one."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from sandbox_kernel.commands import CommandContext
from sandbox_kernel.providers.base import Template

from .registry import argument, command


@command(
    "templates",
    argument("name", nargs="?", default="", metavar="NAME", help="only those with this in their name or id"),
    argument("--tag", action="append", default=[], metavar="TAG", help="only those with this tag; may be repeated"),
)
async def templates(context: CommandContext, arguments: Namespace) -> None:
    """Show what sandboxes can be made of, for `%sandbox start --template NAME`; also the agents among them."""
    found = await context.session.templates(arguments.tag, arguments.name)
    context.write(_table(found) if found else "There are no such templates.\n")


def _table(found: Sequence[Template]) -> str:
    rows = [("NAME", "ID", "TAGS", "SIZE", "WHAT")]
    rows += [(one.name, one.template_id, ", ".join(one.tags), _size(one), _what(one)) for one in found]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "".join(f"{_printable(line)}\n" for line in lines)


def _size(template: Template) -> str:
    return f"{template.cpus:g} CPUs, {template.memory} MiB" if template.memory else ""


def _what(template: Template) -> str:
    agent = "agent: " if template.entrypoint else ""
    return f"{agent}{template.description}"


def _printable(text: str) -> str:
    """Return a service's words without what a terminal would take for commands."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


@command("fork")
async def fork(context: CommandContext, arguments: Namespace) -> None:  # noqa: ARG001
    """Make a copy of the running sandbox, which goes on beside it and is paid for by itself.

    Whether it has the variables, too, or the files alone, depends on the service.
    """
    copy = await context.session.fork()
    context.write(
        f"The copy {copy} runs. In another notebook `%sandbox attach {copy}` goes on with it; "
        f"when its time is over it is paused or ended, as the configuration says.\n"
    )
