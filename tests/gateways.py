"""Real Jupyter servers and gateways for tests, each a process of its own.

Kernel Gateway and Enterprise Gateway need environments of their own, whose Pythons are named by
`SANDBOX_KERNEL_TEST_KERNEL_GATEWAY` and `SANDBOX_KERNEL_TEST_ENTERPRISE_GATEWAY`; `.ci/run` and `make gateways` make
them. What differs from one kind to the other is always tried with all three; the rest only with
`SANDBOX_GATEWAYS_WHOLE=1`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port

PATIENCE = 60.0
TOKEN = "a-token-that-nobody-guesses"  # noqa: S105 - of the tests


@dataclass(frozen=True)
class Kind:
    """One program that serves kernels."""

    name: str
    module: str
    app: str
    token: str
    """The option that takes the token."""
    variable: str = ""
    """Names the Python of its environment; "": this one."""
    options: tuple[str, ...] = ()
    limits: str = ""
    """The class with the limits for outputs."""
    environment: tuple[tuple[str, str], ...] = ()
    """What it wants to have with a request for a kernel."""

    @property
    def python(self) -> str:
        """The interpreter that runs it; skips the test where there is none."""
        if not self.variable:
            return sys.executable
        python = os.environ.get(self.variable, "")
        if not python:
            pytest.skip(f"{self.variable} names no Python with {self.name}, which needs an environment of its own")
        return python


JUPYTER_SERVER = Kind(
    "jupyter_server",
    "jupyter_server",
    "ServerApp",
    "IdentityProvider.token",
    options=("--ServerApp.open_browser=False", "--ServerApp.allow_root=True"),
    limits="ZMQChannelsWebsocketConnection",
)
KERNEL_GATEWAY = Kind(
    "jupyter_kernel_gateway",
    "kernel_gateway",
    "KernelGatewayApp",
    "KernelGatewayApp.auth_token",
    variable="SANDBOX_KERNEL_TEST_KERNEL_GATEWAY",
    options=("--JupyterWebsocketPersonality.list_kernels=True",),
    limits="ZMQChannelsWebsocketConnection",
)
ENTERPRISE_GATEWAY = Kind(
    "jupyter_enterprise_gateway",
    "enterprise_gateway",
    "EnterpriseGatewayApp",
    "EnterpriseGatewayApp.auth_token",
    variable="SANDBOX_KERNEL_TEST_ENTERPRISE_GATEWAY",
    options=("--EnterpriseGatewayApp.list_kernels=True", "--EnterpriseGatewayApp.port_retries=0"),
    # It runs nothing for root.
    environment=(("KERNEL_USERNAME", "tester"),),
)
KINDS = {kind.name: kind for kind in (JUPYTER_SERVER, KERNEL_GATEWAY, ENTERPRISE_GATEWAY)}
WHOLE = bool(os.environ.get("SANDBOX_GATEWAYS_WHOLE"))
ALL_OR_ONE = [*KINDS] if WHOLE else [JUPYTER_SERVER.name]
"""Of tests that take long, or find the same with each kind."""


class GatewayProcess:
    """A running server."""

    def __init__(
        self,
        folder: Path,
        kind: Kind = JUPYTER_SERVER,
        *options: str,
        certificate: tuple[str, str] | None = None,
        client: tuple[str, str] | None = None,
    ) -> None:
        """Its kernels run in the folder ``work``.

        ``certificate`` are files with a certificate and its key, ``client`` those that a client shows.
        """
        self._client = client
        self.kind, self.folder, self.certificate = kind, folder, certificate
        self.work = folder / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.log = folder / "gateway.log"
        self.port = free_port()
        self._options = options
        self.begin()

    def begin(self) -> None:
        """Start it, at the port that it had before."""
        app = self.kind.app
        given = [f"--{app}.ip=127.0.0.1", f"--{app}.port={self.port}", f"--{self.kind.token}={TOKEN}"]
        if self.certificate:
            given += [f"--{app}.certfile={self.certificate[0]}", f"--{app}.keyfile={self.certificate[1]}"]
        if self.kind.limits:
            given += [f"--{self.kind.limits}.{name}=0" for name in ("iopub_msg_rate_limit", "iopub_data_rate_limit")]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.kind.python, "-m", self.kind.module, *given, *self.kind.options, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.work,
                env=self._environment(),
                start_new_session=True,
            )
        self._wait()

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("JUPYTER_", "JPY_", "SANDBOX_", "EG_", "KG_", "PYTHONPATH", "IPYTHON", "PYTEST"))
        }
        places = {"CONFIG_DIR": "config", "DATA_DIR": "data", "RUNTIME_DIR": "runtime"}
        jupyter = {f"JUPYTER_{name}": str(self.folder / place) for name, place in places.items()}
        return {**kept, **jupyter, "IPYTHONDIR": str(self.folder / "ipython")}

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    def options(self, **options: Any) -> dict[str, Any]:
        """The options of a provider that uses it."""
        return {"url": self.url, "mode": "relay", "environment": dict(self.kind.environment), **options}

    def arguments(self, **options: Any) -> list[str]:
        """The command line of a kernel process that uses it."""
        given = self.options(**options)
        environment = [f"--GatewayProvider.environment={one}={text}" for one, text in given.pop("environment").items()]
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
        named = [f"--GatewayProvider.{name}={value}" for name, value in texts.items()]
        return ["--provider=gateway", *named, *environment]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Call its API, as its other clients do."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"token {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)  # noqa: S310 - it is ours
        context = ssl._create_unverified_context() if self.certificate else None  # noqa: S323
        if context is not None and self._client is not None:
            context.load_cert_chain(*self._client)
        with urllib.request.urlopen(request, timeout=PATIENCE, context=context) as answer:  # noqa: S310
            said = answer.read()
        return json.loads(said) if said else None

    def kernel_ids(self) -> set[str]:
        """The kernels that run."""
        return {one["id"] for one in self.ask("GET", "/api/kernels")}

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                self.ask("GET", "/api")
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError(f"it does not start: {self.log.read_text()}")

    def end(self) -> None:
        """End it with its kernels."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def kill(self) -> None:
        """End it without a word to anybody; its kernels end when they notice."""
        self.process.kill()
        self.process.wait()


@contextmanager
def serving(
    folder: Path,
    kind: Kind = JUPYTER_SERVER,
    *options: str,
    certificate: tuple[str, str] | None = None,
    client: tuple[str, str] | None = None,
) -> Iterator[GatewayProcess]:
    """Give a server for one block."""
    running = GatewayProcess(folder, kind, *options, certificate=certificate, client=client)
    try:
        yield running
    finally:
        running.end()


def answering(answer: bytes) -> Iterator[int]:
    """Give the port of something that says the same to everybody, for a fixture."""
    import threading

    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                taken, _ = listener.accept()
            except OSError:
                return
            with taken:
                taken.recv(65536)
                taken.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield int(listener.getsockname()[1])
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()
