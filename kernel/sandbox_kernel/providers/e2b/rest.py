"""Calls over one pool of connections: the key for the API alone, repetition where it is safe, no redirections."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from sandbox_kernel.retry import RetryPolicy

from .access import Access, Place
from .bounds import ENCODINGS, check_encoding, read_refusal, read_whole
from .failures import REPEATED, Refusal, is_quota, refusal_of

POLICY = RetryPolicy(attempts=4, first_delay=0.5, longest_delay=10.0, jitter=0.2)
LONGEST_WAIT = 60.0
"""Seconds that a service may want to be waited; longer, and it is told to who called."""


@dataclass(frozen=True)
class PoolSettings:
    """Of connections. Times in seconds."""

    max_connections: int = 200
    max_keepalive_connections: int = 50
    timeout: float = 300.0
    """For an answer, and for each pause in one."""
    connect_timeout: float = 15.0


Sleep = Callable[[float], Any]


class Services(ABC):
    """The services in sandboxes, as calls."""

    async def sandbox(
        self, access: Access, port: int, method: str, path: str, *, timeout: float | None = None, **content: Any
    ) -> httpx.Response:
        """Call a service in a sandbox once; return an answer with a status of 200 to 299, read whole.

        ``content`` is what httpx takes: json, content, files, params, headers. Raises Refusal, httpx.HTTPError.
        """
        async with self.stream(access, port, method, path, timeout=timeout, **content) as response:
            return await read_whole(response)

    @abstractmethod
    def stream(
        self, access: Access, port: int, method: str, path: str, *, timeout: float | None = None, **content: Any
    ) -> AbstractAsyncContextManager[httpx.Response]:
        """Call a service in a sandbox once, and give the answer before it is read. Raises what `sandbox` does.

        ``timeout`` in seconds for each pause in the answer.
        """


class Rest(Services):
    """One httpx client. It belongs to the event loop on which it is first used."""

    def __init__(self, place: Place, pool: PoolSettings, *, sleep: Sleep = asyncio.sleep) -> None:
        self.place = place
        self.pool = pool
        self._sleep = sleep
        self._client = httpx.AsyncClient(
            limits=httpx.Limits(
                max_connections=pool.max_connections, max_keepalive_connections=pool.max_keepalive_connections
            ),
            timeout=httpx.Timeout(pool.timeout, connect=pool.connect_timeout),
            headers={"User-Agent": "sandbox-kernel", "Accept-Encoding": ENCODINGS},
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def wait(self, seconds: float) -> None:
        """Wait before another attempt."""
        await self._sleep(seconds)

    async def api(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        repeatable: bool = True,
    ) -> httpx.Response:
        """Call the API; return an answer with a status of 200 to 299.

        One that is not ``repeatable`` is made again only where it cannot have been heard. Raises Refusal and
        httpx.HTTPError.
        """
        url = f"{self.place.base}{path}"
        assert self.place.takes_key(url)
        given = {"X-API-KEY": self.place.api_key, **(headers or {})}
        attempt = 1
        while True:
            delay = POLICY.delay_at_random(attempt)
            try:
                async with self._client.stream(method, url, json=body, params=query, headers=given) as response:
                    if response.is_success:
                        return await read_whole(response)
                    refusal = refusal_of(await read_refusal(response))
                if not _may_repeat(refusal, attempt, repeatable=repeatable):
                    raise refusal
                delay = refusal.retry_after or delay
            except (httpx.ConnectError, httpx.ConnectTimeout):
                # Nobody has heard it.
                if attempt >= POLICY.attempts:
                    raise
            except (httpx.TransportError, httpx.RemoteProtocolError):
                if not repeatable or attempt >= POLICY.attempts:
                    raise
            await self._sleep(delay)
            attempt += 1

    @asynccontextmanager
    async def stream(
        self, access: Access, port: int, method: str, path: str, *, timeout: float | None = None, **content: Any
    ) -> AsyncIterator[httpx.Response]:
        headers = {**access.headers(port), **content.pop("headers", {})}
        limit = httpx.Timeout(self.pool.timeout if timeout is None else timeout, connect=self.pool.connect_timeout)
        async with self._client.stream(
            method, f"{access.url(port)}{path}", headers=headers, timeout=limit, **content
        ) as response:
            if not response.is_success:
                raise refusal_of(await read_refusal(response))
            check_encoding(response)
            yield response


def _may_repeat(refusal: Refusal, attempt: int, *, repeatable: bool) -> bool:
    if refusal.status not in REPEATED or attempt >= POLICY.attempts:
        return False
    if refusal.retry_after > LONGEST_WAIT or is_quota(refusal):
        return False
    # Of the others it is not known whether they were heard.
    return repeatable or refusal.status == 429 or bool(refusal.retry_after)
