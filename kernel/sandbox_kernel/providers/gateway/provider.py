"""The provider gateway: its options, and what they come to. httpx is imported when it is used."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from traitlets import Bool, Dict, Enum, Float, Int, List, Unicode, default

from sandbox_kernel.errors import ConfigurationError, SandboxError, SandboxKernelError
from sandbox_kernel.giving_back import made_or_given_back
from sandbox_kernel.providers.base import (
    Capabilities,
    Diagnosis,
    Provider,
    Sandbox,
    SandboxRecord,
    SandboxSpec,
)

from .place import TOKEN_VARIABLE, Place, is_ours

if TYPE_CHECKING:
    from .rest import GatewayClient, KernelModel
    from .sandbox import BridgeSandbox, GatewaySandbox, RelaySandbox


class GatewayProvider(Provider):
    """Kernels of a Jupyter server, Kernel Gateway, Enterprise Gateway or of a user's server at a JupyterHub."""

    name = "gateway"
    not_tried = "a kernel of the gateway's would start; the first cell does that"
    instead_of_pause = "`%sandbox detach` leaves one running, and `%sandbox attach` comes back to it."

    url = Unicode(
        help="Address of the gateway or server, up to what stands before /api, such as "
        "https://hub.example.com/user/ann. Environment: SANDBOX_KERNEL_GATEWAY_URL."
    ).tag(config=True)
    kernel_name = Unicode(
        help="Name of the kernelspec at the gateway that new kernels are of. Default: the gateway's own."
    ).tag(config=True)
    mode = Enum(
        ("auto", "bridge", "relay"),
        default_value="auto",
        help="'bridge': this package's program runs beside the gateway's kernel, so that there are a journal, "
        "exactly-once, files and commands; 'relay': that kernel runs the cells, and its messages are passed on; "
        "'auto': the first in each new kernel where it can be, else the second.",
    ).tag(config=True)
    language = Unicode("python", help="Of that kernelspec's cells.").tag(config=True)
    environment = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        help="Settings of new kernels as environment variables: gateways take those whose names begin with KERNEL_, "
        "such as KERNEL_USERNAME, and those that their own configuration allows; Jupyter Server takes none.",
    ).tag(config=True)
    path = Unicode(
        help="Folder in which new kernels start, below the server's own, where the server takes it. Default: its own."
    ).tag(config=True)
    headers = Dict(key_trait=Unicode(), value_trait=Unicode(), help="Further headers of each request, by name.").tag(
        config=True
    )
    ca_file = Unicode(
        help="File with the certificates of authorities that sign the gateway's. Default: those of the package certifi."
    ).tag(config=True)
    certificate_file = Unicode(help="File with our own certificate, where the gateway wants one.").tag(config=True)
    private_key_file = Unicode(help="File with its private key, where it is not in the same file.").tag(config=True)
    start_with_kernel = Bool(
        True,
        help="Whether a kernel is started at the gateway as soon as the notebook is opened; else by the first cell "
        "that a person runs.",
    ).tag(config=True)
    request_timeout = Float(40.0, min=0.1, help="Seconds in which a request must be answered.").tag(config=True)
    start_timeout = Float(
        55.0, min=0.1, help="Seconds in which a kernel must have started, or been restarted, at the gateway."
    ).tag(config=True)
    connect_timeout = Float(
        9.0, min=0.1, help="Seconds in which a lost connection must have been made again; then another one is tried."
    ).tag(config=True)
    watch_interval = Float(
        10.0, min=0.1, help="Seconds between two questions whether the kernel is still there: gateways tell no end."
    ).tag(config=True)
    keepalive = Float(10.0, min=0.1, help="Seconds of silence after which the gateway is asked if it is there.").tag(
        config=True
    )
    keepalive_timeout = Float(5.0, min=0.1, help="Seconds beyond that after which the connection is lost.").tag(
        config=True
    )
    largest_message = Int(
        10 * 1024 * 1024,
        min=1024,
        help="Bytes of a cell or other message to the kernel: a gateway closes the connection for a larger one.",
    ).tag(config=True)
    subprotocols = List(
        Unicode(),
        ["v1.kernel.websocket.jupyter.org"],
        help="What is offered for messages; a gateway that speaks none of it gets JSON.",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.capabilities = Capabilities(outlives_kernel=True, billed=not self.start_with_kernel, network=True)
        self._client: GatewayClient | None = None

    @default("url")
    def _default_url(self) -> str:
        return os.environ.get("SANDBOX_KERNEL_GATEWAY_URL", "")

    @property
    def place(self) -> str:  # type: ignore[override]
        """Where its kernels are."""
        return self._place().base

    def _place(self) -> Place:
        return Place(
            self.url,
            os.environ.get(TOKEN_VARIABLE, "").strip(),
            dict(self.headers),
            self.ca_file,
            self.certificate_file,
            self.private_key_file,
        )

    # ---- the contract

    async def create(self, spec: SandboxSpec) -> Sandbox:
        from .rest import Order

        client = self.client()
        order = Order(self.kernel_name, self.path, dict(self.environment))
        model = await made_or_given_back(
            client.start(order, spec.correlation_id), lambda made: client.end(made.kernel_id)
        )
        try:
            return await self._made(model, spec.correlation_id)
        except BaseException:
            # Nobody else knows of it.
            with suppress(SandboxKernelError):
                await asyncio.shield(client.end(model.kernel_id))
            raise

    async def _made(self, model: KernelModel, correlation_id: str) -> GatewaySandbox:
        """Return a new kernel's sandbox in the mode that is wanted, and possible."""
        from .starting import NoBridgeError

        reason = "" if self.mode == "relay" or self.language == "python" else f"its cells are in {self.language}"
        if self.mode != "relay" and self.language == "python":
            bridged = self._bridged(model, made=True)
            try:
                await bridged.begin(self.kernel_arguments)
            except NoBridgeError as exc:
                reason = str(exc)
            else:
                return bridged
        if self.mode == "bridge":
            raise SandboxError(
                f"The bridge cannot run in the gateway's kernel: {reason}; GatewayProvider.mode = 'auto' does without.",
                provider=self.name,
                sandbox_id=model.kernel_id,
                correlation_id=correlation_id,
            )
        if self.kernel_arguments:
            raise ConfigurationError(
                f"{self.kernel_arguments[0]} is an option for ipykernel, which a gateway's kernel cannot be given in "
                "relay mode: set it in the kernelspec there."
            )
        relayed = self._relayed(model, made=True)
        relayed.reason = reason
        await relayed.connect()
        return relayed

    async def connect(self, sandbox_id: str) -> Sandbox:
        model = await self.client().kernel(sandbox_id)
        # Which mode it is in was decided when it was made; one that others have made has their variables.
        bridged = self._bridged(model, made=False)
        if self.language == "python" and await bridged.find():
            return bridged
        relayed = self._relayed(model, made=False)
        await relayed.connect()
        return relayed

    def _bridged(self, model: KernelModel, *, made: bool) -> BridgeSandbox:
        from .sandbox import BridgeSandbox

        return BridgeSandbox(*self._what_is_needed(model), made=made)

    def _relayed(self, model: KernelModel, *, made: bool) -> RelaySandbox:
        from .sandbox import RelaySandbox

        return RelaySandbox(*self._what_is_needed(model), made=made)

    def _what_is_needed(self, model: KernelModel) -> tuple[Any, ...]:
        from .channels import SocketSettings
        from .remote import KernelTimes

        settings = SocketSettings(
            self.keepalive, self.keepalive_timeout, self.largest_message, tuple(self.subprotocols)
        )
        times = KernelTimes(self.connect_timeout, self.start_timeout, self.watch_interval)
        return self.client, self._place(), model, times, settings

    async def list(self) -> Sequence[SandboxRecord]:
        # All, not only those that are ours: any can be attached.
        models = await self.client().kernels()
        return [SandboxRecord(one.kernel_id, one.state, one.active) for one in models]

    async def others(self) -> Sequence[SandboxRecord]:
        return [one for one in await self.list() if not is_ours(one.sandbox_id)]

    def diagnose(self) -> Sequence[Diagnosis]:
        return asyncio.run(self._diagnose())

    async def _diagnose(self) -> Sequence[Diagnosis]:
        subject = f"there is a Jupyter server or gateway at {self.url or 'GatewayProvider.url'}"
        try:
            client = self.client()
            found = await client.about()
        except SandboxKernelError as exc:
            await self.disconnect()
            return [Diagnosis(subject, works=False, detail=str(exc))]
        diagnoses = [Diagnosis(subject, works=True, detail=f"version {str(found['version'])[:50]}")]
        wanted = f"the kernelspec {self.kernel_name!r}" if self.kernel_name else "a kernelspec"
        subject = f"it lets us in ({TOKEN_VARIABLE}) and has {wanted}"
        try:
            specs, usual = await client.specs()
        except SandboxKernelError as exc:
            diagnoses.append(Diagnosis(subject, works=False, detail=str(exc)))
        else:
            name = self.kernel_name or usual
            there = f"there are: {', '.join(sorted(specs)) or 'none'}"
            diagnoses.append(Diagnosis(subject, works=name in specs, detail=there))
        await self.disconnect()
        return diagnoses

    async def disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None and client.loop is asyncio.get_running_loop():
            await client.close()

    def client(self) -> GatewayClient:
        """Return the client of the event loop that runs. Raises ConfigurationError."""
        from .rest import GatewayClient

        if self._client is None or self._client.loop is not asyncio.get_running_loop():
            self._client = GatewayClient(self._place(), self.request_timeout)
        return self._client
