"""One sandbox on an executor. It goes on when this process ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc

from sandbox_kernel.errors import (
    ConfigurationError,
    InvocationError,
    NotFoundError,
    SandboxConnectionError,
    SandboxError,
    SandboxKernelError,
    SandboxLostError,
    SandboxTimeoutError,
)
from sandbox_kernel.executor_api import executor_pb2 as pb
from sandbox_kernel.link.transport import Transport
from sandbox_kernel.providers.base import IsolationLevel, Sandbox

from .calls import PROVIDER, Calls
from .files import ExecutorFiles
from .transport import CallTransport

TELL_TIMEOUT = 1.0
"""Seconds for the question why something ended."""
OPENED_WITHIN = 8.0
"""Seconds in which a link is opened, or its connection given up: less than connection.GREETING_TIMEOUT."""
CLOSE_TIMEOUT = 3.0
"""Seconds for each attempt to give a sandbox back: a front end that shuts a kernel down waits no longer than five."""
OPEN = "open"


class ExecutorSandbox(Sandbox):
    """Made by `ExecutorClient`."""

    provider_name = PROVIDER

    def __init__(self, calls: Calls, info: pb.SandboxInfo, correlation_id: str = "") -> None:
        self.sandbox_id = info.sandbox_id
        self.owner = info.owner
        self.isolation = _isolation(info.isolation)
        self._calls = calls
        self._ids: dict[str, Any] = {"sandbox_id": info.sandbox_id, "correlation_id": correlation_id}
        self.files = ExecutorFiles(calls, self._ids)
        self._request = pb.SandboxRequest(sandbox_id=info.sandbox_id)
        self._details = dict(info.details)
        self._heartbeat = calls.connection.keepalive
        self._patience = calls.connection.keepalive + calls.connection.keepalive_timeout
        self._refreshing: asyncio.Task[None] | None = None

    async def open_link(self) -> Transport:
        try:
            call = await self._calls.attempts(self._open_call, **self._ids)
            return CallTransport(call, self._heartbeat, self._patience, self._calls.renew)
        except NotFoundError as exc:
            raise SandboxLostError(str(exc), provider=PROVIDER, **self._ids) from exc
        except ConfigurationError as exc:
            # It worked before: its certificate has expired, or it is another version now.
            raise SandboxError(str(exc), provider=PROVIDER, **self._ids) from exc

    async def _open_call(self, waits: bool) -> Any:
        call = self._calls.stream("Link", waits=waits, **self._ids)
        asked = pb.LinkOpen(sandbox_id=self.sandbox_id, heartbeat=self._heartbeat, patience=self._patience)

        async def opening() -> Any:
            with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                # A call that has ended already says why when it is read.
                await call.write(pb.LinkChunk(open=asked))
            return await call.read()

        try:
            answer = await asyncio.wait_for(opening(), min(self._patience, OPENED_WITHIN))
            _check_opened(answer, **self._ids)
        except asyncio.TimeoutError as exc:
            call.cancel()
            raise self._calls.silence(**self._ids) from exc
        except BaseException:
            call.cancel()
            raise
        return call

    async def pause(self) -> None:
        await self._calls.unary("Pause", self._request, **self._ids)

    async def resume(self) -> None:
        try:
            await self._calls.unary("Resume", self._request, **self._ids)
        except NotFoundError as exc:
            raise SandboxLostError(str(exc), provider=PROVIDER, **self._ids) from exc

    async def close(self) -> None:
        # One that is not there has been given back.
        with suppress(NotFoundError):
            await self._calls.unary("Close", self._request, timeout=CLOSE_TIMEOUT, **self._ids)

    def kill(self) -> None:
        """Do nothing: without waiting nobody far away can be told, and the executor ends what nobody uses."""

    async def loss_reason(self) -> str:
        return await self._explain(pb.ExplainRequest(sandbox_id=self.sandbox_id))

    async def kernel_death_reason(self, exit_code: int) -> str:
        return await self._explain(pb.ExplainRequest(sandbox_id=self.sandbox_id, exit_code=exit_code))

    async def _explain(self, request: pb.ExplainRequest) -> str:
        try:
            said = await asyncio.wait_for(self._calls.unary("Explain", request, **self._ids), TELL_TIMEOUT)
        except NotFoundError:
            return "the executor does not know it any more; it was restarted, and its sandboxes end with it"
        except (asyncio.TimeoutError, SandboxConnectionError, SandboxTimeoutError):
            return "the executor cannot be reached"
        return str(said.reason)

    async def run(self, command: str) -> AsyncIterator[bytes]:
        """Run a shell command beside the link and yield its output. Raises InvocationError if it does not exit with 0.

        It is not run again where the connection is lost: SandboxConnectionError.
        """
        request = pb.RunRequest(sandbox_id=self.sandbox_id, command=command)
        call = self._calls.stream("Run", request, **self._ids)
        try:
            while (output := await call.read()) is not grpc.aio.EOF:
                if output.HasField("exit_code"):
                    _check_exit(output.exit_code, **self._ids)
                else:
                    yield output.data
        except grpc.aio.AioRpcError as exc:
            raise await self._calls.error(exc, **self._ids) from exc
        finally:
            call.cancel()

    def describe(self) -> dict[str, str]:
        # What was heard last; what is heard now comes with the next look. Without a loop nobody can be asked.
        with suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            if self._refreshing is None or self._refreshing.done():
                self._refreshing = loop.create_task(self._refresh())
        return {"executor": self._calls.connection.address, **self._details}

    async def _refresh(self) -> None:
        with suppress(SandboxKernelError):
            self._details = dict((await self._calls.unary("Attach", self._request, **self._ids)).details)


def _check_opened(answer: Any, **ids: Any) -> None:
    if not isinstance(answer, pb.LinkChunk) or not answer.HasField(OPEN):
        raise SandboxConnectionError("The executor did not open the link.", provider=PROVIDER, **ids)


def _check_exit(code: int, **ids: Any) -> None:
    if code:
        raise InvocationError(f"The command exited with status {code}.", provider=PROVIDER, **ids)


def _isolation(name: str) -> IsolationLevel:
    """Return the level that an executor names; one that is not known here counts as none."""
    try:
        return IsolationLevel(name)
    except ValueError:
        return IsolationLevel.NONE
