"""What a session is and has: its state, its sandbox and link, and how it gives them up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitlets.config import Config

from .bridge_events import Ready
from .errands import Errands
from .errors import SandboxConnectionError, SandboxError, SandboxKernelError, SessionError
from .events import EventLog
from .guard import Guard
from .host_tools import HostTools
from .lifecycle import State, move
from .link.protocol import MAX_MESSAGE, Buffer, LinkError
from .passages import Passages
from .providers.base import Capabilities, Provider, Sandbox, SandboxFiles, WorkspaceChanges
from .providers.registry import create_provider
from .python_lives import PythonLives
from .recording import Recorder
from .retry import Retry, RetryPolicy
from .session_files import LinkFiles
from .session_folder import SessionFolder
from .session_info import SessionInfo, SessionListener
from .session_link import LinkListener, SessionLink
from .session_settings import SessionSettings

if TYPE_CHECKING:
    from .takeover import Takeover
    from .workspace.patterns import Patterns


class SessionCore(SessionSettings):
    """Knows no way to a sandbox, and hears nothing of it: that is its subclasses' part."""

    def __init__(
        self,
        listener: SessionListener,
        *,
        config: Config | None = None,
        directory: Path | None = None,
        log: EventLog | None = None,
        provider: Provider | None = None,
        recorder: Recorder | None = None,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        super().__init__(config=config)
        self._listener = listener
        self.log = log or EventLog(config=config)
        self._directory = directory or Path.cwd()
        self._recorder = recorder
        if recorder is not None and recorder.connection_file:
            # A notebook of this kernel, which is found by it again; a program's sandboxes are its own affair.
            recorder.notebook = self.notebook
        self._provider = provider or create_provider(self.provider, self.config)
        self.guard = Guard(self._provider.name, config=config)
        """What of the sandbox's output may reach a front end."""
        policy = RetryPolicy(self.start_attempts, self.retry_delay, self.retry_longest_delay, self.retry_jitter)
        self._retry = Retry(policy, sleep)
        self._state = State.INACTIVE
        self._sandbox: Sandbox | None = None
        self._link = SessionLink(
            LinkListener(self._on_message, listener.on_excess, self._on_link_lost, self._report),
            max_received=self.guard.largest or MAX_MESSAGE,
        )
        self._errands = Errands(self._link, self._require_running, self._ids)
        self._link_files = LinkFiles(self._errands.operations)
        self.folder = SessionFolder(
            self._provider, self._directory, self._errands.operations, self._event, lambda: self._link.lost_for
        )
        """The notebook's folder, where it is copied to the sandbox."""
        self._start: asyncio.Task[None] | None = None
        self._moving = asyncio.Lock()
        self._started: asyncio.Event = asyncio.Event()
        """An inner kernel has said that it is there."""
        self._ready: asyncio.Event = asyncio.Event()
        """Cells may go to it."""
        self.dropped = 0
        """Events of the bridge that were broken."""
        self._lives = PythonLives()
        self._created: float | None = None
        self._correlation_id = ""
        self._python = self._ipython = ""
        self._error = ""
        self._news = ""
        """What the next cell has to say, as lines."""
        self._takeover: Takeover | None = None
        self._taken_over = False
        """The sandbox was not made for this session."""
        self.used = False
        """A person has run a cell in it."""
        self.attached: Ready | None = None
        """What the bridge said of the cells of an earlier kernel process, when this one came in its place."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_state: Callable[[State], None] = lambda state: None
        self.on_news: Callable[[str], None] = lambda text: None
        """Takes lines that people should read now, also while a cell runs."""
        self.on_cut_off: Callable[[], None] = lambda: None
        """Told when the connection has been lost for `reconnect_notice`."""
        self.host_tools: HostTools | None = None
        """Who serves `tools` in cells; without one they hear that there are none."""

    on_waiting: Callable[[str], None] = staticmethod(lambda text: None)
    """Takes what a start waits for, again whenever that changes; "" when the wait is over."""
    _failure: SandboxKernelError = SessionError("the sandbox could not be started")

    def _on_message(self, parts: list[Buffer]) -> None:
        """Take what came over the link."""
        raise NotImplementedError

    def _on_link_lost(self, reason: str, error: SandboxError | LinkError | None) -> None:
        """Take notice that the link is lost for good."""
        raise NotImplementedError

    # ---- what it is

    @property
    def private_paths(self) -> Sequence[str]:
        """Absolute paths on this machine that no sandbox of it is shown, and none that is made beside it may be."""
        return self._provider.private_paths

    @property
    def state(self) -> State:
        """Where the session stands."""
        return self._state

    @property
    def capabilities(self) -> Capabilities:
        """What this session's sandboxes can do."""
        return self._provider.capabilities

    @property
    def directory(self) -> Path:
        """The notebook's folder on this machine, else the kernel process's working directory."""
        return self._directory

    @property
    def hidden(self) -> Patterns:
        """What of this machine's files is never handed over unless somebody names it."""
        from .workspace.patterns import Patterns
        from .workspace.settings import Workspace

        return Patterns(Workspace(config=self.config).hidden)

    @property
    def host_python(self) -> str:
        """The interpreter on this machine whose environment the cells see; "" if it is not on this machine."""
        return self._provider.host_python()

    @property
    def files(self) -> SandboxFiles:
        """The running sandbox's files."""
        own = self._sandbox.files if self._sandbox else None
        return own or self._link_files

    @property
    def passages(self) -> Passages:
        """The ways for large values between this process and cells of the running sandbox."""
        return Passages(self._errands.operations, self._open_pipe)

    def _open_pipe(self, path: str, flags: int) -> int | None:
        return self._sandbox.open_pipe(path, flags) if self._sandbox else None

    @property
    def mode(self) -> str:
        """How cells run in the present sandbox: "bridge" or "basic"; "" where there is none."""
        return self._sandbox.mode if self._sandbox else ""

    @property
    def language(self) -> str:
        """The language of the cells."""
        return self._provider.language

    def approval_of(self, action: str) -> str:
        """Return "ask", "allow" or "deny" for a command that changes this machine."""
        return str(self.approvals.get(action, "ask"))

    def versions(self) -> tuple[str, str]:
        """Return the versions of Python and IPython that cells see, as far as they are known before a start."""
        try:
            python = self._python or self._provider.language_version()
            return python, self._ipython or self._provider.implementation_version()
        except SandboxKernelError:
            # The environment cannot be used; the first cell says why.
            return self._python, self._ipython

    @property
    def ready(self) -> bool:
        """Whether an inner kernel takes requests now."""
        return self._state is State.ACTIVE and self._ready.is_set()

    @property
    def is_receiving(self) -> bool:
        """Whether a part of a message has arrived."""
        return self._link.is_receiving

    @property
    def info(self) -> SessionInfo:
        """A snapshot for people."""
        sandbox = self._sandbox
        return SessionInfo(
            state=self._state,
            provider=self._provider.name,
            mode=self.mode,
            isolation=sandbox.isolation.value if sandbox else "",
            sandbox_id=sandbox.sandbox_id if sandbox else "",
            created=self._created if sandbox else None,
            correlation_id=self._correlation_id,
            python=self.versions()[0],
            guard=self.guard.description,
            notebook=self.notebook,
            error=self._error,
            details={
                **(sandbox.describe() if sandbox else {}),
                **(self.folder.describe() if sandbox else {}),
                **self._link.describe(),
            },
        )

    def __repr__(self) -> str:
        info = self.info
        sandbox = f" {info.sandbox_id}" if info.sandbox_id else ""
        return f"<SandboxSession {info.provider}{sandbox}: {info.state.value}>"

    def _move(self, state: State) -> None:
        old = self._state
        self._state = move(old, state)
        self._event("state", old=old.value, new=state.value)
        if self._sandbox is not None and state is not State.CLOSED:
            self._record(lambda recorder, sandbox: recorder.state(sandbox, state.value))
        self._link.sleep(state in (State.PAUSING, State.PAUSED, State.RESUMING))
        self.on_state(state)

    def _record(self, write: Callable[[Recorder, Sandbox], Any]) -> None:
        if self._recorder is not None and self._sandbox is not None:
            self._spawn(write(self._recorder, self._sandbox))

    def _event(self, name: str, level: str = "info", **fields: object) -> None:
        sandbox_id = self._sandbox.sandbox_id if self._sandbox else ""
        self.log.write(
            name,
            level=level,
            correlation_id=self._correlation_id,
            provider=self._provider.name,
            sandbox_id=sandbox_id,
            **fields,
        )

    def _report(self, name: str, level: str, fields: dict[str, Any]) -> None:
        self._event(name, level, **fields)
        if name == "connection_lost" and self.reconnect_notice:
            asyncio.get_running_loop().call_later(self.reconnect_notice, self._tell_cut_off)

    @property
    def is_cut_off(self) -> bool:
        """Whether the connection has been lost for so long that people are to be told."""
        return 0 < self.reconnect_notice <= (self._link.lost_for or 0.0)

    def _tell_cut_off(self) -> None:
        # It may have been there meanwhile; then whoever lost it again told so, too.
        if self.is_cut_off:
            self.on_cut_off()

    def _ids(self) -> dict[str, Any]:
        sandbox_id = self._sandbox.sandbox_id if self._sandbox else ""
        return {"provider": self._provider.name, "sandbox_id": sandbox_id, "correlation_id": self._correlation_id}

    def _require_running(self) -> None:
        if not self._link.is_open or self._state is not State.ACTIVE:
            raise SandboxConnectionError(f"No sandbox is running (the session is {self._state.value}).")

    @property
    def changes(self) -> WorkspaceChanges | None:
        """What cells changed in the notebook's folder; None where there is no sandbox, or it keeps no changes."""
        return self.folder.changes or (self._sandbox.changes if self._sandbox is not None else None)

    def _sandboxes(self) -> Takeover:
        """Return who finds the sandboxes that there are already."""
        if self._takeover is None:
            # Imported here: the local provider's end with their kernel process.
            from .takeover import Takeover

            self._takeover = Takeover(self._provider, self._recorder, self._event)
        return self._takeover

    # ---- sending

    def send(self, parts: Sequence[Buffer], *, urgent: bool = False) -> list[Buffer]:
        """Send a Jupyter message (see link/envelope.py); return what `withdraw` knows it by.

        Only while `ready`, or paused with a resume under way.
        """
        return self._link.send(parts, urgent=urgent)

    @property
    def is_mending(self) -> bool:
        """Whether the connection is lost, and is being made again."""
        return self._link.lost_for is not None

    def withdraw(self, message: list[Buffer]) -> bool:
        """Take back a message of which nothing has left for the sandbox; return False where something has."""
        return self._link.withdraw(message)

    def command(self, op: str, **fields: object) -> None:
        """Send the bridge a command, past everything that waits."""
        self._link.command(op, **fields)

    def hold(self, blocked: bool) -> None:
        """Slow the sandbox down while the front ends take nothing."""
        self._link.hold(blocked)

    # ---- giving up

    def _fail(self, error: SandboxKernelError, *, keep: bool = False) -> None:
        """Give up the sandbox, if there is one; the next cell starts another. ``keep`` leaves it alone."""
        if self._state in (State.ERROR, State.CLOSED, State.STOPPING):
            return
        self._failure = error
        self._error = str(error)
        self._event("failed", "error", error=str(error), kind=type(error).__name__)
        if self._start is not None and self._start is not asyncio.current_task():
            self._start.cancel()
        if self._taken_over and self._state is State.STARTING:
            # Somebody's variables are in it; that it could not be reached now is no reason to end it.
            keep = True
            self._spawn(self._sandboxes().give_back())
        sandbox = self._drop(keep=keep)
        self._move(State.ERROR)
        if sandbox is not None and not keep:
            self._spawn(self._give_back(sandbox))
        self._listener.on_ended(error)

    def _release(self, *, detached: bool = False, restarted: bool = False) -> None:
        """Tell the next kernel process how this one leaves its sandbox."""
        if self._recorder is not None:
            self._recorder.release(detached=detached, restarted=restarted)

    async def _give_back(self, sandbox: Sandbox) -> None:
        """Give back a sandbox that this session uses no more. Its record stays until the provider has confirmed that.

        Raises what the provider's `close` raises: then the sandbox may still run, and is an orphan.
        """
        if self._recorder is not None:
            await self._recorder.discard(sandbox)
        try:
            await sandbox.close()
        except SandboxError as exc:
            if self.capabilities.outlives_kernel:
                raise _may_run(exc, sandbox) from exc
            raise
        if self._recorder is not None:
            await self._recorder.gone(sandbox)

    def _drop(self, *, keep: bool = False) -> Sandbox | None:
        sandbox, self._sandbox = self._sandbox, None
        self._ready.clear()
        self._link.close()
        self._errands.on_lost()
        if self.host_tools is not None:
            self.host_tools.on_lost()
        self.folder.leave(gone=not keep)
        self.attached = None
        self.used = False
        return sandbox

    # ---- in the background

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._event("background_error", "error", error=f"{type(error).__name__}: {error}")


def _may_run(error: SandboxError, sandbox: Sandbox) -> SandboxError:
    """Return the error for a sandbox that could not be given back."""
    return type(error)(
        f"{error} The sandbox {sandbox.sandbox_id} may still run and stays in the list; `%sandbox stop "
        f"{sandbox.sandbox_id}` tries again, and so does each kernel now and then.",
        provider=error.provider,
        sandbox_id=sandbox.sandbox_id,
        correlation_id=error.correlation_id,
        retryable=error.retryable,
    )
