"""A provider for tests of what stands above providers: the real bridge and ipykernel without isolation."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import sandbox_kernel
from sandbox_kernel.errors import NotFoundError, SandboxError, SandboxLostError
from sandbox_kernel.link.stream import SocketTransport
from sandbox_kernel.link.transport import Transport
from sandbox_kernel.providers.base import (
    Capabilities,
    Diagnosis,
    IsolationLevel,
    Provider,
    Sandbox,
    SandboxRecord,
    SandboxSpec,
)

PACKAGE = Path(sandbox_kernel.__file__).parent.parent


class ProcessSandbox(Sandbox):
    """A bridge as a child process in a session of its own."""

    provider_name = "process"
    isolation = IsolationLevel.NONE

    def __init__(self, *, kept: bool = False) -> None:
        self._socket, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET if kept else socket.SOCK_STREAM)
        self._folder = tempfile.TemporaryDirectory(prefix="unsandboxed-")
        command = [sys.executable, "-m", "sandbox_kernel.bridge.main"]
        if kept:
            command += ["--control-fd", str(theirs.fileno()), "--journal-dir", self._folder.name]
        else:
            command += ["--link-fd", str(theirs.fileno())]
        self.process = subprocess.Popen(
            [*command, "--runtime-dir", self._folder.name],
            pass_fds=[theirs.fileno()],
            cwd=self._folder.name,
            env={**os.environ, "PYTHONPATH": str(PACKAGE)},
            start_new_session=True,
        )
        theirs.close()
        self.sandbox_id = f"process-{self.process.pid}"

    def open_stream(self) -> socket.socket:
        """Return a new stream to the bridge of one that is kept."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._socket, [b"s"], [theirs.fileno()])
        return ours

    async def open_link(self) -> Transport:
        if self._socket.fileno() < 0:
            raise SandboxLostError("it is gone")
        return SocketTransport(self._socket)

    async def pause(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)

    async def resume(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    async def close(self) -> None:
        self._socket.close()
        await asyncio.to_thread(self._end)

    def kill(self) -> None:
        self.process.kill()

    def _end(self) -> None:
        try:
            # The bridge ends with its link, and its kernel with it.
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._folder.cleanup()

    async def loss_reason(self) -> str:
        return "its process ended"


class ProcessProvider(Provider):
    """Makes ProcessSandboxes; the first ones fail with the errors that it was given."""

    name = "process"

    def __init__(self, errors: Sequence[Exception] = (), *, billed: bool = False) -> None:
        super().__init__()
        self.capabilities = Capabilities(pause=True, billed=billed)
        self.errors = list(errors)
        self.calls = 0
        self.created: list[ProcessSandbox] = []

    async def create(self, spec: SandboxSpec) -> Sandbox:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        sandbox = ProcessSandbox()
        self.created.append(sandbox)
        return sandbox

    async def connect(self, sandbox_id: str) -> Sandbox:
        raise NotFoundError(f"there is no sandbox {sandbox_id}")

    async def list(self) -> Sequence[SandboxRecord]:
        return []

    def diagnose(self) -> Sequence[Diagnosis]:
        return []


def throttled() -> SandboxError:
    """What a provider raises when it is asked too often."""
    return SandboxError("slow down", retryable=True)
