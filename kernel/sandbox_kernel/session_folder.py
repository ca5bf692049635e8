"""A session's part in the copy of the notebook's folder, where its sandboxes do not share this machine's disk."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import SandboxKernelError, SandboxLostError
from .operations import Operations
from .providers.base import Provider, Sandbox, WorkspaceChanges

if TYPE_CHECKING:
    from .mirror.copy import Copy
    from .mirror.staged import Step
    from .mirror.transfers import Sent

LEAVING = 3.5
"""Seconds for fetching changes when a kernel is shut down: a front end waits no longer than five."""
LOOK = 0.2
"""Seconds between two looks whether the connection is lost."""
STOPPING = 600.0
"""Seconds for the same where a person waits for it."""


class SessionFolder:
    """Does nothing where sandboxes share the disk, or where ``wanted`` says so."""

    def __init__(
        self,
        provider: Provider,
        directory: Path,
        operations: Operations,
        report: Callable[..., None],
        lost_for: Callable[[], float | None],
    ) -> None:
        """``lost_for`` says for how many seconds the connection has been lost, or None."""
        self._provider, self._directory, self._lost_for = provider, directory, lost_for
        self._operations, self._report = operations, report
        self._copy: Copy | None = None
        self._watching: asyncio.Task[None] | None = None
        self.wanted = True
        """False where whoever looks in only wants no copy."""
        self.step: Step | None = None
        """Shows people how far a copy has come."""

    @property
    def enabled(self) -> bool:
        """Whether there are copies; known for sure when there is a sandbox, which may run in another mode."""
        return self.wanted and self._provider.capabilities.distant and sys.platform == "linux"

    # ---- a sandbox begins

    def prepare(self, notebook: str) -> None:
        """Make ready for a sandbox. Raises ConfigurationError."""
        if self.enabled and self._copy is None:
            # Imported here: the local provider's sandboxes share the disk.
            from .mirror.opening import make_copy

            self._copy = make_copy(self._provider, self._directory, notebook, self._operations, self._report, self.step)

    async def begin(self, sandbox: Sandbox, *, fresh: bool, is_idle: Callable[[], bool]) -> str:
        """Copy the folder to a sandbox that has just started; return what people have to know, as lines.

        Raises SandboxLostError.
        """
        copy = self._copy
        if copy is None:
            return ""
        try:
            news = await copy.begin(sandbox.provider_name, sandbox.sandbox_id, fresh=fresh)
        except SandboxLostError:
            raise
        except (SandboxKernelError, OSError) as exc:
            self._report("not_copied", "error", error=str(exc))
            return f"The notebook's folder could not be copied to the sandbox, which may have a part of it: {exc}\n"
        self._watching = asyncio.ensure_future(copy.watch(is_idle))
        return copy.notebook.take_greeting() + news

    def do_without(self) -> None:
        """Take note that the sandbox can have no copy after all."""
        if self._copy is not None:
            self._copy.notebook.close()
            self._copy = None

    # ---- while it runs

    @property
    def changes(self) -> WorkspaceChanges | None:
        """What cells changed in the copy; None where nothing is kept of it."""
        if self._copy is None or not self._copy.is_open or self._copy.notebook.layer is None:
            return None
        from .mirror.changes import CopyChanges

        return CopyChanges(self._copy)

    def before_cell(self) -> str:
        """Send what has changed on this machine ahead of a cell; return what to say of it."""
        return self._copy.before_cell() if self._copy is not None else ""

    async def synchronise(self) -> Sent | None:
        """Send all that has changed on this machine and that no cell changed; None where there is no copy."""
        return await self._copy.synchronise() if self._copy is not None and self._copy.is_open else None

    def belongs_to(self, notebook: str, *, fresh: bool) -> bool:
        """Take note of the notebook's file; return whether only a new sandbox can show what was kept of it."""
        return self._copy is not None and self._copy.belongs_to(notebook, fresh=fresh)

    def describe(self) -> dict[str, str]:
        """Return rows for the status table."""
        if self._provider.capabilities.distant and sys.platform != "linux":
            return {"workspace": "private: an empty folder; copies of the notebook's are made on Linux only"}
        return self._copy.describe() if self._copy is not None else {}

    # ---- it ends

    async def keep(self, timeout: float) -> bool:
        """Fetch what cells changed before the sandbox is given up; return whether nothing is lost with it."""
        if self._copy is None:
            return True
        keeping = asyncio.ensure_future(self._copy.keep())
        deadline = time.monotonic() + timeout
        try:
            while not keeping.done() and time.monotonic() < deadline and (self._lost_for() or 0.0) < LEAVING:
                await asyncio.wait([keeping], timeout=LOOK)
            if keeping.done():
                return keeping.result()
        finally:
            keeping.cancel()
        self._report("not_kept", "warning", error="it took too long, or the connection is lost")
        return False

    def close(self) -> None:
        """Let go of what is kept on this machine."""
        if self._copy is not None:
            self._copy.notebook.close()

    def lost(self) -> str:
        """Return what became of changes when the sandbox ended by itself, as a sentence behind others."""
        return self._copy.lost() if self._copy is not None else ""

    def leave(self, *, gone: bool) -> None:
        """Take note that the sandbox is not this session's any more; ``gone``: nor anybody else's."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        if self._copy is not None and gone:
            self._copy.discard_file()
        elif self._copy is not None:
            self._copy.forget()
