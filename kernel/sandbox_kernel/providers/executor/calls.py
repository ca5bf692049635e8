"""Calls of an executor: metadata, deadlines, repetition, and its errors as ours."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

from sandbox_kernel.errors import (
    ConfigurationError,
    SandboxConnectionError,
    SandboxError,
    SandboxKernelError,
    SandboxTimeoutError,
)
from sandbox_kernel.executor_api.protocol import (
    BEARER,
    CALL,
    CORRELATION,
    ERROR,
    KEY,
    METHODS,
    OPTIONS,
    PROTOCOL,
    VERSION,
)
from sandbox_kernel.executor_api.statuses import BROKEN, RETRIED, error_class
from sandbox_kernel.providers.executor.connection import Connection
from sandbox_kernel.providers.executor.probe import SILENT, Refusal, explain
from sandbox_kernel.retry import RetryPolicy

POLICY = RetryPolicy(attempts=3, first_delay=0.1, longest_delay=2.0, jitter=0.2)
GONE_AFTER = 60.0
"""Seconds without an answer after which a connection is given up under calls that have no deadline of their own.

A line that is slow may be busy with an upload, and carry nothing else, for much longer than a link is silent.
"""
PROVIDER = "executor"
T = TypeVar("T")


class Calls:
    """One channel to an executor, on the event loop on which it was made."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._channel = _open(connection)
        self._closing: set[asyncio.Task[None]] = set()
        self._reachable = False
        """Whether a connection of our own could be made when gRPC had none."""
        self._silent = False
        """Whether something took that connection and said nothing: who tries again waits as long again."""

    def renew(self) -> None:
        """Change to a new connection for the calls to come: this one says nothing, of which gRPC may not know yet.

        Those under way end by themselves: the other end may only be slow, and of a call that a channel cancels nobody
        can tell whether it was that or an interrupt.
        """
        old, self._channel = self._channel, _open(self.connection)
        closing = asyncio.ensure_future(old.close(grace=math.inf))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def unary(self, name: str, request: Any, *, timeout: float = 0.0, **ids: Any) -> Any:
        """Make a call and return its reply. ``timeout`` in seconds, for each attempt, is the usual one if 0.

        ``ids`` are sandbox_id and correlation_id, for errors and logs. Raises SandboxError or ConfigurationError.
        """
        method = METHODS[name]
        serializers = (method.request_codec[0], method.reply_codec[1])
        metadata = self.metadata(**ids)
        seconds = timeout or self.connection.request_timeout

        def make(waits: bool) -> Awaitable[Any]:
            call = self._channel.unary_unary(method.path, *serializers)
            made: Awaitable[Any] = call(request, timeout=seconds, metadata=metadata, wait_for_ready=waits)
            return made

        return await self.attempts(make, **ids)

    def stream(self, name: str, request: Any = None, *, waits: bool = False, **ids: Any) -> Any:
        """Begin a call that streams replies, or both ways where there is no request; it is made once.

        ``waits`` lets it wait for the connection that is being made, if there is none.
        """
        method = METHODS[name]
        serializers = (method.request_codec[0], method.reply_codec[1])
        metadata = self.metadata(**ids)
        if method.streams_requests:
            return self._channel.stream_stream(method.path, *serializers)(metadata=metadata, wait_for_ready=waits)
        call = self._channel.unary_stream(method.path, *serializers)
        return call(request, metadata=metadata, wait_for_ready=waits)

    async def attempts(self, make: Callable[[bool], Awaitable[T]], **ids: Any) -> T:
        """Return what a call returns, which is made again where that may help: under the same number.

        ``make`` is told whether to wait for a connection: after a loss gRPC lets some time pass before it makes
        another, and would refuse calls till then, though the executor can be reached. Who is silent is not asked
        again here: that costs seconds each time.
        """
        attempt, self._reachable, self._silent = 1, False, False
        while True:
            try:
                return await make(attempt > 1 and self._reachable)
            except grpc.aio.AioRpcError as exc:
                last = attempt >= POLICY.attempts or exc.code() not in RETRIED
                error = await self.error(exc, **ids)
                if last or self._silent or isinstance(error, ConfigurationError):
                    raise error from exc
            await asyncio.sleep(POLICY.delay_at_random(attempt))
            attempt += 1

    def metadata(self, sandbox_id: str = "", correlation_id: str = "") -> tuple[tuple[str, str], ...]:
        """Return what comes with a call, under a number of its own."""
        return (
            (KEY, f"{BEARER}{self.connection.key}"),
            (VERSION, str(PROTOCOL)),
            (CALL, uuid.uuid4().hex),
            (CORRELATION, correlation_id or "none"),
        )

    async def error(self, exc: grpc.aio.AioRpcError, **ids: Any) -> SandboxKernelError:
        """Return our error for gRPC's; where there is no connection it is found out why."""
        name = next((str(value) for key, value in exc.trailing_metadata() or () if key == ERROR), "")
        code, text = exc.code(), exc.details() or ""
        if not name and code in BROKEN:
            return await self._unreachable(text, **ids)
        if not name and code is grpc.StatusCode.DEADLINE_EXCEEDED:
            self.renew()
        if not name:
            text = self._explained(code, text)
        return _made(error_class(code, name), text, **ids)

    def silence(self, **ids: Any) -> SandboxTimeoutError:
        """Return the error for an executor that says nothing; the next call is made over a new connection."""
        self.renew()
        text = self._explained(grpc.StatusCode.DEADLINE_EXCEEDED, "")
        return SandboxTimeoutError(text, provider=PROVIDER, **ids)

    def _explained(self, code: grpc.StatusCode, text: str) -> str:
        """Return a sentence for a status that no executor of ours has sent."""
        where = f"the executor at {self.connection.address}"
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"{where.capitalize()} did not answer in time; try again, or raise ExecutorProvider.request_timeout."
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return f"What answers at {self.connection.address} is no executor of this version ({text})."
        return f"The call of {where} failed: {text or code.name}."

    async def _unreachable(self, text: str, **ids: Any) -> SandboxKernelError:
        where = f"The executor at {self.connection.address} cannot be reached"
        self._reachable = False
        try:
            reason = await explain(self.connection)
        except Refusal as refusal:
            return ConfigurationError(f"{where}: {refusal}.")
        self._reachable, self._silent = not reason, reason == SILENT
        return _made(SandboxConnectionError, f"{where}: {reason or text}.", **ids)


