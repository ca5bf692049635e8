"""Brings the bridge into a sandbox and finds it there again: the door's token is what both need."""

from __future__ import annotations

import asyncio
import secrets
import shlex
import ssl
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import httpx

from sandbox_kernel.errors import (
    AuthenticationError,
    InvocationError,
    SandboxConnectionError,
    SandboxError,
    SandboxLostError,
    SandboxTimeoutError,
)
from sandbox_kernel.providers.parcel import bridge_archive

from .access import Access
from .brands import BRIDGE
from .envd import Envd
from .failures import BAD_GATEWAY, FORBIDDEN, fields_in
from .transport import UpgradeRefusedError, WebSocketTransport, open_websocket

T = TypeVar("T")

FOLDER = ".sandbox-kernel"
"""In the home of the sandbox's user: all that is ours there."""
TOKEN_HEADER, TOKEN_VARIABLE = "X-Sandbox-Kernel-Token", "SANDBOX_DOOR_TOKEN"
MISSING, RUNNING = 3, 4
"""Exit statuses of bridge/door.py."""
LAST_WORDS = 300
MAX_TOKEN, MAX_LOG = 4096, 4096
"""Bytes that are read of the token and of the log's end."""
READ_TIMEOUT = 30.0
"""Seconds for either."""

_BOOT = """\
import json, os, sys, zipfile
home = os.path.expanduser("~")
folder = os.path.join(home, {folder!r})
code = os.path.join(folder, "code")
os.makedirs(code, mode=0o700, exist_ok=True)
with zipfile.ZipFile(os.path.join(folder, "bridge.zip")) as archive:
    archive.extractall(code)
sys.path.insert(0, code)
options = {options!r}
options["folder"], options["work"] = folder, os.path.join(home, options["work"])
sys.argv[1:] = [json.dumps(options)]
from sandbox_kernel.bridge.door import main
main()
"""


class NoBridgeError(SandboxError):
    """The bridge cannot run in this sandbox; the message says why."""


async def start_bridge(
    envd: Envd, *, python: str, work: str, arguments: Sequence[str], timeout: float, token: str = ""
) -> str:
    """Start the bridge, and return its token. Raises NoBridgeError, SandboxError.

    ``work`` is the cells' working folder in the home. One that runs already is left as it is, its token returned.
    """
    token = token or secrets.token_urlsafe(32)
    await envd.upload(f"{FOLDER}/bridge.zip", bridge_archive())
    options = {"port": BRIDGE, "work": work, "arguments": list(arguments)}
    program = _BOOT.format(folder=FOLDER, options=options)
    command = f"exec {shlex.quote(python)} -c {shlex.quote(program)}"
    ran = await envd.run(command, environment={TOKEN_VARIABLE: token}, timeout=timeout)
    said = ran.output.decode(errors="replace").strip()
    if ran.exit == RUNNING:
        return await read_token(envd)
    if ran.exit == MISSING:
        raise NoBridgeError(f"{said.splitlines()[-1]}, which the bridge needs.")
    if ran.exit:
        last = said.splitlines()[-1][-LAST_WORDS:] if said else "nothing was said"
        raise NoBridgeError(f"The bridge did not start: {last} (exit status {ran.exit}).")
    return token


async def read_token(envd: Envd) -> str:
    """Return the token of the bridge that runs, or ran, in a sandbox.

    Cells may write the file, so it may be anything. Raises NotFoundError, InvocationError, SandboxTimeoutError.
    """
    said = await _in_time(envd.beginning(f"{FOLDER}/token", MAX_TOKEN), "The token of the sandbox's bridge")
    token = said.decode("ascii", errors="replace").strip()
    if not token.isprintable() or not 16 <= len(token) <= 200:
        raise InvocationError("The token of the sandbox's bridge cannot be read; start a new sandbox.")
    return token


async def last_words(envd: Envd) -> str:
    """Return the last line that the bridge, or its door, wrote before it ended; "" where there is none.

    Cells may write the log, so no more than its end is asked for. Raises SandboxError.
    """
    command = f"tail -c {MAX_LOG} ~/{FOLDER}/log 2>/dev/null"
    ran = await _in_time(envd.run(command, timeout=READ_TIMEOUT), "The bridge's log")
    lines = ran.output.decode(errors="replace").strip().splitlines()
    if ran.exit or not lines:
        return ""
    # It ends up in errors that terminals show.
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in lines[-1][-LAST_WORDS:])


async def _in_time(reading: Awaitable[T], what: str) -> T:
    """Return what is read. Raises SandboxTimeoutError."""
    try:
        return await asyncio.wait_for(reading, READ_TIMEOUT)
    except asyncio.TimeoutError as exc:
        raise SandboxTimeoutError(f"{what} did not come in time.") from exc


class Knocker:
    """Opens connections to the doors of sandboxes."""

    def __init__(self, *, timeout: float, keepalive: float, patience: float) -> None:
        """``timeout`` for a connection, the others for its silence; in seconds."""
        self._timeout = timeout
        self._silence = keepalive, keepalive + patience
        self._context: ssl.SSLContext | None = None

    async def open(self, access: Access, token: str) -> WebSocketTransport:
        """Return a stream to the bridge.

        Raises SandboxLostError where none listens, UpgradeRefusedError where the sandbox does not run,
        AuthenticationError, SandboxConnectionError.
        """
        ids: dict[str, Any] = {"provider": access.place.brand.name, "sandbox_id": access.sandbox_id}
        headers = {**access.headers(BRIDGE), TOKEN_HEADER: token}
        try:
            return await open_websocket(
                f"{access.url(BRIDGE)}/link", headers, self._tls(), timeout=self._timeout, silence=self._silence
            )
        except UpgradeRefusedError as exc:
            if exc.status in FORBIDDEN:
                raise AuthenticationError("The sandbox's bridge does not know this kernel's token.", **ids) from exc
            if exc.status == BAD_GATEWAY and "port" in fields_in(exc.body):
                raise SandboxLostError("Its bridge has ended.", **ids) from exc
            raise
        except asyncio.TimeoutError as exc:
            raise SandboxConnectionError("The sandbox does not answer in time.", **ids) from exc
        except OSError as exc:
            raise SandboxConnectionError(f"The sandbox cannot be reached: {exc}.", **ids) from exc

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = httpx.create_ssl_context()
        return self._context
