"""The `%sandbox` commands, and `%%sandbox` for notebooks of an ordinary kernel: ``%load_ext sandbox_magics``.

The kernel process loads the commands on first use: entry point `sandbox_kernel.commands`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def load_ipython_extension(shell: Any) -> None:
    """Add `%sandbox` and `%%sandbox` to an IPython shell."""
    from .extension import load

    load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Remove them, and end the notebook's sandboxes."""
    from .extension import unload

    unload(shell)
