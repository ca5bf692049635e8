"""Sandboxes that show a notebook's folder, for tests that run code in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sandbox_kernel.providers.local.sandbox import LocalSandbox
from sandbox_kernel.workspace.changes import Change
from sandbox_kernel.workspace.settings import Workspace

from .local_stub import Inside, StubProvider, start


@asynccontextmanager
async def shown(
    kept: Path, mode: str = "overlay", *, told: str = "", **options: Any
) -> AsyncIterator[tuple[LocalSandbox, Inside]]:
    """Give a sandbox that shows the working directory, with its layers in ``kept``.

    The options are those of Workspace, but ``bubblewrap`` and ``limits``, which are the provider's. ``told`` is a
    notebook's file that somebody tells when the sandbox was already begun.
    """
    provider = StubProvider(bubblewrap=options.pop("bubblewrap", ""), **options.pop("limits", {}))
    provider.workspace = Workspace(mode=mode, **{"layers": str(kept), **options})
    if told:
        provider.prepare()
        provider.belongs_to(told)
    sandbox, inside = await start(provider)
    try:
        yield sandbox, inside
    finally:
        inside.close()
        await sandbox.close()
        provider.notebook.close()


async def read(sandbox: LocalSandbox) -> dict[str, Change]:
    """Return the changes by path."""
    assert sandbox.changes is not None
    return {change.path: change for change in await sandbox.changes.read()}


async def apply(sandbox: LocalSandbox, *paths: str) -> dict[str, str]:
    """Apply changes; return what was refused, and why."""
    changes = await read(sandbox)
    assert sandbox.changes is not None
    outcome = await sandbox.changes.apply([changes[path] for path in paths] if paths else list(changes.values()))
    return {change.path: why for change, why in outcome.refused}
