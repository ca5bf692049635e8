"""Agents for programs, asynchronously: sessions, invocations, templates."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sandbox_kernel.errors import ConfigurationError, SandboxError, SessionNotFoundError
from sandbox_kernel.giving_back import made_or_given_back
from sandbox_kernel.providers.base import Template
from sandbox_kernel.providers.e2b.access import Access, Place
from sandbox_kernel.providers.e2b.brands import BRANDS
from sandbox_kernel.providers.e2b.client import ControlClient, Creation, Detail
from sandbox_kernel.providers.e2b.keys import find_key
from sandbox_kernel.providers.e2b.rest import PoolSettings

from .answers import Request
from .session import RETRIES, AgentSession

if TYPE_CHECKING:
    from typing_extensions import Self

KIND, NAME = "sandbox-kernel-agent", "sandbox-kernel-session"
"""Metadata of sandboxes with agents: the template, and the session's name."""


@dataclass(frozen=True)
class Answer:
    """What came of one request of a batch: ``value``, or the ``error``."""

    request: Request
    value: Any = None
    error: SandboxError | None = None


class AgentClient:
    """Use it as a context manager, on one event loop; at its end its sessions are closed.

    The API key comes from the argument, the environment (PPIO_API_KEY, E2B_API_KEY, NOVITA_API_KEY) or the system's key
    ring. It goes to the brand's API and nowhere else: agents do not see it, unless ``send_key`` says that they want it.
    """

    def __init__(
        self,
        provider: str = "ppio",
        *,
        api_key: str = "",
        domain: str = "",
        api_url: str = "",
        sandbox_url: str = "",
        request_timeout: float = 300.0,
        lifetime: float = 300.0,
        max_connections: int = 200,
        max_keepalive_connections: int = 50,
        retries: int = RETRIES,
        send_key: bool = False,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        """Times in seconds: ``lifetime`` of a sandbox after its last request, then it is paused."""
        if provider not in BRANDS:
            raise ConfigurationError(f"There is no provider {provider!r} for agents; there are: {', '.join(BRANDS)}.")
        brand = BRANDS[provider]
        said = [
            given or os.environ.get(variable, "")
            for given, variable in (
                (domain, brand.domain_variable),
                (api_url, brand.url_variable),
                (sandbox_url, brand.sandbox_url_variable),
            )
        ]
        self._place = Place(brand, find_key(brand, api_key), *said)
        self._place.check()
        self._pool = PoolSettings(max_connections, max_keepalive_connections, request_timeout)
        self._lifetime, self._retries, self._send_key = lifetime, retries, send_key
        self._sleep = sleep
        self._control: ControlClient | None = None
        self._sessions: dict[str, AgentSession] = {}
        self._creating: dict[tuple[str, str], asyncio.Lock] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, *_: object) -> None:
        try:
            await self.close()
        except SandboxError as exc:
            raise_or_warn(exc, kind)

    @property
    def control(self) -> ControlClient:
        """The brand's control plane."""
        if self._control is None:
            self._control = ControlClient(self._place, self._pool, sleep=self._sleep)
        return self._control

    @property
    def sessions(self) -> list[AgentSession]:
        """The sessions of this client that are not closed."""
        self._sessions = {key: one for key, one in self._sessions.items() if one.state != "closed"}
        return list(self._sessions.values())

    async def close(self) -> None:
        """Close the sessions and the connections. Idempotent.

        Raises SandboxError where sandboxes may still run, by their ids; calling it again tries to end them again.
        """
        sessions = self.sessions
        ended = await asyncio.gather(*(one.close() for one in sessions), return_exceptions=True)
        control, self._control = self._control, None
        if control is not None:
            await control.close()
        failed = [(one, error) for one, error in zip(sessions, ended, strict=True) if error is not None]
        if failed:
            told = "; ".join(f"{one.sandbox_id}: {error}" for one, error in failed)
            name = self._place.brand.name
            raise SandboxError(f"Sandboxes of agents may still run, and cost: {told}", provider=name) from failed[0][1]

    # ---- asking

    async def invoke(self, template: str, request: Request, *, session: str = "", timeout: float = 0.0) -> Any:
        """Return an agent's answer; see `AgentSession.invoke`.

        In the ``session`` of that name, which is made with the first request; without a name in one for this request.
        """
        if not session:
            async with _Once(self, template) as once:
                return await once.invoke(request, timeout=timeout)
        found = await self.session(template, session)
        return await found.invoke(request, timeout=timeout)

    async def stream(
        self, template: str, request: Request, *, session: str = "", timeout: float = 0.0
    ) -> AsyncGenerator[Any, None]:
        """Yield the pieces of an agent's answer as they come; ``session`` as for `invoke`."""
        if session:
            found = await self.session(template, session)
            async for piece in found.stream(request, timeout=timeout):
                yield piece
            return
        async with _Once(self, template) as once:
            async for piece in once.stream(request, timeout=timeout):
                yield piece

    async def batch(
        self,
        template: str,
        requests: Sequence[Request],
        *,
        session: str = "batch",
        concurrency: int = 10,
        on_answer: Callable[[Answer], None] = lambda answer: None,
    ) -> list[Answer]:
        """Ask an agent many things at a time, in one session; return the answers in the order of the requests.

        One that fails does not end the others. ``on_answer`` is called with each as it comes.
        """
        found = await self.session(template, session)
        room = asyncio.Semaphore(max(1, concurrency))

        async def ask(request: Request) -> Answer:
            async with room:
                try:
                    answer = Answer(request, await found.invoke(request))
                except SandboxError as exc:
                    answer = Answer(request, error=exc)
            on_answer(answer)
            return answer

        return list(await asyncio.gather(*(ask(one) for one in requests)))

    # ---- sessions

    async def session(self, template: str, name: str) -> AgentSession:
        """Return this client's session of that name with an agent, made where there is none; see `create_session`.

        Sessions of different agents may have the same name.
        """
        lock = self._creating.setdefault((template, name), asyncio.Lock())
        async with lock:
            for one in self.sessions:
                if (one.template, one.name) == (template, name) and not one.is_closing:
                    return one
            return await self.create_session(template, name=name)

    async def create_session(
        self, template: str, *, name: str = "", environment: Mapping[str, str] | None = None
    ) -> AgentSession:
        """Make a sandbox of a template, start its agent, and return the session when the agent is healthy.

        Raises TemplateNotFoundError, SandboxCreationError, AuthenticationError, QuotaError, RateLimitError,
        SandboxConnectionError.
        """
        control = self.control
        found = await control.template(template)
        wanted = Creation(
            template=found.template_id,
            timeout=self._lifetime,
            metadata={KIND: template, NAME: name},
            environment=environment or {},
            auto_pause=True,
        )
        creating = self._created(control.create(wanted), template, name)
        session = await made_or_given_back(creating, self._give_back)
        try:
            await session.start(found.entrypoint)
        except BaseException:
            await asyncio.shield(self._give_back(session))
            raise
        self._sessions[session.sandbox_id] = session
        return session

    async def attach_session(self, sandbox_id: str) -> AgentSession:
        """Return a session that another program has begun; one that was paused goes on. Raises SessionNotFoundError."""
        detail = await self.control.get(sandbox_id)
        if KIND not in detail.metadata:
            raise SessionNotFoundError(f"The sandbox {sandbox_id} has no agent of ours.", sandbox_id=sandbox_id)
        access, _ = await self.control.connect(sandbox_id, self._lifetime)
        session = self._made(access, detail.metadata[KIND], detail.metadata.get(NAME, ""))
        self._sessions[sandbox_id] = session
        return session

    async def list_sessions(self) -> list[Detail]:
        """Return the sandboxes with agents that exist at the brand's, of all programs."""
        return [one async for one in self.control.sandboxes() if KIND in one.metadata]

    async def _created(self, creating: Awaitable[Access], template: str, name: str) -> AgentSession:
        return self._made(await creating, template, name)

    async def _give_back(self, session: AgentSession) -> None:
        """Close a session that nobody was given; where that fails `close` tries it again, and tells it."""
        self._sessions[session.sandbox_id] = session
        with suppress(SandboxError):
            await session.close()

    def _made(self, access: Access, template: str, name: str) -> AgentSession:
        return AgentSession(
            lambda: self.control,
            access,
            name=name,
            template=template,
            lifetime=self._lifetime,
            request_timeout=self._pool.timeout,
            retries=self._retries,
            with_key=self._send_key,
        )

    # ---- templates

    async def list_templates(self, tags: Sequence[str] = (), name: str = "") -> list[Template]:
        """Return the templates that have all these tags, and this text in their name or id."""
        return [one for one in await self.control.templates() if one.matches(tags, name)]

    async def get_template(self, name: str) -> Template:
        """Return the template of that name or id. Raises TemplateNotFoundError."""
        return await self.control.template(name)


def raise_or_warn(error: SandboxError, kind: object) -> None:
    """Tell at a block's end what went wrong in closing: as a warning where an exception of this ``kind`` ended it."""
    if kind is None:
        raise error
    warnings.warn(str(error), RuntimeWarning, stacklevel=3)


class _Once:
    """A session for one request."""

    def __init__(self, client: AgentClient, template: str) -> None:
        self._client, self._template = client, template

    async def __aenter__(self) -> AgentSession:
        self._session = await self._client.create_session(self._template)
        return self._session

    async def __aexit__(self, kind: object, *_: object) -> None:
        try:
            await asyncio.shield(self._session.close())
        except SandboxError:
            # The client tries it again when it is closed, and tells it.
            if kind is None:
                raise
