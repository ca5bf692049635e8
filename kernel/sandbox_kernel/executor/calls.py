"""What all calls have in common: who calls, under which number, what goes wrong, how long it took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Union

import grpc
from google.protobuf.message import DecodeError

from sandbox_kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    InvocationError,
    SandboxError,
    SandboxKernelError,
)
from sandbox_kernel.events import EventLog
from sandbox_kernel.executor_api.names import printable
from sandbox_kernel.executor_api.protocol import (
    BEARER,
    CALL,
    CORRELATION,
    ERROR,
    KEY,
    METHODS,
    PROTOCOL,
    SERVICE,
    VERSION,
    Method,
)
from sandbox_kernel.executor_api.statuses import status_of

from .keys import KeyFile
from .metrics import Metrics
from .numbers import Numbers

MAX_NUMBER = 100
"""Characters of a call's number, and of a correlation id."""
MAX_DETAILS = 4096
"""Bytes of an error's message as it travels: in a header, of which gRPC takes 8 KiB for certain."""


@dataclass(frozen=True)
class Caller:
    """Who makes a call."""

    owner: str
    number: str
    correlation_id: str


class UnreadableError(InvocationError):
    """A request that is no message of its method."""


UNREADABLE = object()
"""Stands for a message that could not be read: gRPC tells a client nothing of use when its reading fails."""

Reply = Callable[[Caller, Any], Awaitable[Any]]
Replies = Callable[[Caller, Any], AsyncIterator[Any]]
Conversation = Callable[[Caller, "CallStream"], Awaitable[None]]
Function = Union[Reply, Replies, Conversation]


class CallStream:
    """A call that streams both ways."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def read(self) -> Any:
        """Return the next message; None when the client sends no more."""
        message = await self._context.read()
        _check_readable(message)
        return None if message is grpc.aio.EOF else message

    async def write(self, message: Any) -> None:
        """Send a message; returns when there is room for another one."""
        await self._context.write(message)


class Calls:
    """Makes gRPC's handlers from functions that know nothing of gRPC."""

    def __init__(self, keys: KeyFile, metrics: Metrics, log: EventLog, *, protocol: int = PROTOCOL) -> None:
        """``protocol`` is another one in tests."""
        self._keys, self._metrics, self._log, self._protocol = keys, metrics, log, protocol
        self._numbers = Numbers()

    def handler(self, functions: Mapping[str, Function]) -> grpc.GenericRpcHandler:
        """Return what serves these functions under their methods' names."""
        handlers = {name: self._wrapped(METHODS[name], function) for name, function in functions.items()}
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _wrapped(self, method: Method, function: Any) -> grpc.RpcMethodHandler[Any, Any]:
        async def unary(request: Any, context: Any) -> Any:
            async def answer(caller: Caller) -> Any:
                _check_readable(request)
                key = (caller.owner, method.name, caller.number)
                return await self._numbers.run(key, lambda: function(caller, request))

            return await self._serve(method, context, answer)

        async def streaming(request: Any, context: Any) -> None:
            async def answer(caller: Caller) -> None:
                _check_readable(request)
                async for reply in function(caller, request):
                    await context.write(reply)

            await self._serve(method, context, answer)

        async def conversation(_: Any, context: Any) -> None:
            await self._serve(method, context, lambda caller: function(caller, CallStream(context)))

        serializers: dict[str, Any] = {
            "request_deserializer": _lenient(method.request_codec[1]),
            "response_serializer": method.reply_codec[0],
        }
        if method.streams_requests:
            return grpc.stream_stream_rpc_method_handler(conversation, **serializers)
        if method.streams_replies:
            return grpc.unary_stream_rpc_method_handler(streaming, **serializers)
        return grpc.unary_unary_rpc_method_handler(unary, **serializers)

    async def _serve(self, method: Method, context: Any, answer: Callable[[Caller], Awaitable[Any]]) -> Any:
        began = time.monotonic()
        caller = Caller("", "", "")
        code, error = grpc.StatusCode.CANCELLED, ""
        try:
            metadata = {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
            caller = self._admit(metadata)
            result = await answer(caller)
            code = grpc.StatusCode.OK
        except UnreadableError as exc:
            code, kind, error = grpc.StatusCode.INVALID_ARGUMENT, InvocationError.__name__, details(exc)
        except SandboxKernelError as exc:
            code, kind = status_of(exc)
            error = details(exc)
        except asyncio.CancelledError:
            raise
        except grpc.aio.InternalError as exc:
            # A write of ours found the client gone before gRPC had cancelled the call for that.
            raise asyncio.CancelledError from exc
        except Exception as exc:  # noqa: BLE001 - the edge: no fault of ours may end the executor, or tell a client how
            code, kind = grpc.StatusCode.INTERNAL, SandboxError.__name__
            error = "The executor has failed at this; its log says more."
            self._log.write("call_failed", level="error", correlation_id=caller.correlation_id, error=repr(exc))
        finally:
            self._note(method, caller, code, error, time.monotonic() - began)
        if error:
            await context.abort(code, error, ((ERROR, kind),))
        return result

    def _admit(self, metadata: Mapping[str, str]) -> Caller:
        """Return who calls. Raises AuthenticationError, ConfigurationError for another version, InvocationError."""
        key = metadata.get(KEY, "")
        if not key.startswith(BEARER):
            raise AuthenticationError("The executor wants an API key: set SANDBOX_KERNEL_EXECUTOR_KEY.")
        try:
            owner = self._keys.owner_of(key[len(BEARER) :])
        except ConfigurationError as exc:
            self._log.write("keys_unusable", level="error", error=str(exc))
            raise AuthenticationError("The executor's API keys cannot be used; its log says why.") from exc
        version = metadata.get(VERSION, "none")
        if version != str(self._protocol):
            raise ConfigurationError(
                f"The executor speaks version {self._protocol} of its protocol and this client version {version}: "
                "install the same version of sandbox-kernel on both machines."
            )
        number, correlation_id = metadata.get(CALL, ""), metadata.get(CORRELATION, "")
        if not number or max(len(number), len(correlation_id)) > MAX_NUMBER:
            raise InvocationError(f"A call needs a number, in {CALL}.")
        return Caller(owner, number, correlation_id)

    def _note(self, method: Method, caller: Caller, code: grpc.StatusCode, error: str, seconds: float) -> None:
        self._metrics.calls.labels(method.name, code.name).observe(seconds)
        self._log.write(
            "call",
            level="warning" if error else "debug",
            correlation_id=caller.correlation_id,
            method=method.name,
            owner=caller.owner,
            status=code.name,
            seconds=round(seconds, 4),
            **({"error": error} if error else {}),
        )


def details(error: SandboxKernelError) -> str:
    """Return as much of an error's message as a header takes, on one line."""
    text = "".join(char if char.isprintable() else " " for char in printable(str(error)[:MAX_DETAILS]))
    size = 0
    for index, char in enumerate(text):
        # Each byte of what is no ASCII travels as three, and so does a percent sign.
        size += 1 if char.isascii() and char != "%" else 3 * len(char.encode())
        if size > MAX_DETAILS:
            return text[:index]
    return text


def _lenient(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return UNREADABLE

    return read


def _check_readable(message: Any) -> None:
    if message is UNREADABLE:
        raise UnreadableError("The request is no message of this method.")
