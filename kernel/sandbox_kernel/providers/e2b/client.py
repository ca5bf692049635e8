"""The control plane as calls: sandboxes and templates of one brand."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import httpx

from sandbox_kernel.errors import (
    ConfigurationError,
    InvocationError,
    SandboxConnectionError,
    SandboxCreationError,
    SandboxError,
    SandboxTimeoutError,
    SessionNotFoundError,
    TemplateNotFoundError,
)
from sandbox_kernel.providers.base import Template

from .access import Access, Place, ids_in, read_access
from .failures import SERVERS_OWN, Refusal, error_of, translated
from .rest import PoolSettings, Rest, Sleep
from .templates import read_templates

if TYPE_CHECKING:
    from typing_extensions import Self

CONFLICT, NOT_FOUND = 409, 404
PAUSED = "paused"
"""The state of a sandbox as the services say it."""
PAGE = 100
MAX_PAGES = 1000
CORRELATION = "sandbox-kernel"
"""Metadata by which a sandbox is found whose creation was heard, and its answer lost."""


@dataclass(frozen=True)
class Creation:
    """What a sandbox is asked to be."""

    template: str
    timeout: float = 300.0
    """Seconds until it is paused, or ended."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    network: bool = True
    """Whether it may reach the internet."""
    auto_pause: bool = False
    """When its time is over it is paused, not ended."""
    auto_resume: bool = False
    """Traffic for it lets it go on when it is paused."""
    public: bool = False
    """Whether its ports are open to those who do not know its traffic token."""
    correlation_id: str = ""


@dataclass(frozen=True)
class Detail:
    """What the control plane says of a sandbox. Times in seconds since the epoch; 0 if it does not say."""

    sandbox_id: str
    state: str
    template_id: str
    started: float
    ends: float
    metadata: Mapping[str, str]
    cpus: float = 0.0
    memory: int = 0
    """MiB."""


