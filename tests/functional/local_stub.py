"""A local provider whose sandboxes run a small evaluator in place of the bridge, and the other end of its stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sandbox_kernel.link.transport import Transport
from sandbox_kernel.providers.base import SandboxSpec
from sandbox_kernel.providers.local.provider import LocalProvider
from sandbox_kernel.providers.local.sandbox import LocalSandbox
from sandbox_kernel.workspace.settings import Workspace

EVALUATOR = """
import json, socket, sys, traceback
link = socket.socket(fileno=int(sys.argv[sys.argv.index("--link-fd") + 1]))
link.set_inheritable(False)
stream = link.makefile("rw")
for line in stream:
    names = {}
    try:
        exec(json.loads(line), names)
        answer = {"result": names.get("result")}
    except BaseException as exc:
        answer = {"error": type(exc).__name__ + ": " + str(exc)}
    stream.write(json.dumps(answer) + "\\n")
    stream.flush()
"""


class StubProvider(LocalProvider):
    """Everything is the local provider's but the program that runs inside."""

    program = EVALUATOR

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.workspace is None:
            # These tests look at an empty work folder; the notebook's has tests of its own.
            self.workspace = Workspace(mode="private")


class CodeError(Exception):
    """The code inside raised; the message is type and text."""


class Inside:
    """Runs Python code in a sandbox."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._received = b""
        self._arrived = asyncio.Event()
        self.lost = ""
        transport.start(self)

    def data_received(self, data: memoryview) -> None:
        self._received += bytes(data)
        self._arrived.set()

    def writable(self) -> None:
        pass

    def connection_lost(self, reason: str) -> None:
        self.lost = reason
        self._arrived.set()

    def send(self, code: str) -> None:
        """Have the code run, without waiting for it."""
        self._transport.write([json.dumps(code).encode() + b"\n"])

    async def answer(self) -> Any:
        """Return the value of ``result`` after the code that was sent last."""
        while b"\n" not in self._received:
            if self.lost:
                raise ConnectionError(self.lost)
            self._arrived.clear()
            await asyncio.wait_for(self._arrived.wait(), 60)
        line, _, self._received = self._received.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise CodeError(answer["error"])
        return answer["result"]

    async def run(self, code: str) -> Any:
        """Run the code and return its ``result``."""
        self.send(code)
        return await self.answer()

    async def until_lost(self) -> None:
        """Wait until the stream ends."""
        while not self.lost:
            self._arrived.clear()
            await asyncio.wait_for(self._arrived.wait(), 60)

    def close(self) -> None:
        self._transport.close()


async def start(provider: LocalProvider) -> tuple[LocalSandbox, Inside]:
    """Return a sandbox that runs the evaluator, and the evaluator."""
    sandbox = await provider.create(SandboxSpec("test"))
    assert isinstance(sandbox, LocalSandbox)
    return sandbox, Inside(await sandbox.open_link())


@asynccontextmanager
async def started(**options: Any) -> AsyncIterator[tuple[LocalSandbox, Inside]]:
    """Give a sandbox that is closed at the end."""
    sandbox, inside = await start(StubProvider(**options))
    try:
        yield sandbox, inside
    finally:
        inside.close()
        await sandbox.close()
