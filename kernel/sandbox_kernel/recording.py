"""Keeps the record file true about one session's sandbox, in a thread, without ever disturbing the session."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from .events import EventLog
    from .providers.base import Provider, Sandbox
    from .records import RecordFile, SessionRecord

BEAT = 30.0
"""Seconds between two signs of life."""

T = TypeVar("T")


class Recorder:
    """Writes down that a sandbox was made or taken over, its states, that it is gone; in the order in which it is told.

    `claim` and `records` raise what goes wrong; the others only log it.
    """

    def __init__(
        self, log: EventLog, connection_file: Path | None = None, directory: Path | None = None, notebook: str = ""
    ) -> None:
        self._log = log
        self.connection_file = str(connection_file or "")
        self.notebook = notebook
        self._directory = directory
        self._turn = asyncio.Lock()
        self._records: RecordFile | None = None
        self._record: SessionRecord | None = None
        self._beating: asyncio.Task[None] | None = None

    async def made(self, sandbox: Sandbox, provider: Provider, *, correlation_id: str) -> None:
        """Note a new sandbox, and from now on that it lives."""

        def write() -> None:
            # Described here: what that needs is imported beside the start, not in it.
            described = self._describe(sandbox.sandbox_id, provider, correlation_id)
            self._record = record = replace(described, owner=sandbox.owner)
            self._file().add(record)

        await self._do(write)

    async def claim(
        self, sandbox_id: str, provider: Provider, *, correlation_id: str, force: bool
    ) -> SessionRecord | None:
        """Become the owner of a sandbox; return what was recorded of it, for `give_back`.

        Raises SessionError where another process owns it, NotFoundError where it is at another place,
        ConfigurationError.
        """

        def claim() -> SessionRecord | None:
            record = self._describe(sandbox_id, provider, correlation_id)
            before = self._file().claim(record, force=force)
            self._record = record
            return before

        async with self._turn:
            return await _run_beside(claim)

    async def records(self) -> Sequence[SessionRecord]:
        """Return all records. Raises ConfigurationError."""
        async with self._turn:
            return await _run_beside(lambda: self._file().all())

    def records_now(self) -> Sequence[SessionRecord]:
        """Return all records, read here and now; none where they cannot be read."""
        found: list[SessionRecord] = []
        self._try(lambda: found.extend(self._file().all()))
        return found

    async def give_back(self, record: SessionRecord) -> None:
        """Undo `claim` or `take_orphan`: what the sandbox was wanted for has failed."""
        if self._record is not None and self._record.sandbox_id == record.sandbox_id:
            self._record = None
        await self._do(lambda: self._file().add(record))

    async def know(self, sandbox: Sandbox) -> None:
        """Note whose a sandbox is that was claimed, which its provider has told now."""

        def write() -> None:
            if self._record is not None and self._record.owner != sandbox.owner:
                self._record = replace(self._record, owner=sandbox.owner)
                self._file().add(self._record)

        await self._do(write)

    async def state(self, sandbox: Sandbox, state: str) -> None:
        """Note a state; not of a sandbox that was left."""

        def write() -> None:
            if self._record is not None:
                self._file().update_state(sandbox.provider_name, sandbox.sandbox_id, state)

        await self._do(write)

    async def discard(self, sandbox: Sandbox) -> None:
        """Note that a sandbox is about to be given back: until `gone` says that it was, it is an orphan."""

        def write() -> None:
            from .records import DISCARDED

            record = self._record
            # One that ends with this process needs nobody else to end it.
            if record is not None and record.sandbox_id == sandbox.sandbox_id and record.outlives_kernel:
                self._record = None
                self._file().release(record, DISCARDED)

        await self._do(write)

    async def gone(self, sandbox: Sandbox) -> None:
        """Forget a sandbox whose provider says that it was given back."""
        await self.forget(sandbox.provider_name, sandbox.sandbox_id)

    async def forget(self, provider: str, sandbox_id: str) -> None:
        """Forget a sandbox that is gone."""
        if self._record is not None and self._record.sandbox_id == sandbox_id:
            self._record = None
        await self._do(lambda: self._file().remove(provider, sandbox_id))

    async def take_orphan(self, record: SessionRecord) -> bool:
        """Become an orphan's owner, for its end; return False if somebody was quicker."""
        from .processes import host_name, start_mark

        mine = replace(
            record, kernel_pid=os.getpid(), kernel_start_time=start_mark(os.getpid()), kernel_host=host_name()
        )
        before: list[SessionRecord | None] = []
        await self._do(lambda: before.append(self._file().claim(mine)))
        return bool(before) and before[0] is not None and before[0].is_orphan

    def release(self, *, detached: bool = False, restarted: bool = False) -> None:
        """Note, without waiting, that this process leaves its sandbox: on purpose, for the next one, or in need."""
        from .records import DETACHED, RESTARTED

        ending = DETACHED if detached else RESTARTED if restarted else ""
        record, self._record = self._record, None
        if record is not None:
            self._try(lambda: self._file().release(record, ending))

    def is_released(self, provider: str, sandbox_id: str) -> bool:
        """Whether a sandbox that was released has no owner yet."""
        found: list[SessionRecord] = []
        self._try(lambda: found.extend(self._file().find(sandbox_id)))
        return any(one.provider == provider and one.ending and not one.has_owner for one in found)

    async def beat(self, idle_since: Callable[[], float], on_taken: Callable[[], None]) -> None:
        """Give a sign of life now and then, until cancelled; ``on_taken`` tells that the sandbox is another's now."""
        while True:
            await asyncio.sleep(BEAT)
            if not await self.sign(idle_since()):
                on_taken()

    async def sign(self, idle_since: float) -> bool:
        """Give a sign of life now, and tell the notebook; return False if the sandbox has become another process's."""
        record = self._record
        if record is None:
            return True
        record = self._record = replace(record, notebook=self.notebook)
        if await self._beat(record, idle_since) or self._record is not record:
            return True
        self._record = None
        return False

    async def _beat(self, record: SessionRecord, idle_since: float) -> bool:
        """Return False if the sandbox is another process's now."""
        mine = True

        def beat() -> None:
            nonlocal mine
            mine = self._file().beat(record, idle_since=idle_since)

        await self._do(beat)
        return mine

    def _describe(self, sandbox_id: str, provider: Provider, correlation_id: str) -> SessionRecord:
        from .processes import host_name, start_mark
        from .records import LEASE, SessionRecord

        now = time.time()
        return SessionRecord(
            provider=provider.name,
            sandbox_id=sandbox_id,
            notebook=self.notebook,
            directory=str(self._directory or ""),
            state="starting",
            created=now,
            last_seen=now,
            kernel_pid=os.getpid(),
            kernel_start_time=start_mark(os.getpid()),
            connection_file=self.connection_file,
            correlation_id=correlation_id,
            outlives_kernel=provider.capabilities.outlives_kernel,
            kernel_host=host_name(),
            lease_until=now + LEASE,
            hourly_cost=provider.hourly_cost,
            place=provider.place,
        )

    def _file(self) -> RecordFile:
        if self._records is None:
            # Imported here: sqlite3 is no part of the start.
            from .records import RecordFile

            self._records = RecordFile()
        return self._records

    async def _do(self, work: Callable[[], None]) -> None:
        async with self._turn:
            await _run_beside(lambda: self._try(work))

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as exc:  # noqa: BLE001 - a record file that cannot be written must not stop a notebook
            self._log.write("record_failed", level="warning", error=f"{type(exc).__name__}: {exc}")


async def _run_beside(work: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(work)
    except RuntimeError:
        # The program that uses a sandbox is ending, and there are no more threads to be had.
        return work()
