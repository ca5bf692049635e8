"""A kernel of a gateway by its id: connections to it, and what is done with it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sandbox_kernel.errors import (
    AuthenticationError,
    NotFoundError,
    SandboxConnectionError,
    SandboxKernelError,
    SandboxLostError,
    SandboxTimeoutError,
)

from .channels import KernelSocket, SocketSettings, UpgradeRefusedError, open_socket
from .ends import GatewayKernel
from .failures import NOT_FOUND, PROVIDER, error_of, refusal_of, unreachable
from .messages import ChannelMessage
from .rest import GatewayClient


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

    async def open(
        self, on_message: Callable[[ChannelMessage], None], on_lost: Callable[[str], None], *, fresh: bool = False
    ) -> KernelSocket:
        client = self._client()
        place = client.place
        timeout = self._times.connect if self._session else self._times.start
        session = (not fresh and self._session) or uuid.uuid4().hex
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
