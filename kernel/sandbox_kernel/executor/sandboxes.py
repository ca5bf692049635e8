"""All sandboxes of an executor, by owner: made, found, swept and closed. Another owner's do not exist for anybody."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from contextlib import suppress

from traitlets.config import Config

from sandbox_kernel.errors import (
    InvocationError,
    NotFoundError,
    QuotaError,
    SandboxConnectionError,
    SandboxKernelError,
    SandboxLostError,
)
from sandbox_kernel.events import EventLog
from sandbox_kernel.providers.base import SandboxSpec
from sandbox_kernel.providers.local.provider import LocalProvider
from sandbox_kernel.providers.local.sandbox import LocalSandbox
from sandbox_kernel.workspace.settings import Workspace

from .hosted import HostedSandbox
from .metrics import Metrics
from .quotas import Quotas
from .settings import Executor
from .timeouts import Timeouts, Verdict, judge

SWEEP = 1.0
"""Seconds between two looks at all sandboxes."""
MAX_ENDED = 10_000
"""Sandboxes that are gone and whose reason is remembered."""
MAX_ARGUMENTS = 100


class Sandboxes:
    """Makes local sandboxes that outlive their links, and ends them when their time is over."""

    def __init__(self, settings: Executor, config: Config, quotas: Quotas, metrics: Metrics, log: EventLog) -> None:
        self._settings, self._config = settings, config
        self.quotas, self._metrics, self._log = quotas, metrics, log
        self._timeouts = Timeouts(
            settings.idle_timeout, settings.quiet_timeout, settings.paused_timeout, settings.lifetime
        )
        self._hosted: dict[tuple[str, str], HostedSandbox] = {}
        self._being_made: Counter[str] = Counter()
        self._ended: OrderedDict[tuple[str, str], str] = OrderedDict()
        self.draining = False

    def __len__(self) -> int:
        return len(self._hosted)

    # ---- for calls

    async def create(self, owner: str, label: str, kernel_arguments: Sequence[str], call: str) -> HostedSandbox:
        """Make a sandbox. Raises QuotaError, SandboxConnectionError while draining, and what the provider raises."""
        self._check_room(owner)
        provider = self._provider(kernel_arguments)
        self._being_made[owner] += 1
        try:
            sandbox = await provider.create(SandboxSpec(call, kept=True))
        finally:
            self._being_made[owner] -= 1
        assert isinstance(sandbox, LocalSandbox)
        hosted = HostedSandbox(sandbox, owner, label)
        self._hosted[owner, hosted.sandbox_id] = hosted
        self._metrics.created.inc()
        self._count()
        self._event("sandbox_created", hosted, call)
        return hosted

    def find(self, owner: str, sandbox_id: str) -> HostedSandbox:
        """Return the owner's sandbox. Raises NotFoundError, or SandboxLostError for one of the owner's that ended."""
        hosted = self._hosted.get((owner, sandbox_id))
        if hosted is not None:
            return hosted
        reason = self._ended.get((owner, sandbox_id))
        if reason is not None:
            raise SandboxLostError(f"The sandbox ended: {reason}.", sandbox_id=sandbox_id)
        # In the same words whether it never was or is somebody else's.
        raise NotFoundError(
            f"There is no sandbox {sandbox_id!r} of yours on this executor; if it was restarted, its sandboxes ended.",
            sandbox_id=sandbox_id,
        )

    def of(self, owner: str) -> list[HostedSandbox]:
        """Return the owner's sandboxes, oldest first."""
        return [hosted for (its_owner, _), hosted in self._hosted.items() if its_owner == owner]

    def closes(self, hosted: HostedSandbox) -> float:
        """Return when its lifetime is over, in seconds since the epoch; 0 for never."""
        return hosted.created + self._timeouts.lifetime if self._timeouts.lifetime else 0.0

    async def pause(self, hosted: HostedSandbox) -> None:
        """Freeze a sandbox because a client wants that."""
        await hosted.pause(asked=True)
        self._count()

    async def resume(self, hosted: HostedSandbox) -> None:
        """Let a sandbox go on because a client wants that."""
        await hosted.resume()
        self._count()

    async def wake(self, hosted: HostedSandbox) -> None:
        """Let a sandbox go on that a timeout has paused."""
        await hosted.wake()
        self._count()

    async def close(self, hosted: HostedSandbox, cause: str, reason: str, call: str = "") -> None:
        """End a sandbox; ``cause`` is a word for metrics, ``reason`` a clause for its clients."""
        key = (hosted.owner, hosted.sandbox_id)
        if self._hosted.pop(key, None) is not None:
            self._ended[key] = reason
            while len(self._ended) > MAX_ENDED:
                self._ended.popitem(last=False)
            self._metrics.closed.labels(cause).inc()
            self._count()
            self._event("sandbox_closed", hosted, call, reason=reason)
        await hosted.close(reason)

    async def bury(self, hosted: HostedSandbox) -> str:
        """Take notice that a sandbox has ended by itself; return why, as a clause."""
        if not hosted.end_reason:
            reason = await hosted.sandbox.loss_reason()
            await self.close(hosted, "lost", hosted.end_reason or reason)
        return hosted.end_reason

    def end_reason(self, owner: str, sandbox_id: str) -> str:
        """Return why the owner's sandbox ended; "" where it has not, or there never was one."""
        return self._ended.get((owner, sandbox_id), "")

    # ---- time

    async def sweep_for_ever(self) -> None:
        """Look at all sandboxes again and again."""
        times = [self._timeouts.idle, self._timeouts.quiet, self._timeouts.paused, self._timeouts.lifetime]
        interval = min([SWEEP, *(seconds / 4 for seconds in times if seconds)])
        while True:
            await asyncio.sleep(interval)
            for hosted in list(self._hosted.values()):
                await self._sweep(hosted)

    async def _sweep(self, hosted: HostedSandbox) -> None:
        try:
            if not hosted.sandbox.alive:
                await self.bury(hosted)
                return
            if not hosted.paused and self._may_be_idle(hosted):
                hosted.notice_use()
            verdict, reason = judge(hosted.times, self._timeouts, time.monotonic())
            if verdict is Verdict.CLOSE:
                await self.close(hosted, "timeout", reason)
            elif verdict is Verdict.PAUSE:
                await hosted.pause(asked=False)
                if hosted.paused:
                    self._count()
                    self._event("sandbox_paused", hosted, reason=reason)
        except SandboxKernelError as exc:
            self._event("sweep_failed", hosted, level="warning", error=str(exc))

    def _may_be_idle(self, hosted: HostedSandbox) -> bool:
        """Whether it has been quiet for half of the time after which it is paused."""
        patience = self._timeouts.quiet if hosted.linked else self._timeouts.idle
        return bool(patience) and time.monotonic() - hosted.times.used >= patience / 2

    # ---- the executor's end

    async def drain(self, given_up: asyncio.Event) -> None:
        """Make no more, close what nobody uses, wait for the rest as long as that is allowed, then close it."""
        self.draining = True
        deadline = time.monotonic() + self._settings.drain_timeout
        while self._hosted and time.monotonic() < deadline and not given_up.is_set():
            await self._close_all([hosted for hosted in self._hosted.values() if not hosted.in_use])
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(given_up.wait(), 0.1)
        await self._close_all(list(self._hosted.values()))

    async def _close_all(self, which: Sequence[HostedSandbox]) -> None:
        closing = (self.close(hosted, "drained", "the executor was shut down") for hosted in which)
        for failure in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(failure, BaseException):
                self._log.write("close_failed", level="error", error=str(failure))

    # ---- making

    def _check_room(self, owner: str) -> None:
        if self.draining:
            raise SandboxConnectionError("The executor is shutting down and makes no sandboxes any more.")
        own = len(self.of(owner)) + self._being_made[owner]
        self.quotas.check_sandboxes(owner, own)
        most = self._settings.max_sandboxes_in_total
        if most and len(self._hosted) + self._being_made.total() >= most:
            raise QuotaError(f"The executor has {most} sandboxes, which is all that it may have; try again later.")

    def _provider(self, kernel_arguments: Sequence[str]) -> LocalProvider:
        if len(kernel_arguments) > MAX_ARGUMENTS or any(not one.startswith("--") for one in kernel_arguments):
            raise InvocationError("The kernel's arguments must be options that begin with --.")
        # One for each sandbox: what a provider keeps is meant for one notebook.
        provider = LocalProvider(config=self._config)
        provider.workspace = Workspace(mode="private")
        provider.kernel_arguments = tuple(kernel_arguments)
        return provider

    def _count(self) -> None:
        paused = sum(hosted.paused for hosted in self._hosted.values())
        self._metrics.sandboxes.labels("paused").set(paused)
        self._metrics.sandboxes.labels("running").set(len(self._hosted) - paused)

    def _event(self, name: str, hosted: HostedSandbox, call: str = "", level: str = "info", **fields: object) -> None:
        self._log.write(
            name,
            level=level,
            correlation_id=call,
            owner=hosted.owner,
            sandbox_id=hosted.sandbox_id,
            local_id=hosted.sandbox.sandbox_id,
            **fields,
        )
