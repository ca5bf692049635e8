"""One sandbox at a brand's, with the bridge in it. It goes on when this process ends, until its time is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import Any

from sandbox_kernel.durations import age
from sandbox_kernel.errors import (
    InvocationError,
    SandboxConnectionError,
    SandboxError,
    SandboxKernelError,
    SandboxLostError,
    SandboxPausedError,
    SandboxTimeoutError,
    SessionNotFoundError,
)
from sandbox_kernel.link.transport import Transport
from sandbox_kernel.providers.base import CodeOutcome, IsolationLevel, Sandbox
from sandbox_kernel.providers.basic.runner import Display, Failure, Text
from sandbox_kernel.providers.costs import Rate

from .access import Access
from .brands import WORK
from .bridging import Knocker, last_words
from .client import PAUSED, ControlClient
from .envd import Envd
from .interpreter import Interpreter
from .life import Life
from .rest import Services
from .transport import UpgradeRefusedError, WebSocketTransport

TELL_TIMEOUT = 5.0
"""Seconds for the question why something ended."""
CLOSE_TIMEOUT = 4.0
"""Seconds to give a sandbox back: a front end that shuts a kernel down waits no longer than five."""

MAX_PRINTED = 64 * 1024 * 1024
"""Characters of a single cell in another language, which are shown when it has ended."""


class E2BSandbox(Sandbox):
    """Made by the provider."""

    isolation = IsolationLevel.SEPARATE_KERNEL

    def __init__(
        self,
        client: Callable[[], ControlClient],
        access: Access,
        token: str,
        knocker: Knocker,
        life: Life,
        rate: Rate,
    ) -> None:
        """``client`` gives the control plane for the event loop that runs; ``token`` is the bridge's."""
        self.provider_name = access.place.brand.name
        self.sandbox_id = access.sandbox_id
        self.owner = access.place.owner
        self.access = access
        self._client = client
        self._token, self._knocker = token, knocker
        self._life, self._rate = life, rate
        self._interpreters: dict[str, Interpreter] = {}
        """By language, for single cells in another one than the notebook's."""
        self._transport: WebSocketTransport | None = None
        self._prolonging: asyncio.Task[None] | None = None
        self._ids: dict[str, Any] = {"provider": self.provider_name, "sandbox_id": self.sandbox_id}

    @property
    def envd(self) -> Envd:
        """Its service for files and processes."""
        return Envd(self._services, self.access)

    @property
    def _services(self) -> Services:
        """The services in it."""
        return self._client().rest

    async def open_link(self) -> Transport:
        try:
            self._transport = await self._knocker.open(self.access, self._token)
        except UpgradeRefusedError as exc:
            raise await self._why_not(exc) from exc
        return self._transport

    async def _why_not(self, refusal: UpgradeRefusedError) -> SandboxError:
        """Return what keeps the ingress from letting us through."""
        try:
            if await self._state() == PAUSED:
                return SandboxPausedError("The sandbox is paused.", **self._ids)
        except SandboxError as exc:
            return exc
        return SandboxConnectionError(f"The sandbox cannot be reached ({refusal}).", **self._ids)

    async def _state(self) -> str:
        """Return "running" or "paused". Raises SandboxLostError, SandboxConnectionError."""
        try:
            return (await self._client().get(self.sandbox_id)).state
        except SessionNotFoundError as exc:
            raise SandboxLostError("The sandbox has ended.", **self._ids) from exc
        except SandboxError as exc:
            raise SandboxConnectionError(str(exc), **self._ids) from exc

    # ---- its life

    async def pause(self) -> None:
        await self._client().pause(self.sandbox_id)
        self._life.paused()

    async def resume(self) -> None:
        try:
            self.access, _ = await self._client().resume(self.sandbox_id, self._life.timeout)
        except SessionNotFoundError as exc:
            raise SandboxLostError(
                "The sandbox ended while it was paused; its variables are gone.", **self._ids
            ) from exc
        self._life.resumed()
        if self._transport is not None:
            # Connections do not outlive a pause, and nobody may have said so.
            self._transport.abandon()

    async def prolong(self) -> None:
        """Let its time be over as late as that is allowed, where it is not yet so."""
        if not self._life.is_fresh:
            await self._client().set_timeout(self.sandbox_id, self._life.timeout)
            self._life.prolonged()

    def before_cell(self) -> str:
        if self._prolonging is None or self._prolonging.done():
            self._prolonging = asyncio.ensure_future(self._prolong_quietly())
        return ""

    async def _prolong_quietly(self) -> None:
        # It is tried again while the cell runs, and what is wrong is told then.
        with suppress(SandboxKernelError):
            await self.prolong()

    async def close(self) -> None:
        try:
            await asyncio.wait_for(self._client().kill(self.sandbox_id), CLOSE_TIMEOUT)
        except asyncio.TimeoutError as exc:
            raise SandboxTimeoutError(
                f"{self.access.place.brand.title} did not say in time that {self.sandbox_id} has ended; it ends "
                "when its time is over.",
                **self._ids,
            ) from exc

    def kill(self) -> None:
        """Do nothing: without waiting nobody far away can be told, and its time will be over."""

    async def fork(self) -> str:
        """Make a copy that runs; return its id."""
        made = await self._client().fork(self.sandbox_id, self._life.timeout)
        if not made:
            raise SandboxError("The copy could not be made.", **self._ids)
        return made[0].sandbox_id

    async def snapshot(self, name: str = "") -> str:
        """Keep it as it is now; return what a new one is made of."""
        return await self._client().snapshot(self.sandbox_id, name)

    async def run_code(self, code: str, language: str) -> CodeOutcome:
        """Run code in the sandbox's own code interpreter. Its variables last, beside the notebook's."""
        texts: dict[str, list[str]] = {"stdout": [], "stderr": []}
        size, failed = 0, False
        try:
            async with aclosing((await self._interpreter(language)).run(code)) as events:
                async for event in events:
                    match event:
                        case Text(name, text):
                            said = text
                        case Display(data):
                            name, said = "stdout", f"{data.get('text/plain', '')}\n"
                        case Failure(traceback=lines):
                            failed = True
                            name, said = "stderr", "\n".join(lines)
                    texts[name].append(said)
                    size += len(said)
                    if size > MAX_PRINTED:
                        raise InvocationError(f"The cell printed more than {MAX_PRINTED} characters.", **self._ids)
        except SandboxLostError as exc:
            # The template has no code interpreter; the notebook's own does without it.
            raise InvocationError(str(exc), **self._ids) from exc
        stdout, stderr = ("".join(texts[name]).removesuffix("\n") for name in ("stdout", "stderr"))
        return CodeOutcome(stdout, stderr, failed)

    async def _interpreter(self, language: str) -> Interpreter:
        if language not in self._interpreters:
            found = Interpreter(lambda: self._services, lambda: self.access, language, WORK)
            await found.begin()
            self._interpreters[language] = found
        return self._interpreters[language]

    # ---- what became of it

    async def loss_reason(self) -> str:
        try:
            return await asyncio.wait_for(self._reason(), TELL_TIMEOUT)
        except asyncio.TimeoutError:
            return f"{self.access.place.brand.title} does not say why"

    async def _reason(self) -> str:
        try:
            detail = await self._client().get(self.sandbox_id)
            if detail.state == PAUSED:
                return "it was paused"
            last = await last_words(self.envd)
        except SessionNotFoundError:
            over = "its time was over" if self._life.left <= 1 else "somebody ended it"
            return f"{over}, and {self.access.place.brand.title} does not know it any more"
        except SandboxKernelError as exc:
            return f"{self.access.place.brand.title} cannot be asked why ({exc})"
        return f"its bridge ended: {last}" if last else "its bridge ended"

    def describe(self) -> dict[str, str]:
        what = "pauses by itself in" if self._life.auto_pause else "ends by itself in"
        rows = {
            "template": self.access.template_id,
            what: f"{age(self._life.left)}, unless a cell runs",
            "cost so far": self._rate.describe(self._life.ran),
        }
        if self._life.idle:
            rows["paused when idle for"] = age(self._life.idle)
        return {name: value for name, value in rows.items() if value}
