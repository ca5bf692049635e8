"""A gateway's REST interface: kernels are started, looked at, interrupted, restarted and ended by it."""

from __future__ import annotations

import asyncio
import difflib
import json
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from sandbox_kernel.errors import (
    ConfigurationError,
    InvocationError,
    NotFoundError,
    QuotaError,
    SandboxCreationError,
    SandboxError,
    SandboxKernelError,
)

from .failures import NOT_FOUND, PROVIDER, Refusal, error_of, refusal_of, translated
from .place import Place, is_kernel_id, new_kernel_id

MAX_ANSWER = 16 * 1024 * 1024
"""Bytes of an answer; a list of ten thousand kernels fits."""
UNDO_TIMEOUT = 5.0
"""Seconds to end a kernel of which nobody knows whether it was started."""


@dataclass(frozen=True)
class KernelModel:
    """A kernel, as the gateway tells it."""

    kernel_id: str
    name: str
    state: str
    """"starting", "idle", "busy", "dead" and others."""
    active: float
    """When it was used last, in seconds since the epoch."""
    connections: int


@dataclass(frozen=True)
class Order:
    """What a new kernel is to be."""

    name: str
    """Of its kernelspec; "" is the gateway's default."""
    path: str
    environment: Mapping[str, str]


class GatewayClient:
    """One httpx client. It belongs to the event loop on which it is made."""

    def __init__(self, place: Place, timeout: float) -> None:
        """``timeout`` is for an answer, in seconds. Raises ConfigurationError."""
        place.check()
        self.place = place
        self.loop = asyncio.get_running_loop()
        self._client = httpx.AsyncClient(
            verify=self.context if self.context is not None else True,
            headers={**place.request_headers, "Accept-Encoding": "identity"},
            timeout=timeout,
            follow_redirects=False,
            # The WebSocket takes no proxy, and a file with passwords is not ours to read.
            trust_env=False,
        )

    @cached_property
    def context(self) -> ssl.SSLContext | None:
        """What certificates are checked by, and ours; None where there is no TLS. Raises ConfigurationError."""
        place = self.place
        if not place.is_secure:
            return None
        files = [str(Path(file).expanduser()) for file in (place.certificate_file, place.private_key_file) if file]
        try:
            if place.ca_file:
                context = ssl.create_default_context(cafile=str(Path(place.ca_file).expanduser()))
            else:
                context = httpx.create_ssl_context(trust_env=False)
            if files:
                context.load_cert_chain(*files)
        except (OSError, ValueError) as exc:
            raise ConfigurationError(f"GatewayProvider's certificates cannot be used: {exc}.") from exc
        return context

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    # ---- the gateway

    async def about(self) -> dict[str, Any]:
        """Return what the gateway says of itself. Raises ConfigurationError where there is no Jupyter server."""
        try:
            said = await self._call("GET", "/api", "tell its version")
        except Refusal as refusal:
            if refusal.status in (401, 403) or 300 <= refusal.status < 400 or refusal.status >= 424:
                raise error_of(self.place, refusal, "tell its version") from refusal
            said = None
        if not isinstance(said, dict) or not isinstance(said.get("version"), str):
            raise ConfigurationError(
                f"At {self.place.base} there is no Jupyter server or gateway: GatewayProvider.url has to be the "
                "address below which its /api is."
            )
        return said

    async def specs(self) -> tuple[dict[str, Any], str]:
        """Return the kernelspecs by name, and the default's name. Raises SandboxKernelError."""
        doing = "list its kernelspecs"
        try:
            said = await self._call("GET", "/api/kernelspecs", doing)
        except Refusal as refusal:
            raise error_of(self.place, refusal, doing) from refusal
        specs = said.get("kernelspecs") if isinstance(said, dict) else None
        if not isinstance(specs, dict):
            raise self._nonsense(doing)
        return specs, str(said.get("default", ""))

    # ---- kernels

    async def kernels(self) -> Sequence[KernelModel]:
        """Return the kernels that run. Raises SandboxKernelError."""
        doing = "list its kernels"
        try:
            said = await self._call("GET", "/api/kernels", doing)
        except Refusal as refusal:
            raise await self._not_listed(refusal, doing) from refusal
        if not isinstance(said, list):
            raise self._nonsense(doing)
        return [model for one in said if (model := _read_model(one)) is not None]

    async def _not_listed(self, refusal: Refusal, doing: str) -> SandboxKernelError:
        if refusal.status == NOT_FOUND:
            await self.about()
        if refusal.status == 403:
            # Gateways list nothing unless they are told to; who is not let in at all may not ask this either.
            await self.specs()
            return InvocationError(
                f"The gateway at {self.place.base} does not list its kernels: it has to be started with "
                "JupyterWebsocketPersonality.list_kernels (Kernel Gateway) or EnterpriseGatewayApp.list_kernels.",
                provider=PROVIDER,
            )
        return error_of(self.place, refusal, doing)

    async def kernel(self, kernel_id: str) -> KernelModel:
        """Return a kernel. Raises NotFoundError where there is none of that id."""
        if not is_kernel_id(kernel_id):
            raise self._unknown(kernel_id)
        doing = "tell how the kernel is"
        try:
            said = await self._call("GET", self.place.kernel_path(kernel_id), doing, sandbox_id=kernel_id)
        except Refusal as refusal:
            if refusal.status != NOT_FOUND:
                raise error_of(self.place, refusal, doing, sandbox_id=kernel_id) from refusal
            # Not where another program answers.
            await self.about()
            raise self._unknown(kernel_id) from refusal
        model = _read_model(said)
        if model is None:
            raise self._nonsense(doing)
        return model

    def _unknown(self, kernel_id: str) -> NotFoundError:
        return NotFoundError(
            f"The gateway at {self.place.base} has no kernel {kernel_id[:100]!r}: it was culled when it was idle, or "
            "shut down, or never was.",
            provider=PROVIDER,
            sandbox_id=kernel_id,
        )

    async def start(self, order: Order, correlation_id: str) -> KernelModel:
        """Start a kernel. Raises SandboxKernelError; then there is none."""
        about = await self.about()
        wanted = new_kernel_id()
        environment = dict(order.environment)
        if "gateway_version" in about:
            # Enterprise Gateway's way to choose an id.
            environment.setdefault("KERNEL_ID", wanted)
        body: dict[str, Any] = {"kernel_id": wanted}
        body |= {name: value for name, value in (("name", order.name), ("path", order.path)) if value}
        if environment:
            body["env"] = environment
        doing = "start a kernel"
        ids: dict[str, Any] = {"correlation_id": correlation_id}
        try:
            said = await self._call("POST", "/api/kernels", doing, body=body, **ids)
        except Refusal as refusal:
            raise await self._not_started(order.name, refusal, **ids) from refusal
        except SandboxError as exc:
            if exc.retryable:
                await self._undo(wanted)
            raise
        except asyncio.CancelledError:
            await asyncio.shield(self._undo(wanted))
            raise
        model = _read_model(said)
        if model is None:
            raise self._nonsense(doing)
        return model

    async def _not_started(self, name: str, refusal: Refusal, **ids: Any) -> SandboxKernelError:
        """Return why a kernel was not started: often there is no kernelspec of that name."""
        error = error_of(self.place, refusal, "start a kernel", **ids)
        if refusal.status == 401 or refusal.status < 400 or isinstance(error, QuotaError):
            return error
        with suppress(SandboxKernelError):
            # Who is not let in at all may not ask this either.
            specs, _ = await self.specs()
            if name and name not in specs:
                near = difflib.get_close_matches(name, specs, 1)
                there = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(specs)) or 'none'}."
                return ConfigurationError(
                    f"The gateway at {self.place.base} has no kernelspec {name!r} (GatewayProvider.kernel_name): "
                    f"{there}"
                )
            return SandboxCreationError(
                f"The gateway at {self.place.base} did not start a kernel ({refusal}); its log may have more.",
                provider=PROVIDER,
                retryable=refusal.status in (502, 503, 504),
                **ids,
            )
        return error

    async def _undo(self, kernel_id: str) -> None:
        """End a kernel that may have been started, as far as that can be done."""
        with suppress(SandboxKernelError, asyncio.TimeoutError):
            await asyncio.wait_for(self.end(kernel_id), UNDO_TIMEOUT)

    async def end(self, kernel_id: str) -> None:
        """End a kernel; nothing is wrong where there is none. Raises SandboxKernelError."""
        await self._act("DELETE", kernel_id, "", "end the kernel", gone=True)

    async def interrupt(self, kernel_id: str) -> None:
        """Interrupt what it runs. Raises SandboxKernelError."""
        await self._act("POST", kernel_id, "/interrupt", "interrupt the kernel")

    async def restart(self, kernel_id: str, timeout: float) -> None:
        """Renew it, which may take ``timeout`` seconds. Raises SandboxKernelError."""
        await self._act("POST", kernel_id, "/restart", "restart the kernel", timeout=timeout)

    async def _act(
        self, method: str, kernel_id: str, action: str, doing: str, *, gone: bool = False, timeout: float | None = None
    ) -> None:
        path = f"{self.place.kernel_path(kernel_id)}{action}"
        body: dict[str, Any] | None = {} if method == "POST" else None
        try:
            await self._call(method, path, doing, body=body, timeout=timeout, sandbox_id=kernel_id)
        except Refusal as refusal:
            if refusal.status != NOT_FOUND:
                raise error_of(self.place, refusal, doing, sandbox_id=kernel_id) from refusal
            if not gone:
                raise self._unknown(kernel_id) from refusal

    # ---- calls

    async def _call(
        self, method: str, path: str, doing: str, *, body: Any = None, timeout: float | None = None, **ids: Any
    ) -> Any:
        """Make a call; return what is said, None where that is no JSON. Raises Refusal and SandboxKernelError."""
        with translated(self.place, doing, **ids):
            limit = self._client.timeout if timeout is None else httpx.Timeout(timeout)
            async with self._client.stream(method, f"{self.place.base}{path}", json=body, timeout=limit) as response:
                said = bytearray()
                async for piece in response.aiter_raw():
                    said += piece
                    if len(said) > MAX_ANSWER:
                        raise self._nonsense(doing)
        if not response.is_success:
            raise refusal_of(response.status_code, bytes(said), response.headers.get("location", ""))
        try:
            return json.loads(said) if said else None
        except (ValueError, RecursionError):
            return None

    def _nonsense(self, doing: str) -> InvocationError:
        return InvocationError(
            f"The gateway at {self.place.base} answered what no Jupyter server says when it was asked to {doing}.",
            provider=PROVIDER,
        )


def _read_model(said: object) -> KernelModel | None:
    """Read a kernel's description; None where it is none."""
    if not isinstance(said, dict) or not is_kernel_id(said.get("id")):
        return None
    connections = said.get("connections")
    return KernelModel(
        said["id"],
        str(said.get("name", ""))[:200],
        str(said.get("execution_state", "unknown"))[:50],
        _moment(said.get("last_activity")),
        connections if isinstance(connections, int) else 0,
    )


def _moment(text: object) -> float:
    """Return a moment in seconds since the epoch; now where it cannot be read."""
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return time.time()
