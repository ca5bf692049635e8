"""One kernel of a gateway. It goes on when this process ends, until somebody ends it, or the gateway culls it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sandbox_kernel.errors import (
    AuthenticationError,
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
from .channels import KernelSocket, SocketSettings, UpgradeRefusedError, open_socket
from .ends import GatewayKernel
from .failures import NOT_FOUND, PROVIDER, error_of, refusal_of, unreachable
from .messages import ChannelMessage
from .place import Place, is_ours
from .rest import GatewayClient, KernelModel

TELL_TIMEOUT = 5.0
"""Seconds for the question why something ended."""
CLOSE_TIMEOUT = 4.0
"""Seconds to end a kernel: a front end that shuts its kernel down waits no longer than five."""
GONE = "its gateway has no such kernel any more: it was culled when it was idle, or somebody shut it down"
LEFT = (
    "The kernel {} was not made by sandbox-kernel, so it goes on; it is shut down where it was started, or by the "
    "gateway.\n"
)


@dataclass(frozen=True)
class KernelTimes:
    """In seconds."""

    connect: float
    """For a WebSocket of a kernel that runs."""
    start: float
    """For one of a kernel that starts, and for a restart."""
    watch: float
    """Between two looks whether the kernel is still there."""


class RemoteKernel(GatewayKernel):
    """A kernel by its id."""

    def __init__(
        self, client: Callable[[], GatewayClient], kernel_id: str, times: KernelTimes, settings: SocketSettings
    ) -> None:
        """``client`` gives the client of the event loop that runs."""
        self.kernel_id = kernel_id
        self._client = client
        self._times, self._settings = times, settings
        self._session = ""
        """By which the gateway knows our connections: what it could not deliver over one it sends over the next."""
        self._ids: dict[str, Any] = {"provider": PROVIDER, "sandbox_id": kernel_id}

    async def open(self, on_message: Callable[[ChannelMessage], None], on_lost: Callable[[str], None]) -> KernelSocket:
        client = self._client()
        place = client.place
        timeout = self._times.connect if self._session else self._times.start
        session = self._session or uuid.uuid4().hex
        url = place.channels_url(self.kernel_id, session)
        try:
            opened = await open_socket(
                url, place.request_headers, client.context, self._settings, on_message, on_lost, timeout=timeout
            )
        except UpgradeRefusedError as exc:
            raise await self._why_not(client, exc) from exc
        except asyncio.TimeoutError as exc:
            raise SandboxTimeoutError(f"The gateway at {place.base} does not answer in time.", **self._ids) from exc
        except OSError as exc:
            raise unreachable(place, exc, "connect to the kernel", sandbox_id=self.kernel_id) from exc
        self._session = session
        return opened

    async def _why_not(self, client: GatewayClient, refused: UpgradeRefusedError) -> SandboxKernelError:
        """Return what keeps the gateway from letting us through."""
        refusal = refusal_of(refused.status, refused.body, refused.location)
        error = error_of(client.place, refusal, "connect to the kernel", sandbox_id=self.kernel_id)
        if isinstance(error, AuthenticationError):
            return error
        try:
            await client.kernel(self.kernel_id)
        except NotFoundError as exc:
            return SandboxLostError(str(exc), **self._ids)
        except SandboxKernelError as exc:
            return exc
        if refused.status == NOT_FOUND:
            return SandboxConnectionError(
                f"The gateway at {client.place.base} knows the kernel, and lets nobody connect to it (404): a proxy "
                "before it may not pass WebSockets on.",
                **self._ids,
            )
        error.retryable = True
        return error

    async def interrupt(self) -> None:
        await self._client().interrupt(self.kernel_id)

    async def restart(self) -> None:
        await self._client().restart(self.kernel_id, self._times.start)


class GatewaySandbox(Sandbox):
    """Made by the provider."""

    provider_name = PROVIDER
    isolation = IsolationLevel.OF_GATEWAY
    mode = "relay"

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
        kernel = RemoteKernel(client, model.kernel_id, times, settings)
        self._bridge = RelayBridge(kernel, attached=not made)
        self._bridge.on_news = self._tell
        self._watching: asyncio.Task[None] | None = None
        self._ids: dict[str, Any] = {"provider": PROVIDER, "sandbox_id": self.sandbox_id}

    def _tell(self, text: str) -> None:
        # Who listens may change.
        self.on_news(text)

    async def connect(self) -> None:
        """Connect to the kernel. Raises SandboxKernelError."""
        await self._bridge.connect()

    async def open_link(self) -> Transport:
        try:
            transport = await self._bridge.open()
        except ConfigurationError as exc:
            # It was right once, so it is the gateway that has changed.
            raise SandboxConnectionError(str(exc), retryable=False, **self._ids) from exc
        if self._watching is None or self._watching.done():
            self._watching = asyncio.ensure_future(self._watch())
        return transport

    async def _watch(self) -> None:
        """Look again and again whether the kernel is there: a gateway does not say that it has ended one."""
        while True:
            await asyncio.sleep(self._times.watch)
            if not self._bridge.is_open:
                # Whoever opens another link looks again.
                return
            try:
                model = await self._client().kernel(self.sandbox_id)
            except NotFoundError:
                self._bridge.lose(GONE)
                return
            except SandboxKernelError:
                # Whether the gateway can be reached the WebSocket tells.
                continue
            if model.state == "dead":
                self._bridge.on_death(words.DEAD, renewed=False)

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
        if self._watching is not None:
            self._watching.cancel()
        self._bridge.close()

    # ---- what became of it

    async def loss_reason(self) -> str:
        try:
            await asyncio.wait_for(self._client().kernel(self.sandbox_id), TELL_TIMEOUT)
        except NotFoundError:
            return GONE
        except asyncio.TimeoutError:
            return "its gateway does not say why"
        except SandboxKernelError as exc:
            return f"its gateway cannot be asked why ({exc})"
        return "its gateway closed the connection, and does not say why"

    async def kernel_death_reason(self, exit_code: int) -> str:
        return self._bridge.death

    def describe(self) -> dict[str, str]:
        rows = {
            "gateway": self._place.base,
            "kernelspec": self._name,
            "messages as": self._bridge.protocol,
            "without": words.LACKS,
            "at its end": "" if self._is_ours else "left running: it was not made by sandbox-kernel",
        }
        return {name: value for name, value in rows.items() if value}
