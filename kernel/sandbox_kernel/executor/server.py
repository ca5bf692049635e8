"""Puts an executor together, serves until it is told to end, and gives back what it has."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from traitlets.config import Config

from sandbox_kernel.errors import ConfigurationError
from sandbox_kernel.executor_api import protocol
from sandbox_kernel.executor_api.addresses import join, split
from sandbox_kernel.executor_api.protocol import PROTOCOL, SERVICE
from sandbox_kernel.providers.local import diagnosis

from .calls import Calls
from .keys import KeyFile
from .log import ServerLog
from .metrics import Metrics
from .quotas import Quota, Quotas
from .sandboxes import Sandboxes
from .service import Service
from .settings import Executor
from .tls import credentials

OPTIONS: list[tuple[str, Any]] = [
    *protocol.OPTIONS,
    # Two executors on one port would each have half of the sandboxes.
    ("grpc.so_reuseport", 0),
    # A client that is gone without a word is noticed, and one may ask every second whether we are here.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
]
GRACE = 1.0
"""Seconds for calls to end when the sandboxes are gone."""


class ExecutorServer:
    """An executor on this machine. Made and used on one event loop, on the main thread: sandboxes end with it."""

    def __init__(self, config: Config, *, version: int = PROTOCOL) -> None:
        """Raises ConfigurationError. ``version`` of the protocol is another one in tests."""
        diagnosis.require_linux()
        self.settings = settings = Executor(config=config)
        self.log = ServerLog(config=config)
        self.metrics = Metrics()
        loop = asyncio.get_running_loop()
        quotas = Quotas(Quota(settings.max_sandboxes, settings.upload_size), settings.owners, loop.time)
        self.sandboxes = Sandboxes(settings, config, quotas, self.metrics, self.log)
        keys = KeyFile(Path(settings.keys_file).expanduser())
        keys.owners()
        calls = Calls(keys, self.metrics, self.log, protocol=version)
        self._credentials = credentials(settings)
        self._server = grpc.aio.server(options=OPTIONS)
        self._server.add_generic_rpc_handlers((calls.handler(Service(self.sandboxes, self.metrics).functions),))
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._end_metrics: Callable[[], None] = lambda: None
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Begin to serve; return the port. Raises ConfigurationError where that cannot be had."""
        port = self._bind()
        if self.settings.metrics_address:
            self._end_metrics = self.metrics.serve(self.settings.metrics_address)
        await self._server.start()
        await self._tell_health(health_pb2.HealthCheckResponse.SERVING)
        self._sweeping = asyncio.create_task(self.sandboxes.sweep_for_ever())
        self.log.write("listening", address=self.settings.address, port=port, tls=self._credentials is not None)
        return port

    def _bind(self) -> int:
        address = join(*split(self.settings.address))
        try:
            if self._credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._credentials)
        except RuntimeError as exc:
            raise ConfigurationError(f"The executor cannot listen on {address!r} (Executor.address): {exc}") from exc
        return port

    async def serve(self) -> None:
        """Serve until SIGTERM or SIGINT; then drain, at once with a second signal."""
        asked, hurried = asyncio.Event(), asyncio.Event()

        def end() -> None:
            (hurried if asked.is_set() else asked).set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)
        await asked.wait()
        await self.stop(hurried)

    async def stop(self, hurried: asyncio.Event | None = None) -> None:
        """Drain and end. ``hurried``, when it is set, ends the waiting for clients."""
        self.log.write("draining", sandboxes=len(self.sandboxes))
        await self._tell_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        if hurried is None:
            hurried = asyncio.Event()
            hurried.set()
        await self.sandboxes.drain(hurried)
        if self._sweeping is not None:
            self._sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeping
        await self._server.stop(GRACE)
        self._end_metrics()
        self.log.write("stopped")
        self.log.close()

    async def _tell_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for service in ("", SERVICE):
            await self._health.set(service, status)
