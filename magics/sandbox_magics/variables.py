"""`%sandbox push` and `pull`: variables between the notebook of an ordinary kernel and its sandbox."""

from __future__ import annotations

from argparse import Namespace

from sandbox_kernel.commands import CommandContext
from sandbox_kernel.errors import CommandError

from .notebook import NotebookContext
from .registry import argument, command


@command("push", argument("names", nargs="+", metavar="NAME", help="a variable of this notebook"))
async def push(context: CommandContext, arguments: Namespace) -> None:
    """Copy variables of this notebook into the sandbox, under the same names.

    Data frames travel as Arrow, arrays as npy, the rest as JSON; what cannot travel says why. For notebooks of an
    ordinary kernel.
    """
    notebook = _notebook(context, "push")
    missing = [name for name in arguments.names if name not in notebook.namespace]
    if missing:
        raise CommandError(f"There is no variable {', '.join(missing)} in this notebook.")
    await notebook.sandbox.push(**{name: notebook.namespace[name] for name in arguments.names})


@command("pull", argument("names", nargs="+", metavar="NAME", help="a variable in the sandbox"))
async def pull(context: CommandContext, arguments: Namespace) -> None:
    """Copy variables of the sandbox into this notebook, under the same names.

    Nothing that comes out of a sandbox is unpickled. For notebooks of an ordinary kernel.
    """
    notebook = _notebook(context, "pull")
    # All or none: what arrived is not mixed with what was there before.
    notebook.namespace.update({name: await notebook.sandbox.pull(name) for name in arguments.names})


def _notebook(context: CommandContext, name: str) -> NotebookContext:
    if isinstance(context, NotebookContext):
        return context
    raise CommandError(
        f"`%sandbox {name}` is for notebooks of an ordinary kernel. The cells of this one run in the sandbox already, "
        "and so its variables are there."
    )
