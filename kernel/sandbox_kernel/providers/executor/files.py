"""Files of a sandbox on an executor, which are read and written beside the link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from sandbox_kernel.errors import InvocationError, QuotaError
from sandbox_kernel.executor_api import executor_pb2 as pb
from sandbox_kernel.executor_api.names import to_bytes, to_text
from sandbox_kernel.executor_api.protocol import CHUNK
from sandbox_kernel.patience import in_time
from sandbox_kernel.providers.base import FileEntry, SandboxFiles

from .calls import PROVIDER, Calls


class ExecutorFiles(SandboxFiles):
    """Each method is one call; the executor has the sandbox's own rights do it."""

    def __init__(self, calls: Calls, ids: dict[str, Any]) -> None:
        """``ids`` are sandbox_id and correlation_id."""
        self._calls, self._ids = calls, ids
        self._sandbox_id = str(ids["sandbox_id"])

    async def read(self, path: str, *, limit: int | None = None) -> AsyncGenerator[bytes, None]:
        request = pb.ReadFileRequest(sandbox_id=self._sandbox_id, path=to_bytes(path), limit=limit)
        async with self._begun("ReadFile", request) as call:
            while (chunk := await self._next(call)) is not None:
                yield chunk.data

    async def write(self, path: str, chunks: AsyncIterable[bytes], *, mode: int = 0o644) -> int:
        async with self._begun("WriteFile") as call:
            header = pb.WriteFileHeader(sandbox_id=self._sandbox_id, path=to_bytes(path), mode=mode)
            await self._send(call, pb.WriteFileChunk(header=header))
            allowed = await self._reply(call)
            ended = asyncio.ensure_future(self._reply(call, waits=False))
            try:
                await self._send_content(call, path, chunks, allowed.allowed, ended)
                reply = await in_time(ended, self._calls.connection.request_timeout)
            except asyncio.TimeoutError as exc:
                raise self._calls.silence(**self._ids) from exc
            finally:
                ended.cancel()
            if reply.stopped:
                raise await self._status(call)
            return int(reply.written)

    async def _send_content(
        self, call: Any, path: str, chunks: AsyncIterable[bytes], allowed: int, ended: asyncio.Future[Any]
    ) -> None:
        """Send it, until ``ended`` says that no more is taken."""
        sent = 0
        async for chunk in chunks:
            sent += len(chunk)
            self._check(path, sent, allowed)
            for piece in _pieces(chunk):
                if ended.done():
                    break
                await self._send(call, pb.WriteFileChunk(data=piece))
            if ended.done():
                break
        else:
            await self._send(call, pb.WriteFileChunk(whole=True))
        await call.done_writing()

    def _check(self, path: str, sent: int, allowed: int) -> None:
        if sent > allowed:
            raise QuotaError(
                f"{path!r} cannot be written: the executor takes only {allowed} more bytes of files from you today.",
                provider=PROVIDER,
                **self._ids,
            )

    async def list(
        self, pattern: str, *, recursive: bool = False, limit: int = 100_000
    ) -> AsyncGenerator[FileEntry, None]:
        request = pb.ListFilesRequest(
            sandbox_id=self._sandbox_id, pattern=to_bytes(pattern), recursive=recursive, limit=limit
        )
        async with self._begun("ListFiles", request) as call:
            while (batch := await self._next(call)) is not None:
                for one in batch.entries:
                    yield FileEntry(to_text(one.path), one.kind, one.size, one.modified, one.mode)

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        request = pb.RemoveFileRequest(sandbox_id=self._sandbox_id, path=to_bytes(path), recursive=recursive)
        await self._calls.unary("RemoveFile", request, **self._ids)

    @asynccontextmanager
    async def _begun(self, name: str, request: Any = None) -> AsyncIterator[Any]:
        """Give a call, which is cancelled at the end of the block if it has not ended."""
        call = self._calls.stream(name, request, **self._ids)
        try:
            yield call
        except grpc.aio.AioRpcError as exc:
            raise await self._calls.error(exc, **self._ids) from exc
        except asyncio.InvalidStateError:
            # Ended while something was written; its status says why.
            raise await self._status(call) from None
        finally:
            call.cancel()

    async def _next(self, call: Any, *, waits: bool = True) -> Any:
        """Return the next message, None at the end; each has the usual time to come, unless nobody waits for it."""
        try:
            message = await in_time(call.read(), self._calls.connection.request_timeout if waits else None)
        except asyncio.TimeoutError as exc:
            raise self._calls.silence(**self._ids) from exc
        return None if message is grpc.aio.EOF else message

    async def _reply(self, call: Any, *, waits: bool = True) -> Any:
        reply = await self._next(call, waits=waits)
        if reply is None:
            raise await self._status(call)
        return reply

    async def _send(self, call: Any, message: Any) -> None:
        try:
            await in_time(call.write(message), self._calls.connection.request_timeout)
        except asyncio.TimeoutError as exc:
            raise self._calls.silence(**self._ids) from exc
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as exc:
            # It has ended; of that writing knows only that it failed, while the call's status says why.
            raise await self._status(call) from exc

    async def _status(self, call: Any) -> Exception:
        """Return what a call failed of that has ended."""
        code = await call.code()
        if code is grpc.StatusCode.OK:
            return InvocationError("The executor ended the call too early.", provider=PROVIDER)
        error = grpc.aio.AioRpcError(
            code, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
        )
        return await self._calls.error(error, **self._ids)


def _pieces(chunk: bytes) -> Iterator[bytes]:
    for start in range(0, len(chunk), CHUNK):
        yield chunk[start : start + CHUNK]
