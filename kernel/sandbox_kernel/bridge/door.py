"""Where a sandbox has an address: lets whoever knows the token in by WebSocket, to the bridge that it starts.

It outlives its connections and ends with the bridge. Run as a program it starts in the background, and says so when it
listens: nobody has to look for it in vain.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from sandbox_kernel.link import websocket
from sandbox_kernel.link.envelope import LINK_STREAM

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_BRIDGE = f"import sys; sys.path.insert(0, {ROOT!r}); from sandbox_kernel.bridge.main import main; main()"
TOKEN_HEADER = "x-sandbox-kernel-token"  # noqa: S105 - a header's name
TOKEN_VARIABLE = "SANDBOX_DOOR_TOKEN"  # noqa: S105 - a variable's name
NEEDED = ("ipykernel", "zmq", "tornado")
MISSING, RUNNING = 3, 4
"""Exit statuses: a package is missing; the port is taken, so there is a door already."""
MAX_HEAD = 64 * 1024
HEAD_TIMEOUT = 10.0
"""Seconds in which a client must have said what it wants."""
READ_SIZE = 256 * 1024


def main() -> None:
    """Start a door in the background.

    The only argument is JSON: ``port``, ``folder`` (ours, private), ``work`` (the cells' working folder), ``arguments``
    for the ipykernel. The token is in the environment, where the cells do not find it.
    """
    options = json.loads(sys.argv[1])
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(f"{sys.executable} has no {', '.join(missing)}")  # noqa: T201 - read by the kernel process
        sys.exit(MISSING)
    token = os.environ.pop(TOKEN_VARIABLE)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        # Not only for this machine: how the ingress comes here is the provider's affair, and the token is asked for.
        listener.bind(("0.0.0.0", options["port"]))  # noqa: S104
    except OSError as exc:
        sys.exit(RUNNING if exc.errno == errno.EADDRINUSE else str(exc))
    listener.listen(64)
    for name in ("run", "journal", "packages"):
        os.makedirs(os.path.join(options["folder"], name), exist_ok=True)
    os.makedirs(options["work"], exist_ok=True)
    _keep(os.path.join(options["folder"], "token"), token)
    if os.fork():
        print(json.dumps({"python": ".".join(map(str, sys.version_info[:3]))}))  # noqa: T201 - read by the kernel process
        return
    _leave(os.path.join(options["folder"], "log"))
    asyncio.run(Door(listener, token, _start(options)).run())


def _keep(path: str, token: str) -> None:
    """Keep the token for the kernel process that comes after this one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(token)


def _leave(log: str) -> None:
    """Become independent of who started this."""
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)


def _start(options: dict[str, Any]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the bridge; return it and the socket over which streams are passed to it."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    folder = options["folder"]
    arguments = ["--control-fd", str(theirs.fileno()), "--journal-dir", f"{folder}/journal"]
    process = subprocess.Popen(
        [sys.executable, "-c", _BRIDGE, *arguments, "--runtime-dir", f"{folder}/run", *options["arguments"]],
        cwd=options["work"],
        env={**os.environ, "PWD": options["work"], "SANDBOX_PACKAGES": f"{folder}/packages"},
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
    )
    theirs.close()
    return process, ours


class Door:
    """Lets clients in."""

    def __init__(
        self, listener: socket.socket, token: str, bridge: tuple[subprocess.Popen[bytes], socket.socket]
    ) -> None:
        self._listener = listener
        self._token = token
        self._bridge, self._control = bridge

    async def run(self) -> None:
        """Serve until the bridge ends."""
        server = await asyncio.start_server(self._serve, sock=self._listener, limit=MAX_HEAD)
        status = await asyncio.get_running_loop().run_in_executor(None, self._bridge.wait)
        server.close()
        print(f"the bridge ended with status {status}")  # noqa: T201 - in the log
        # Connections that are open must not keep it.
        sys.stdout.flush()
        os._exit(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._let_in(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError, ValueError):
            # Who comes in a way that cannot be understood is not let in, and who leaves has left.
            pass
        finally:
            writer.close()

    async def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HEAD_TIMEOUT)
        headers = {}
        for line in head.decode("latin-1").split("\r\n")[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        if not hmac.compare_digest(headers.get(TOKEN_HEADER, "").encode(), self._token.encode()):
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        accept = websocket.accept_of(headers["sec-websocket-key"]) if "sec-websocket-key" in headers else ""
        if not accept:
            writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            return
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept.encode() + b"\r\n\r\n"
        )
        ours, theirs = socket.socketpair()
        with ours:
            socket.send_fds(self._control, [LINK_STREAM], [theirs.fileno()])
            theirs.close()
            ours.setblocking(False)
            await _carry(ours, reader, writer)


async def _carry(sock: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    ways = [asyncio.ensure_future(_inwards(sock, reader, writer)), asyncio.ensure_future(_outwards(sock, writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for way in ways:
            way.cancel()
        # Not before they have let go of the socket: its number would be another's.
        await asyncio.gather(*ways, return_exceptions=True)


async def _inwards(sock: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    loop, decoder = asyncio.get_running_loop(), websocket.Decoder()
    while data := await reader.read(READ_SIZE):
        for kind, payload in decoder.receive(data):
            if kind == websocket.DATA:
                await loop.sock_sendall(sock, payload)
            elif kind == websocket.PING:
                writer.write(websocket.encode(websocket.PONG, payload, masked=False))
            elif kind == websocket.CLOSE:
                return


async def _outwards(sock: socket.socket, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    view = memoryview(bytearray(READ_SIZE))
    while count := await loop.sock_recv_into(sock, view):
        writer.write(websocket.encode(websocket.DATA, view[:count], masked=False))
        await writer.drain()
