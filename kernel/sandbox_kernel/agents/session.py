"""One agent's session: a sandbox made of the agent's template, and the agent that runs in it."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from sandbox_kernel.errors import (
    AuthenticationError,
    InvocationError,
    RateLimitError,
    SandboxConnectionError,
    SandboxCreationError,
    SandboxError,
    SandboxTimeoutError,
    SessionNotFoundError,
    StateError,
)
from sandbox_kernel.providers.e2b.bounds import MAX_ANSWER, read_whole
from sandbox_kernel.providers.e2b.brands import AGENT
from sandbox_kernel.providers.e2b.client import PAUSED
from sandbox_kernel.providers.e2b.envd import Envd
from sandbox_kernel.providers.e2b.failures import BAD_GATEWAY, FORBIDDEN, TOO_MANY, Refusal

from .answers import Pieces, Request, is_stream, looks_like_stream, request_body, whole_answer

if TYPE_CHECKING:
    from sandbox_kernel.providers.e2b.access import Access
    from sandbox_kernel.providers.e2b.client import ControlClient

RETRIES = 3
"""Further attempts after a network's fault, 1, 2 and 4 seconds apart."""
READY_TIMEOUT = 60.0
"""Seconds in which an agent must be healthy in a new sandbox."""
FIRST_LOOK, LONGEST_LOOK = 0.1, 1.0
"""Seconds between two looks whether it is."""
LOG = "/tmp/agent.log"  # noqa: S108 - in the sandbox
HEALTHY = ("healthy", "healthybusy")
MARGIN = 30.0
"""Seconds that a sandbox is there for longer than its agent may take."""
_ENTRYPOINT = re.compile(r"[\w./-]+", re.ASCII)


@dataclass(frozen=True)
class Health:
    """What an agent says of itself by `/ping`."""

    status: str
    """Healthy, or HealthyBusy while it works in the background."""
    message: str = ""

    @property
    def is_healthy(self) -> bool:
        """Whether it takes requests."""
        return self.status.lower() in HEALTHY


