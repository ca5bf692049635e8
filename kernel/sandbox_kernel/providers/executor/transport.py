"""A link's transport over a gRPC call that streams both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import grpc

from sandbox_kernel.executor_api import executor_pb2 as pb
from sandbox_kernel.executor_api.link_chunks import data_chunk
from sandbox_kernel.link.transport import Buffer, Receiver, Transport


class CallTransport(Transport):
    """Takes over a call whose `open` was answered. One write is under way at a time, with all that waited for it."""

    def __init__(self, call: Any, heartbeat: float, patience: float, on_silence: Callable[[], None]) -> None:
        """Each end says that it is there after ``heartbeat`` seconds of silence.

        After ``patience`` seconds the link is lost, and ``on_silence`` is called first: the connection is of no use.
        """
        self._call = call
        self._heartbeat, self._patience, self._on_silence = heartbeat, patience, on_silence
        self._said = self._heard = asyncio.get_running_loop().time()
        self._watcher: asyncio.Task[None] | None = None
        self._receiver: Receiver | None = None
        self._waiting: list[Buffer] = []
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._alive_due = False
        self._closed = False

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._reader = asyncio.ensure_future(self._read())
        self._watcher = asyncio.ensure_future(self._watch())

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
            for task in (self._reader, self._writer, self._watcher):
                if task is not None and task is not _current_task():
                    task.cancel()
            # The executor takes this as the end of the link; the sandbox stays.
            self._call.cancel()

    async def _write(self) -> None:
        while (self._waiting or self._alive_due) and not self._closed:
            buffers, self._waiting, self._alive_due = self._waiting, [], False
            self._said = asyncio.get_running_loop().time()
            try:
                await self._call.write(_chunk(buffers))
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
                self._heard = asyncio.get_running_loop().time()
                if isinstance(chunk, memoryview):
                    self._receiver.data_received(chunk)
                elif chunk.HasField("data"):
                    self._receiver.data_received(memoryview(chunk.data))
                elif chunk.HasField("close"):
                    reason = chunk.close.reason
                    if not chunk.close.ended:
                        # Perhaps because it heard nothing more over this connection.
                        self._on_silence()
                    break
                if self._closed:
                    return
        except grpc.aio.AioRpcError as exc:
            reason = exc.details() or exc.code().name
        finally:
            # Whatever ended the reading, nobody hears anything over this call any more.
            self._lost(reason)

    async def _watch(self) -> None:
        """Say now and then that we are here, until nothing is heard of the executor any more."""
        loop = asyncio.get_running_loop()
        while loop.time() - self._heard < self._patience:
            if loop.time() - self._said >= self._heartbeat:
                self._say_alive()
            await asyncio.sleep(self._heartbeat / 4)
        self._on_silence()
        self._lost("nothing was heard of the executor")

    def _say_alive(self) -> None:
        # What is under way says it as well.
        if self._writer is None:
            self._alive_due = True
            self._writer = asyncio.ensure_future(self._write())

    def _lost(self, reason: str) -> None:
        if not self._closed:
            self.close()
            assert self._receiver is not None
            self._receiver.connection_lost(reason)


def _chunk(buffers: Sequence[Buffer]) -> bytes | pb.LinkChunk:
    return data_chunk(buffers) if buffers else pb.LinkChunk(alive=pb.LinkAlive())


def _current_task() -> asyncio.Task[Any] | None:
    with suppress(RuntimeError):
        return asyncio.current_task()
    return None
