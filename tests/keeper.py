"""A process that holds sandboxes for kernels elsewhere, and loses connections when it is told to; for tests.

Run as ``python -m tests.keeper SOCKET``; it ends with its standard input. Each connection to SOCKET brings one request,
a line of JSON, and gets one line as the answer. After "open" the connection is a stream to the sandbox's bridge.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from traitlets import Float, Unicode

from sandbox_kernel.errors import NotFoundError, SandboxConnectionError, SandboxLostError
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
from tests.unsandboxed import ProcessSandbox

Json = dict[str, Any]


class Keeper:
    """The sandboxes, and the connections that lead to them."""

    def __init__(self) -> None:
        self.sandboxes: dict[str, ProcessSandbox] = {}
        self.connections: dict[str, list[socket.socket]] = {}
        self.away = False
        """No connection is made now."""

    def serve(self, client: socket.socket) -> None:
        """Answer one connection."""
        with client:
            request = json.loads(_line(client))
            try:
                answer = getattr(self, f"do_{request.pop('op')}")(**request)
            except KeyError:
                answer = {"error": "gone"}
            stream = answer.pop("stream", None)
            client.sendall(json.dumps(answer).encode() + b"\n")
            if stream is not None:
                self._pass(request["id"], client, stream)

    def _pass(self, name: str, client: socket.socket, stream: socket.socket) -> None:
        self.connections.setdefault(name, []).append(client)
        back = threading.Thread(target=_copy, args=(stream, client), daemon=True)
        back.start()
        _copy(client, stream)
        back.join()
        stream.close()

    def do_create(self) -> Json:
        """Make a sandbox."""
        sandbox = ProcessSandbox(kept=True)
        self.sandboxes[sandbox.sandbox_id] = sandbox
        return {"id": sandbox.sandbox_id}

    def do_open(self, id: str) -> Json:  # noqa: A002
        """Open a stream."""
        if self.away:
            return {"error": "away"}
        sandbox = self.sandboxes[id]
        if sandbox.process.poll() is not None:
            return {"error": "gone"}
        return {"stream": sandbox.open_stream()}

    def do_find(self, id: str) -> Json:  # noqa: A002
        """Say that a sandbox is there, and let it go on if it was paused."""
        asyncio.run(self.sandboxes[id].resume())
        return {"pid": self.sandboxes[id].process.pid}

    def do_list(self) -> Json:
        """Name the sandboxes."""
        return {"ids": sorted(self.sandboxes)}

    def do_close(self, id: str) -> Json:  # noqa: A002
        """Give a sandbox back."""
        if self.away:
            return {"error": "away"}
        asyncio.run(self.sandboxes.pop(id).close())
        return {}

    def do_pause(self, id: str) -> Json:  # noqa: A002
        """Freeze a sandbox."""
        asyncio.run(self.sandboxes[id].pause())
        return {}

    def do_cut(self, away: bool = False) -> Json:
        """End every connection; with ``away`` none is made until the next cut without it."""
        self.away = away
        for connections in list(self.connections.values()):
            for connection in connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self.connections.clear()
        return {}

    def end(self) -> None:
        """End all sandboxes."""
        for sandbox in self.sandboxes.values():
            sandbox.kill()


def _line(sock: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        found = sock.recv(1)
        if not found:
            raise ConnectionError("no line")
        line += found
    return line


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 20):
            target.sendall(data)
    for sock in (source, target):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def main() -> None:
    """Serve until standard input ends."""
    keeper = Keeper()
    server = socket.socket(socket.AF_UNIX)
    server.bind(sys.argv[1])
    server.listen(100)

    def accept() -> None:
        while True:
            client, _ = server.accept()
            threading.Thread(target=keeper.serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    keeper.end()
    os._exit(0)


# ---- the other end


def ask(address: str, op: str, **fields: object) -> tuple[Json, socket.socket]:
    """Send the keeper a request; return its answer and the connection."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(address)
        sock.sendall(json.dumps({"op": op, **fields}).encode() + b"\n")
        answer = json.loads(_line(sock))
    except OSError as exc:
        sock.close()
        raise SandboxConnectionError(f"the keeper cannot be reached: {exc}") from exc
    match answer.get("error"):
        case "gone":
            sock.close()
            raise SandboxLostError("it is gone")
        case "away":
            sock.close()
            raise SandboxConnectionError("it is away")
    return answer, sock


def tell(address: str, op: str, **fields: object) -> Json:
    """Send the keeper a request; return its answer."""
    answer, sock = ask(address, op, **fields)
    sock.close()
    return answer


class KeeperSandbox(Sandbox):
    """A sandbox that the keeper holds."""

    provider_name = "keeper"
    isolation = IsolationLevel.NONE

    def __init__(self, address: str, sandbox_id: str) -> None:
        self._address = address
        self.sandbox_id = sandbox_id

    async def open_link(self) -> Transport:
        _, sock = await asyncio.to_thread(ask, self._address, "open", id=self.sandbox_id)
        return SocketTransport(sock)

    async def pause(self) -> None:
        await asyncio.to_thread(tell, self._address, "pause", id=self.sandbox_id)

    async def resume(self) -> None:
        await asyncio.to_thread(tell, self._address, "find", id=self.sandbox_id)

    async def close(self) -> None:
        with suppress(SandboxLostError):
            await asyncio.to_thread(tell, self._address, "close", id=self.sandbox_id)

    def kill(self) -> None:
        with suppress(SandboxLostError):
            tell(self._address, "close", id=self.sandbox_id)

    async def loss_reason(self) -> str:
        return "its process ended"


class KeeperProvider(Provider):
    """Sandboxes that outlive their kernel process."""

    name = "keeper"
    capabilities = Capabilities(pause=True, outlives_kernel=True)
    address = Unicode(help="The keeper's socket.").tag(config=True)
    hourly_cost = Float(0.0, help="What an hour costs.").tag(config=True)  # type: ignore[assignment]

    async def create(self, spec: SandboxSpec) -> Sandbox:
        assert spec.kept
        making = asyncio.ensure_future(asyncio.to_thread(tell, self.address, "create"))
        try:
            answer = await asyncio.shield(making)
        except asyncio.CancelledError:
            # It is made all the same, and nothing is to be left.
            await KeeperSandbox(self.address, (await making)["id"]).close()
            raise
        return KeeperSandbox(self.address, answer["id"])

    async def connect(self, sandbox_id: str) -> Sandbox:
        try:
            await asyncio.to_thread(tell, self.address, "find", id=sandbox_id)
        except SandboxLostError as exc:
            raise NotFoundError(f"there is no sandbox {sandbox_id}") from exc
        return KeeperSandbox(self.address, sandbox_id)

    async def list(self) -> Sequence[SandboxRecord]:
        answer = await asyncio.to_thread(tell, self.address, "list")
        return [SandboxRecord(name, "running", 0.0) for name in answer["ids"]]

    def diagnose(self) -> Sequence[Diagnosis]:
        return []


if __name__ == "__main__":
    main()
