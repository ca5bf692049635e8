"""A TCP proxy that does to connections what networks do, when it is told to."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable

from .faults import Fault

CHUNK = 64 * 1024
LATE = 1.0
"""Seconds for which bytes wait at most for the connection that they are to come after."""


class ChaosProxy:
    """Listens on a port of its own and passes connections on; runs in a thread. Faults strike in their order."""

    def __init__(self, target: Callable[[], tuple[str, int]]) -> None:
        """``target`` says where connections lead at the moment."""
        self._target = target
        self.counts: Counter[str] = Counter()
        """Faults that have struck, by kind."""
        self._armed: deque[Fault] = deque()
        self._passed = 0
        self._first_bytes = asyncio.Event()
        self.passable = asyncio.Event()
        self.passable.set()
        self._serving = False
        """Whether connections are taken, not refused."""
        self._connections: set[asyncio.Task[None]] = set()
        self.generation = 0
        """Raised whenever what was cut off goes on."""
        self._listener = _listen(0)
        self.port = int(self._listener.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def arm(self, fault: Fault) -> None:
        """Let a fault strike, after those that have not yet."""
        self._loop.call_soon_threadsafe(self._armed.append, fault)

    def cut_off(self) -> None:
        """Let nothing pass any more, and no connection be made, without a word to anybody."""
        self._loop.call_soon_threadsafe(self.passable.clear)

    def go_on(self) -> None:
        """Undo `cut_off` and `break_off`. Connections of before are dead, as after a long time they are."""
        self._loop.call_soon_threadsafe(self._go_on)

    def _go_on(self) -> None:
        self.generation += 1
        self.passable.set()
        if not self._serving:
            self._listener = _listen(self.port)
            self._serve()

    def break_off(self, *, refuse: bool = False) -> None:
        """Reset all connections at once; with ``refuse`` also those that are made until `go_on`."""
        self._loop.call_soon_threadsafe(self._break_off, refuse)

    def _break_off(self, refuse: bool) -> None:
        if refuse and self._serving:
            self._serving = False
            self._loop.remove_reader(self._listener)
            self._listener.close()
        for connection in self._connections:
            connection.cancel()

    @property
    def waiting(self) -> int:
        """Faults that have not struck."""
        return len(self._armed)

    def close(self) -> None:
        """End it, and all connections."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._serve()
        self._loop.run_forever()
        if self._serving:
            # Else it would go on to take connections.
            self._loop.remove_reader(self._listener)
        while tasks := asyncio.all_tasks(self._loop):
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _serve(self) -> None:
        self._serving = True
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            # Whoever wanted it has gone again.
            return
        connection = _Connection(self, client)
        task = self._loop.create_task(connection.run())
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        # Not in the task: it may be cancelled before it begins, and again while it ends.
        task.add_done_callback(connection.close)

    # ---- for connections

    async def connect(self) -> socket.socket:
        """Return a connection to the target. Raises OSError."""
        server = socket.socket()
        server.setblocking(False)
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.sock_connect(server, self._target())
        except BaseException:
            server.close()
            raise
        return server

    def struck_by(self, size: int, *, upstream: bool) -> Fault | None:
        """Take note of bytes that are about to pass; return the fault that strikes them."""
        if not self._armed or self._armed[0].upstream is not upstream:
            return None
        self._passed += size
        if self._passed <= self._armed[0].after:
            return None
        self._passed = 0
        fault = self._armed.popleft()
        self.counts[fault.kind] += 1
        return fault

    def begin_waiting(self) -> None:
        """From now on `next_connection` waits for the first bytes of a connection that is new."""
        self._first_bytes.clear()

    def tell_first_bytes(self) -> None:
        """Take note that a connection has carried its first bytes."""
        self._first_bytes.set()

    async def next_connection(self) -> None:
        """Wait for that, not for ever."""
        try:
            await asyncio.wait_for(self._first_bytes.wait(), LATE)
        except asyncio.TimeoutError:
            return


class _Connection:
    """One connection through the proxy."""

    def __init__(self, proxy: ChaosProxy, client: socket.socket) -> None:
        self._proxy = proxy
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client = client
        self._server: socket.socket | None = None
        self._open = asyncio.Event()
        self._open.set()

    def close(self, _: object = None) -> None:
        """Reset both sides. Idempotent."""
        for sock in (self._client, self._server):
            if sock is not None:
                reset(sock)

    async def run(self) -> None:
        """Pass bytes both ways until one side ends."""
        await self._proxy.passable.wait()
        self._generation = self._proxy.generation
        try:
            self._server = await self._proxy.connect()
        except OSError:
            return
        ways = [asyncio.ensure_future(self._pass(upstream=upstream)) for upstream in (True, False)]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass(self, *, upstream: bool) -> None:
        assert self._server is not None
        loop = asyncio.get_running_loop()
        source, sink = (self._client, self._server) if upstream else (self._server, self._client)
        try:
            while data := await loop.sock_recv(source, CHUNK):
                await self._open.wait()
                await self._proxy.passable.wait()
                if self._generation != self._proxy.generation:
                    return
                fault = self._proxy.struck_by(len(data), upstream=upstream)
                if fault is not None and not await self._strike(fault, data, sink):
                    return
                if fault is None or fault.kind not in ("cut", "reorder"):
                    await loop.sock_sendall(sink, data)
                self._proxy.tell_first_bytes()
        except OSError:
            return

    async def _strike(self, fault: Fault, data: bytes, sink: socket.socket) -> bool:
        """Do it; return whether this direction goes on, beginning with the data."""
        match fault.kind:
            case "delay":
                await asyncio.sleep(fault.seconds)
            case "stall":
                self._open.clear()
                await asyncio.sleep(fault.seconds)
                self._open.set()
            case "half-open":
                # Until the other direction ends.
                await asyncio.Event().wait()
            case "cut":
                await asyncio.get_running_loop().sock_sendall(sink, data[: int(len(data) * fault.fraction)])
                return False
            case "reorder":
                await self._come_late(fault, data)
                return False
            case _:
                return False
        return True

    async def _come_late(self, fault: Fault, data: bytes) -> None:
        self._proxy.begin_waiting()
        reset(self._client)
        await self._proxy.next_connection()
        await asyncio.sleep(fault.seconds / 10)
        if fault.upstream:
            assert self._server is not None
            await asyncio.get_running_loop().sock_sendall(self._server, data)


def _listen(port: int) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", port))
    listener.setblocking(False)
    return listener


def reset(sock: socket.socket) -> None:
    """Close it so that the other end hears of an error. Idempotent."""
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
