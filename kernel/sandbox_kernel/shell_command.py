"""A command that runs in the sandbox, as `SandboxSession.shell` returns it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable


class ShellCommand:
    """Iterate over it for its output (bytes, errors included, as it comes); then `exit_code` is set."""

    def __init__(self, kill: Callable[[], None]) -> None:
        self._kill = kill
        self._killed = False
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.exit_code: int | None = None
        """Exit status, negative for a signal; None while it runs, and when the sandbox ended first."""

    def feed(self, data: bytes) -> None:
        """Take output."""
        if not self._killed:
            self._chunks.put_nowait(data)

    def finish(self, exit_code: int | None) -> None:
        """Take the exit status; None where the sandbox ended first."""
        self.exit_code = exit_code
        self._chunks.put_nowait(None)

    def kill(self) -> None:
        """End the command and what it started. What it still writes is dropped: nobody may be listening."""
        self._killed = True
        self._kill()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while (chunk := await self._chunks.get()) is not None:
                yield chunk
        except asyncio.CancelledError:
            self.kill()
            raise
