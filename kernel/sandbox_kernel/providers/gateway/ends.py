"""What the relay stands between: a kernel, as far as it needs one, and the transport of the session's link."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from sandbox_kernel.providers.basic.memory import MemoryTransport

from .channels import KernelSocket
from .messages import ChannelMessage


class GatewayKernel(ABC):
    """What the relay needs of a kernel. Each method raises SandboxKernelError."""

    @abstractmethod
    async def open(
        self, on_message: Callable[[ChannelMessage], None], on_lost: Callable[[str], None], *, fresh: bool = False
    ) -> KernelSocket:
        """Return a WebSocket to its channels.

        What the gateway has kept for the one before comes over it, unless it is ``fresh``: another client's.
        """

    @abstractmethod
    async def interrupt(self) -> None:
        """Interrupt what it runs."""

    @abstractmethod
    async def restart(self) -> None:
        """Renew it; return when there is another."""


class RelayTransport(MemoryTransport):
    """Ends the connection to the gateway with itself."""

    def __init__(self, take: Callable[[memoryview], None], on_closed: Callable[[RelayTransport], None]) -> None:
        """``on_closed`` is told when who holds it closes it."""
        super().__init__(take)
        self._on_closed = on_closed

    def close(self) -> None:
        super().close()
        self._on_closed(self)
