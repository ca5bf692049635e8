"""The executor provider: its options. What needs grpc is imported when a sandbox is asked for."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitlets import Bool, Float, Unicode, default

from sandbox_kernel.errors import AuthenticationError, ConfigurationError, SandboxKernelError, UnknownProviderError
from sandbox_kernel.executor_api import DEFAULT_PORT, grpc_settings, memory
from sandbox_kernel.executor_api.addresses import is_loopback, split
from sandbox_kernel.providers.base import Capabilities, Diagnosis, Provider, Sandbox, SandboxRecord, SandboxSpec

from .connection import Connection

if TYPE_CHECKING:
    from .client import ExecutorClient

KEY_VARIABLE = "SANDBOX_KERNEL_EXECUTOR_KEY"


class ExecutorProvider(Provider):
    """Sandboxes that an executor runs: they outlive this kernel process, and need a network only up to there."""

    name = "executor"

    address = Unicode(f"localhost:{DEFAULT_PORT}", help="Where the executor listens: host:port.").tag(config=True)
    key_file = Unicode(
        help="File, mode 0600, with the API key. Without it the key is taken from the environment: "
        "SANDBOX_KERNEL_EXECUTOR_KEY."
    ).tag(config=True)
    ca_file = Unicode(
        help="Certificate authorities (PEM) that vouch for the executor. Default: those that gRPC brings along."
    ).tag(config=True)
    certificate_file = Unicode(help="Client certificate chain (PEM), where the executor wants one.").tag(config=True)
    private_key_file = Unicode(help="The private key of that certificate (PEM).").tag(config=True)
    plaintext = Bool(
        help="Talk to it without TLS: everybody on the way reads the API key and all that cells say. "
        "Default: on for this machine itself where there is no ca_file, else off."
    ).tag(config=True)
    request_timeout = Float(10.0, min=0.1, help="Seconds in which the executor must answer a call.").tag(config=True)
    keepalive = Float(
        10.0, min=1.0, help="Seconds of silence after which both ends of a link say that they are there."
    ).tag(config=True)
    keepalive_timeout = Float(
        5.0, min=0.1, help="Seconds of silence beyond that, after which the connection counts as lost."
    ).tag(config=True)
    hourly_rate = Float(
        0.0,
        min=0.0,
        help="US dollars for an hour of a sandbox. With a rate, only a cell that a person ran starts one.",
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.capabilities = Capabilities(pause=True, outlives_kernel=True, billed=self.hourly_rate > 0, distant=True)
        self.hourly_cost = self.hourly_rate
        self.place = self.address
        self._client: ExecutorClient | None = None

    @default("plaintext")
    def _default_plaintext(self) -> bool:
        return not self.ca_file and is_loopback(split(self.address)[0])

    async def create(self, spec: SandboxSpec) -> Sandbox:
        label = spec.notebook.name if spec.notebook else spec.directory.name
        with self._refusals_noted():
            return await self._connected().create(label, self.kernel_arguments, spec.correlation_id)

    async def connect(self, sandbox_id: str) -> Sandbox:
        with self._refusals_noted():
            return await self._connected().attach(sandbox_id)

    @contextmanager
    def _refusals_noted(self) -> Iterator[None]:
        """Have keys and certificates read again after one was refused: they may be mended before the next cell."""
        try:
            yield
        except (AuthenticationError, ConfigurationError):
            self._client = None
            raise

    async def owner(self) -> str:
        with self._refusals_noted():
            return await self._connected().owner()

    async def list(self) -> Sequence[SandboxRecord]:
        return await self._connected().list()

    def diagnose(self) -> Sequence[Diagnosis]:
        return [asyncio.run(self._greet())]

    async def _greet(self) -> Diagnosis:
        subject = f"the executor at {self.address} answers"
        try:
            said = await self._connected().greet()
        except SandboxKernelError as exc:
            return Diagnosis(subject, works=False, detail=str(exc))
        return Diagnosis(subject, works=True, detail=said)

    def _connected(self) -> ExecutorClient:
        """Return the client of the event loop that runs: gRPC's objects belong to one. Raises ConfigurationError."""
        grpc_settings.set_up()
        memory.keep_blocks()
        # Else it starts threads in processes that are forked off, and a local sandbox of root's needs one without any.
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        try:
            from .client import ExecutorClient
        except ImportError as exc:
            raise UnknownProviderError(
                f"The provider 'executor' needs a package that is not installed ({exc}); "
                "try `pip install 'sandbox-kernel[executor]'`."
            ) from exc
        if self._client is None or self._client.loop is not asyncio.get_running_loop():
            self._client = ExecutorClient(self._connection())
        return self._client

    def _connection(self) -> Connection:
        host, port = split(self.address)
        if self.plaintext and (self.ca_file or self.certificate_file):
            raise ConfigurationError("ExecutorProvider.plaintext and certificates exclude each other; set one of them.")
        if bool(self.certificate_file) != bool(self.private_key_file):
            raise ConfigurationError("ExecutorProvider.certificate_file and private_key_file belong together.")
        return Connection(
            host=host,
            port=port,
            key=self._key(),
            plaintext=self.plaintext,
            ca_file=_existing(self.ca_file),
            certificate_file=_existing(self.certificate_file),
            private_key_file=_existing(self.private_key_file),
            request_timeout=self.request_timeout,
            keepalive=self.keepalive,
            keepalive_timeout=self.keepalive_timeout,
        )

    def _key(self) -> str:
        key = _read_key(Path(self.key_file).expanduser()) if self.key_file else self._key_from_environment()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigurationError("The executor's API key has characters that no key has; copy it again.")
        return key

    def _key_from_environment(self) -> str:
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key:
            raise ConfigurationError(
                f"The executor wants an API key: set {KEY_VARIABLE} or ExecutorProvider.key_file "
                "(`jupyter sandbox key add OWNER` on its machine makes one)."
            )
        return key


def _read_key(path: Path) -> str:
    try:
        if path.stat().st_mode & 0o077 and os.name == "posix":
            raise ConfigurationError(f"Others can read the API key in {path}: run `chmod 600 {path}`.")
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"ExecutorProvider.key_file cannot be read: {exc}") from exc


def _existing(name: str) -> Path | None:
    if not name:
        return None
    path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigurationError(f"There is no file {path} with certificates; see the options of ExecutorProvider.")
    return path
