"""What a session does for its sandbox beside cells: prolongs its time while one runs, pauses it when none does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from .errors import SandboxKernelError
from .lifecycle import State
from .providers.base import Provider, Sandbox

INTERVAL = 2.0
"""Seconds between two looks."""


class SessionCare:
    """Looks after one session's sandbox, again and again."""

    def __init__(
        self,
        provider: Provider,
        session: Callable[[], tuple[State, Sandbox | None]],
        idle_since: Callable[[], float],
        pause: Callable[[], Any],
        report: Callable[..., None],
    ) -> None:
        """``session`` tells its state and sandbox; ``idle_since`` 0 while a cell runs, else since when none does."""
        self._provider = provider
        self._session, self._idle_since = session, idle_since
        self._pause, self._report = pause, report

    async def run(self) -> None:
        """Look for ever."""
        idle = self._provider.idle_timeout
        interval = min(INTERVAL, idle / 4) if idle else INTERVAL
        while True:
            await asyncio.sleep(interval)
            try:
                await self._look()
            except SandboxKernelError as exc:
                self._report("care_failed", "warning", error=str(exc))

    async def _look(self) -> None:
        state, sandbox = self._session()
        if state is not State.ACTIVE or sandbox is None:
            return
        since, idle = self._idle_since(), self._provider.idle_timeout
        if not since:
            await sandbox.prolong()
        elif idle and time.time() - since >= idle:
            self._report("paused_when_idle", "info", seconds=round(time.time() - since))
            await self._pause()
