"""One sandbox of one owner on this executor: its times, its pauses, its links and its end."""

from __future__ import annotations

import asyncio
import time

from sandbox_kernel.errors import InvocationError, SandboxLostError
from sandbox_kernel.executor_api import executor_pb2 as pb
from sandbox_kernel.providers.local.sandbox import LocalSandbox

from .errands import Errands
from .links import Relay
from .timeouts import Times

COMPUTES = 0.02
"""Share of one processor from which on a sandbox computes; an idle kernel takes less than a tenth of it."""
END_TIMEOUT, END_POLL = 1.0, 0.01
"""Seconds until a sandbox whose stream has ended counts as one that goes on, and between two looks."""
MAX_LINKS = 8
"""Links to one sandbox at one time: the bridge ends all but the last, and some may take a while to notice."""


class HostedSandbox:
    """A kept local sandbox, and what an executor knows of it. Times are those of the monotonic clock."""

    def __init__(self, sandbox: LocalSandbox, owner: str, label: str) -> None:
        self.sandbox = sandbox
        self.sandbox_id = f"executor-{sandbox.sandbox_id.rpartition('-')[2]}"
        self.owner = owner
        self.label = label
        self.created = time.time()
        self.end_reason = ""
        """Why it ended, as a clause, when it has."""
        self.errands = Errands(sandbox)
        self._born = self._used = time.monotonic()
        self._paused: float | None = None
        self._asked = False
        self._links: set[Relay] = set()
        self._moving = asyncio.Lock()
        self._sample: tuple[float, float] | None = None

    @property
    def paused(self) -> bool:
        """Whether its processes stand still."""
        return self._paused is not None

    @property
    def linked(self) -> bool:
        """Whether a client has a link to it."""
        return bool(self._links)

    @property
    def in_use(self) -> bool:
        """Whether a client has a link to it, or a file or command under way."""
        return self.linked or self.errands.under_way

    @property
    def times(self) -> Times:
        """What timeouts are judged by."""
        return Times(self._born, self._used, self._paused, self.linked)

    def touch(self) -> None:
        """Take note that it is used."""
        self._used = time.monotonic()

    def notice_use(self) -> None:
        """Count it as used if a file or command is under way, or it has computed since the last time this was asked.

        A command may be silent for hours, and while it is paused its client waits for ever.
        """
        now, cpu = time.monotonic(), self.sandbox.processor_time()
        before, self._sample = self._sample, (now, cpu)
        computes = before is not None and cpu - before[1] > COMPUTES * (now - before[0])
        if computes or self.errands.under_way:
            self.touch()

    # ---- pausing

    async def pause(self, *, asked: bool) -> None:
        """Freeze it; ``asked`` says that a client wants that, and not a timeout, which gives way to use meanwhile."""
        used = self._used
        async with self._moving:
            self._check()
            if self._paused is None:
                await self.sandbox.pause()
                self._paused = time.monotonic()
            self._asked = self._asked or asked
            if not self._asked and self._used != used:
                await self._go_on()

    async def resume(self) -> None:
        """Let it go on."""
        async with self._moving:
            self._check()
            await self._go_on()
            self._asked = False
            self.touch()

    async def _go_on(self) -> None:
        if self._paused is not None:
            await self.sandbox.resume()
            self._paused = None

    async def wake(self) -> None:
        """Let it go on for a client that uses it, unless a client has paused it."""
        if self._paused is not None and not self._asked:
            await self.resume()

    def require_running(self) -> None:
        """Raise InvocationError where it is paused, SandboxLostError where it has ended."""
        self._check()
        if self._paused is not None:
            raise InvocationError("The sandbox is paused; resume it first.", sandbox_id=self.sandbox_id)

    def _check(self) -> None:
        if self.end_reason or not self.sandbox.alive:
            reason = self.end_reason or "its processes are gone"
            raise SandboxLostError(f"The sandbox ended: {reason}.", sandbox_id=self.sandbox_id)

    async def ends(self) -> bool:
        """Whether it has ended, when its stream has. What its first process leaves takes a moment to be buried."""
        deadline = time.monotonic() + END_TIMEOUT
        while self.sandbox.alive and len(self._links) < 2 and time.monotonic() < deadline:  # noqa: ASYNC110 - the system tells nobody
            await asyncio.sleep(END_POLL)
        return not self.sandbox.alive

    # ---- links

    def open_link(self, relay: Relay) -> None:
        """Take note of a link. Raises InvocationError where there are too many."""
        if len(self._links) >= MAX_LINKS:
            raise InvocationError("The sandbox has too many links already.", sandbox_id=self.sandbox_id)
        self._links.add(relay)
        self.touch()

    def close_link(self, relay: Relay) -> None:
        """Take note that a link has ended."""
        self._links.discard(relay)
        self.touch()

    # ---- the end

    async def close(self, reason: str) -> None:
        """End it, for a reason that its clients are told. Idempotent."""
        self.end_reason = self.end_reason or reason
        self.errands.close()
        for relay in list(self._links):
            relay.end(self.end_reason, ended=True)
        await self.sandbox.close()

    def info(self, closes: float = 0.0) -> pb.SandboxInfo:
        """Return what clients are told; ``closes`` in seconds since the epoch."""
        return pb.SandboxInfo(
            sandbox_id=self.sandbox_id,
            state="paused" if self.paused else "running",
            created=self.created,
            isolation=self.sandbox.isolation.value,
            label=self.label,
            linked=self.linked,
            idle=time.monotonic() - self._used,
            details=self.sandbox.describe(),
            closes=closes,
            owner=self.owner,
        )
