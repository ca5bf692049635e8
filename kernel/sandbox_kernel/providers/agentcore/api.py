"""The service's operations through boto3: one attempt each, in threads, with our errors.

botocore by itself sends a call up to three times, and a call runs somebody's code: so nothing is repeated here. Who
knows that a call may be repeated does it.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from sandbox_kernel.errors import ConfigurationError, SandboxConnectionError, SandboxTimeoutError, UnknownProviderError
from sandbox_kernel.patience import in_time

from .faults import PROVIDER, is_ours, translated
from .results import NoResultError, ToolResult, read_events
from .threads import CallThreads

T = TypeVar("T")
SERVICE = "bedrock-agentcore"
CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 28_800.0 + 60.0
"""Seconds: longer than any session lives, also one that was made elsewhere. Who waits less gives up by himself."""
CONNECTIONS = 24
SKEW = 2.0
"""Seconds by which the service's clock and ours may differ and be taken for the same: it tells whole seconds."""

Report = Callable[[str, str, dict[str, Any]], None]
"""Takes the name of an event, its level and its fields, for the log."""


@dataclass(frozen=True)
class Settings:
    """What the configuration says of the service."""

    interpreter: str
    region: str = ""
    profile: str = ""
    endpoint_url: str = ""
    session_timeout: int = 900
    request_timeout: float = 60.0


class Call:
    """A call that is under way; `abort` ends it from another thread, also while it waits."""

    def __init__(self) -> None:
        self.connection: Any = None
        self.aborted = False

    def abort(self) -> None:
        """Close the connection that it has."""
        self.aborted = True
        sock = getattr(self.connection, "sock", None)
        if sock is not None:
            import socket

            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


_CURRENT = threading.local()


@contextmanager
def _noting(call: Call) -> Iterator[None]:
    """Have the connections that this thread uses noted in a call."""
    _CURRENT.call = call
    try:
        yield
    finally:
        _CURRENT.call = None