def _made(kind: type[SandboxKernelError], text: str, **ids: Any) -> SandboxKernelError:
    if issubclass(kind, SandboxError):
        return kind(text, provider=PROVIDER, **ids)
    return kind(text)


def _open(connection: Connection) -> grpc.aio.Channel:
    options: list[tuple[str, Any]] = [
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 500),
        *OPTIONS,
        # However long a command is quiet, a connection that is gone is noticed: by the one of two timers that runs.
        ("grpc.keepalive_time_ms", int(connection.keepalive * 1000)),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_timeout_ms", int(GONE_AFTER * 1000)),
        ("grpc.http2.ping_timeout_ms", int(GONE_AFTER * 1000)),
        # Calls are made again here, under their numbers, and nowhere else.
        ("grpc.enable_retries", 0),
        # Not shared with another client of this process, whose certificates may be others.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if connection.plaintext:
        return grpc.aio.insecure_channel(connection.address, options)
    credentials = grpc.ssl_channel_credentials(
        _content(connection.ca_file), _content(connection.private_key_file), _content(connection.certificate_file)
    )
    return grpc.aio.secure_channel(connection.address, credentials, options)


def _content(path: Any) -> bytes | None:
    if path is None:
        return None
    try:
        content: bytes = path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"A certificate or key cannot be read: {exc}") from exc
    return content
