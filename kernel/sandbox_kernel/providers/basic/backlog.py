"""Lets who sends over a link wait while its reader is slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sandbox_kernel.link.protocol import Link

MAX_BACKLOG = 1024 * 1024
"""Bytes beyond the link's window that wait for its reader before more is fetched."""


class Backlog:
    """Of the link in use: nothing pushes back where both its ends are in this process."""

    def __init__(self, link: Callable[[], Link]) -> None:
        """``link`` gives the one in use; another one may take its place."""
        self._link = link
        self._less = asyncio.Event()

    def changed(self) -> None:
        """Look again: something has left, or another link is in use."""
        self._less.set()

    async def room(self) -> None:
        """Wait until little is left that has not been sent."""
        while self._link().bulk_backlog > MAX_BACKLOG:
            self._less.clear()
            await self._less.wait()
