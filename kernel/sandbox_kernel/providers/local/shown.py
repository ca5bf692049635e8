"""The notebook's folder as one running sandbox sees it: what has newly to be hidden, and what cells changed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import TypeVar

from sandbox_kernel.errors import SandboxLostError
from sandbox_kernel.providers.local.view import View, make_whiteouts
from sandbox_kernel.workspace.applying import Outcome, apply_changes, discard_changes
from sandbox_kernel.workspace.bases import Bases
from sandbox_kernel.workspace.changes import Change, ChangeReader
from sandbox_kernel.workspace.folder import NotebookFolder, shown
from sandbox_kernel.workspace.layers import Layer
from sandbox_kernel.workspace.secrets import Secrets

_NAMED = 3
T = TypeVar("T")


class ShownFolder:
    """Belongs to one sandbox. ``inside`` is the folder's path there."""

    def __init__(self, notebook: NotebookFolder, view: View | None, inside: str) -> None:
        self.notebook = notebook
        self._view = view
        self._inside = inside
        self._pid = 0
        self._freezer: AbstractAsyncContextManager[object] = nullcontext()

    @property
    def written(self) -> str:
        """The folder on the host that cells write to; "" if it is the sandbox's private one."""
        return self._view.upper if self._view else ""

    def observe(self, pid: int, freezer: AbstractAsyncContextManager[object]) -> None:
        """Note the number of the sandbox's first process, and what stops the sandbox while it is entered."""
        self._pid, self._freezer = pid, freezer

    # ---- what appears on the host

    def before_cell(self) -> str:
        """Hide what has newly to be hidden; return a line about it, or "". Raises SandboxLostError if it cannot be."""
        new = self.notebook.new_secrets()
        if self.notebook.layer is not None:
            self.notebook.layer.keep_young()
        if not new:
            return ""
        left = self._hide(new)
        if left:
            raise SandboxLostError(
                f"{_names(left)} appeared in the notebook's folder and must be hidden from cells, so the sandbox was "
                "stopped. Its variables are gone; run the cell again for a fresh one."
            )
        return f"{_names(new)} appeared in the notebook's folder; cells do not see it (Workspace.hidden).\n"

    def _hide(self, new: list[str]) -> list[str]:
        """Add to the layer of whiteouts, which works for what was not looked at yet; return what is still seen."""
        view = self._view
        assert view is not None
        if not view.whiteouts:
            return new
        # In root mode these folders belong to the sandbox's user.
        user = os.stat(view.whiteouts).st_uid if os.geteuid() == 0 else None
        try:
            make_whiteouts(view.whiteouts, self.notebook.folder, new, user)
        except OSError:
            return new
        return [path for path in new if self._is_seen(path) and not os.path.lexists(f"{view.upper}/{path}")]

    def _is_seen(self, path: str) -> bool:
        return os.path.lexists(f"/proc/{self._pid}/root{self._inside}/{path}")

    # ---- what cells changed (providers.base.WorkspaceChanges)

    @property
    def keeps_changes(self) -> bool:
        """Whether there is a layer."""
        return self.notebook.layer is not None and self.notebook.secrets is not None

    @property
    def folder(self) -> str:
        """The notebook's folder on the host."""
        return self.notebook.folder

    async def read(self) -> list[Change]:
        layer, secrets = self._parts()
        largest = int(self.notebook.settings.largest_file)
        return await self._quietly(lambda: ChangeReader(layer, secrets, largest, Bases(layer)).read())

    async def apply(self, changes: list[Change]) -> Outcome:
        layer, secrets = self._parts()
        return await self._quietly(lambda: apply_changes(layer, secrets, changes))

    async def discard(self, changes: list[Change]) -> Outcome:
        layer, secrets = self._parts()

        def work() -> Outcome:
            view = os.open(f"/proc/{self._pid}/root{self._inside}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return discard_changes(layer, secrets, view, changes)
            finally:
                os.close(view)

        return await self._quietly(work)

    async def texts(self, change: Change) -> tuple[bytes, bytes]:
        from sandbox_kernel.workspace.texts import read_both

        layer, secrets = self._parts()
        return await self._quietly(lambda: read_both(layer, secrets, change))

    def _parts(self) -> tuple[Layer, Secrets]:
        assert self.notebook.layer is not None
        assert self.notebook.secrets is not None
        return self.notebook.layer, self.notebook.secrets

    async def _quietly(self, work: Callable[[], T]) -> T:
        """Do blocking work in a thread while the sandbox stands still; it is not left before the work is done."""
        async with self._freezer:
            task = asyncio.ensure_future(asyncio.to_thread(work))
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                with suppress(Exception):
                    await task
                raise


def _names(paths: list[str]) -> str:
    names = ", ".join(shown(path) for path in paths[:_NAMED])
    return names if len(paths) <= _NAMED else f"{names} and {len(paths) - _NAMED} more"
