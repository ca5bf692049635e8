"""`BlockingAgentClient`: `AgentClient` for programs without ``await``; all of it is there."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sandbox_kernel.errors import SandboxError, StateError
from sandbox_kernel.library.loop_thread import LoopThread, Turn
from sandbox_kernel.providers.base import Template
from sandbox_kernel.providers.e2b.client import Detail

from .answers import Request
from .client import AgentClient, Answer, raise_or_warn
from .session import AgentSession, Health

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
_END = object()


class BlockingAgentClient:
    """Its methods wait, also where an event loop runs already. It may be used by several threads."""

    def __init__(self, provider: str = "ppio", **arguments: Any) -> None:
        """Take the arguments of `AgentClient`."""
        self._client = AgentClient(provider, **arguments)
        self._thread: LoopThread | None = LoopThread()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.close()
        except SandboxError as exc:
            raise_or_warn(exc, kind)

    @property
    def client(self) -> AgentClient:
        """The client itself; its coroutines are for `wait`."""
        return self._client

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine of the client's returns. Raises StateError after `close`."""
        if self._thread is None:
            work.close()
            raise StateError("an agent client that is closed cannot be used; make another one")
        return Turn(self._thread).wait(work)

    def close(self) -> None:
        """Close the sessions and the connections; see `AgentClient.close`. Idempotent."""
        if self._thread is None:
            return
        try:
            self.wait(self._client.close())
        except SandboxError:
            # The thread is there for the next attempt.
            raise
        except BaseException:
            self._end_thread(self._thread)
            raise
        self._end_thread(self._thread)

    def _end_thread(self, thread: LoopThread) -> None:
        self._thread = None
        thread.close()

    # ---- what AgentClient does

    def invoke(self, template: str, request: Request, *, session: str = "", timeout: float = 0.0) -> Any:
        """Return an agent's answer; see `AgentClient.invoke`."""
        return self.wait(self._client.invoke(template, request, session=session, timeout=timeout))

    def stream(self, template: str, request: Request, *, session: str = "", timeout: float = 0.0) -> Iterator[Any]:
        """Yield the pieces of an agent's answer as they come."""
        pieces = self._client.stream(template, request, session=session, timeout=timeout)

        async def following() -> Any:
            return await anext(pieces, _END)

        try:
            while (piece := self.wait(following())) is not _END:
                yield piece
        finally:
            if self._thread is not None:
                self.wait(_closed(pieces.aclose))

    def batch(self, template: str, requests: Sequence[Request], **options: Any) -> list[Answer]:
        """Ask an agent many things at a time; see `AgentClient.batch`."""
        return self.wait(self._client.batch(template, requests, **options))

    def create_session(
        self, template: str, *, name: str = "", environment: Mapping[str, str] | None = None
    ) -> BlockingAgentSession:
        """Make a session; see `AgentClient.create_session`."""
        made = self.wait(self._client.create_session(template, name=name, environment=environment))
        return BlockingAgentSession(self, made)

    def list_sessions(self) -> list[Detail]:
        """Return the sandboxes with agents that exist at the brand's."""
        return self.wait(self._client.list_sessions())

    def list_templates(self, tags: Sequence[str] = (), name: str = "") -> list[Template]:
        """Return the templates that have all these tags, and this text in their name or id."""
        return self.wait(self._client.list_templates(tags, name))

    def get_template(self, name: str) -> Template:
        """Return the template of that name or id. Raises TemplateNotFoundError."""
        return self.wait(self._client.get_template(name))


class BlockingAgentSession:
    """An `AgentSession` whose methods wait."""

    def __init__(self, client: BlockingAgentClient, session: AgentSession) -> None:
        self._client = client
        self.session = session

    def invoke(self, request: Request, *, timeout: float = 0.0) -> Any:
        """Return the agent's answer."""
        return self._client.wait(self.session.invoke(request, timeout=timeout))

    def ping(self) -> Health:
        """Return how the agent is."""
        return self._client.wait(self.session.ping())

    def pause(self) -> None:
        """Freeze the sandbox; the next request resumes it."""
        self._client.wait(self.session.pause())

    def resume(self) -> None:
        """Let a paused one go on."""
        self._client.wait(self.session.resume())

    def close(self) -> None:
        """End the sandbox."""
        self._client.wait(self.session.close())


async def _closed(close: Callable[[], Any]) -> None:
    await close()
