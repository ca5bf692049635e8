"""`%sandbox tools` and `%sandbox context`: what of the tools outside the sandbox this notebook's cells may use."""

from __future__ import annotations

import json
from argparse import Namespace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from sandbox_kernel.commands import CommandContext
from sandbox_kernel.errors import CommandError
from sandbox_kernel.tools.serving import calls_of

from .registry import argument, command

if TYPE_CHECKING:
    from sandbox_kernel.tools.calls import ToolCalls

MAX_VARIABLES = 100


@command(
    "tools",
    argument("only", nargs="*", metavar="NAME", help="from now on cells may use these only, or those of a pattern"),
    argument("--all", action="store_true", help="let cells use all that the configuration allows"),
)
async def tools(context: CommandContext, arguments: Namespace) -> None:
    """Show the tools and agents outside the sandbox that cells may call, or narrow them for this session.

    What the configuration does not name cannot be added here.
    """
    calls = calls_of(context.session)
    await calls.registry.load_some()
    if arguments.only:
        if not all(any(fnmatchcase(name, pattern) for name in _names(calls)) for pattern in arguments.only):
            # They may be of a source that is not there yet.
            await calls.registry.load()
        calls.narrow(arguments.only, _names(calls))
    elif arguments.all:
        calls.available = None
    rows = [
        (one.kind, one.name, one.policy.value, one.description.partition("\n")[0][:80])
        for kind in ("tool", "agent")
        for one in calls.registry.all(kind)
        if calls.may_use(one.name)
    ]
    if not rows and not calls.registry.problems:
        context.write("No tools may be called by cells: the configuration names none (c.Tools.…, docs/tools.md).\n")
    widths = [*(max((len(row[column]) for row in rows), default=0) for column in range(3)), 0]
    for row in rows:
        line = "  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True))
        context.write(f"{line.rstrip()}\n")
    for problem in calls.registry.problems:
        context.write(f"{problem}\n", error=True)


def _names(calls: ToolCalls) -> list[str]:
    return [one.name for kind in ("tool", "agent") for one in calls.registry.all(kind)]


@command(
    "context",
    argument("settings", nargs="*", metavar="NAME=VALUE", help="a variable; a value that is JSON is read as such"),
    argument("--clear", action="store_true", help="forget the variables that were set here"),
)
async def context_variables(context: CommandContext, arguments: Namespace) -> None:
    """Set variables that the tools see with every call of this session, or show them.

    Those that the configuration sets (Tools.context) cannot be changed.
    """
    calls = calls_of(context.session)
    fixed = calls.registry.settings.context
    if arguments.clear:
        calls.variables.clear()
    for setting in arguments.settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.isidentifier():
            raise CommandError(f"{setting!r} is not of the form NAME=VALUE, as in: %sandbox context client_id=acme")
        if name in fixed:
            raise CommandError(f"The variable {name!r} is set by the configuration (Tools.context).")
        if len(calls.variables) >= MAX_VARIABLES:
            raise CommandError(f"There are {MAX_VARIABLES} variables; `%sandbox context --clear` forgets them.")
        calls.variables[name] = _value(text)
    for name, value in sorted({**calls.variables, **fixed}.items()):
        origin = "  (configuration)" if name in fixed else ""
        context.write(f"{name} = {json.dumps(value)}{origin}\n")


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
