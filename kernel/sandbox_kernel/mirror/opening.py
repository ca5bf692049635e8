"""Makes the copy of a session's folder, as the configuration says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sandbox_kernel.operations import Operations
from sandbox_kernel.providers.base import Provider
from sandbox_kernel.providers.local.folders import try_lock
from sandbox_kernel.workspace.folder import NotebookFolder
from sandbox_kernel.workspace.settings import Workspace

from .copy import Copy
from .staged import Step


def make_copy(
    provider: Provider,
    directory: Path,
    notebook: str,
    operations: Operations,
    report: Callable[..., None],
    step: Step | None,
) -> Copy:
    """Return the copy, not yet begun. Raises ConfigurationError."""
    settings = Workspace(parent=provider)
    folder = NotebookFolder(
        settings, str(directory), notebook, try_lock, provider.session_name, keeps=provider.keeps_changes
    )
    if not provider.keeps_changes and folder.mode != "private":
        # Without a layer what cells write to the copy goes with the sandbox.
        folder.mode = "readonly"
    elif folder.mode == "readwrite":
        folder.mode, folder.reason = "overlay", "cells elsewhere cannot write to the folder itself"
    copy = Copy(folder, operations, report, provider.private_paths)
    if step is not None:
        copy.step = step
    return copy
