"""The actor of one sandbox: holds a sandbox of the local provider on the node where Ray put it.

Ray's workers import this module by its name, so the package has to be installed there. Errors are answers here: an
exception in an actor comes to its caller wrapped in Ray's words.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

from traitlets import TraitError
from traitlets.config import Config

from sandbox_kernel.durations import age
from sandbox_kernel.errors import (
    ConfigurationError,
    InvocationError,
    SandboxConnectionError,
    SandboxKernelError,
    SandboxLostError,
)
from sandbox_kernel.providers.base import SandboxSpec
from sandbox_kernel.providers.local.provider import LocalProvider
from sandbox_kernel.providers.local.sandbox import LocalSandbox
from sandbox_kernel.workspace.settings import Workspace

from . import gpus
from .node_link import NodeLink
from .words import Order, failure_of, package_version

T = TypeVar("T")

CLAIMED_WITHIN = 120.0
"""Seconds in which an actor must have its sandbox, and then that its first link: who asked for it may have died."""
KEPT = 5.0
"""Seconds for which the actor of a sandbox that has ended tells why. It holds its resources meanwhile."""
WATCH = 1.0
FAILS = 60.0
"""Seconds for which the watch over a sandbox may fail; then it is ended, since nothing else would end it."""
COMPUTES = 0.02
"""Share of one processor from which on a sandbox computes; an idle kernel takes less than a tenth of it."""
MAX_LINKS = 8
SETTLES = 1.0
"""Seconds until a sandbox whose stream has ended counts as one that goes on."""


class SandboxHost:
    """One sandbox on this node. It lives as long as the sandbox, whatever becomes of the kernel process."""

    def __init__(
        self, order: Order, claimed_within: float = CLAIMED_WITHIN, end_actor: Callable[[], None] | None = None
    ) -> None:
        """``end_actor`` ends this process for Ray; None: by Ray's own means."""
        self._order = order
        self._end_actor = end_actor or _end_actor
        self._sandbox: LocalSandbox | None = None
        self._starting: asyncio.Future[dict[str, Any]] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._links: dict[str, NodeLink] = {}
        self._was_linked = False
        self._paused = False
        self._reason = ""
        self._ended_at = 0.0
        self._created = time.time()
        self._used = time.monotonic()
        self._sample: tuple[float, float] | None = None
        # No task: whoever waited for room may be gone, so that nobody ever calls, and no loop of ours is there yet.
        self._unclaimed = threading.Timer(claimed_within, self._give_up)
        self._unclaimed.daemon = True
        self._unclaimed.start()

    # ---- calls: each returns {"result": …} or {"failure": …}

    async def start(self, version: str) -> dict[str, Any]:
        """Make the sandbox, once, however often this is called; return what `info` does."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(_answer(self._start(version)))
        return await asyncio.shield(self._starting)

    async def info(self) -> dict[str, Any]:
        """Tell what it is."""
        return await _answer(self._info())

    async def open(self, link: str) -> dict[str, Any]:
        """Make a new stream to the bridge, under a name that the client chose."""
        return await _answer(self._open(link))

    async def push(self, link: str, offset: int, data: bytes, received: int = 0) -> dict[str, Any]:
        """Take bytes for the bridge that come after ``offset`` others; return how many it has got in all.

        ``received`` bytes of the stream have come to the client.
        """
        return await _answer(self._push(link, offset, data, received))

    async def pull(self, link: str, offset: int) -> dict[str, Any]:
        """Return bytes of the bridge that come after ``offset`` others, and why there will be no more."""
        return await _answer(self._pull(link, offset))

    async def stream(self, link: str) -> AsyncGenerator[bytes, None]:
        """Yield the bridge's bytes until the link ends; who wants to know why asks `explain`."""
        found = self._links.get(link)
        if found is not None:
            async for data in found.stream():
                self._touch()
                yield data
            await self._end_of(found)

    async def shut(self, link: str) -> dict[str, Any]:
        """Forget a link; the sandbox goes on."""
        return await _answer(self._shut(link))

    async def pause(self) -> dict[str, Any]:
        """Freeze the sandbox."""
        return await _answer(self._pause())

    async def resume(self) -> dict[str, Any]:
        """Let it go on."""
        return await _answer(self._resume())

    async def explain(self, exit_code: int | None) -> dict[str, Any]:
        """Tell why the sandbox has ended, or why its Python did; "" where neither is known."""
        return await _answer(self._explain(exit_code))

    async def close(self) -> dict[str, Any]:
        """End the sandbox; who calls this ends the actor then."""
        return await _answer(self._end("it was stopped"))

    # ---- what they do

    async def _start(self, version: str) -> dict[str, Any]:
        if version != package_version():
            raise ConfigurationError(
                f"The Ray cluster's nodes have sandbox-kernel {package_version()} and this kernel process {version}: "
                "install the same version in the nodes' image, or by RayProvider.runtime_env."
            )
        # Ray blocks SIGINT in its processes, which those that they start inherit; it is what interrupts a cell.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        sandbox = await self._provider().create(SandboxSpec(self._order["correlation_id"], kept=True))
        assert isinstance(sandbox, LocalSandbox)
        self._sandbox = sandbox
        self._unclaimed.cancel()
        self._touch()
        self._watching = asyncio.ensure_future(self._watch())
        return await self._info()

    def _provider(self) -> LocalProvider:
        unknown = sorted(set(self._order["local"]) - set(LocalProvider.class_trait_names(config=True)))
        if unknown:
            # traitlets would only warn, and a limit that is spelt wrong would be none.
            raise ConfigurationError(
                f"RayProvider.local has an option that the local provider has not: {', '.join(unknown)}."
            )
        try:
            found = gpus.granted(_granted_gpus())
        except LookupError as exc:
            raise ConfigurationError(
                f"Ray granted GPUs on the node {socket.gethostname()} that are not there: {exc.args[0]}."
            ) from exc
        try:
            provider = LocalProvider(config=Config(LocalProvider=self._order["local"]))
        except TraitError as exc:
            raise ConfigurationError(f"RayProvider.local has an option that cannot be used: {exc}") from exc
        # What the notebook's folder has comes over the link.
        provider.workspace = Workspace(mode="private")
        provider.kernel_arguments = tuple(self._order["kernel_arguments"])
        provider.devices = [*provider.devices, *found.devices]
        provider.environment = {**provider.environment, **found.variables}
        return provider

    async def _info(self) -> dict[str, Any]:
        sandbox = self._running()
        return {
            "sandbox_id": self._order["sandbox_id"],
            "version": package_version(),
            "state": "paused" if self._paused else "running",
            "created": self._created,
            "idle": time.monotonic() - self._used,
            "isolation": sandbox.isolation.value,
            "label": self._order["label"],
            "linked": bool(self._links),
            "node": socket.gethostname(),
            "details": sandbox.describe(),
        }

    async def _open(self, link: str) -> None:
        sandbox = self._running()
        if link in self._links:
            return
        if len(self._links) >= MAX_LINKS:
            raise SandboxConnectionError("The sandbox has too many links already; try again.")
        self._links[link] = NodeLink(sandbox.open_stream())
        self._was_linked = True
        self._touch()

    async def _push(self, link: str, offset: int, data: bytes, received: int) -> int:
        found = self._find(link)
        if data:
            self._touch()
        try:
            return await found.push(offset, data, received)
        except ValueError as exc:
            raise SandboxConnectionError(f"The link is out of step ({exc}); it is made again.") from exc

    async def _pull(self, link: str, offset: int) -> tuple[bytes, str]:
        found = self._find(link)
        try:
            data, reason = await found.pull(offset)
        except ValueError as exc:
            raise SandboxConnectionError(f"The link is out of step ({exc}); it is made again.") from exc
        if data:
            self._touch()
        return data, await self._end_of(found) if reason else ""

    async def _shut(self, link: str) -> None:
        found = self._links.pop(link, None)
        if found is not None:
            self._touch()
            await found.close()

    async def _pause(self) -> None:
        sandbox = self._running()
        if not self._paused:
            await sandbox.pause()
            self._paused = True

    async def _resume(self) -> None:
        sandbox = self._running()
        if self._paused:
            await sandbox.resume()
            self._paused = False
        self._touch()

    async def _explain(self, exit_code: int | None) -> str:
        if self._reason or self._sandbox is None:
            return self._reason
        if not self._sandbox.alive:
            return await self._bury()
        return "" if exit_code is None else await self._sandbox.kernel_death_reason(exit_code)

    # ---- its life

    def _running(self) -> LocalSandbox:
        if self._reason:
            raise SandboxLostError(f"The sandbox ended: {self._reason}.")
        if self._sandbox is None:
            raise SandboxConnectionError("The sandbox is being started; try again.")
        return self._sandbox

    def _find(self, link: str) -> NodeLink:
        found = self._links.get(link)
        if found is None:
            self._running()
            raise SandboxConnectionError("There is no such link any more; it is made again.")
        return found

    def _touch(self) -> None:
        self._used = time.monotonic()

    async def _end_of(self, link: NodeLink) -> str:
        """Return why a link has ended: the sandbox may have, which takes a moment to be seen."""
        sandbox = self._sandbox
        deadline = time.monotonic() + SETTLES
        while sandbox is not None and sandbox.alive and len(self._links) < 2 and time.monotonic() < deadline:  # noqa: ASYNC110 - the system tells nobody
            await asyncio.sleep(0.01)
        if sandbox is not None and not sandbox.alive and not self._reason:
            await self._bury()
        return self._reason or link.reason

    async def _bury(self) -> str:
        assert self._sandbox is not None
        await self._end(await self._sandbox.loss_reason())
        return self._reason

    async def _end(self, reason: str) -> None:
        if not self._reason:
            self._reason, self._ended_at = reason, time.monotonic()
        for link in self._links.values():
            link.end(self._reason)
        if self._sandbox is not None:
            await self._sandbox.close()

    async def _watch(self) -> None:
        """End what nobody uses, and this actor when that has been told; also where something here fails."""
        fails_since = 0.0
        while not self._ended_at or time.monotonic() - self._ended_at < KEPT:
            await asyncio.sleep(WATCH)
            try:
                await self._watch_once()
                fails_since = 0.0
            except Exception as exc:
                logging.getLogger(__name__).exception("the watch over %s has failed", self._order["sandbox_id"])
                fails_since = fails_since or time.monotonic()
                if not self._ended_at and time.monotonic() - fails_since >= FAILS:
                    self._reason, self._ended_at = f"its node cannot watch over it ({exc!r})", time.monotonic()
        self._end_actor()

    async def _watch_once(self) -> None:
        for name in [name for name, link in self._links.items() if link.silent]:
            await self._shut(name)
        if not self._ended_at:
            await self._look()

    def _give_up(self) -> None:
        """End an actor that holds a place in the cluster, and no sandbox."""
        if self._sandbox is None:
            self._end_actor()

    async def _look(self) -> None:
        assert self._sandbox is not None
        if not self._sandbox.alive:
            await self._bury()
            return
        if self._links or self._computes():
            self._touch()
        patience = self._order["unused_timeout"] if self._was_linked else CLAIMED_WITHIN
        if patience and time.monotonic() - self._used >= patience:
            await self._end(f"nobody had used it for {age(patience)}")

    def _computes(self) -> bool:
        assert self._sandbox is not None
        now, cpu = time.monotonic(), self._sandbox.processor_time()
        before, self._sample = self._sample, (now, cpu)
        return before is not None and cpu - before[1] > COMPUTES * (now - before[0])


async def _answer(work: Awaitable[T]) -> dict[str, Any]:
    """Return what came of a call. A fault of ours is told as what it is, and ends no actor."""
    try:
        return {"result": await work}
    except SandboxKernelError as exc:
        return {"failure": failure_of(exc)}
    except Exception as exc:  # noqa: BLE001 - the edge: Ray would wrap it in words of its own
        return {"failure": failure_of(InvocationError(f"The node has failed at this ({exc!r})."))}


def _granted_gpus() -> list[str]:
    import ray

    return [str(one) for one in ray.get_runtime_context().get_accelerator_ids().get("GPU", [])]


def _end_actor() -> None:
    import ray

    ray.kill(ray.get_runtime_context().current_actor)
