"""An emulator for tests: `jupyter sandbox emulate e2b` as a process, its faults, and the way to it by host names."""

# ruff: noqa: S310, S323 - the address is the emulator's

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 60.0
KEY = f"e2b_{'0' * 40}"
"""As the vendor's SDK wants keys to look."""
DOMAIN = "sandbox.test"


class EmulatorProcess:
    """A running emulator."""

    def __init__(self, folder: Path, *options: str, certificate: tuple[Path, Path] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "emulator.log"
        self.certificate = certificate
        tls = ["--certificate", str(certificate[0]), "--private-key", str(certificate[1])] if certificate else []
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sandbox_kernel.cli", "emulate", "e2b", *tls, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.port = self._wait_for_port()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    @property
    def domain(self) -> str:
        """The domain by which its sandboxes are found, with the port."""
        return f"{DOMAIN}:{self.port}"

    def fault(self, kind: str, **fields: Any) -> None:
        """Put a fault in force (see emulators/e2b/faults.py)."""
        self._ask("faults", {"kind": kind, **fields})

    def clear(self) -> None:
        """Put all faults out of force."""
        self._ask("clear", {})

    def cut(self) -> None:
        """Break all connections with sandboxes."""
        self._ask("cut", {})

    def report(self) -> dict[str, Any]:
        """What it has: the states of sandboxes by id, and counts."""
        return self._ask("report", {})

    def _ask(self, what: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(f"{self.url}/emulator/{what}", json.dumps(body).encode(), method="POST")
        context = ssl._create_unverified_context() if self.certificate else None
        with urllib.request.urlopen(request, timeout=PATIENCE, context=context) as said:
            answer: dict[str, Any] = json.loads(said.read())
        return answer

    def environment(self) -> dict[str, str]:
        """What the vendor's SDKs need in their environment."""
        return {"E2B_API_KEY": KEY, "E2B_API_URL": self.url, "E2B_SANDBOX_URL": self.url}

    def end(self) -> None:
        """End it with its sandboxes."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _wait_for_port(self) -> int:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = re.search(r"listens at https?://[\d.]+:(\d+)", self.log.read_text())
            if found:
                return int(found[1])
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(f"the emulator does not start: {self.log.read_text()}")


@contextmanager
def emulating(folder: Path, *options: str, certificate: tuple[Path, Path] | None = None) -> Iterator[EmulatorProcess]:
    """Give an emulator for one block."""
    emulator = EmulatorProcess(folder, *options, certificate=certificate)
    try:
        yield emulator
    finally:
        emulator.end()


def certificate_for(folder: Path, *names: str) -> tuple[Path, Path, Path]:
    """Return files with a certificate, its key, and the authority that vouches for it."""
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert(*names)
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key, ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    issued.private_key_pem.write_to_path(str(key))
    authority.cert_pem.write_to_path(str(ca))
    return certificate, key, ca


def resolve_locally(monkeypatch: pytest.MonkeyPatch, suffix: str = f".{DOMAIN}") -> None:
    """Let names under the emulator's domain mean this machine: the tests' stand-in for a name server."""
    real = socket.getaddrinfo

    def resolve(host: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if isinstance(name, str) and name.endswith(suffix):
            host = "127.0.0.1"
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def without_vendors(environment: dict[str, str]) -> dict[str, str]:
    """Return an environment without the vendors' variables."""
    return {name: value for name, value in environment.items() if not name.startswith(("E2B_", "PPIO_", "NOVITA_"))} | (
        {"PATH": os.environ["PATH"]} if "PATH" in os.environ else {}
    )
