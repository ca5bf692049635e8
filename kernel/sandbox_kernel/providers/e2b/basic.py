"""A sandbox in basic mode: its code interpreter runs the cells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sandbox_kernel.errors import SandboxLostError
from sandbox_kernel.link.transport import Transport
from sandbox_kernel.providers.base import GOES_ON
from sandbox_kernel.providers.basic.bridge import LACKS, BasicBridge
from sandbox_kernel.providers.costs import Rate

from .access import Access
from .brands import WORK
from .bridging import Knocker
from .client import PAUSED, ControlClient
from .files import EnvdFiles
from .interpreter import Interpreter
from .life import Life
from .rest import Services
from .sandbox import E2BSandbox
from .waking import WakingServices


class BasicSandbox(E2BSandbox):
    """Made by the provider where no bridge can run, or none is wanted.

    The link to it ends in this process, so it does not break when the sandbox is paused or ends: who asks the sandbox
    for something learns that first.
    """

    mode = "basic"

    def __init__(
        self,
        client: Callable[[], ControlClient],
        access: Access,
        knocker: Knocker,
        life: Life,
        rate: Rate,
        *,
        language: str,
    ) -> None:
        super().__init__(client, access, "", knocker, life, rate)
        self._runner = Interpreter(lambda: self._services, lambda: self.access, language, WORK)
        self._bridge = BasicBridge(self._runner)
        self._lost: SandboxLostError | None = None
        self._waking = asyncio.Lock()
        self._awake = asyncio.Event()
        """The session has not paused it."""
        self._awake.set()
        ids: dict[str, Any] = {"provider": self.provider_name, "sandbox_id": self.sandbox_id}
        self.files = EnvdFiles(lambda: self.envd, WORK, ids)

    @property
    def _services(self) -> Services:
        return WakingServices(self._client().rest, self._wake)

    async def begin(self) -> None:
        """Make ready for cells. Raises SandboxError."""
        await self._runner.begin()

    async def open_link(self) -> Transport:
        if self._lost is not None:
            raise self._lost
        return self._bridge.open()

    async def pause(self) -> None:
        self._awake.clear()
        try:
            await super().pause()
        except BaseException:
            self._awake.set()
            raise

    async def resume(self) -> None:
        await super().resume()
        self._awake.set()

    async def _wake(self) -> Access:
        """Let it go on where the service, or another program, has paused it; return the way to it.

        What the session has paused it lets go on itself. Raises SandboxLostError, which ends the link, and
        SandboxConnectionError.
        """
        await self._awake.wait()
        async with self._waking:
            try:
                if self._lost is not None:
                    raise self._lost
                if await self._state() == PAUSED:
                    await self.resume()
                    self.on_news(GOES_ON)
            except SandboxLostError as exc:
                self._lost = exc
                self._bridge.lose(str(exc))
                raise
        return self.access

    async def close(self) -> None:
        self._bridge.close()
        await super().close()

    def describe(self) -> dict[str, str]:
        return {"language": f"{self._runner.language}; {LACKS}", **super().describe()}
