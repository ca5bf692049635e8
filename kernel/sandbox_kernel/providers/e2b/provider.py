"""The providers e2b, ppio and novita: one protocol, their options and brands. httpx is imported when it is used."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

from traitlets import Bool, Dict, Enum, Float, Int, Unicode, default

from sandbox_kernel.errors import (
    NotFoundError,
    SandboxError,
    SandboxKernelError,
    SandboxLostError,
    SessionNotFoundError,
)
from sandbox_kernel.providers.base import (
    Capabilities,
    Diagnosis,
    Provider,
    Sandbox,
    SandboxRecord,
    SandboxSpec,
    Template,
)
from sandbox_kernel.providers.costs import Rate

from .brands import E2B, NOVITA, PPIO, WORK, Brand
from .keys import find_key

if TYPE_CHECKING:
    from .access import Access, Place
    from .bridging import Knocker
    from .client import ControlClient, Creation
    from .life import Life

LANGUAGES = ("python", "javascript", "typescript", "r", "java", "bash")
"""What the vendors' own templates run; others are passed on, too."""
MADE_BY = "sandbox-kernel-version"
"""Metadata of sandboxes that are notebooks'."""


class BrandProvider(Provider):
    """Sandboxes of one brand: virtual machines that can be paused with their memory, and are paid for by the second.

    Brands are siblings: options of one never hold for another, whose key would go to the wrong place.
    """

    brand: ClassVar[Brand]

    domain = Unicode(
        help="Domain of the API and the sandboxes, for deployments of one's own. Environment: the brand's, such as "
        "E2B_DOMAIN. Default: the brand's."
    ).tag(config=True)
    api_url = Unicode(help="Address of the API, where it is not https://api.DOMAIN. Environment: E2B_API_URL.").tag(
        config=True
    )
    sandbox_url = Unicode(
        help="One address for all sandboxes, told apart by headers. Environment: E2B_SANDBOX_URL. Default: none."
    ).tag(config=True)
    template = Unicode(help="What sandboxes are made of: a template's name or id, or a snapshot's id.").tag(config=True)
    mode = Enum(
        ("auto", "bridge", "basic"),
        default_value="auto",
        help="'bridge': an ipykernel in the sandbox does all that ipykernel does; 'basic': the service's own code "
        "interpreter; 'auto': the first where it can run, else the second.",
    ).tag(config=True)
    language = Unicode(
        "python",
        help="Of cells. Others than python run in basic mode: javascript, typescript, and what the template has.",
    ).tag(config=True)
    python = Unicode("python3", help="The Python in the sandbox that runs cells in bridge mode.").tag(config=True)
    start_with_kernel = Bool(
        False,
        help="Whether a sandbox is made as soon as the kernel starts. It costs money from then on, also where a front "
        "end has only opened the notebook; else the first cell that a person runs makes it.",
    ).tag(config=True)
    timeout = Float(
        300.0, min=1.0, help="Seconds after its last use when a sandbox's time is over; a cell that runs prolongs it."
    ).tag(config=True)
    auto_pause = Bool(
        True, help="When its time is over a sandbox is paused, and the next cell goes on with it; else it ends."
    ).tag(config=True)
    auto_resume = Bool(False, help="Also traffic to one of its ports lets a paused sandbox go on.").tag(config=True)
    idle_timeout = Float(
        0.0, min=0.0, help="Seconds without a cell after which the kernel itself pauses the sandbox; 0: it does not."
    ).tag(config=True)
    network = Bool(True, help="Whether sandboxes reach the internet.").tag(config=True)
    public_ports = Bool(False, help="Whether ports of sandboxes are open to everybody who knows their address.").tag(
        config=True
    )
    environment = Dict(
        key_trait=Unicode(), value_trait=Unicode(), help="Environment variables of sandboxes, by name."
    ).tag(config=True)
    metadata = Dict(key_trait=Unicode(), value_trait=Unicode(), help="Metadata of sandboxes, by name.").tag(config=True)
    hourly_rate = Float(0.0, min=0.0, help="US dollars for an hour of a sandbox, for `%sandbox status`.").tag(
        config=True
    )
    rates_of = Unicode(help="The day on which that rate was looked up, such as 2026-11-01.").tag(config=True)
    max_connections = Int(200, min=1, help="Connections at one time.").tag(config=True)
    max_keepalive_connections = Int(50, min=0, help="Connections that are kept for the next call.").tag(config=True)
    request_timeout = Float(300.0, min=0.1, help="Seconds in which a call must be answered.").tag(config=True)
    start_timeout = Float(120.0, min=1.0, help="Seconds in which the bridge must run in a new sandbox.").tag(
        config=True
    )
    connect_timeout = Float(
        10.0, min=0.1, help="Seconds in which a connection to a sandbox must have been made; then another one is tried."
    ).tag(config=True)
    keepalive = Float(10.0, min=0.1, help="Seconds of silence after which a sandbox is asked if it is there.").tag(
        config=True
    )
    keepalive_timeout = Float(5.0, min=0.1, help="Seconds beyond that after which the connection is lost.").tag(
        config=True
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.capabilities = self._capabilities(self.is_basic)
        self.hourly_cost = self.hourly_rate
        self.place = self.sandbox_domain
        self._client: ControlClient | None = None
        self._knocking: Knocker | None = None
        self.wanted_template = ""
        """What the next sandbox is made of, in the place of `template`."""

    @default("domain")
    def _default_domain(self) -> str:
        return os.environ.get(self.brand.domain_variable, "")

    @default("api_url")
    def _default_api_url(self) -> str:
        return os.environ.get(self.brand.url_variable, "")

    @default("sandbox_url")
    def _default_sandbox_url(self) -> str:
        return os.environ.get(self.brand.sandbox_url_variable, "")

    @default("template")
    def _default_template(self) -> str:
        return self.brand.template

    @property
    def is_basic(self) -> bool:
        """Whether it is known beforehand that no bridge will run."""
        return self.mode == "basic" or self.language != "python"

    @property
    def sandbox_domain(self) -> str:
        """Where its sandboxes are."""
        return self.api_url or self.domain or self.brand.domain

    def _capabilities(self, basic: bool) -> Capabilities:
        # What runs in basic mode is answered by this process, which nobody can take over.
        return Capabilities(
            pause=True,
            outlives_kernel=True,
            billed=not self.start_with_kernel,
            network=self.network,
            distant=not basic,
            languages=LANGUAGES,
            snapshots=True,
        )

    # ---- the contract

    async def create(self, spec: SandboxSpec) -> Sandbox:
        try:
            sandbox = await self._created(spec)
        except SandboxError as exc:
            if not exc.retryable:
                self.wanted_template = ""
            raise
        self.wanted_template = ""
        return sandbox

    async def _created(self, spec: SandboxSpec) -> Sandbox:
        client = self.client()
        access = await client.create(self._creation(spec))
        try:
            return await self._made_usable(access, 0.0)
        except BaseException:
            # Nobody else knows of it.
            with suppress(SandboxKernelError):
                await asyncio.shield(client.kill(access.sandbox_id))
            raise

    async def connect(self, sandbox_id: str) -> Sandbox:
        from .bridging import NoBridgeError

        client = self.client()
        try:
            access, _ = await client.connect(sandbox_id, self.timeout)
            started = (await client.get(sandbox_id)).started
        except SessionNotFoundError as exc:
            raise NotFoundError(str(exc), provider=self.name, sandbox_id=sandbox_id) from exc
        try:
            return await self._made_usable(access, started)
        except NoBridgeError as exc:
            raise SandboxLostError(str(exc), provider=self.name, sandbox_id=sandbox_id) from exc

    async def list(self) -> Sequence[SandboxRecord]:
        from .client import PAUSED

        # All, not only those that are marked as notebooks': any can be attached, and a copy may have no marks.
        found = self.client().sandboxes(states=("running", PAUSED))
        return [SandboxRecord(one.sandbox_id, one.state, one.started) async for one in found]

    async def owner(self) -> str:
        return self._place().owner

    async def templates(self, tags: Sequence[str] = (), name: str = "") -> Sequence[Template]:
        return [one for one in await self.client().templates() if one.matches(tags, name)]

    def choose_template(self, name: str) -> None:
        self.wanted_template = name

    def diagnose(self) -> Sequence[Diagnosis]:
        return asyncio.run(self._diagnose())

    async def _diagnose(self) -> Sequence[Diagnosis]:
        subject = f"there is an API key ({self.brand.key_variable})"
        try:
            client = self.client()
        except SandboxKernelError as exc:
            return [Diagnosis(subject, works=False, detail=str(exc))]
        diagnoses = [Diagnosis(subject, works=True, detail="")]
        async with client:
            for subject, call in (
                (f"{self.brand.title} answers at {client.place.base} and takes it", self._count(client)),
                (f"the template {self.template!r} is there", self._look(client)),
            ):
                try:
                    diagnoses.append(Diagnosis(subject, works=True, detail=await call))
                except SandboxError as exc:
                    diagnoses.append(Diagnosis(subject, works=False, detail=str(exc)))
        self._client = None
        return diagnoses

    async def _count(self, client: ControlClient) -> str:
        count = len([one async for one in client.sandboxes()])
        return f"{count} sandbox{'' if count == 1 else 'es'} of yours"

    async def _look(self, client: ControlClient) -> str:
        return (await client.template(self.template)).description

    async def disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None and client.loop is asyncio.get_running_loop():
            await client.close()

    # ---- making

    def client(self) -> ControlClient:
        """Return the control plane's client of the event loop that runs. Raises AuthenticationError."""
        from .client import ControlClient
        from .rest import PoolSettings

        if self._client is None or self._client.loop is not asyncio.get_running_loop():
            pool = PoolSettings(self.max_connections, self.max_keepalive_connections, self.request_timeout)
            self._client = ControlClient(self._place(), pool)
        return self._client

    def _place(self) -> Place:
        from .access import Place

        return Place(self.brand, find_key(self.brand), self.domain, self.api_url, self.sandbox_url)

    def _creation(self, spec: SandboxSpec) -> Creation:
        from .client import Creation

        label = spec.notebook.name if spec.notebook else spec.directory.name
        return Creation(
            template=self.wanted_template or self.template,
            timeout=self.timeout,
            metadata={**self.metadata, MADE_BY: "1", "notebook": label},
            environment=self.environment,
            network=self.network,
            auto_pause=self.auto_pause,
            auto_resume=self.auto_resume,
            public=self.public_ports,
            correlation_id=spec.correlation_id,
        )

    async def _made_usable(self, access: Access, started: float) -> Sandbox:
        """Return the sandbox with what cells need in it, which may be there already where it was ``started`` before.

        Seconds since the epoch; 0 if it is new.
        """
        from .bridging import NoBridgeError

        if self.is_basic:
            return await self._basic(access, started)
        try:
            sandbox = await self._bridged(access, started)
        except NoBridgeError:
            if self.mode == "bridge":
                raise
            return await self._basic(access, started)
        self.capabilities = self._capabilities(basic=False)
        return sandbox

    async def _bridged(self, access: Access, started: float) -> Sandbox:
        from .bridging import read_token, start_bridge
        from .envd import Envd
        from .sandbox import E2BSandbox

        envd = Envd(self.client().rest, access)
        token = ""
        if started:
            # Also where it has ended: a copy of a sandbox may be one of its files alone.
            with suppress(NotFoundError):
                token = await read_token(envd)
        if not token or not await self._knocked(access, token):
            token = await start_bridge(
                envd,
                python=self.python,
                work=WORK,
                arguments=self.kernel_arguments,
                timeout=self.start_timeout,
                token=token,
            )
        return E2BSandbox(self.client, access, token, self._knocker(), self._life(started), self._rate())

    async def _knocked(self, access: Access, token: str) -> bool:
        """Whether a bridge answers."""
        from .transport import UpgradeRefusedError

        try:
            transport = await self._knocker().open(access, token)
        except (SandboxLostError, UpgradeRefusedError):
            return False
        transport.close()
        return True

    async def _basic(self, access: Access, started: float) -> Sandbox:
        from .basic import BasicSandbox

        self.capabilities = self._capabilities(basic=True)
        knocker, life, rate = self._knocker(), self._life(started), self._rate()
        sandbox = BasicSandbox(self.client, access, knocker, life, rate, language=self.language)
        await sandbox.begin()
        return sandbox

    def _knocker(self) -> Knocker:
        from .bridging import Knocker

        if self._knocking is None:
            self._knocking = Knocker(
                timeout=self.connect_timeout,
                keepalive=self.keepalive,
                patience=self.keepalive_timeout,
            )
        return self._knocking

    def _life(self, started: float) -> Life:
        from .life import Life

        return Life(self.timeout, started or time.time(), auto_pause=self.auto_pause, idle=self.idle_timeout)

    def _rate(self) -> Rate:
        return Rate(self.hourly_rate, self.rates_of)


class E2BProvider(BrandProvider):
    """Sandboxes of E2B."""

    name = "e2b"
    brand: ClassVar[Brand] = E2B


class PPIOProvider(BrandProvider):
    """Sandboxes of PPIO."""

    name = "ppio"
    brand: ClassVar[Brand] = PPIO


class NovitaProvider(BrandProvider):
    """Sandboxes of Novita."""

    name = "novita"
    brand: ClassVar[Brand] = NOVITA