class AgentSession:
    """Made by `AgentClient.create_session`. Several requests may be under way at one time."""

    def __init__(
        self,
        client: Callable[[], ControlClient],
        access: Access,
        *,
        name: str,
        template: str,
        lifetime: float,
        request_timeout: float,
        retries: int = RETRIES,
        with_key: bool = False,
    ) -> None:
        """``client`` gives the control plane, also after another one was closed."""
        self.name, self.template = name, template
        self.sandbox_id = access.sandbox_id
        self.state = "active"
        """active, paused or closed, as far as is known here."""
        self.created = time.time()
        self.invocations = 0
        self.streams = False
        """The last answer came, or comes, in pieces."""
        self._client, self._access = client, access
        self._lifetime, self._timeout, self._retries = lifetime, request_timeout, retries
        self._headers = {"Authorization": f"Bearer {access.place.api_key}"} if with_key else {}
        self._ends = time.time() + lifetime
        self._ids: dict[str, Any] = {"provider": access.place.brand.name, "sandbox_id": access.sandbox_id}
        self._moving, self._ending = asyncio.Lock(), asyncio.Lock()
        self.is_closing = False
        """It has been closed, or that was tried: it takes no requests."""

    def __repr__(self) -> str:
        return f"<AgentSession {self.name or self.sandbox_id} of {self.template}: {self.state}>"

    @property
    def _control(self) -> ControlClient:
        return self._client()

    # ---- asking

    async def invoke(self, request: Request, *, timeout: float = 0.0) -> Any:
        """Return the agent's answer: the value of its JSON, a list of the pieces where it streams.

        It has 64 MiB at most; `stream` takes any. ``timeout`` in seconds for the answer and each pause in it; 0: the
        client's. Raises InvocationError,
        SessionNotFoundError, SandboxConnectionError, SandboxTimeoutError, RateLimitError, AuthenticationError.
        """
        streamed = False
        pieces = []
        async for streams, piece in self._pieces(request, timeout, MAX_ANSWER):
            streamed = streams
            pieces.append(piece)
        # A stream may have no pieces at all.
        return pieces[0] if len(pieces) == 1 and not streamed else pieces

    async def stream(self, request: Request, *, timeout: float = 0.0) -> AsyncGenerator[Any, None]:
        """Yield the pieces of the agent's answer as they come; one piece, where it does not stream.

        Raises what `invoke` raises.
        """
        async for _, piece in self._pieces(request, timeout):
            yield piece

    async def _pieces(
        self, request: Request, timeout: float, limit: float = math.inf
    ) -> AsyncGenerator[tuple[bool, Any], None]:
        """Yield whether the answer is a stream, and each piece of it; ``limit`` characters in all."""
        seconds = timeout or self._timeout
        body = request_body(request)
        await self._make_ready(seconds)
        self.invocations += 1
        attempt = 0
        while True:
            begun = False
            try:
                async for one in self._ask(body, seconds, limit):
                    begun = True
                    yield one
                break
            except httpx.TimeoutException as exc:
                if isinstance(exc, (httpx.ConnectTimeout, httpx.PoolTimeout)) and attempt < self._retries:
                    pass
                else:
                    raise SandboxTimeoutError(
                        f"The agent {self.template!r} did not answer within {seconds:g} s.", **self._ids
                    ) from exc
            except httpx.TransportError as exc:
                # What has begun to answer has been heard.
                if begun or attempt >= self._retries:
                    raise SandboxConnectionError(
                        f"The connection to the agent {self.template!r} failed: {exc or type(exc).__name__}.",
                        **self._ids,
                    ) from exc
            except Refusal as refusal:
                raise await self._error(refusal) from refusal
            await self._control.rest.wait(2.0**attempt)
            attempt += 1

    async def _ask(self, body: dict[str, Any], seconds: float, limit: float) -> AsyncGenerator[tuple[bool, Any], None]:
        async with self._control.rest.stream(
            self._access, AGENT, "POST", "/invocations", json=body, timeout=seconds, headers=self._headers
        ) as response:
            content_type = response.headers.get("content-type", "")
            if not is_stream(content_type):
                text = (await read_whole(response)).content.decode(errors="replace")
                self.streams = looks_like_stream(text)
                if not self.streams:
                    yield False, whole_answer(text)
                    return
                pieces = Pieces()
                for piece in [*pieces.feed(text), *pieces.end()]:
                    yield True, piece
                return
            self.streams = True
            pieces, size = Pieces(), 0
            async for text in response.aiter_text():
                size += len(text)
                if size > limit:
                    raise InvocationError(
                        f"The agent's answer, which is wanted whole, has more than {limit} characters.", **self._ids
                    )
                for piece in pieces.feed(text):
                    yield True, piece
            for piece in pieces.end():
                yield True, piece

    async def _error(self, refusal: Refusal) -> SandboxError:
        """Return what an answer means that is none."""
        if refusal.status == BAD_GATEWAY:
            try:
                detail = await self._control.get(self.sandbox_id)
            except SandboxError as exc:
                self.state = "closed" if isinstance(exc, SessionNotFoundError) else self.state
                return exc
            if detail.state == PAUSED:
                self.state = "paused"
                return SandboxConnectionError("The agent's sandbox was paused meanwhile; ask again.", **self._ids)
            return InvocationError(
                f"The agent {self.template!r} does not run any more. {await self._log()}", **self._ids
            )
        if refusal.status in FORBIDDEN:
            return AuthenticationError(
                f"The agent {self.template!r} does not take requests without the API key ({refusal.status}: "
                f"{refusal.said}). With send_key it is sent, and then code in the sandbox has it.",
                **self._ids,
            )
        if refusal.status == TOO_MANY:
            error = RateLimitError(f"The agent is asked too often: {refusal.said}", **self._ids)
            error.retry_after = refusal.retry_after
            return error
        return InvocationError(
            f"The agent {self.template!r} failed ({refusal.status}: {refusal.said}). {await self._log()}".rstrip(),
            **self._ids,
        )

    async def _log(self) -> str:
        """Return the end of what the agent wrote, as a sentence; "" where nothing can be read."""
        try:
            ran = await Envd(self._control.rest, self._access).run(f"tail -c 500 {LOG}", timeout=5)
        except SandboxError:
            return ""
        said = " ".join(ran.output.decode(errors="replace").split())
        return f"Its last words: {said}" if said and not ran.exit else ""

    # ---- its life

    async def ping(self) -> Health:
        """Return how the agent is. Raises SandboxConnectionError where it does not answer."""
        try:
            response = await self._control.rest.sandbox(self._access, AGENT, "GET", "/ping", timeout=10.0)
            said = response.json()
        except (httpx.HTTPError, InvocationError, Refusal, ValueError, RecursionError) as exc:
            raise SandboxConnectionError(f"The agent {self.template!r} does not answer: {exc}", **self._ids) from exc
        said = said if isinstance(said, dict) else {}
        return Health(str(said.get("status", "")), str(said.get("message") or ""))

    async def start(self, entrypoint: str) -> None:
        """Start the agent, if it has an entry point, and wait until it is healthy. Raises SandboxCreationError."""
        if entrypoint:
            if not _ENTRYPOINT.fullmatch(entrypoint):
                raise SandboxCreationError(f"The template's entry point {entrypoint[:80]!r} is no file.", **self._ids)
            command = f"cd /app && (setsid sudo -E python {entrypoint} >{LOG} 2>&1 </dev/null &)"
            ran = await Envd(self._control.rest, self._access).run(command)
            if ran.exit:
                said = ran.output.decode(errors="replace").strip()
                raise SandboxCreationError(f"The agent could not be started: {said}", **self._ids)
        await self._until_healthy()

    async def _until_healthy(self) -> None:
        deadline, pause = time.monotonic() + READY_TIMEOUT, FIRST_LOOK
        while True:
            try:
                health = await self.ping()
                if health.is_healthy:
                    return
                said = f"it says {health.status or 'nothing'} {health.message}".rstrip()
            except SandboxConnectionError as exc:
                said = str(exc)
            if time.monotonic() > deadline:
                raise SandboxCreationError(
                    f"The agent {self.template!r} was not healthy within {READY_TIMEOUT:g} s ({said}). "
                    f"{await self._log()}".rstrip(),
                    **self._ids,
                )
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_LOOK)

    async def _make_ready(self, seconds: float) -> None:
        if self.is_closing or self.state == "closed":
            raise SessionNotFoundError(f"The session {self.name or self.sandbox_id} is closed.", **self._ids)
        async with self._moving:
            if self.state == "paused" or self._ends < time.time() + seconds:
                await self._go_on(max(self._lifetime, seconds + MARGIN))

    async def pause(self) -> None:
        """Freeze the sandbox; the agent remembers. The next request resumes it. Raises SandboxError."""
        if self.state == "closed":
            raise StateError("a session that is closed cannot be paused")
        async with self._moving:
            await self._control.pause(self.sandbox_id)
            self.state = "paused"

    async def resume(self) -> None:
        """Let a paused one go on. Raises SessionNotFoundError, SandboxError."""
        async with self._moving:
            await self._go_on(self._lifetime)

    async def _go_on(self, lifetime: float) -> None:
        """Let the sandbox run for so many seconds, whether or not it is paused: when its time is over nobody tells."""
        # Connecting is what resumes: the vendor's own client has a word for it that does nothing.
        self._access, resumed = await self._control.connect(self.sandbox_id, lifetime)
        self._ends = time.time() + lifetime
        self.state = "active"
        if resumed:
            await self._until_healthy()

    async def close(self) -> None:
        """End the sandbox. Idempotent. Raises SandboxError where it may still run: then this may be tried again."""
        self.is_closing = True
        async with self._ending:
            if self.state != "closed":
                await self._control.kill(self.sandbox_id)
                self.state = "closed"
