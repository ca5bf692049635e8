"""Keeps the record file true about one session's sandbox, in a thread, without ever disturbing the session."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .events import EventLog
    from .providers.base import Sandbox
    from .records import RecordFile


class Recorder:
    """Writes down that a sandbox was made, its states, and that it is gone; in the order in which it is told."""

    def __init__(self, log: EventLog, connection_file: Path | None = None, directory: Path | None = None) -> None:
        self._log = log
        self._connection_file = connection_file
        self._directory = directory
        self._turn = asyncio.Lock()
        self._records: RecordFile | None = None

    async def made(self, sandbox: Sandbox, *, correlation_id: str, outlives_kernel: bool) -> None:
        """Note a new sandbox."""

        def write() -> None:
            from .processes import start_mark
            from .records import SessionRecord

            self._file().add(
                SessionRecord(
                    provider=sandbox.provider_name,
                    sandbox_id=sandbox.sandbox_id,
                    directory=str(self._directory or ""),
                    state="starting",
                    created=time.time(),
                    last_seen=time.time(),
                    kernel_pid=os.getpid(),
                    kernel_start_time=start_mark(os.getpid()),
                    connection_file=str(self._connection_file or ""),
                    correlation_id=correlation_id,
                    outlives_kernel=outlives_kernel,
                )
            )

        await self._do(write)

    async def state(self, sandbox: Sandbox, state: str) -> None:
        """Note a state."""
        await self._do(lambda: self._file().update_state(sandbox.provider_name, sandbox.sandbox_id, state))

    async def gone(self, sandbox: Sandbox) -> None:
        """Forget a sandbox that was given back or lost."""
        await self._do(lambda: self._file().remove(sandbox.provider_name, sandbox.sandbox_id))

    def _file(self) -> RecordFile:
        if self._records is None:
            # Imported here: sqlite3 is no part of the start.
            from .records import RecordFile

            self._records = RecordFile()
        return self._records

    async def _do(self, work: Callable[[], None]) -> None:
        async with self._turn:
            try:
                await _run_beside(work)
            except Exception as exc:  # noqa: BLE001 - a record file that cannot be written must not stop a notebook
                self._log.write("record_failed", level="warning", error=f"{type(exc).__name__}: {exc}")


async def _run_beside(work: Callable[[], None]) -> None:
    try:
        await asyncio.to_thread(work)
    except RuntimeError:
        # The program that uses a sandbox is ending, and there are no more threads to be had.
        work()
