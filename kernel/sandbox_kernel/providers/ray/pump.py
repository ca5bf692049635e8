"""One link in the companion: carries its bytes between the kernel process's socket and the actor's calls."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import Any

from sandbox_kernel.errors import SandboxKernelError
from sandbox_kernel.patience import in_time

from .cluster import Cluster
from .failures import ours
from .node_link import HEARTBEAT, PATIENCE, PIECE, TOLD
from .ordered import Incoming

AT_ONCE = 8
"""Calls under way that bring bytes to the node."""


class Pump:
    """Carries bytes until one side ends. The socket's end is all that the kernel process is told: it asks why."""

    def __init__(self, cluster: Cluster, sandbox_id: str, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._cluster, self._sandbox_id, self._sock = cluster, sandbox_id, sock
        self._name = os.urandom(8).hex()
        self._offset = 0
        self._received = self._told = 0
        self._telling: asyncio.Task[Any] | None = None
        self._said = time.monotonic()
        self._handle: Any = None
        self._under_way: set[asyncio.Task[Any]] = set()

    async def open(self) -> None:
        """Make the link on the node. Raises what `Cluster.ask` does."""
        try:
            await self._cluster.ask(self._sandbox_id, "open", self._name, timeout=PATIENCE / 2)
            self._handle = await self._cluster.handle(self._sandbox_id)
        except BaseException:
            self._sock.close()
            raise

    async def run(self) -> None:
        """Carry bytes until one side ends."""
        down = self._poll() if self._cluster.through_client else self._follow()
        tasks = [asyncio.ensure_future(one) for one in (self._up(), down, self._beat())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            left = [*tasks, *self._under_way, *([] if self._telling is None else [self._telling])]
            for task in left:
                task.cancel()
            # The socket is not closed before they have let go of it: its number would be another's.
            await asyncio.gather(*left, return_exceptions=True)
            self._sock.close()
            self._handle.shut.remote(self._name)

    # ---- to the node

    async def _up(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._sock, PIECE):
            self._push(data)
            if len(self._under_way) >= AT_ONCE:
                await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in [one for one in self._under_way if one.done()]:
                self._under_way.discard(task)
                task.result()

    def _push(self, data: bytes) -> None:
        self._under_way.add(asyncio.ensure_future(self._send(self._offset, data)))
        self._offset += len(data)

    async def _send(self, offset: int, data: bytes) -> None:
        self._said, self._told = time.monotonic(), self._received
        await self._call("push", offset, data, self._received)

    async def _beat(self) -> None:
        """Say now and then that we are here; a call that fails, or is not answered, ends the link."""
        while True:
            await asyncio.sleep(HEARTBEAT / 2)
            failed = [one for one in self._under_way if one.done() and one.exception() is not None]
            if failed:
                return
            if time.monotonic() - self._said >= HEARTBEAT:
                await in_time(self._send(self._offset, b""), PATIENCE)

    # ---- from the node

    async def _follow(self) -> None:
        """Take what the actor streams."""
        loop = asyncio.get_running_loop()
        with ours():
            stream = self._handle.stream.options(num_returns="streaming").remote(self._name)
            async for reference in stream:
                data = await reference
                await loop.sock_sendall(self._sock, data)
                self._received += len(data)
                self._tell()

    def _tell(self) -> None:
        """Say what has come, so that more may: one call at a time, and not for every piece."""
        if self._received - self._told < TOLD or (self._telling is not None and not self._telling.done()):
            return
        if self._telling is not None:
            self._telling.result()
        self._telling = asyncio.ensure_future(self._send(self._offset, b""))

    async def _poll(self) -> None:
        """Ask for bytes again and again: a Ray client has no streams."""
        loop = asyncio.get_running_loop()
        incoming = Incoming()
        while True:
            data, reason = await self._call("pull", incoming.position)
            incoming.hold(incoming.position, data)
            while piece := incoming.next():
                await loop.sock_sendall(self._sock, piece)
            if reason:
                return

    async def _call(self, method: str, *arguments: Any) -> Any:
        with ours():
            answer = await getattr(self._handle, method).remote(self._name, *arguments)
        if "failure" in answer:
            raise LinkEndedError(answer["failure"]["text"])
        return answer["result"]


class LinkEndedError(SandboxKernelError):
    """The node has no such link any more; the kernel process makes another."""
