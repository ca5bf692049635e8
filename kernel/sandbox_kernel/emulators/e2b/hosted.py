"""One emulated sandbox: a local sandbox with the emulated services in it, its tokens, its times and its pauses."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sandbox_kernel.errors import SandboxKernelError
from sandbox_kernel.providers.base import SandboxSpec
from sandbox_kernel.providers.local.provider import LocalProvider
from sandbox_kernel.providers.local.sandbox import LocalSandbox
from sandbox_kernel.workspace.settings import Workspace

from .inside import __path__ as _inside
from .inside.http import answer
from .settings import ENVD_VERSION, Settings, Template

PROGRAM = """\
import os, sys, site
site.main()
folder = "/run/bridge/e2b_inside"
os.makedirs(folder)
os.makedirs("/run/bridge/bin")
for name, text in {sources!r}.items():
    with open(os.path.join(folder, name), "w") as file:
        file.write(text)
with open("/run/bridge/bin/sudo", "w") as file:
    file.write('#!/bin/sh\\n[ "$1" = -E ] && shift\\nexec "$@"\\n')
os.chmod("/run/bridge/bin/sudo", 0o755)
os.chdir(os.path.expanduser("~"))
if {agent!r}:
    os.makedirs("app", exist_ok=True)
    with open(os.path.join("app", {agent!r}), "w") as file:
        file.write(open(os.path.join(folder, "sample_agent.py")).read())
