"""The emulator's one port: control plane and sandboxes, told apart by headers (E2B) or by the host's name (PPIO)."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import ssl
import traceback
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sandbox_kernel.errors import SandboxKernelError

from .control import ControlPlane
from .faults import Fault, Faults
from .hosted import ENVD, EmulatedSandbox, PortClosedError, closed_port, missing
from .inside.http import HttpError, answer, make_request, parse_head, read_body
from .pump import END_OF_HEAD, pump, with_close
from .settings import Settings

HOST = re.compile(r"(\d+)-([0-9a-z-]+)\.", re.IGNORECASE)
CONTROL = re.compile(r"/(v\d/)?sandboxes(/|$)")
ADMIN = "/emulator/"


class Emulator:
    """Serves until it is closed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.control = ControlPlane(settings)
        self.faults = Faults()
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Begin to listen; return the port."""
        settings = self.settings
        context = None
        if settings.certificate_file:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(settings.certificate_file, settings.private_key_file)
        self._server = await asyncio.start_server(
            self._serve, settings.host, settings.port, ssl=context, limit=2**24, backlog=512
        )
        self._sweeping = asyncio.ensure_future(self.control.sweep_for_ever())
        port: int = self._server.sockets[0].getsockname()[1]
        if context is not None:
            self.control.settings = replace(settings, public_domain=f"{settings.domain}:{port}")
        return port

    async def close(self) -> None:
        """Stop listening and end all sandboxes."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._server is not None:
            self._server.close()
        await self.control.close()

    # ---- one connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Whatever a client does with its connection is no fault of the emulator's.
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            while await self._serve_one(reader, writer):
                pass
        with suppress(OSError):
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve a request; return whether the connection may bring another."""
        head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
        method, target, headers = parse_head(head)
        # PPIO's own client says in the headers of calls to the control plane which sandbox they are about.
        place = None if CONTROL.match(target) else _sandbox_of(headers)
        if place is not None:
            await self._to_sandbox(place, head, (reader, writer))
            return False
        body = await read_body(reader, headers)
        request = make_request(method, target, headers, body)
        if request.path.startswith(ADMIN):
            writer.write(self._administrate(request.path, request.json()))
            return True
        fault = self.faults.take("control", method, request.path)
        said = await self._control(request, fault)
        await asyncio.sleep(self.settings.latency)
        if said is None:
            writer.transport.abort()
            return False
        writer.write(said)
        await writer.drain()
        return fault is None or fault.kind != "truncate"

    def _administrate(self, path: str, asked: dict[str, Any]) -> bytes:
        match path.removeprefix(ADMIN):
            case "faults":
                self.faults.add(asked)
            case "clear":
                self.faults.clear()
            case "report":
                return answer(200, json.loads(self.control.report()), keep=True)
            case "cut":
                for sandbox in self.control.sandboxes.values():
                    sandbox.cut()
        return answer(200, {}, keep=True)

    async def _control(self, request: Any, fault: Fault | None) -> bytes | None:
        """Return the answer of the control plane; None: the connection breaks."""
        if fault is not None:
            match fault.kind:
                case "status":
                    body = fault.body or {"code": fault.status, "message": "a fault"}
                    return answer(fault.status, body, fault.headers, keep=True)
                case "drop":
                    return None
                case "delay":
                    await asyncio.sleep(fault.seconds)
        try:
            status, body, headers = await self.control.serve(request)
        except HttpError as exc:
            status, body, headers = exc.status, exc.body, exc.headers
        except Exception as exc:  # noqa: BLE001 - the edge: a request that fails is answered
            traceback.print_exc()
            status, body, headers = 500, {"code": 500, "message": repr(exc)}, {}
        if fault is not None and fault.kind == "drop_after":
            return None
        said = answer(status, body, headers, keep=True)
        return said[: fault.size] if fault is not None and fault.kind == "truncate" else said

    # ---- to a sandbox

    async def _to_sandbox(
        self,
        place: tuple[str, int],
        head: bytes,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        sandbox_id, port = place
        _, writer = client
        method, target, headers = parse_head(head)
        fault = self.faults.take(str(port), method, target.partition("?")[0])
        await asyncio.sleep(self.settings.latency / 2)
        refusal = await self._refusal(sandbox_id, port, target, headers)
        if fault is not None and fault.kind == "status":
            refusal = answer(fault.status, fault.body or {"code": fault.status, "message": "a fault"}, fault.headers)
        if refusal is not None:
            await asyncio.sleep(self.settings.latency / 2)
            await _refuse(client, headers, refusal)
            return
        if fault is not None and fault.kind == "drop":
            writer.transport.abort()
            return
        sandbox = self.control.find(sandbox_id)
        try:
            inner_reader, inner_writer = await sandbox.open(port)
        except PortClosedError:
            await _refuse(client, headers, closed_port(sandbox_id, port))
            return
        except (SandboxKernelError, asyncio.TimeoutError):
            await _refuse(client, headers, missing(sandbox_id))
            return
        upgrade = "upgrade" in headers.get("connection", "").lower()
        inner_writer.write(head + END_OF_HEAD if upgrade else with_close(head))
        sandbox.connections.add(writer)
        try:
            await self._carry(client, (inner_reader, inner_writer), fault, last=not upgrade)
        finally:
            sandbox.connections.discard(writer)
            sandbox.let_go(inner_writer)

    async def _carry(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        inner: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        fault: Fault | None,
        *,
        last: bool,
    ) -> None:
        delay = self.settings.latency / 2
        limit = fault.size if fault is not None and fault.kind == "truncate" else -1
        if fault is not None and fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
        if fault is not None and fault.kind == "silence":
            await client[0].read(-1)
            return
        up = asyncio.ensure_future(pump(client[0], inner[1], delay))
        down = asyncio.ensure_future(pump(inner[0], client[1], delay, limit, last=last))
        timeout = fault.seconds if fault is not None and fault.kind == "cut" else None
        await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED, timeout=timeout)
        broken = not down.done() or limit >= 0 or (fault is not None and fault.kind == "drop_after")
        for way in (up, down):
            way.cancel()
        if broken:
            client[1].transport.abort()

    async def _refusal(self, sandbox_id: str, port: int, target: str, headers: dict[str, str]) -> bytes | None:
        """Return what the proxy answers in the sandbox's place."""
        try:
            sandbox = self.control.find(sandbox_id)
        except HttpError:
            return missing(sandbox_id)
        if sandbox.state == "paused" and sandbox.auto_resume:
            async with sandbox.moving:
                if sandbox.state == "paused":
                    await sandbox.resume(300)
        if sandbox.state != "running":
            return missing(sandbox_id)
        return _unauthorized(sandbox, port, target, headers)


