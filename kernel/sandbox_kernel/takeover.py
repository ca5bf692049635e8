"""How a session comes to a sandbox that outlives its kernel process: one that there is, an earlier process's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from .errors import NotFoundError, SandboxError, SandboxKernelError, SandboxLostError, SessionError
from .inquiry import ask
from .ownership import Identity, Leftover, check_owner, find_detached, find_leftover
from .providers.base import Provider, Sandbox
from .recording import Recorder
from .records import DISCARDED, SessionRecord

Report = Callable[..., None]
"""Takes the name of an event, its level and fields, for the log."""


class Takeover:
    """Finds and connects sandboxes that there are already."""

    def __init__(self, provider: Provider, recorder: Recorder | None, report: Report) -> None:
        self._provider = provider
        self._recorder = recorder
        self._report = report
        self.wanted: Leftover | None = None
        """The sandbox that the next start is to go on with, and no other one."""
        self.forced = False
        """It may be taken away from a kernel process that lives."""
        self.renews = False
        """The inner kernel of the sandbox that was found is to be renewed before anything runs in it."""
        self._claimed = ""
        """The id of the sandbox that was found."""
        self._before: SessionRecord | None = None
        """What was recorded of the sandbox that was found."""
        self.news = ""
        """What people have to know of it, as lines."""

    async def find(self, correlation_id: str) -> Sandbox | None:
        """Return the sandbox that is wanted, or is left from this notebook's last kernel process; None if none is.

        Raises SessionError where a kernel process that lives uses it, and what the provider's `connect` raises.
        """
        self.renews = False
        # Of the sandbox before nothing is to be given back any more.
        self._before, self._claimed = None, ""
        asked = self.wanted is not None
        leftover = self.wanted or await self._find_leftover()
        if leftover is None:
            return None
        claiming = asyncio.ensure_future(self._claim(leftover, correlation_id))
        try:
            self._before = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # It is claimed all the same, and nobody else would find it then.
            await asyncio.wait([claiming])
            if claiming.exception() is None:
                self._claimed, self._before = leftover.sandbox_id, claiming.result()
                await self.give_back()
            raise
        except SandboxKernelError as exc:
            if asked:
                raise
            # Another kernel process was quicker.
            self._report("not_claimed", "warning", error=str(exc))
            return None
        self._claimed = leftover.sandbox_id
        try:
            sandbox = await self._connect(leftover)
        except (NotFoundError, SessionError) as exc:
            if asked:
                # Once: the next cell starts a fresh one.
                self.wanted = None
                raise
            self.news += _not_continued(leftover, exc)
            return None
        self.renews = leftover.fresh
        if not asked:
            self.news += _continued(leftover)
        self._report("attached", wanted=leftover.sandbox_id, fresh=leftover.fresh)
        return sandbox

    async def _connect(self, leftover: Leftover) -> Sandbox:
        """Connect a sandbox that was claimed, or undo the claim; the record of one that is gone goes.

        Raises NotFoundError or SandboxLostError for such a one, another SessionError for another owner's at the
        provider, and what the provider's `connect` raises.
        """
        try:
            sandbox = await self._provider.connect(leftover.sandbox_id)
        except (NotFoundError, SandboxLostError) as exc:
            try:
                if isinstance(exc, NotFoundError) and self._before is not None:
                    await check_owner(self._before, self._provider)
            except BaseException:
                await self.give_back()
                raise
            await self._forget(leftover)
            raise
        except BaseException:
            await self.give_back()
            raise
        if self._recorder is not None:
            await self._recorder.know(sandbox)
        return sandbox

    def is_left(self) -> bool:
        """Whether an earlier kernel process of this notebook left a sandbox; asked once, when the notebook is told."""
        return self._recorder is not None and find_leftover(self._recorder.records_now(), self._identity()) is not None

    async def give_back(self) -> None:
        """Leave the sandbox that was found to whoever comes next, as it was: it could not be reached."""
        before, self._before, claimed, self._claimed = self._before, None, self._claimed, ""
        if self._recorder is None:
            return
        if before is not None:
            await self._recorder.give_back(before)
        elif claimed:
            # It was not recorded before, and nobody knows whether there is such a one.
            await self._recorder.forget(self._provider.name, claimed)

    async def _claim(self, leftover: Leftover, correlation_id: str) -> SessionRecord | None:
        if self._recorder is None:
            return None
        return await self._recorder.claim(
            leftover.sandbox_id, self._provider, correlation_id=correlation_id, force=self.forced
        )

    async def _forget(self, leftover: Leftover) -> None:
        if self._recorder is not None:
            await self._recorder.forget(self._provider.name, leftover.sandbox_id)

    async def attachable(self) -> Sequence[SessionRecord]:
        """Return the recorded sandboxes of this provider that no kernel process uses, this notebook's at the end.

        Without those that the provider says are gone, if it says anything in time.
        """
        if self._recorder is None:
            return []
        here, notebook = (self._provider.name, self._provider.place), self._recorder.notebook
        records = await self._recorder.records()
        free = [one for one in records if (one.provider, one.place) == here and one.outlives_kernel]
        free = [one for one in free if one.ending != DISCARDED and not one.has_owner]
        return sorted(
            await self._existing(free),
            key=lambda one: (bool(one.notebook) and one.notebook == notebook, one.last_seen),
        )

    async def _existing(self, records: Sequence[SessionRecord]) -> Sequence[SessionRecord]:
        """Return the records without those of sandboxes that are gone, which are forgotten."""
        assert self._recorder is not None
        try:
            answer = await ask(self._provider, records)
        except SandboxKernelError as exc:
            self._report("not_asked", "warning", error=str(exc))
            return records
        for record in answer.gone:
            await self._recorder.forget(record.provider, record.sandbox_id)
        return answer.records

    async def _find_leftover(self) -> Leftover | None:
        if self._recorder is None:
            return None
        try:
            records = await self._recorder.records()
        except SandboxKernelError as exc:
            self._report("record_failed", "warning", error=str(exc))
            return None
        identity = self._identity()
        for detached in find_detached(records, identity):
            self.news += (
                f"The sandbox {detached.sandbox_id} of this notebook was detached and may still run: "
                f"`%sandbox attach {detached.sandbox_id}` goes on with it.\n"
            )
        return find_leftover(records, identity)

    def _identity(self) -> Identity:
        assert self._recorder is not None
        file, notebook = self._recorder.connection_file, self._recorder.notebook
        return Identity(self._provider.name, self._provider.place, file, notebook)


def _continued(leftover: Leftover) -> str:
    if leftover.fresh:
        return (
            f"The notebook was restarted in its sandbox {leftover.sandbox_id}: variables are gone, files and packages "
            "are kept.\n"
        )
    return (
        f"The kernel process had ended and is a new one; the sandbox {leftover.sandbox_id} went on: variables, files "
        "and packages are kept.\n"
    )


def _not_continued(leftover: Leftover, error: SandboxError) -> str:
    if isinstance(error, (NotFoundError, SandboxLostError)):
        return (
            f"The sandbox {leftover.sandbox_id} of this notebook is gone, and with it variables, files and packages; "
            "this is a fresh one.\n"
        )
    return f"{error} This is a fresh one.\n"
