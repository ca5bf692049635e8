"""A link's transport over a gRPC call that streams both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import grpc

from sandbox_kernel.executor_api import executor_pb2 as pb
from sandbox_kernel.link.transport import Buffer, Receiver, Transport


class CallTransport(Transport):
    """Takes over a call whose `open` was answered. One write is under way at a time, with all that waited for it."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._receiver: Receiver | None = None
        self._waiting: list[Buffer] = []
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._closed = False

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._reader = asyncio.ensure_future(self._read())

    def write(self, buffers: Sequence[Buffer]) -> bool:
        if not self._closed:
            self._waiting.extend(buffers)
            if self._writer is None:
                self._writer = asyncio.ensure_future(self._write())
        return False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._waiting.clear()
            for task in (self._reader, self._writer):
                if task is not None and task is not _current_task():
                    task.cancel()
            # The executor takes this as the end of the link; the sandbox stays.
            self._call.cancel()

    async def _write(self) -> None:
        while self._waiting and not self._closed:
            buffers, self._waiting = self._waiting, []
            try:
                await self._call.write(pb.LinkChunk(data=b"".join(buffers)))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                # The reader finds the end, and its reason.
                return
        self._writer = None
        if not self._closed:
            assert self._receiver is not None
            self._receiver.writable()

    async def _read(self) -> None:
        assert self._receiver is not None
        reason = "it ended"
        try:
            while (chunk := await self._call.read()) is not grpc.aio.EOF:
                if chunk.HasField("close"):
                    reason = chunk.close.reason
                    break
                self._receiver.data_received(memoryview(chunk.data))
                if self._closed:
                    return
        except grpc.aio.AioRpcError as exc:
            reason = exc.details() or exc.code().name
        finally:
            # Whatever ended the reading, nobody hears anything over this call any more.
            self._lost(reason)

    def _lost(self, reason: str) -> None:
        if not self._closed:
            self.close()
            assert self._receiver is not None
            self._receiver.connection_lost(reason)


def _current_task() -> asyncio.Task[Any] | None:
    with suppress(RuntimeError):
        return asyncio.current_task()
    return None
