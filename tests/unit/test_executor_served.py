"""What an executor makes of calls that gRPC ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("grpc")
pytest.importorskip("prometheus_client")

import grpc

from sandbox_kernel.executor.calls import Caller, Calls, CallStream
from sandbox_kernel.executor.metrics import Metrics
from sandbox_kernel.executor_api import executor_pb2 as pb
from sandbox_kernel.executor_api.protocol import BEARER, CALL, KEY, METHODS, PROTOCOL, SERVICE, VERSION


class Keys:
    """Everybody is Ann."""

    def owner_of(self, key: str) -> str:
        """Return whose key it is."""
        return "ann"


class Events(list[tuple[str, dict[str, Any]]]):
    """What was logged."""

    def write(self, event: str, **fields: Any) -> None:
        """Log it."""
        self.append((event, fields))


class Gone:
    """A call whose client has gone, of which gRPC has told nothing yet: so a write fails as gRPC has it fail then."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return the call's headers."""
        return ((KEY, f"{BEARER}key"), (VERSION, str(PROTOCOL)), (CALL, "one"))

    async def read(self) -> Any:
        """Return what the client sent before it went."""
        return pb.LinkChunk(open=pb.LinkOpen(sandbox_id="one"))

    async def write(self, message: Any) -> None:
        """Fail."""
        raise grpc.aio.InternalError("""Failed "execute_batch": (<grpc._cython.cygrpc.SendMessageOperation>,)""")


async def reading(caller: Caller, request: Any) -> AsyncIterator[pb.FileChunk]:
    """Give a file."""
    yield pb.FileChunk(data=b"some of it")


async def linking(caller: Caller, stream: CallStream) -> None:
    """Open a link."""
    await stream.write(await stream.read())


@pytest.mark.parametrize("name", ["ReadFile", "Link"])
async def test_a_client_that_goes_while_something_is_sent_is_no_fault(name: str) -> None:
    events, metrics = Events(), Metrics()
    calls = Calls(Keys(), metrics, events)  # type: ignore[arg-type]
    handler = calls.handler({"ReadFile": reading, "Link": linking}).service(_Details(name))
    assert handler is not None
    serve = handler.unary_stream or handler.stream_stream
    with pytest.raises(asyncio.CancelledError):
        await serve(pb.ReadFileRequest(), Gone())  # type: ignore[misc]
    ((event, told),) = events
    assert event == "call"
    assert (told["method"], told["level"], told["status"]) == (METHODS[name].name, "debug", "CANCELLED")
    assert metrics.registry.get_sample_value(
        "sandbox_executor_call_seconds_count", {"method": name, "status": "CANCELLED"}
    )


class _Details:
    """Of a call: gRPC has no class for programs to make it from."""

    invocation_metadata: tuple[Any, ...] = ()

    def __init__(self, name: str) -> None:
        self.method = f"/{SERVICE}/{name}"
