"""The companion's view of a Ray cluster: sandboxes are made, found, listed and ended there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import ray
import ray.util.client

from sandbox_kernel.errors import NotFoundError, SandboxConnectionError, SandboxKernelError, SandboxLostError
from sandbox_kernel.patience import in_time

from . import survey as surveying
from .failures import ours, result_of
from .host import SandboxHost
from .survey import RUNNING, Survey
from .waiting import waiting_text
from .words import PREFIX, Order, owner_mark, package_version, parse_id

ANSWERS_WITHIN = 5.0
"""Seconds in which an actor that lives tells of itself."""
SHOWN_AFTER = 2.0
"""Seconds for which nothing is said of a start: a worker process takes as long."""
GIVEN_UP_AFTER = 20.0
"""Seconds without any answer of a sandbox after which this connection is given up for another one."""
LOOK = 1.0
"""Seconds between two looks at the queue."""

_SILENT = "The sandbox's node does not answer now; this is tried again."


class Cluster:
    """A connection to a Ray cluster, which this process is a driver of."""

    def __init__(self, namespace: str, owner: str, *, through_client: bool) -> None:
        self._namespace, self._owner, self.through_client = namespace, owner_mark(owner), through_client
        self._survey: Any = None
        self._handles: dict[str, Any] = {}
        self._silent_since: float | None = None
        """When a sandbox was asked in vain first, if none has answered since."""

    @property
    def connected(self) -> bool:
        """Whether it can be asked: Ray gives a client up that was cut off for too long.

        A driver it gives up only without a cluster. To another cluster at the same address it speaks on, and of a
        sandbox that was in the last one it hears nothing: only a new driver finds out that this is gone.
        """
        if self._silent_since is not None and time.monotonic() - self._silent_since > GIVEN_UP_AFTER:
            return False
        return not self.through_client or bool(ray.util.client.ray.is_connected())

    # ---- sandboxes

    async def create(self, order: Order, options: dict[str, Any], on_news: Callable[[str], None]) -> dict[str, Any]:
        """Make a sandbox; return what it is. Leaves no actor behind when it raises, or is cancelled."""
        sandbox_id = order["sandbox_id"]
        with ours():
            kind = ray.remote(SandboxHost).options(
                name=sandbox_id, namespace=self._namespace, lifetime="detached", max_restarts=0, **options
            )
        making = asyncio.ensure_future(asyncio.to_thread(kind.remote, order))
        try:
            with ours():
                handle = self._handles[sandbox_id] = await asyncio.shield(making)
                starting = asyncio.ensure_future(_awaited(handle.start.remote(package_version())))
                try:
                    await self._tell_queue(starting, sandbox_id, _wanted(options), on_news)
                    return cast("dict[str, Any]", result_of(await starting))
                finally:
                    starting.cancel()
        except BaseException:
            await asyncio.shield(self._unmake(sandbox_id, making))
            raise

    async def _unmake(self, sandbox_id: str, making: asyncio.Future[Any]) -> None:
        """End what a start made that came to nothing; a thread that still makes it cannot be stopped."""
        await asyncio.wait([making])
        if making.exception() is not None:
            return
        self._handles[sandbox_id] = making.result()
        # One that cannot be reached now ends by itself, since no sandbox comes to be in it.
        with suppress(SandboxKernelError):
            await self._kill(sandbox_id)

    async def _tell_queue(
        self, starting: asyncio.Future[Any], sandbox_id: str, wanted: dict[str, float], on_news: Callable[[str], None]
    ) -> None:
        began = time.monotonic()
        await asyncio.wait([starting], timeout=SHOWN_AFTER)
        told = False
        while not starting.done():
            # Who waits keeps the place in the queue though one look fails; the next may not.
            with suppress(SandboxKernelError):
                text = waiting_text(await self.survey(), sandbox_id, wanted, time.monotonic() - began)
                if text or told:
                    told = True
                    on_news(text or "The Ray cluster has room now, and starts the sandbox.")
            await asyncio.wait([starting], timeout=LOOK)

    async def info(self, sandbox_id: str) -> dict[str, Any]:
        """Tell of one of this owner's. Raises NotFoundError."""
        return cast("dict[str, Any]", await self.ask(sandbox_id, "info", timeout=ANSWERS_WITHIN))

    async def ask(self, sandbox_id: str, method: str, *arguments: Any, timeout: float | None = None) -> Any:
        """Call the actor. Raises what it tells, and what Ray does, as ours."""
        handle = await self.handle(sandbox_id)
        try:
            with ours():
                calling = _awaited(getattr(handle, method).remote(*arguments))
                try:
                    answer = await in_time(calling, timeout)
                except asyncio.TimeoutError as exc:
                    raise SandboxConnectionError(_SILENT) from exc
        except SandboxConnectionError:
            self._silent_since = self._silent_since or time.monotonic()
            raise
        self._silent_since = None
        return result_of(answer)

    async def close(self, sandbox_id: str) -> None:
        """End one, and its actor. Not for one that is gone."""
        with suppress(NotFoundError, SandboxLostError):
            await self.ask(sandbox_id, "close", timeout=30.0)
        await self._kill(sandbox_id)

    async def list(self) -> list[dict[str, Any]]:
        """Tell of all of this owner's."""
        seen = await self.survey()
        own = [one for one in seen["actors"] if (parse_id(one["name"]) or ("", 0))[0] == self._owner]
        told = await asyncio.gather(*(self._listed(one["name"], one["state"]) for one in own))
        return [one for one in told if one is not None]

    async def _listed(self, name: str, state: str) -> dict[str, Any] | None:
        found = parse_id(name)
        told: dict[str, Any] = {"sandbox_id": name, "state": "waiting", "created": found[1] if found else 0.0}
        if state == RUNNING:
            try:
                return {**told, **await self.info(name)}
            except (SandboxLostError, NotFoundError):
                # Its actor only tells why it has ended.
                return None
            except SandboxKernelError:
                return {**told, "state": "does not answer"}
        return told

    async def survey(self) -> Survey:
        """Look at the whole cluster."""
        with ours():
            if not self.through_client:
                return await asyncio.to_thread(surveying.survey, PREFIX)
            if self._survey is None:
                self._survey = ray.remote(surveying.survey).options(num_cpus=0)
            return cast("Survey", await _awaited(self._survey.remote(PREFIX)))

    async def handle(self, sandbox_id: str) -> Any:
        """Return the actor of one of this owner's sandboxes. Raises NotFoundError."""
        if sandbox_id not in self._handles:
            found = parse_id(sandbox_id)
            if found is None or found[0] != self._owner:
                raise self._unknown(sandbox_id)
            with ours():
                try:
                    self._handles[sandbox_id] = await asyncio.to_thread(ray.get_actor, sandbox_id, self._namespace)
                except ValueError as exc:
                    raise self._unknown(sandbox_id) from exc
        return self._handles[sandbox_id]

    def _unknown(self, sandbox_id: str) -> NotFoundError:
        # In the same words whether it never was or is somebody else's.
        return NotFoundError(
            f"There is no sandbox {sandbox_id!r} of {self._owner} in this Ray cluster: it was stopped, or nobody had "
            "used it for too long."
        )

    async def _kill(self, sandbox_id: str) -> None:
        """End an actor, also one that waits for room."""
        try:
            handle = await self.handle(sandbox_id)
        except NotFoundError:
            return
        self._handles.pop(sandbox_id, None)
        with ours():
            await asyncio.to_thread(ray.kill, handle)


async def _awaited(reference: Any) -> Any:
    return await reference


def _wanted(options: dict[str, Any]) -> dict[str, float]:
    named = {"CPU": options.get("num_cpus"), "GPU": options.get("num_gpus"), "memory": options.get("memory")}
    amounts = {**named, **(options.get("resources") or {})}
    return {name: float(amount) for name, amount in amounts.items() if amount}
