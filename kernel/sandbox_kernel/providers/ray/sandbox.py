"""One sandbox in a Ray cluster. It goes on when this process ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from sandbox_kernel.errors import (
    ConfigurationError,
    NotFoundError,
    SandboxConnectionError,
    SandboxKernelError,
    SandboxLostError,
)
from sandbox_kernel.link.stream import SocketTransport
from sandbox_kernel.link.transport import Transport
from sandbox_kernel.providers.base import IsolationLevel, Sandbox

from .companion import Companion
from .words import PROVIDER, parse_id

TELL_TIMEOUT = 1.0
"""Seconds for the question why something ended."""
CLOSE_TIMEOUT = 8.0
"""Seconds in which a sandbox is given back."""

FindCompanion = Callable[[bool], Awaitable[Companion]]
"""Returns the connected companion; starts one only if that is asked for."""


class RaySandbox(Sandbox):
    """Made by `RayProvider`."""

    provider_name = PROVIDER

    def __init__(self, companion: FindCompanion, info: dict[str, Any], asked: str, correlation_id: str = "") -> None:
        """``asked`` are the resources that it holds, for people; "" if that is not known."""
        self.sandbox_id = str(info["sandbox_id"])
        self.owner = (parse_id(self.sandbox_id) or ("", 0.0))[0]
        self.isolation = _isolation(str(info["isolation"]))
        self._companion, self._asked = companion, asked
        self._ids: dict[str, Any] = {"sandbox_id": self.sandbox_id, "correlation_id": correlation_id}
        self._lost = ""
        self._note(info)
        self._refreshing: asyncio.Task[None] | None = None

    def _note(self, info: dict[str, Any]) -> None:
        self.state = str(info["state"])
        self._node = str(info["node"])
        self._details = {str(name): str(text) for name, text in dict(info["details"]).items()}

    async def open_link(self) -> Transport:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                await self._call("link", carried=theirs)
        except NotFoundError as exc:
            ours.close()
            raise SandboxLostError(str(exc), provider=PROVIDER, **self._ids) from exc
        except ConfigurationError as exc:
            # It was right once, so it is the cluster that has changed.
            ours.close()
            raise SandboxConnectionError(str(exc), provider=PROVIDER, retryable=False, **self._ids) from exc
        except SandboxConnectionError as exc:
            # For a first start nobody at the address is a mistake; a cluster that was there may come again.
            ours.close()
            raise SandboxConnectionError(str(exc), provider=PROVIDER, retryable=True, **self._ids) from exc
        except SandboxLostError as exc:
            self._lost = _clause(str(exc))
            ours.close()
            raise
        except BaseException:
            ours.close()
            raise
        return SocketTransport(ours)

    async def pause(self) -> None:
        await self._call("pause")

    async def resume(self) -> None:
        try:
            await self._call("resume")
        except NotFoundError as exc:
            raise SandboxLostError(str(exc), provider=PROVIDER, **self._ids) from exc

    async def close(self) -> None:
        # One that is not there has been given back.
        with suppress(NotFoundError, SandboxLostError):
            try:
                await asyncio.wait_for(self._call("close"), CLOSE_TIMEOUT)
            except asyncio.TimeoutError as exc:
                raise SandboxConnectionError(
                    "The Ray cluster did not say that the sandbox was given back.", provider=PROVIDER, **self._ids
                ) from exc

    def kill(self) -> None:
        """Do nothing: without waiting nobody far away can be told, and the actor ends when nobody uses it."""

    async def loss_reason(self) -> str:
        if self._lost:
            return self._lost
        return await self._explain(None)

    async def kernel_death_reason(self, exit_code: int) -> str:
        try:
            return await self._explain(exit_code)
        except SandboxKernelError:
            return ""

    async def _explain(self, exit_code: int | None) -> str:
        try:
            asking = self._call("explain", start=False, exit_code=exit_code)
            return str(await asyncio.wait_for(asking, TELL_TIMEOUT))
        except NotFoundError:
            return "its actor is not in the Ray cluster any more"
        except SandboxLostError as exc:
            return _clause(str(exc))
        except (asyncio.TimeoutError, SandboxConnectionError, ConfigurationError):
            return "the Ray cluster cannot be reached"

    def describe(self) -> dict[str, str]:
        # What was heard last; what is heard now comes with the next look. Without a loop nobody can be asked.
        with suppress(RuntimeError):
            loop = asyncio.get_running_loop()
            if self._refreshing is None or self._refreshing.done():
                self._refreshing = loop.create_task(self._refresh())
        asked = {"holds": self._asked} if self._asked else {}
        return {"node": self._node, **asked, **self._details}

    async def _refresh(self) -> None:
        with suppress(SandboxKernelError):
            self._note(await self._call("info"))

    async def _call(
        self, method: str, *, start: bool = True, carried: socket.socket | None = None, **arguments: Any
    ) -> Any:
        companion = await self._companion(start)
        return await companion.call(method, carried=carried, sandbox_id=self.sandbox_id, **arguments)


def _clause(text: str) -> str:
    """Return why a sandbox ended, from the sentence that says so."""
    return text.removeprefix("The sandbox ended: ").rstrip(".")


def _isolation(name: str) -> IsolationLevel:
    """Return the level that a node names; one that is not known here counts as none."""
    try:
        return IsolationLevel(name)
    except ValueError:
        return IsolationLevel.NONE
