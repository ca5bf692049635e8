"""One kernel of a gateway. It goes on when this process ends, until somebody ends it, or the gateway culls it."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from sandbox_kernel.errors import (
    ConfigurationError,
    NotFoundError,
    SandboxConnectionError,
    SandboxError,
    SandboxKernelError,
    SandboxLostError,
    SandboxTimeoutError,
)
from sandbox_kernel.link.transport import Transport
from sandbox_kernel.providers.base import IsolationLevel, Sandbox

from . import words
from .bridge import RelayBridge
from .channels import SocketSettings
from .failures import PROVIDER
from .greeting import happens_within
from .line import CarriedTransport, Line
from .place import Place, is_ours
from .remote import KernelTimes, RemoteKernel
from .rest import GatewayClient, KernelModel

TELL_TIMEOUT = 5.0
"""Seconds for the question why something ended."""
CLOSE_TIMEOUT = 4.0
"""Seconds to end a kernel: a front end that shuts its kernel down waits no longer than five."""
LOOK_AT_END, LOOKS_AT_END = 0.1, 50
"""Seconds between two looks at a kernel that ends, and how many there are: it may only be restarted."""
GONE = "its gateway has no such kernel any more: it was culled when it was idle, or somebody shut it down"
LEFT = (
    "The kernel {} was not made by sandbox-kernel, so it goes on; it is shut down where it was started, or by the "
    "gateway.\n"
)


class GatewaySandbox(Sandbox):
    """Made by the provider, in one of two modes."""

    provider_name = PROVIDER
    isolation = IsolationLevel.OF_GATEWAY

    def __init__(
        self,
        client: Callable[[], GatewayClient],
        place: Place,
        model: KernelModel,
        times: KernelTimes,
        settings: SocketSettings,
        *,
        made: bool,
    ) -> None:
        """``made`` says that the kernel was started for this sandbox; else it was there."""
        self.sandbox_id = model.kernel_id
        self._client, self._place, self._name, self._times = client, place, model.name, times
        self._is_ours = made or is_ours(model.kernel_id)
        self.is_foreign = not self._is_ours
        self._kernel = RemoteKernel(client, model.kernel_id, times, settings)
        self._watching: asyncio.Task[None] | None = None
        self._ends_now = asyncio.Event()
        """The kernel has said that it was told to end."""
        self._ids: dict[str, Any] = {"provider": PROVIDER, "sandbox_id": self.sandbox_id}

    async def open_link(self) -> Transport:
        try:
            transport = await self._open_link()
        except ConfigurationError as exc:
            # It was right once, so it is the gateway that has changed.
            raise SandboxConnectionError(str(exc), retryable=False, **self._ids) from exc
        if self._watching is None or self._watching.done():
            self._watching = asyncio.ensure_future(self._watch())
        return transport

    @abstractmethod
    async def _open_link(self) -> Transport:
        """Return a stream. Raises SandboxKernelError."""

    @property
    @abstractmethod
    def _is_open(self) -> bool:
        """Whether a session holds it."""

    @abstractmethod
    def _lose(self, reason: str) -> None:
        """End the stream: the kernel is not there any more."""

    @abstractmethod
    def _on_dead(self) -> None:
        """Take note that the gateway says that the kernel is dead."""

    async def _watch(self) -> None:
        """Look again and again whether the kernel is there: a gateway does not say that it has ended one."""
        soon = 0
        while True:
            if not soon and await happens_within(self._ends_now, self._times.watch):
                self._ends_now.clear()
                soon = LOOKS_AT_END
            if soon:
                soon -= 1
                await asyncio.sleep(LOOK_AT_END)
            if not self._is_open:
                # Whoever opens another link looks again.
                return
            try:
                model = await self._client().kernel(self.sandbox_id)
            except NotFoundError:
                self.is_gone = True
                self._lose(GONE)
                return
            except SandboxKernelError:
                # Whether the gateway can be reached the WebSocket tells.
                continue
            if model.state == "dead":
                self._on_dead()

    # ---- its life

    async def pause(self) -> None:
        raise SandboxError("Kernels of gateways cannot be paused.", **self._ids)

    async def resume(self) -> None:
        """Do nothing: it is never paused."""

    async def close(self) -> None:
        self._leave()
        if not self._is_ours:
            with suppress(NotFoundError):
                await asyncio.wait_for(self._client().kernel(self.sandbox_id), CLOSE_TIMEOUT)
                self.on_news(LEFT.format(self.sandbox_id))
            return
        try:
            await asyncio.wait_for(self._client().end(self.sandbox_id), CLOSE_TIMEOUT)
        except asyncio.TimeoutError as exc:
            raise SandboxTimeoutError(
                f"The gateway at {self._place.base} did not say in time that the kernel {self.sandbox_id} has ended.",
                **self._ids,
            ) from exc

    def kill(self) -> None:
        """Do nothing: without waiting nobody far away can be told."""

    def _leave(self) -> None:
        """Let go of the connection."""
        if self._watching is not None:
            self._watching.cancel()

    # ---- what became of it

    async def loss_reason(self) -> str:
        if self.is_gone:
            return GONE
        try:
            await asyncio.wait_for(self._client().kernel(self.sandbox_id), TELL_TIMEOUT)
        except NotFoundError:
            return GONE
        except asyncio.TimeoutError:
            return "its gateway does not say why"
        except SandboxKernelError as exc:
            return f"its gateway cannot be asked why ({exc})"
        return "its gateway closed the connection, and does not say why"

    @property
    @abstractmethod
    def _protocol(self) -> str:
        """How messages travel at the moment; "" where they do not."""

    def describe(self) -> dict[str, str]:
        rows = {
            "gateway": self._place.base,
            "kernelspec": self._name,
            "messages as": self._protocol,
            "without": words.LACKS if self.mode == "relay" else "",
            "at its end": "" if self._is_ours else "left running: it was not made by sandbox-kernel",
        }
        return {name: value for name, value in rows.items() if value}


class RelaySandbox(GatewaySandbox):
    """The gateway's kernel runs the cells."""

    mode = "relay"
    reason = ""
    """Why it is not in bridge mode, as a clause, where that was wanted."""

    def __init__(self, *arguments: Any, made: bool) -> None:
        super().__init__(*arguments, made=made)
        self._bridge = RelayBridge(self._kernel, attached=not made)
        self._bridge.on_news = self._tell
        self._bridge.on_leaving = self._ends_now.set

    def _tell(self, text: str) -> None:
        # Who listens may change.
        self.on_news(text)

    async def connect(self) -> None:
        """Connect to the kernel. Raises SandboxKernelError."""
        await self._bridge.connect()

    async def _open_link(self) -> Transport:
        return await self._bridge.open()

    @property
    def _is_open(self) -> bool:
        return self._bridge.is_open

    def _lose(self, reason: str) -> None:
        self._bridge.end(reason)

    def _on_dead(self) -> None:
        self._bridge.on_death(words.DEAD, renewed=False)

    def _leave(self) -> None:
        super()._leave()
        self._bridge.close()

    async def kernel_death_reason(self, exit_code: int) -> str:
        return self._bridge.death

    def greeting(self) -> str:
        reason, self.reason = self.reason, ""
        return words.relayed(reason) if reason else ""

    @property
    def _protocol(self) -> str:
        return self._bridge.protocol


