"""What becomes of an executor's calls when another one is given up. The executor is the test; gRPC is real."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("an executor's sandboxes need bubblewrap, which only Linux has", allow_module_level=True)
pytest.importorskip("grpc")

import grpc

from sandbox_kernel.connection import Connection as LinkConnection
from sandbox_kernel.errors import SandboxConnectionError, SandboxTimeoutError
from sandbox_kernel.executor_api import executor_pb2 as pb
from sandbox_kernel.executor_api.protocol import METHODS, SERVICE
from sandbox_kernel.link.protocol import Link, Message
from sandbox_kernel.providers.executor.calls import Calls
from sandbox_kernel.providers.executor.connection import Connection
from sandbox_kernel.providers.executor.sandbox import ExecutorSandbox
from sandbox_kernel.retry import RetryPolicy

BRIEF = 0.2
"""Seconds in which a call must be answered that is not."""
PATIENCE = 60.0
Pending = Callable[[Calls], Coroutine[Any, Any, bytes]]


class Executor:
    """Has one sandbox, and answers while it is told to. Calls of "Pause" are never answered."""

    def __init__(self) -> None:
        self.answering = asyncio.Event()
        self.answering.set()
        self.links = 0
        self.received: list[bytes] = []
        self.cut = asyncio.Event()
        self._bridge = Link(os.urandom(16))

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what gRPC has it answer with."""
        answers = {"Link": self._link, "Attach": self._attach, "Pause": self._pause, "ReadFile": self._read}
        return grpc.method_handlers_generic_handler(SERVICE, {name: _handler(name, answers[name]) for name in answers})

    async def _attach(self, _: Any, context: Any) -> pb.SandboxInfo:
        await self.answering.wait()
        return pb.SandboxInfo(sandbox_id="one")

    async def _pause(self, _: Any, context: Any) -> pb.SandboxInfo:
        await asyncio.Event().wait()
        raise AssertionError

    async def _read(self, _: Any, context: Any) -> AsyncIterator[pb.FileChunk]:
        await self.answering.wait()
        yield pb.FileChunk(data=b"whole")

    async def _link(self, chunks: Any, context: Any) -> AsyncIterator[pb.LinkChunk]:
        """Open it, and be its bridge until it is cut."""
        self.links += 1
        await self.answering.wait()
        self.cut.clear()
        yield pb.LinkChunk(open=pb.LinkOpen())
        self._bridge.disconnect()
        self._bridge.connect()
        cut = asyncio.ensure_future(self.cut.wait())
        async for data in _until(cut, chunks):
            self.received += [bytes(one.parts[0]) for one in self._bridge.receive(data) if isinstance(one, Message)]
            yield pb.LinkChunk(data=b"".join(map(bytes, self._bridge.data_to_send())))


async def _until(end: asyncio.Future[Any], chunks: Any) -> AsyncIterator[memoryview]:
    """Give the data that comes, until then."""
    while True:
        coming = asyncio.ensure_future(anext(chunks))
        await asyncio.wait([end, coming], return_when=asyncio.FIRST_COMPLETED)
        if end.done():
            coming.cancel()
            return
        if isinstance(coming.result(), memoryview):
            yield coming.result()


def _handler(name: str, answer: Callable[..., Any]) -> Any:
    method = METHODS[name]
    codecs = (method.request_codec[1], method.reply_codec[0])
    if method.streams_requests:
        return grpc.stream_stream_rpc_method_handler(answer, *codecs)
    if method.streams_replies:
        return grpc.unary_stream_rpc_method_handler(answer, *codecs)
    return grpc.unary_unary_rpc_method_handler(answer, *codecs)


@asynccontextmanager
async def client_of(executor: Executor, **times: float) -> AsyncIterator[Calls]:
    """Give a client of an executor that this process serves."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((executor.handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    files = {"ca_file": None, "certificate_file": None, "private_key_file": None}
    given: dict[str, Any] = {"request_timeout": PATIENCE, "keepalive": PATIENCE, "keepalive_timeout": PATIENCE, **times}
    yield Calls(Connection("127.0.0.1", port, "key", plaintext=True, **files, **given))  # type: ignore[arg-type]
    await server.stop(None)


async def give_up_a_call(calls: Calls) -> None:
    """Let a call pass its deadline."""
    with pytest.raises(SandboxTimeoutError):
        await calls.unary("Pause", pb.SandboxRequest(), timeout=BRIEF)


async def eventually(condition: Callable[[], Any]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("waited in vain")


async def test_a_call_that_is_given_up_while_a_link_is_mended_leaves_the_mending_alone() -> None:
    executor = Executor()
    async with client_of(executor) as calls:
        ended: list[Any] = []
        connection = LinkConnection(
            ExecutorSandbox(calls, pb.SandboxInfo(sandbox_id="one")),
            Link(os.urandom(16)),
            lambda parts: None,
            lambda parts, size: None,
            lambda reason, error: ended.append((reason, error)),
            policy=RetryPolicy(first_delay=0.001, longest_delay=0.002),
        )
        await connection.open()
        connection.send([b"before"])
        await eventually(lambda: executor.received == [b"before"])
        executor.answering.clear()
        executor.cut.set()
        await eventually(lambda: executor.links == 2)
        await give_up_a_call(calls)
        connection.send([b"after"])
        executor.answering.set()
        await eventually(lambda: executor.received == [b"before", b"after"])
        assert (connection.lost_for, ended) == (None, [])
        connection.close()


async def read(calls: Calls) -> bytes:
    sandbox = ExecutorSandbox(calls, pb.SandboxInfo(sandbox_id="one"))
    return b"".join([chunk async for chunk in sandbox.files.read("file")])


async def attach(calls: Calls) -> bytes:
    await calls.unary("Attach", pb.SandboxRequest())
    return b"whole"


@asynccontextmanager
async def waiting_beside_one_given_up(pending: Pending) -> AsyncIterator[tuple[Executor, asyncio.Task[bytes]]]:
    """A call that waits for its answer while another, over the same connection, is given up."""
    executor = Executor()
    executor.answering.clear()
    async with client_of(executor) as calls:
        waiting = asyncio.create_task(pending(calls))
        await give_up_a_call(calls)
        yield executor, waiting


@pytest.mark.parametrize("pending", [read, attach])
async def test_a_call_that_is_given_up_leaves_others_their_answers(pending: Pending) -> None:
    async with waiting_beside_one_given_up(pending) as (executor, waiting):
        assert not waiting.done()
        executor.answering.set()
        assert await asyncio.wait_for(waiting, PATIENCE) == b"whole"


@pytest.mark.parametrize("pending", [read, attach])
async def test_a_connection_that_breaks_under_a_call_is_told_as_that(pending: Pending) -> None:
    async with waiting_beside_one_given_up(pending) as (_, waiting):
        pass
    with pytest.raises(SandboxConnectionError):
        await asyncio.wait_for(waiting, PATIENCE)
