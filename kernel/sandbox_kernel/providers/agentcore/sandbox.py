"""One session of the service with the bridge in it. It goes on when this process ends, until its lifetime is over."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from sandbox_kernel.errors import (
    ConfigurationError,
    InvocationError,
    NotFoundError,
    SandboxConnectionError,
    SandboxError,
    SandboxLostError,
    SandboxTimeoutError,
)
from sandbox_kernel.link.transport import Transport
from sandbox_kernel.providers.base import CodeOutcome, IsolationLevel, Sandbox

from .api import SKEW, Api
from .boot import Booted
from .carriers import PorterGoneError
from .exchange import ExchangeTransport, SessionTransport
from .faults import PROVIDER
from .life import Life
from .pace import Pace

READY = "READY"
LANGUAGES = ("python", "javascript", "typescript")
CLOSE_TIMEOUT = 4.0
"""Seconds for giving a session back: a front end that shuts a kernel down waits no longer than five."""
CLOSE_ATTEMPTS = 3
TELL_TIMEOUT = 1.0
NO_PAUSE = (
    "AgentCore has no pause; `%sandbox snapshot` saves variables and files, and `%sandbox restore` brings them to "
    "another sandbox."
)
LOOK = 0.5
"""Seconds between two looks at the clock."""
_SOON = 0.3
"""Seconds between two attempts to stop a session."""
_BEHIND = 0.2
"""Seconds behind the end of its lifetime at which a session is looked at."""


class AgentCoreSandbox(Sandbox):
    """What is common to both modes: life, cost and end."""

    provider_name = PROVIDER
    isolation = IsolationLevel.SEPARATE_KERNEL

    def __init__(self, api: Api, session_id: str, life: Life, correlation_id: str) -> None:
        self.sandbox_id = session_id
        self.life = life
        self._api = api
        self._ids: dict[str, Any] = {"sandbox_id": session_id, "correlation_id": correlation_id}
        self._reason = ""
        self._closed = False
        self._transport: SessionTransport | None = None
        self._watching: asyncio.Task[None] | None = None

    async def pause(self) -> None:
        raise InvocationError(NO_PAUSE, provider=PROVIDER, **self._ids)

    async def resume(self) -> None:
        raise InvocationError(NO_PAUSE, provider=PROVIDER, **self._ids)

    async def close(self) -> None:
        self._end()
        if self._closed:
            return
        self._closed = True
        for attempt in range(1, CLOSE_ATTEMPTS + 1):
            try:
                await asyncio.wait_for(
                    self._api.call("StopCodeInterpreterSession", sessionId=self.sandbox_id, **self._call_ids),
                    CLOSE_TIMEOUT,
                )
            except NotFoundError:
                return
            except (SandboxConnectionError, SandboxTimeoutError, asyncio.TimeoutError) as exc:
                if attempt == CLOSE_ATTEMPTS:
                    raise SandboxConnectionError(
                        f"The session {self.sandbox_id} could not be stopped ({exc}); it ends by itself in "
                        f"{self.life.remaining:.0f} s.",
                        provider=PROVIDER,
                        **self._ids,
                    ) from exc
                await asyncio.sleep(_SOON)
            else:
                return

    async def run_code(self, code: str, language: str) -> CodeOutcome:
        if language not in LANGUAGES:
            raise InvocationError(
                f"AgentCore runs no {language}; there are: {', '.join(LANGUAGES)}.", provider=PROVIDER, **self._ids
            )
        arguments = {"code": code, "language": language}
        correlation_id = self._ids["correlation_id"]
        said = await self._api.invoke(self.sandbox_id, "executeCode", arguments, correlation_id=correlation_id)
        return CodeOutcome(said.stdout or ("" if said.is_error else said.text), said.stderr, said.is_error)

    def kill(self) -> None:
        """Do nothing: without waiting nobody far away can be told, and the session's time ends by itself."""

    @property
    def _call_ids(self) -> dict[str, str]:
        return {"correlation_id": self._ids["correlation_id"]}

    def _end(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        if self._transport is not None:
            self._transport.close()

    def _opened(self, transport: SessionTransport) -> SessionTransport:
        """Take note of a new transport, and watch over the session as long as it is used."""
        self._transport = transport
        if self._watching is None or self._watching.done():
            self._watching = asyncio.ensure_future(self._watch())
        return transport

    async def loss_reason(self) -> str:
        with suppress(SandboxError, asyncio.TimeoutError):
            ended = await asyncio.wait_for(self.ended(), TELL_TIMEOUT)
            return ended or self._reason
        return self._reason or self._over()

    async def ended(self) -> str:
        """Return why the session is not there any more, as a clause; "" if it is. Raises SandboxError."""
        try:
            found = await self._api.call("GetCodeInterpreterSession", sessionId=self.sandbox_id, **self._call_ids)
        except NotFoundError:
            return self._over() or "AgentCore does not know it any more"
        except ConfigurationError as exc:
            # What the configuration was good for so far: a profile that was removed meanwhile.
            raise InvocationError(str(exc), provider=PROVIDER, **self._ids) from exc
        if found.get("status") == READY:
            return ""
        return self._over() or "it was stopped by somebody else"

    def _over(self) -> str:
        if self.life.remaining > SKEW:
            return ""
        return f"its lifetime of {self.life.lifetime:.0f} s is over, which AgentCore does not extend"

    async def _watch(self) -> None:
        """Warn when little time is left, also in the middle of a cell; notice the end, also when no cell runs."""
        while not self.life.is_over:
            if self._is_left:
                return
            # Not for longer: the service's clock may turn out to be ahead of ours.
            await asyncio.sleep(min(LOOK, self.life.warn_in or self.life.remaining) + 0.05)
            warning = self.life.warning()
            if warning:
                self.on_news(warning)
        await asyncio.sleep(_BEHIND)
        while not self._is_left:
            with suppress(SandboxError):
                self._reason = await self.ended()
            if self._reason and self._transport is not None:
                self._transport.lose(self._reason)
            await asyncio.sleep(1.0)

    @property
    def _is_left(self) -> bool:
        """Whether nobody here uses the session any more, or its connection is just being made again."""
        return self._transport is not None and self._transport.closed

    def before_cell(self) -> str:
        return self.life.warning()

    def describe(self) -> dict[str, str]:
        settings = self._api.settings
        return {
            "code interpreter": settings.interpreter,
            "region": self._api.where,
            **self.life.describe(),
            "calls": str(self._api.calls),
        }


class BridgeSandbox(AgentCoreSandbox):
    """A session with the bridge in it."""

    def __init__(self, api: Api, session_id: str, life: Life, correlation_id: str, booted: Booted) -> None:
        super().__init__(api, session_id, life, correlation_id)
        self._booted = booted
        self._pace = Pace()

    async def open_link(self) -> Transport:
        if self._transport is not None:
            await self._require_life()
        return self._opened(ExchangeTransport(self._booted.carriers, self._pace))

    async def _require_life(self) -> None:
        """Raise SandboxLostError where another stream cannot help."""
        reason = self._reason or await self.ended()
        if not reason:
            try:
                hello = {"stream": "", "at": 0, "have": 0, "want": False}
                reason = (await self._booted.carriers.exchange(hello)).ended
            except PorterGoneError:
                reason = "its bridge was ended"
        if reason:
            self._reason = reason
            raise SandboxLostError(f"The sandbox ended: {reason}.", provider=PROVIDER, **self._ids)

    def describe(self) -> dict[str, str]:
        beside = "" if self._booted.carriers.has_commands else "; interrupts wait for a call to return"
        return {**super().describe(), "bridge": f"started by {self._booted.way}{beside}"}