sys.path.insert(0, "/run/bridge")
from e2b_inside.daemon import main
main()
"""
THAW = 0.2
"""Seconds after which what goes on again learns what was cut meanwhile. Unlike a virtual machine's, processes that are
being thawed can miss an interrupt that comes in the very moment: it does not wake who sleeps."""
OPEN_TIMEOUT = 30.0
"""Seconds in which a sandbox must take a connection."""
ENVD = 49983


class PortClosedError(Exception):
    """Nothing in the sandbox listens there."""


class EmulatedSandbox:
    """Times in seconds since the epoch."""

    def __init__(self, sandbox: LocalSandbox, template: Template, asked: dict[str, Any], settings: Settings) -> None:
        self._sandbox = sandbox
        self._settings = settings
        self.template = template
        self.sandbox_id = secrets.token_hex(10)
        self.client_id = "c1"
        self.metadata: dict[str, str] = asked.get("metadata") or {}
        self.auto_pause = bool(asked.get("autoPause"))
        self.auto_resume = bool((asked.get("autoResume") or {}).get("enabled"))
        self.envd_token = secrets.token_urlsafe(16) if asked.get("secure", True) else None
        network = asked.get("network") or {}
        self.traffic_token = secrets.token_urlsafe(16) if network.get("allowPublicTraffic") is False else None
        self.state = "running"
        self.started = time.time()
        self.ends = self.started + float(asked.get("timeout") or 15)
        self.connections: set[asyncio.StreamWriter] = set()
        """What has to be cut when it stands still."""
        self._cut_inside: list[asyncio.StreamWriter] = []
        """Connections into it of which it does not know yet that they were cut."""
        self.moving = asyncio.Lock()

    @classmethod
    async def create(cls, template: Template, asked: dict[str, Any], settings: Settings) -> EmulatedSandbox:
        """Make one. Raises SandboxKernelError."""
        provider = LocalProvider(memory=settings.memory, home_size="1 GiB", processes=4096)
        provider.workspace = Workspace(mode="private")
        provider.program = PROGRAM.format(sources=_sources(), agent=template.agent)
        given = asked.get("envVars") or {}
        provider.environment = {
            **template.environment,
            **{str(name): str(value) for name, value in given.items()},
            "E2B_SANDBOX": "true",
            "E2B_EMULATED_INTERPRETER": "1" if template.interpreter else "0",
            # An agent's entry point is started as `python`.
            "PYTHONUNBUFFERED": "1",
        }
        made = await provider.create(SandboxSpec("emulator", kept=True))
        assert isinstance(made, LocalSandbox)
        emulated = cls(made, template, asked, settings)
        if template.files:
            await emulated.unpack(template.files)
        return emulated

    # ---- what the control plane says

    def describe(self, *, secret: bool = False, detail: bool = False) -> dict[str, Any]:
        """Return it in the control plane's words; ``secret`` ones are told its owner who makes or connects it."""
        said: dict[str, Any] = {
            "templateID": self.template.template_id,
            "sandboxID": self.sandbox_id,
            "clientID": self.client_id,
            "alias": self.template.aliases[0],
            "envdVersion": ENVD_VERSION,
            "domain": self._settings.public_domain or None,
        }
        if secret:
            said |= {"envdAccessToken": self.envd_token, "trafficAccessToken": self.traffic_token}
        if detail:
            said |= {
                "startedAt": _moment(self.started),
                "endAt": _moment(self.ends),
                "cpuCount": 2,
                "memoryMB": 512,
                "diskSizeMB": 1024,
                "state": self.state,
                "metadata": self.metadata,
            }
        return {name: value for name, value in said.items() if value is not None}

    @property
    def alive(self) -> bool:
        """Whether its processes are there."""
        return self._sandbox.alive

    def prolong(self, timeout: float, *, at_least: bool = False) -> None:
        """Let it end so many seconds from now."""
        ends = time.time() + timeout
        self.ends = max(self.ends, ends) if at_least else ends

    # ---- pausing

    async def pause(self) -> None:
        """Freeze it; its connections break."""
        self.state = "paused"
        await self._sandbox.pause()
        self.cut()

    async def resume(self, timeout: float) -> None:
        """Let it go on."""
        await self._sandbox.resume()
        self.state = "running"
        self.prolong(timeout)
        asyncio.get_running_loop().call_later(THAW, self._tell_cut)

    def let_go(self, inner: asyncio.StreamWriter) -> None:
        """Close a connection into it; what stands still learns that when it goes on."""
        self._cut_inside.append(inner)
        if self.state != "paused":
            self._tell_cut()

    def _tell_cut(self) -> None:
        while self._cut_inside:
            self._cut_inside.pop().close()

    def cut(self) -> None:
        """Break what is connected with it."""
        for writer in list(self.connections):
            writer.transport.abort()

    async def close(self) -> None:
        """End it."""
        self.state = "killed"
        self.cut()
        self._tell_cut()
        with suppress(SandboxKernelError):
            await self._sandbox.close()

    # ---- connections

    async def open(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection to a port in it. Raises PortClosedError, SandboxKernelError, asyncio.TimeoutError."""
        sock: socket.socket = self._sandbox.open_stream()
        reader, writer = await asyncio.open_connection(sock=sock, limit=2**24)
        writer.write(f"{port}\n".encode())
        said = await asyncio.wait_for(reader.read(1), OPEN_TIMEOUT)
        if said != b"+":
            writer.close()
            raise PortClosedError
        return reader, writer

    async def pack(self) -> bytes:
        """Return an archive of its home folder."""
        return await self._ask(b"GET /emulator/archive HTTP/1.1\r\n\r\n")

    async def unpack(self, archive: bytes) -> None:
        """Fill its home folder."""
        head = f"PUT /emulator/archive HTTP/1.1\r\ncontent-length: {len(archive)}\r\n\r\n".encode()
        await self._ask(head + archive)

    async def _ask(self, request: bytes) -> bytes:
        reader, writer = await self.open(ENVD)
        writer.write(request)
        await writer.drain()
        said = await reader.read(-1)
        writer.close()
        head, _, body = said.partition(b"\r\n\r\n")
        assert head.split()[1] in (b"200", b"204"), said[:200]
        return body

    def not_found(self) -> bytes:
        """Return what the proxy says while it is paused, or gone."""
        return missing(self.sandbox_id)


def _sources() -> dict[str, str]:
    """Return the programs that run inside, by file."""
    folder = Path(next(iter(_inside)))
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}


def missing(sandbox_id: str) -> bytes:
    """Return what the proxy says of a sandbox that does not run."""
    return answer(502, {"sandboxId": sandbox_id, "message": "The sandbox was not found", "code": 502})


def closed_port(sandbox_id: str, port: int) -> bytes:
    """Return what the proxy says of a port where nobody listens."""
    message = "The sandbox is running but port is not open"
    return answer(502, {"sandboxId": sandbox_id, "message": message, "port": port, "code": 502})


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")