class Api:
    """One account's service in one region. The client is made by the first call, off the event loop."""

    def __init__(self, settings: Settings, report: Report = lambda name, level, fields: None) -> None:
        self.settings = settings
        self.report = report
        self.calls = 0
        """Calls that were made."""
        self.skew = 0.0
        """Seconds by which the service's clock is ahead of ours."""
        self._threads = CallThreads()
        self._client: Any = None
        self._whose = ""
        self._making = threading.Lock()

    @property
    def where(self) -> str:
        """The region or endpoint, for people."""
        settings = self.settings
        return settings.endpoint_url or settings.region or "the region of the AWS configuration"

    def now(self) -> float:
        """The service's time in seconds since the epoch."""
        return time.time() + self.skew

    async def call(self, operation: str, *, correlation_id: str = "", sandbox_id: str = "", **params: Any) -> Any:
        """Make a call and return what it answers. Raises SandboxError or ConfigurationError."""
        ids: dict[str, Any] = {"correlation_id": correlation_id, "sandbox_id": sandbox_id}
        call, seconds = Call(), self.settings.request_timeout

        def work() -> Any:
            with _noting(call):
                return self._make(operation, params, correlation_id)

        try:
            return await self._guarded(self._threads.run(work), operation, timeout=seconds, **ids)
        except asyncio.TimeoutError:
            call.abort()
            raise self._silence(operation, seconds, **ids) from None
        except asyncio.CancelledError:
            call.abort()
            raise

    async def identity(self) -> str:
        """Return whose sessions these are, as far as that can be told without a call: profile and region.

        Raises ConfigurationError.
        """
        return await self._guarded(self._threads.run(self._identity), "Session", timeout=None)

    async def invoke(
        self,
        session_id: str,
        tool: str,
        arguments: Mapping[str, Any],
        *,
        correlation_id: str = "",
        timeout: float = 0.0,
        call: Call | None = None,
        on_event: Callable[[ToolResult], None] | None = None,
    ) -> ToolResult:
        """Have a tool do something in a session; return its result, which may tell an error of its own.

        ``timeout`` in seconds, 0 for none but the session's end. ``on_event`` is called in a thread. Raises
        SandboxError; SandboxConnectionError also where an answer ends without a result.
        """
        ids: dict[str, Any] = {"correlation_id": correlation_id, "sandbox_id": session_id}
        params = {"sessionId": session_id, "name": tool, "arguments": dict(arguments)}
        call = call or Call()

        def work() -> ToolResult:
            with _noting(call):
                answer = self._make("InvokeCodeInterpreter", params, correlation_id)
                with closing(answer["stream"]) as stream:
                    return read_events(stream, on_event)

        running = self._threads.run(work)
        try:
            return await self._guarded(running, "InvokeCodeInterpreter", timeout=timeout or None, **ids)
        except asyncio.TimeoutError:
            call.abort()
            raise self._silence(f"InvokeCodeInterpreter {tool}", timeout, **ids) from None
        except asyncio.CancelledError:
            call.abort()
            raise
        except NoResultError:
            raise SandboxConnectionError(
                f"AgentCore's answer to {tool} ended without a result.", provider=PROVIDER, **ids
            ) from None

    def close(self) -> None:
        """Close the connections that no call uses; another call would make another one."""
        if self._client is not None:
            self._client.close()

    async def _guarded(self, work: Coroutine[Any, Any, T], operation: str, *, timeout: float | None, **ids: Any) -> T:
        try:
            return await in_time(work, timeout)
        except (asyncio.TimeoutError, NoResultError):
            raise
        except Exception as exc:
            if is_ours(exc):
                error = translated(exc, operation, self.where, **ids)
                self.report("call_failed", "warning", {"operation": operation, "error": str(error)})
                raise error from exc
            raise

    def _silence(self, operation: str, seconds: float, **ids: Any) -> SandboxTimeoutError:
        return SandboxTimeoutError(
            f"AgentCore did not answer {operation} within {seconds:g} s.", provider=PROVIDER, **ids
        )

    # ---- in threads

    def _make(self, operation: str, params: Mapping[str, Any], correlation_id: str) -> Any:
        client = self._made_client()
        method = client.meta.method_to_api_mapping
        name = next(one for one, api in method.items() if api == operation)
        known = client.meta.service_model.operation_model(operation).input_shape.members
        trace = {"traceId": _trace(correlation_id)} if "traceId" in known else {}
        self.calls += 1
        began = time.monotonic()
        answer = getattr(client, name)(codeInterpreterIdentifier=self.settings.interpreter, **trace, **params)
        self._look_at_clock(answer)
        fields = {"operation": operation, "seconds": round(time.monotonic() - began, 3), **trace}
        fields |= {"correlation_id": correlation_id} if correlation_id else {}
        fields["request_id"] = answer.get("ResponseMetadata", {}).get("RequestId", "")
        self.report("call", "debug", fields)
        return answer

    def _look_at_clock(self, answer: Mapping[str, Any]) -> None:
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        with suppress(ValueError, TypeError):
            skew = parsedate_to_datetime(date).timestamp() - time.time()
            self.skew = skew if abs(skew) > SKEW else 0.0

    def _made_client(self) -> Any:
        with self._making:
            if self._client is None:
                self._client = self._new_client()
            return self._client

    def _identity(self) -> str:
        self._made_client()
        return self._whose

    def _new_client(self) -> Any:
        settings = self.settings
        try:
            import boto3
            from botocore.config import Config
        except ImportError as exc:
            raise UnknownProviderError(
                f"The provider 'agentcore' needs boto3 ({exc}); try `pip install -U boto3`."
            ) from exc
        config = Config(
            retries={"total_max_attempts": 1},
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
            user_agent_extra="sandbox-kernel",
        )
        session = boto3.session.Session(profile_name=settings.profile or None, region_name=settings.region or None)
        if SERVICE not in session.get_available_services():
            raise ConfigurationError(
                f"This boto3 ({boto3.__version__}) does not know {SERVICE}: `pip install -U boto3`."
            )
        client = session.client(SERVICE, endpoint_url=settings.endpoint_url or None, config=config)
        _note_connections(client)
        self._whose = f"{session.profile_name}@{client.meta.region_name}"
        return client


def _note_connections(client: Any) -> None:
    """Have calls know their connections: the SDK has no other way to end a call that waits for its answer."""
    pools = getattr(getattr(client._endpoint.http_session, "_manager", None), "pool_classes_by_scheme", None)  # noqa: SLF001
    if not isinstance(pools, dict):
        # Another HTTP layer; calls that are given up are then left to themselves.
        return
    noted: dict[str, Any] = {}
    for scheme, pool in pools.items():

        class Connection(pool.ConnectionCls):  # type: ignore[misc, name-defined]
            def request(self, *args: Any, **kwargs: Any) -> Any:
                call = getattr(_CURRENT, "call", None)
                if call is not None:
                    call.connection = self
                return super().request(*args, **kwargs)

        noted[scheme] = type(pool.__name__, (pool,), {"ConnectionCls": Connection})
    client._endpoint.http_session._manager.pool_classes_by_scheme = noted  # noqa: SLF001


def _trace(correlation_id: str) -> str:
    """Return a trace id in AWS's form that ends with the correlation id's digits, where it has any."""
    digits = "".join(one for one in correlation_id if one in "0123456789abcdef")[-12:]
    return f"Root=1-{int(time.time()):08x}-{(uuid.uuid4().hex[:24] + digits)[-24:]}"
