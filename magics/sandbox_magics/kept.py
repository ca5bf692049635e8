"""`%sandbox kept`: changes of an earlier sandbox, or of a notebook that had another name, that are not shown."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace

from sandbox_kernel.commands import CommandContext, require_approval
from sandbox_kernel.durations import age
from sandbox_kernel.errors import CommandError
from sandbox_kernel.workspace.folder import shown
from sandbox_kernel.workspace.layers import Layer
from sandbox_kernel.workspace.owners import describe_owner

from .registry import argument, command


@command("kept", argument("name", nargs="?", metavar="NAME", help="of the changes to go on with, or its beginning"))
async def kept(context: CommandContext, arguments: Namespace) -> None:
    """Show changes of this folder's notebooks that are kept and that no kernel uses; with NAME, go on with them.

    They are those of other notebooks in the folder, and of folders that are not there any more, perhaps because they
    were renamed. To go on with some takes a fresh sandbox; what this one changed is kept in its turn.
    """
    folder = context.session.notebook_folder()
    if folder is None or folder.mode != "overlay":
        raise CommandError("This notebook's sandboxes keep no changes; see `%sandbox status`.")
    layers = await asyncio.to_thread(folder.kept)
    if not arguments.name:
        context.write("".join(map(_line, layers)) or "No other changes are kept here.\n")
        return
    layer = _find(layers, arguments.name)
    question = f"Go on with the changes of {shown(describe_owner(layer.owner))} in a fresh sandbox?"
    await require_approval(context, "kept", question)
    if not await context.session.take_over_changes(folder, layer):
        raise CommandError(f"{layer.name} is used by another kernel now.")
    context.write("The next cell starts a sandbox with these changes; `%sandbox diff` shows them.\n")


def _line(layer: Layer) -> str:
    return f"{layer.name}  used {age(time.time() - layer.used)} ago  {shown(describe_owner(layer.owner))}\n"


def _find(layers: list[Layer], name: str) -> Layer:
    found = [layer for layer in layers if layer.name.startswith(name)]
    if len(found) != 1:
        what = "Nothing kept here is" if not found else "Several are"
        raise CommandError(f"{what} called {name!r}; `%sandbox kept` shows all.")
    return found[0]
