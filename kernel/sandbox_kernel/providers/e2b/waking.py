"""The services in a sandbox that others may have paused: who asks for something lets it go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx

from .access import Access
from .failures import Refusal
from .rest import Rest, Services


class WakingServices(Services):
    """One sandbox's."""

    def __init__(self, rest: Rest, wake: Callable[[], Awaitable[Access]]) -> None:
        """``wake`` lets the sandbox go on, and returns the way to it; it may raise SandboxError."""
        self._rest, self._wake = rest, wake

    @asynccontextmanager
    async def stream(
        self, access: Access, port: int, method: str, path: str, *, timeout: float | None = None, **content: Any
    ) -> AsyncIterator[httpx.Response]:
        """Do what `Rest.stream` does; once more where the sandbox stood still, so that nothing of it was heard."""
        async with AsyncExitStack() as stack:
            call = self._rest.stream(access, port, method, path, timeout=timeout, **content)
            try:
                response = await stack.enter_async_context(call)
            except Refusal as refusal:
                if not refusal.is_of_stopped:
                    raise
                access = await self._wake()
                if not isinstance(content.get("content", b""), bytes):
                    # Its pieces are used up; the next attempt finds a sandbox that runs.
                    raise
                call = self._rest.stream(access, port, method, path, timeout=timeout, **content)
                response = await stack.enter_async_context(call)
            yield response
