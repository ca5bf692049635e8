"""The control plane: sandboxes and templates over REST, as all three brands have them."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import deque
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from sandbox_kernel.errors import SandboxKernelError

from .hosted import EmulatedSandbox
from .inside.http import HttpError, Request
from .settings import TEMPLATES, Settings, Template

SWEEP = 0.1
"""Seconds between two looks at whose time is over."""


Answer = tuple[int, Any, dict[str, str]]
"""Status, body and headers."""


class ControlPlane:
    """All sandboxes of an emulator."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sandboxes: dict[str, EmulatedSandbox] = {}
        self.templates: dict[str, Template] = {one.template_id: one for one in TEMPLATES}
        self._created: dict[str, EmulatedSandbox] = {}
        self._making: dict[str, asyncio.Task[EmulatedSandbox]] = {}
        self._calls: deque[float] = deque()
        self.counts: dict[str, int] = {}

    # ---- requests

    async def serve(self, request: Request) -> Answer:
        """Return status, body and headers of the answer. Raises HttpError."""
        self._admit(request)
        parts = [part for part in request.path.split("/") if part]
        if parts[:1] in (["v2"], ["v3"]):
            parts = parts[1:]
        kind, *rest = parts or [""]
        if kind == "sandboxes":
            return await self._serve_sandboxes(request, rest)
        if kind == "templates":
            return self._serve_templates(request, rest)
        if (request.method, kind) == ("GET", "snapshots"):
            names = [one for one in self.templates.values() if one.files]
            return 200, [{"snapshotID": one.template_id, "names": list(one.aliases)} for one in names], {}
        raise _not_emulated(request)

    async def _serve_sandboxes(self, request: Request, rest: list[str]) -> Answer:
        match request.method, *rest:
            case ("POST",):
                return 201, (await self._create(request)).describe(secret=True), {}
            case ("GET",):
                return self._list(request)
            case "GET", sandbox_id:
                return 200, self.find(sandbox_id).describe(secret=True, detail=True), {}
            case "DELETE", sandbox_id:
                await self.kill(self.find(sandbox_id))
                return 204, None, {}
            case "POST", sandbox_id, verb:
                return await self._do(self.find(sandbox_id), verb, request.json())
        raise _not_emulated(request)

    def _serve_templates(self, request: Request, rest: list[str]) -> Answer:
        match request.method, *rest:
            case ("GET",):
                return 200, [one.describe() for one in self.templates.values() if not one.files], {}
            case "GET", template_id:
                return 200, self._template(template_id).describe(), {}
            case "DELETE", template_id:
                del self.templates[self._template(template_id).template_id]
                return 204, None, {}
        raise _not_emulated(request)

    def _admit(self, request: Request) -> None:
        key = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        accepted = key in self.settings.keys if self.settings.keys else key and not key.startswith("bad")
        if not accepted:
            raise HttpError(401, {"code": 401, "message": "Invalid API key"})
        now = time.monotonic()
        self._calls.append(now)
        while self._calls[0] < now - 1:
            self._calls.popleft()
        if self.settings.rate and len(self._calls) > self.settings.rate:
            raise HttpError(429, {"code": 429, "message": "Rate limit exceeded"}, {"Retry-After": "1"})

    def find(self, sandbox_id: str) -> EmulatedSandbox:
        """Return a sandbox, also by the longer id of legacy domains. Raises HttpError."""
        found = self.sandboxes.get(sandbox_id) or self.sandboxes.get(sandbox_id.rpartition("-")[0])
        if found is None:
            raise HttpError(404, {"code": 404, "message": f"Sandbox {sandbox_id} not found"})
        return found

    def _template(self, name: str) -> Template:
        for template in self.templates.values():
            if name in (template.template_id, *template.aliases):
                return template
        raise HttpError(404, {"code": 404, "message": f"template '{name}' not found"})

    # ---- making

    async def _create(self, request: Request) -> EmulatedSandbox:
        asked = request.json()
        if not isinstance(asked.get("templateID"), str):
            raise HttpError(400, {"code": 400, "message": "templateID is required"})
        key = request.headers.get("idempotency-key", "")
        if key and key in self._making:
            return await asyncio.shield(self._making[key])
        task = asyncio.ensure_future(self._make(self._template(asked["templateID"]), asked))
        if key:
            self._making[key] = task
        # Shielded: what is accepted is made, also for who does not wait for it.
        return await asyncio.shield(task)

    async def _make(self, template: Template, asked: dict[str, Any]) -> EmulatedSandbox:
        if len(self.sandboxes) >= self.settings.max_sandboxes:
            most = self.settings.max_sandboxes
            message = f"you have reached the maximum number of concurrent sandboxes ({most})"
            raise HttpError(429, {"code": 429, "message": message})
        self.counts["created"] = self.counts.get("created", 0) + 1
        try:
            sandbox = await EmulatedSandbox.create(template, asked, self.settings)
        except SandboxKernelError as exc:
            raise HttpError(500, {"code": 500, "message": str(exc)}) from exc
        self.sandboxes[sandbox.sandbox_id] = sandbox
        return sandbox

    def _list(self, request: Request) -> Answer:
        query = request.query
        states = query["state"].split(",") if query.get("state") else ["running", "paused"]
        wanted = dict(parse_qsl(query.get("metadata", "")))
        found = [
            one
            for one in sorted(self.sandboxes.values(), key=lambda one: -one.started)
            if one.state in states and wanted.items() <= one.metadata.items()
        ]
        limit, start = int(query.get("limit") or 100), int(query.get("nextToken") or 0)
        headers = {"x-next-token": str(start + limit)} if len(found) > start + limit else {}
        return 200, [one.describe(detail=True) for one in found[start : start + limit]], headers

    # ---- one sandbox

    async def _do(self, sandbox: EmulatedSandbox, verb: str, asked: dict[str, Any]) -> Answer:
        async with sandbox.moving:
            match verb:
                case "timeout":
                    sandbox.prolong(float(asked["timeout"]))
                    return 204, None, {}
                case "refreshes":
                    sandbox.prolong(float(asked.get("duration", 15)), at_least=True)
                    return 204, None, {}
                case "pause":
                    if sandbox.state == "paused":
                        message = f"Sandbox {sandbox.sandbox_id} is already paused"
                        raise HttpError(409, {"code": 409, "message": message})
                    await sandbox.pause()
                    return 204, None, {}
                case "connect" | "resume":
                    return await self._connect(sandbox, verb, float(asked.get("timeout") or 15))
                case "snapshots":
                    return await self._snapshot(sandbox, asked)
                case "fork" | "clone":
                    return await self._fork(sandbox, verb, asked)
        raise HttpError(404, {"code": 404, "message": f"{verb} is not emulated"})

    async def _connect(self, sandbox: EmulatedSandbox, verb: str, timeout: float) -> Answer:
        if sandbox.state == "running":
            if verb == "resume":
                raise HttpError(409, {"code": 409, "message": f"Sandbox {sandbox.sandbox_id} is already running"})
            sandbox.prolong(timeout, at_least=True)
            return 200, sandbox.describe(secret=True), {}
        await sandbox.resume(timeout)
        return 201, sandbox.describe(secret=True), {}

    async def _snapshot(self, sandbox: EmulatedSandbox, asked: dict[str, Any]) -> Answer:
        self._require_running(sandbox)
        snapshot_id = f"snap{secrets.token_hex(8)}"
        names = (asked["name"],) if asked.get("name") else ()
        template = replace(sandbox.template, template_id=snapshot_id, aliases=names or (snapshot_id,))
        self.templates[snapshot_id] = replace(template, files=await sandbox.pack())
        return 201, {"snapshotID": snapshot_id, "names": list(names)}, {}

    async def _fork(self, sandbox: EmulatedSandbox, verb: str, asked: dict[str, Any]) -> Answer:
        self._require_running(sandbox)
        template = replace(sandbox.template, files=await sandbox.pack())
        asked = {"timeout": 300, "metadata": sandbox.metadata, "secure": sandbox.envd_token is not None, **asked}
        made = [await self._make(template, asked) for _ in range(int(asked.get("count") or 1))]
        if verb == "clone":
            return 201, {"sandboxes": [one.describe(secret=True) for one in made]}, {}
        return 201, [{"sandbox": one.describe(secret=True)} for one in made], {}

    def _require_running(self, sandbox: EmulatedSandbox) -> None:
        if sandbox.state != "running":
            raise HttpError(409, {"code": 409, "message": f"Sandbox {sandbox.sandbox_id} is not running"})

    async def kill(self, sandbox: EmulatedSandbox) -> None:
        """End a sandbox."""
        self.sandboxes.pop(sandbox.sandbox_id, None)
        await sandbox.close()

    # ---- time

    async def sweep_for_ever(self) -> None:
        """Pause or end those whose time is over, and bury the dead."""
        while True:
            await asyncio.sleep(SWEEP)
            for sandbox in list(self.sandboxes.values()):
                if not sandbox.alive:
                    await self.kill(sandbox)
                elif sandbox.state == "running" and time.time() >= sandbox.ends:
                    async with sandbox.moving:
                        await (sandbox.pause() if sandbox.auto_pause else self.kill(sandbox))

    async def close(self) -> None:
        """End all."""
        await asyncio.gather(*(self.kill(one) for one in list(self.sandboxes.values())), return_exceptions=True)

    def report(self) -> str:
        """Return what tests ask for, as JSON."""
        return json.dumps({**self.counts, "sandboxes": {key: one.state for key, one in self.sandboxes.items()}})


def _not_emulated(request: Request) -> HttpError:
    return HttpError(404, {"code": 404, "message": f"{request.method} {request.path} is not emulated"})
