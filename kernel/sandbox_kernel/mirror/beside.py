"""What is kept beside the layers: which sandbox one follows, and what its changes were made of."""

from __future__ import annotations

import os
import time
from contextlib import suppress

from sandbox_kernel.workspace.folder import NotebookFolder
from sandbox_kernel.workspace.layers import Layer

_DAY = 86400.0


def chosen(notebook: NotebookFolder, layer: Layer, name: str, *, fresh: bool) -> Layer:
    """Return the layer for a sandbox: of one that is there already, that with its changes and not another one's."""
    if not fresh and layer.mark() != name:
        others = [one for one in notebook.store.all() if one.mark() == name]
        other = next((one for one in others if notebook.store.take(one)), None)
        if other is None and not layer.is_empty():
            other = notebook.store.make(notebook.owner)
        if other is not None:
            layer.close()
            layer = other
    layer.set_mark(name)
    return layer


def base_file(layer: Layer) -> str:
    """Return where it is kept what the changes in a layer were made of."""
    return os.path.join(layer.path, "base.json")


def odd_file(layer: Layer) -> str:
    """Return where it is kept what no layer could keep."""
    return os.path.join(layer.path, "not-kept.json")


def clean(folder: str, days: float) -> None:
    """Remove what is remembered of copies that nobody has asked about for some days."""
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.stat().st_mtime < time.time() - days * _DAY:
                    os.unlink(entry.path)