class ControlClient:
    """One brand's control plane, asynchronously. Close it, or use it as a context manager."""

    def __init__(self, place: Place, pool: PoolSettings | None = None, *, sleep: Sleep = asyncio.sleep) -> None:
        place.check()
        self.place = place
        self.brand = place.brand
        self.loop = asyncio.get_running_loop()
        self.rest = Rest(place, pool or PoolSettings(), sleep=sleep)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self.rest.close()

    # ---- making

    async def create(self, wanted: Creation) -> Access:
        """Make a sandbox. Raises TemplateNotFoundError, SandboxCreationError, ConfigurationError and what `get` raises.

        Where the answer is lost, or is another one's than the service's, it is looked whether the sandbox was made, so
        that none is made twice. One that is made and cannot be used is ended.
        """
        correlation = wanted.correlation_id or uuid.uuid4().hex
        body = self._creation(wanted, correlation)
        key = uuid.uuid4().hex
        doing = f"create a sandbox of the template {wanted.template!r}"
        try:
            with translated(self.brand, doing):
                response = await self.rest.api(
                    "POST", self.brand.create_path, body=body, headers={"Idempotency-Key": key}, repeatable=False
                )
            said = response.json()
        except Refusal as refusal:
            error = self._creation_error(refusal, doing, wanted.template)
            if refusal.status < SERVERS_OWN:
                raise error from refusal
            # A gateway may say so of what the service has done.
            return await self._made_or(error, refusal, correlation, wanted.timeout)
        except (SandboxConnectionError, SandboxTimeoutError) as exc:
            return await self._made_or(exc, exc.__cause__, correlation, wanted.timeout)
        except (ValueError, RecursionError) as exc:
            text = f"{self.brand.title} gave no answer that can be read: {exc}."
            error = SandboxCreationError(text, provider=self.brand.name)
            return await self._made_or(error, exc, correlation, wanted.timeout)
        try:
            return read_access(self.place, said)
        except InvocationError:
            await self._end_unusable(said, correlation)
            raise

    def _creation(self, wanted: Creation, correlation: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "templateID": wanted.template,
            "timeout": round(wanted.timeout),
            "metadata": {**wanted.metadata, CORRELATION: correlation},
            "envVars": dict(wanted.environment),
            "secure": True,
            "autoPause": wanted.auto_pause,
        }
        if self.place.is_legacy:
            if wanted.auto_resume:
                raise ConfigurationError(
                    f"Sandboxes at {self.place.base} are not resumed by traffic: leave auto_resume out, or set another "
                    "domain."
                )
            return {**body, "allowInternetAccess": wanted.network}
        body["allow_internet_access"] = wanted.network
        body["network"] = {"allowPublicTraffic": wanted.public}
        if wanted.auto_resume:
            body["autoResume"] = {"enabled": True}
        return body

    def _creation_error(self, refusal: Refusal, doing: str, template: str) -> SandboxError:
        if refusal.status == NOT_FOUND:
            return TemplateNotFoundError(
                f"{self.brand.title} has no template {template!r} for you; `%sandbox templates` lists those there are.",
                provider=self.brand.name,
            )
        error = error_of(self.brand, refusal, doing)
        if isinstance(error, (InvocationError, SandboxConnectionError)):
            return SandboxCreationError(str(error), provider=self.brand.name)
        return error

    async def _made_or(
        self, error: SandboxError, cause: BaseException | None, correlation: str, timeout: float
    ) -> Access:
        """Return the sandbox that was made all the same. Raises the error where there is none."""
        with suppress(SandboxError):
            async for one in self._marked(correlation):
                try:
                    return (await self.connect(one.sandbox_id, timeout))[0]
                except BaseException:
                    # Nobody else knows of it.
                    await asyncio.shield(self.kill(one.sandbox_id))
                    raise
        raise error from cause

    async def _end_unusable(self, said: Any, correlation: str) -> None:
        """End a sandbox that was made, of which something that cannot be is said."""
        for sandbox_id in ids_in(self.place, said):
            with suppress(SandboxError):
                if await self.kill(sandbox_id):
                    return
        with suppress(SandboxError):
            async for one in self._marked(correlation):
                await self.kill(one.sandbox_id)

    async def _marked(self, correlation: str) -> AsyncIterator[Detail]:
        """Yield the sandboxes that one call of `create` has made. Raises what `get` raises."""
        async for one in self.sandboxes(metadata={CORRELATION: correlation}):
            # A service that does not look for metadata lists others', too.
            if one.metadata.get(CORRELATION) == correlation:
                yield one

    # ---- one sandbox

    async def connect(self, sandbox_id: str, timeout: float) -> tuple[Access, bool]:
        """Return the way to a sandbox, and whether it was paused and goes on now.

        Its time is at least ``timeout`` seconds from now. Raises SessionNotFoundError and what `get` raises.
        """
        path = self.brand.connect_path.format(id=_quoted(sandbox_id))
        body: dict[str, Any] = {"timeout": round(timeout)}
        response = await self._call("POST", path, f"connect with {sandbox_id}", sandbox_id, body=body)
        access = read_access(self.place, _json(response))
        return access, response.status_code == httpx.codes.CREATED

    resume = connect
    """The services' own word for it does nothing, or is gone; connecting is what lets a sandbox go on."""

    async def get(self, sandbox_id: str) -> Detail:
        """Return what is known of a sandbox.

        Raises SessionNotFoundError, AuthenticationError, RateLimitError, QuotaError, SandboxConnectionError,
        SandboxTimeoutError, InvocationError.
        """
        path = f"/sandboxes/{_quoted(sandbox_id)}"
        response = await self._call("GET", path, f"describe {sandbox_id}", sandbox_id)
        return read_detail(self.place, _json(response))

    async def sandboxes(
        self, *, states: tuple[str, ...] = (), metadata: Mapping[str, str] | None = None, page: int = PAGE
    ) -> AsyncIterator[Detail]:
        """Yield sandboxes, the newest first. Raises what `get` raises."""
        query = {"limit": str(page)}
        if states:
            query["state"] = ",".join(states)
        if metadata:
            query["metadata"] = urlencode(dict(metadata))
        for _ in range(MAX_PAGES):
            response = await self._call("GET", "/v2/sandboxes", "list sandboxes", "", query=query)
            said = _json(response)
            for one in said if isinstance(said, list) else []:
                yield read_detail(self.place, one)
            token = response.headers.get("x-next-token", "")
            if not token:
                return
            query["nextToken"] = token

    async def kill(self, sandbox_id: str) -> bool:
        """End a sandbox; return False where it had ended. Raises what `get` raises."""
        try:
            await self._call("DELETE", f"/sandboxes/{_quoted(sandbox_id)}", f"end {sandbox_id}", sandbox_id)
        except SessionNotFoundError:
            return False
        return True

    async def set_timeout(self, sandbox_id: str, timeout: float) -> None:
        """Let a sandbox's time be over so many seconds from now. Raises what `get` raises."""
        path = f"/sandboxes/{_quoted(sandbox_id)}/timeout"
        body = {"timeout": round(timeout)}
        await self._call("POST", path, f"prolong {sandbox_id}", sandbox_id, body=body)

    async def pause(self, sandbox_id: str) -> bool:
        """Freeze a sandbox with its memory; return False where it was frozen already. Raises what `get` raises."""
        path = f"/sandboxes/{_quoted(sandbox_id)}/pause"
        with translated(self.brand, f"pause {sandbox_id}", sandbox_id=sandbox_id):
            try:
                await self.rest.api("POST", path, body={})
            except Refusal as refusal:
                if refusal.status == CONFLICT:
                    return False
                raise error_of(self.brand, refusal, f"pause {sandbox_id}", sandbox_id=sandbox_id) from refusal
        return True

    async def snapshot(self, sandbox_id: str, name: str = "") -> str:
        """Keep a sandbox as it is now; return what a new one can be made of, like a template.

        Raises what `get` raises.
        """
        path = f"/sandboxes/{_quoted(sandbox_id)}/snapshots"
        body = {"name": name} if name else {}
        response = await self._call("POST", path, "keep a snapshot", sandbox_id, body=body, repeatable=False)
        said = _json(response)
        found = said.get("snapshotID") if isinstance(said, dict) else None
        if not isinstance(found, str) or not found:
            raise InvocationError(f"{self.brand.title} did not say how its snapshot is called.")
        return found

    async def fork(self, sandbox_id: str, timeout: float, count: int = 1) -> list[Access]:
        """Make copies of a running sandbox. Raises what `get` raises, also where only some could be made."""
        path = self.brand.fork_path.format(id=_quoted(sandbox_id))
        body = {"timeout": round(timeout), "count": count}
        response = await self._call("POST", path, f"copy {sandbox_id}", sandbox_id, body=body, repeatable=False)
        said = _json(response)
        made = said.get("sandboxes", []) if isinstance(said, dict) else said
        made = made if isinstance(made, list) else []
        return [read_access(self.place, one.get("sandbox", one) if isinstance(one, dict) else one) for one in made]

    # ---- templates

    async def templates(self) -> list[Template]:
        """Return all templates. Raises what `get` raises."""
        headers = {"Authorization": f"Bearer {self.place.api_key}"}
        query = {"metadata": "true"}
        response = await self._call("GET", "/templates", "list templates", "", query=query, headers=headers)
        return read_templates(_json(response))

    async def template(self, name: str) -> Template:
        """Return the template with this id or name. Raises TemplateNotFoundError and what `get` raises."""
        found = [one for one in await self.templates() if name in (one.template_id, *one.names)]
        if not found:
            raise TemplateNotFoundError(
                f"{self.brand.title} has no template {name!r} for you; `%sandbox templates` lists those there are.",
                provider=self.brand.name,
            )
        return found[0]

    async def _call(
        self, method: str, path: str, doing: str, sandbox_id: str, *, repeatable: bool = True, **given: Any
    ) -> httpx.Response:
        with translated(self.brand, doing, sandbox_id=sandbox_id):
            try:
                return await self.rest.api(method, path, repeatable=repeatable, **given)
            except Refusal as refusal:
                raise error_of(self.brand, refusal, doing, sandbox_id=sandbox_id) from refusal


def read_detail(place: Place, said: Any) -> Detail:
    """Read what the control plane says of a sandbox. Raises InvocationError."""
    access = read_access(place, said)
    metadata = said.get("metadata") or {}
    return Detail(
        access.sandbox_id,
        str(said.get("state", "")),
        access.template_id,
        _seconds(said.get("startedAt")),
        _seconds(said.get("endAt")),
        {str(name): str(value) for name, value in metadata.items()} if isinstance(metadata, dict) else {},
        _number(said.get("cpuCount")),
        int(_number(said.get("memoryMB"))),
    )


def _seconds(moment: object) -> float:
    try:
        return datetime.fromisoformat(str(moment).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0.0


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except (ValueError, RecursionError) as exc:
        raise InvocationError(f"The answer from {response.url.host} cannot be read: {exc}.") from exc


def _quoted(sandbox_id: str) -> str:
    return quote(sandbox_id, safe="")
