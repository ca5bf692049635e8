"""`jupyter sandbox clean`: the changes of notebooks that nobody applied, and removing them."""
# ruff: noqa: T201 - a program prints

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from sandbox_kernel.durations import age
from sandbox_kernel.errors import CommandError
from sandbox_kernel.providers.local.folders import try_lock
from sandbox_kernel.workspace.folder import shown
from sandbox_kernel.workspace.layers import Layer, LayerStore, size_of
from sandbox_kernel.workspace.owners import describe_owner
from sandbox_kernel.workspace.settings import Workspace

from .settings import kernel_configuration


def add_commands(families: Any) -> None:
    """Add the subcommand to the program's parser."""
    text = "show the changes that notebooks keep, and remove those that are too old or too large, or that are named"
    cleaner = families.add_parser("clean", help=text, description=text)
    cleaner.add_argument(
        "names", metavar="NAME", nargs="*", help="of the changes to remove, or its beginning, or a notebook or folder"
    )
    cleaner.add_argument("--all", action="store_true", help="remove all that no kernel uses")
    cleaner.set_defaults(run=clean)


def clean(arguments: Namespace) -> int:
    """Remove what need not be kept, or what is named; print what is left."""
    if arguments.names and arguments.all:
        raise CommandError("jupyter sandbox clean: say either NAME or --all")
    settings = Workspace(config=kernel_configuration([]))
    store = LayerStore(settings.layers, try_lock)
    removed = store.clean(settings.keep_days, settings.keep_size)
    chosen = list(store.all()) if arguments.all else [one for name in arguments.names for one in _find(store, name)]
    used = [layer for layer in chosen if not store.remove(layer)]
    for layer in [*removed, *(layer for layer in chosen if layer not in used)]:
        print(f"removed {layer.name} ({_owner(layer)})")
    if arguments.all or not used:
        _print_left(store)
    used = [layer for layer in used if not layer.is_empty()]
    if used:
        names = ", ".join(f"{layer.name} ({_owner(layer)})" for layer in used)
        raise CommandError(f"Used by a kernel: {names}; stop that, or use `%sandbox discard` in the notebook.")
    return 0


def _find(store: LayerStore, name: str) -> list[Layer]:
    """Return those of a notebook or folder, as they are shown, or the one whose name begins so. Raises CommandError."""
    path = str(Path(name).absolute())
    found = [layer for layer in store.all() if path == (layer.owner.notebook or layer.owner.folder)]
    if found:
        return found
    found = [layer for layer in store.all() if layer.name.startswith(name)]
    if len(found) != 1:
        what = "Nothing kept is" if not found else "Several are"
        raise CommandError(f"{what} called {name!r}; `jupyter sandbox clean` shows all.")
    return found


def _print_left(store: LayerStore) -> None:
    left = [layer for layer in store.all() if not layer.is_empty()]
    if not left:
        print("No notebook has changes that were not applied.")
    for layer in sorted(left, key=lambda layer: layer.used):
        size = f"{size_of(layer.upper) / 1024**2:.1f} MiB"
        print(f"{layer.name}  {size:>12}  used {age(time.time() - layer.used)} ago  {_owner(layer)}")


def _owner(layer: Layer) -> str:
    return shown(describe_owner(layer.owner))
