"""The first program in an emulated sandbox: takes the streams that the emulator passes in, and serves or connects them.

Each stream begins with a line that names a port. Those of envd and of the code interpreter are served here; others
lead to whatever listens at 127.0.0.1. The daemon answers + or - and then the stream is the connection.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress

from .envd import Envd
from .http import Exchange, HttpError, read_request
from .interpreter import Interpreter

ENVD, INTERPRETER = 49983, 49999
READ_SIZE = 256 * 1024

Serve = Callable[[Exchange], Awaitable[None]]


def main() -> None:
    """Run until the emulator lets go of the sandbox."""
    control = socket.socket(fileno=int(sys.argv[sys.argv.index("--control-fd") + 1]))
    os.set_inheritable(control.fileno(), False)
    asyncio.run(Daemon(control).run())


class Daemon:
    """Serves the streams."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        has_interpreter = os.environ.get("E2B_EMULATED_INTERPRETER") == "1"
        self._services: dict[int, Serve] = {ENVD: Envd().serve}
        if has_interpreter:
            self._services[INTERPRETER] = Interpreter().serve
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Take streams until there come no more."""
        self._control.setblocking(False)
        asyncio.get_running_loop().add_reader(self._control, self._take)
        await self._ended.wait()

    def _take(self) -> None:
        try:
            said, descriptors, _, _ = socket.recv_fds(self._control, 1, 8, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        if not said:
            self._ended.set()
            return
        for descriptor in descriptors:
            task = asyncio.ensure_future(self._serve(socket.socket(fileno=descriptor)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=sock, limit=2**24)
        # What the client does with its end of the connection is no fault of the daemon's.
        with suppress(OSError, asyncio.IncompleteReadError):
            port = int(await reader.readline())
            serve = self._services.get(port)
            if serve is not None:
                writer.write(b"+")
                await _serve_request(serve, reader, writer)
            else:
                await _connect(port, reader, writer)
        with suppress(OSError):
            writer.close()
            await writer.wait_closed()


async def _serve_request(serve: Serve, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    exchange = Exchange(await read_request(reader), reader, writer)
    try:
        await serve(exchange)
    except HttpError as exc:
        exchange.answer(exc.status, exc.body, exc.headers)
    except ConnectionError:
        raise
    except Exception as exc:  # noqa: BLE001 - a service that fails answers so
        if not exchange.answered:
            exchange.answer(500, {"code": "internal", "message": repr(exc)})


async def _connect(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port, limit=2**24)
    except OSError:
        writer.write(b"-")
        return
    inner_writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    writer.write(b"+")
    ways = [asyncio.ensure_future(_copy(reader, inner_writer)), asyncio.ensure_future(_copy(inner_reader, writer))]
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    inner_writer.close()
    for way in ways:
        way.cancel()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(READ_SIZE):
            writer.write(data)
            await writer.drain()