async def _refuse(
    client: tuple[asyncio.StreamReader, asyncio.StreamWriter], headers: dict[str, str], refusal: bytes
) -> None:
    """Answer when the request has arrived: a connection that is closed before tells the client nothing."""
    await read_body(client[0], headers)
    client[1].write(refusal)
    await client[1].drain()


def _unauthorized(sandbox: EmulatedSandbox, port: int, target: str, headers: dict[str, str]) -> bytes | None:
    if port == ENVD and target.startswith(ADMIN):
        return answer(404, {"code": 404, "message": "Not Found"})
    is_public = target.partition("?")[0] == "/health"
    if port == ENVD and sandbox.envd_token and not is_public and headers.get("x-access-token") != sandbox.envd_token:
        message = "unauthorized access, please provide a valid access token or method signing if supported"
        return answer(401, {"code": 401, "message": message})
    if sandbox.traffic_token and headers.get("e2b-traffic-access-token") != sandbox.traffic_token:
        return answer(
            403, {"sandboxId": sandbox.sandbox_id, "message": "Traffic access token is required", "code": 403}
        )
    return None


def _sandbox_of(headers: dict[str, str]) -> tuple[str, int] | None:
    """Return the sandbox's id and the port that a request is for, if it is for one."""
    if "e2b-sandbox-id" in headers:
        return headers["e2b-sandbox-id"], int(headers.get("e2b-sandbox-port", ENVD))
    found = HOST.match(headers.get("host", ""))
    return (found[2], int(found[1])) if found else None
