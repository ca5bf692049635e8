"""The companion process: a driver of a Ray cluster that serves one kernel process over a socket.

It exists because Ray's driver takes more memory than a kernel process may, changes signal handlers, writes to the
standard outputs, and ends its process where its cluster is gone. `python -m sandbox_kernel.providers.ray.driver FD`;
the settings come as JSON on the standard input. Each line on the socket is a JSON object: a request with a number, a
method and its arguments, or an answer, with that number; a socket for a link comes with its request.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from sandbox_kernel.errors import ConfigurationError, SandboxConnectionError, SandboxKernelError

from .words import Failure, failure_of

CONNECTS_WITHIN = 5.0
"""Seconds in which somebody has to listen at the cluster's address; Ray itself tries for two minutes."""
AUTO = "auto"
CLIENT = "ray://"
READ = 64 * 1024


class Server:
    """Answers the kernel process."""

    def __init__(self, sock: socket.socket, cluster: Any) -> None:
        self._sock, self._cluster = sock, cluster
        self._buffer = b""
        self._sockets: deque[socket.socket] = deque()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._pumps: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._methods: dict[str, Callable[..., Awaitable[Any]]] = {
            "create": self._create,
            "link": self._link,
            "info": cluster.info,
            "close": cluster.close,
            "list": cluster.list,
            "survey": cluster.survey,
            "pause": lambda sandbox_id: cluster.ask(sandbox_id, "pause"),
            "resume": lambda sandbox_id: cluster.ask(sandbox_id, "resume"),
            "explain": lambda sandbox_id, exit_code: cluster.ask(sandbox_id, "explain", exit_code, timeout=3.0),
        }

    async def run(self) -> None:
        """Serve until the kernel process has closed its end, or has ended; then leave nothing half made."""
        self._sock.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._sock, self._read)
        await self._ended.wait()
        loop.remove_reader(self._sock)
        tasks = [*self._tasks.values(), *self._pumps]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _read(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._sock, READ, 16)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        self._sockets.extend(socket.socket(fileno=one) for one in descriptors)
        if not data:
            self._ended.set()
            return
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, request: dict[str, Any]) -> None:
        number = int(request["number"])
        if request["method"] == "cancel":
            if number in self._tasks:
                self._tasks[number].cancel()
            return
        task = asyncio.ensure_future(self._answer(number, request))
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    async def _answer(self, number: int, request: dict[str, Any]) -> None:
        arguments = dict(request["arguments"])
        if request["method"] == "create":
            arguments["on_news"] = lambda text: self._say({"number": number, "news": text})
        try:
            result = await self._methods[request["method"]](**arguments)
        except SandboxKernelError as exc:
            self._fail(number, exc)
        except asyncio.CancelledError:
            self._say({"number": number, "failure": failure_of(SandboxConnectionError("it was given up"))})
            raise
        except Exception as exc:  # noqa: BLE001 - the edge: the kernel process waits for an answer
            self._fail(number, exc)
        else:
            self._say({"number": number, "result": result})

    def _fail(self, number: int, exc: Exception) -> None:
        if not self._cluster.connected:
            # Ray does not connect a process anew; the kernel process starts another one.
            exc = SandboxConnectionError("The connection to the Ray cluster was lost; it is made again.")
            self._ended.set()
        self._say({"number": number, "failure": failure_of(exc)})

    async def _create(self, **arguments: Any) -> Any:
        return await self._cluster.create(**arguments)

    async def _link(self, sandbox_id: str) -> None:
        from .pump import Pump

        # Nothing is awaited before: sockets come in the order of their requests.
        pump = Pump(self._cluster, sandbox_id, self._sockets.popleft())
        await pump.open()
        task = asyncio.ensure_future(pump.run())
        self._pumps.add(task)
        task.add_done_callback(self._pumps.discard)

    def _say(self, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode() + b"\n"
        with suppress(OSError):
            # Short lines that a living kernel process reads at once.
            self._sock.setblocking(True)
            self._sock.sendall(data)
        self._sock.setblocking(False)


def find_address(address: str) -> str:
    """Return where the cluster is, "auto" looked up. Raises SandboxConnectionError."""
    if address != AUTO:
        return address
    from ray._private.utils import read_ray_address

    found = os.environ.get("RAY_ADDRESS") or read_ray_address()
    if not found:
        raise SandboxConnectionError(
            "There is no Ray cluster on this machine: set RayProvider.address, or start one with `ray start --head`.",
            retryable=False,
        )
    return str(found)


def check_address(address: str) -> None:
    """Raise where nobody listens: ConfigurationError for what is no address, else SandboxConnectionError."""
    host, _, port = address.removeprefix(CLIENT).rstrip("/").rpartition(":")
    if not host or not port.isdecimal() or "://" in host:
        raise ConfigurationError(
            f"{address!r} is no address of a Ray cluster: set RayProvider.address to auto, ray://host:port "
            "or host:port."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECTS_WITHIN).close()
    except OSError as exc:
        raise SandboxConnectionError(
            f"No Ray cluster answers at {address} ({exc.strerror or exc}): see RayProvider.address, or start one with "
            "`ray start --head`.",
            retryable=False,
        ) from exc


def connect(settings: dict[str, Any]) -> Any:
    """Return the cluster. Raises ConfigurationError, SandboxConnectionError."""
    if settings["address"] != AUTO:
        # Before Ray, which takes a second to load: while a cluster is away this is tried again and again.
        check_address(settings["address"])
    try:
        import ray
    except ImportError as exc:
        raise ConfigurationError(
            f"The provider 'ray' needs a package that is not installed ({exc}); "
            "try `pip install 'sandbox-kernel[ray]'`."
        ) from exc
    address = find_address(settings["address"])
    if settings["address"] == AUTO:
        check_address(address)
    try:
        ray.init(address=address, namespace=settings["namespace"], log_to_driver=False, logging_level="ERROR")
    except SystemExit as exc:
        raise SandboxConnectionError(f"Ray could not connect to its cluster at {address}.") from exc
    except Exception as exc:
        text = " ".join(str(exc).split())[:1000]
        if "ersion" in text and "mismatch" in text.lower():
            raise ConfigurationError(f"This environment does not fit the Ray cluster's: {text}") from exc
        raise SandboxConnectionError(
            f"Ray could not connect to its cluster at {address}: {text} (from a machine that is none of its nodes, "
            "use ray://host:10001)",
            retryable=False,
        ) from exc
    from .cluster import Cluster

    return Cluster(settings["namespace"], settings["owner"], through_client=address.startswith(CLIENT))


def main() -> None:
    """Connect, say so, and serve."""
    # Whoever's folder this was started in, Ray would have the workers import from it.
    sys.path[:] = [path for path in sys.path if path not in ("", os.sep)]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # A client that has lost its cluster would start one on this machine.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    settings = json.loads(sys.stdin.readline())
    sock = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(sock.fileno(), False)
    try:
        cluster = connect(settings)
    except SandboxKernelError as exc:
        _greet(sock, {"failure": failure_of(exc)})
        sys.exit(1)
    _greet(sock, {"connected": True})
    asyncio.run(Server(sock, cluster).run())
    import ray

    ray.shutdown()


def _greet(sock: socket.socket, words: dict[str, Failure] | dict[str, bool]) -> None:
    with suppress(OSError):
        sock.sendall(json.dumps(words).encode() + b"\n")


if __name__ == "__main__":
    main()