class BridgeSandbox(GatewaySandbox):
    """The bridge runs beside the gateway's kernel, which carries its link and does nothing else."""

    def __init__(self, *arguments: Any, made: bool) -> None:
        super().__init__(*arguments, made=made)
        self._line: Line | None = None
        self._transport: CarriedTransport | None = None
        self._death = ""
        """Why the bridge is not there any more, as a clause."""

    async def begin(self, arguments: Sequence[str]) -> None:
        """Start the bridge in a new kernel. Raises NoBridgeError, SandboxKernelError."""
        line = await self._connected()
        try:
            await line.start(arguments, self._times.start)
        except BaseException:
            line.close()
            raise

    async def find(self) -> bool:
        """Whether there is a bridge in a kernel that was there before. Raises SandboxKernelError.

        One of ours in which nothing answers is taken for having one: passed off as another it would seem to be empty.
        """
        line = await self._connected()
        found: bool | None = False
        try:
            found = await line.has_carrier()
        finally:
            if not found:
                line.close()
        return self._is_ours if found is None else found

    async def _connected(self) -> Line:
        line = self._line = Line(self._kernel, self._ids)
        line.on_death = self._on_death
        await line.connect()
        return line

    def _on_death(self, reason: str) -> None:
        self._death = self._death or reason

    async def _open_link(self) -> Transport:
        if self._death:
            raise SandboxLostError(self._death, **self._ids)
        line = self._line if self._line is not None and self._line.is_usable else await self._connected()
        try:
            self._transport = await line.open()
        except SandboxLostError as exc:
            self._on_death(str(exc))
            line.close()
            raise
        except BaseException:
            line.close()
            raise
        return self._transport

    @property
    def _is_open(self) -> bool:
        return self._line is not None and bool(self._line.protocol)

    def _lose(self, reason: str) -> None:
        if self._line is not None:
            self._line.lose(reason)

    def _on_dead(self) -> None:
        self._on_death(words.DEAD)
        self._lose(words.DEAD)

    def _leave(self) -> None:
        super()._leave()
        if self._line is not None:
            self._line.close()

    async def loss_reason(self) -> str:
        return self._death or await super().loss_reason()

    @property
    def _protocol(self) -> str:
        return self._line.protocol if self._line is not None else ""
