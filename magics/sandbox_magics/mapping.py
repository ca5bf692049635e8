"""`%%sandbox map NAME over INPUTS`: the function that a cell defines, called with many inputs in many sandboxes."""

from __future__ import annotations

import asyncio
import keyword
from argparse import Namespace
from collections.abc import Coroutine, Iterable, Sized
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from sandbox_kernel.commands import CommandContext
from sandbox_kernel.errors import CellError, CommandError

from .counting import Counting
from .inside_variables import SandboxVariables
from .notebook import NotebookContext
from .registry import argument, cell_command
from .replicas import require_allowed

if TYPE_CHECKING:
    # Loaded with the first cell that needs it.
    from sandbox_kernel.library import Failure, FanOut, Outcome

SHOWN = 5
"""Failures that are shown."""


@cell_command(
    "map",
    argument("name", metavar="NAME", help="the function of one argument that the cell below defines"),
    argument("over", choices=("over",), metavar="over", help="this word"),
    argument("inputs", metavar="INPUTS", help="the variable that holds the inputs"),
    argument("--sandboxes", type=int, default=8, metavar="N", help="how many sandboxes do it (8)"),
    argument("--to", default="", metavar="RESULTS", help="the variable for the results (NAME_results)"),
    argument("--idempotent", action="store_true", help="an input whose sandbox was lost may run again"),
    argument("--stop-on-failure", action="store_true", help="end with the first failure"),
)
async def map_cell(context: CommandContext, arguments: Namespace, body: str) -> None:
    """Call the function below with each of the inputs, in N sandboxes at once.

    The cell's code runs in each sandbox first, with its imports and whatever else the function needs. The results are
    in a variable, in the order of the inputs; an input that failed has its failure there. The sandboxes end with the
    cell. An interrupt or an error ends it; the results so far are kept.
    """
    name, to = arguments.name, arguments.to or f"{arguments.name}_results"
    for one in (name, arguments.inputs, to):
        _require_name(one)
    require_allowed(context, arguments.sandboxes, "--sandboxes")
    variables = NotebookVariables(context) if isinstance(context, NotebookContext) else SandboxVariables(context)
    inputs = await variables.get(arguments.inputs)
    from sandbox_kernel.library.fan_out.mapping import map_source

    settings = {
        "sandboxes": arguments.sandboxes,
        "idempotent": arguments.idempotent,
        "stop_on_failure": arguments.stop_on_failure,
        "config": context.session.config,
        "directory": context.session.directory,
        "private_paths": context.session.private_paths,
    }
    found: dict[int, Any] = {}
    counting = Counting(context, name, len(inputs) if isinstance(inputs, Sized) else None)
    mapping = map_source(name, body, inputs, on_progress=lambda one: _count(counting, one), **settings)
    try:
        with counting:
            await _collect(mapping, found)
    except (asyncio.CancelledError, Exception) as exc:
        _note(found, mapping.rest())
        if not found and not isinstance(exc, (asyncio.CancelledError, CellError)):
            # Nothing was done, so what the variable has is not replaced by nothing.
            raise
        await _to_the_end(context, variables.put(to, {index: found[index] for index in sorted(found)}))
        context.write(f"Ended early: {mapping.summary}. The results so far are in {to}, by input.\n", error=True)
        raise
    interrupted = await _to_the_end(context, variables.put(to, [found[index] for index in range(len(found))]))
    _tell(context, mapping, [one for one in found.values() if _is_failure(one)], to)
    if interrupted:
        raise asyncio.CancelledError


def _require_name(name: str) -> None:
    if not name.isidentifier() or keyword.iskeyword(name):
        raise CommandError(f"{name!r} is no name: write %%sandbox map FUNCTION over VARIABLE.")
    if name.startswith("__"):
        raise CommandError(f"{name} is a name of Python's own; choose another one.")


async def _collect(mapping: FanOut, found: dict[int, Any]) -> None:
    async with aclosing(aiter(mapping)) as outcomes:
        async for one in outcomes:
            _note(found, [one])


def _note(found: dict[int, Any], outcomes: Iterable[Outcome]) -> None:
    found.update((one.index, one.value if one.failure is None else one.failure) for one in outcomes)


async def _to_the_end(context: CommandContext, storing: Coroutine[Any, Any, None]) -> bool:
    """Store results; return whether this was interrupted meanwhile. A second interrupt gives them up."""
    task = asyncio.ensure_future(storing)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        if task.cancelled():
            raise
        context.write("The results are being stored; another interrupt gives them up.\n", error=True)
        await task
        return True
    return False


class NotebookVariables:
    """The variables of a notebook of an ordinary kernel, for commands that work with them."""

    def __init__(self, notebook: NotebookContext) -> None:
        self._notebook = notebook

    async def get(self, name: str) -> Any:
        """Return a variable's value. Raises CommandError where there is none."""
        if name not in self._notebook.namespace:
            raise CommandError(f"There is no variable {name} in this notebook.")
        return self._notebook.namespace[name]

    async def put(self, name: str, value: Any) -> None:
        """Give a variable a value."""
        self._notebook.namespace[name] = value


def _count(counting: Counting, mapping: FanOut) -> None:
    counting.set(mapping.done, f"{mapping.failed:,} failed" if mapping.failed else "")


def _is_failure(value: object) -> bool:
    from sandbox_kernel.library import Failure

    return isinstance(value, Failure)


def _tell(context: CommandContext, mapping: FanOut, failures: list[Failure], to: str) -> None:
    summary = mapping.summary
    context.write(f"{summary[:1].upper()}{summary[1:]}. The results are in {to}.\n")
    for failure in failures[:SHOWN]:
        context.write(failure.traceback or f"{failure}\n", error=True)
    if len(failures) > SHOWN:
        context.write(f"… and {len(failures) - SHOWN} more failures, in {to}.\n", error=True)
