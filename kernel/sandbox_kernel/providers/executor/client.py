"""An executor as the provider uses it: makes, finds and lists sandboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sandbox_kernel.executor_api import executor_pb2 as pb
from sandbox_kernel.executor_api.names import printable
from sandbox_kernel.providers.base import SandboxRecord

from .calls import Calls
from .connection import Connection
from .sandbox import ExecutorSandbox

PAUSED = "paused"


class ExecutorClient:
    """Belongs to the event loop on which it was made."""

    def __init__(self, connection: Connection) -> None:
        self.loop = asyncio.get_running_loop()
        self._calls = Calls(connection)

    async def greet(self) -> str:
        """Return what the executor says of itself, as a clause."""
        reply = await self._calls.unary("Greet", pb.GreetRequest())
        return f"version {reply.version}, you are {reply.owner}{', it is shutting down' if reply.draining else ''}"

    async def owner(self) -> str:
        """Return whose the key is."""
        return str((await self._calls.unary("Greet", pb.GreetRequest())).owner)

    async def create(self, label: str, kernel_arguments: Sequence[str], correlation_id: str) -> ExecutorSandbox:
        """Have a sandbox made. A call that takes long is made again, and waits for the same sandbox."""
        request = pb.CreateRequest(label=printable(label), kernel_arguments=kernel_arguments)
        info = await self._calls.unary("Create", request, correlation_id=correlation_id)
        return ExecutorSandbox(self._calls, info, correlation_id)

    async def attach(self, sandbox_id: str) -> ExecutorSandbox:
        """Return a sandbox that exists; one that was paused goes on. Raises NotFoundError."""
        request = pb.SandboxRequest(sandbox_id=sandbox_id)
        info = await self._calls.unary("Attach", request, sandbox_id=sandbox_id)
        if info.state == PAUSED:
            info = await self._calls.unary("Resume", request, sandbox_id=sandbox_id)
        return ExecutorSandbox(self._calls, info)

    async def list(self) -> list[SandboxRecord]:
        """Return this owner's sandboxes."""
        reply = await self._calls.unary("List", pb.ListRequest())
        return [SandboxRecord(one.sandbox_id, one.state, one.created, one.idle) for one in reply.sandboxes]
