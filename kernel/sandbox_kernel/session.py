"""One notebook's use of one sandbox: lazy start, states, retries, the link, and the inner kernel's lives."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from traitlets.config import Config

from .bridge_events import Died, Finished, Operation, Output, Ready, Replayed, Skipped, read_event
from .cell_memory import CellMemory
from .errors import (
    InvocationError,
    SandboxConnectionError,
    SandboxError,
    SandboxKernelError,
    SandboxLostError,
    SandboxTakenError,
    SandboxTimeoutError,
    SessionError,
    StateError,
)
from .events import EventLog
from .guard import Guard
from .lifecycle import State, move
from .link import envelope
from .link.channel import LinkChannel
from .link.protocol import MAX_MESSAGE, Buffer, Link, LinkError, LinkRefusedError
from .operations import Operations
from .passages import Passages
from .providers.base import Capabilities, Provider, Sandbox, SandboxFiles, SandboxSpec, WorkspaceChanges
from .providers.registry import create_provider
from .recording import Recorder
from .retry import Retry, RetryPolicy
from .session_files import LinkFiles
from .session_info import SessionInfo, SessionListener
from .session_settings import SessionSettings
from .shell_command import ShellCommand

if TYPE_CHECKING:
    from .connection import Connection, OnEnded
    from .records import SessionRecord
    from .takeover import Takeover
    from .workspace.patterns import Patterns

T = TypeVar("T")

CLOSE_TIMEOUT = 0.5
"""Seconds that a closing session waits for what it does in the background."""
AWAKE_AFTER = 0.05
"""Seconds after a resume in which a signal may still find threads stopped."""
TELL_TIMEOUT = 5.0
"""Seconds that the inner kernel has to say which of the new packages it had imported."""
MAX_UPLOADED = 100
MAX_DESCRIPTION = 512 * 1024
"""Bytes of what the sandbox says of its variables."""
MAX_DEATHS = 3
"""Times in a row that the inner kernel may die before it was ready; then the sandbox is given up."""
CALL_RETRY = RetryPolicy(attempts=3, first_delay=0.1, longest_delay=10.0, jitter=0.2)
"""How a connection that was lost is made again; it is not the number of attempts that ends that."""
REAP_AFTER = 15.0
"""Seconds from the first start until it is looked for sandboxes that nobody owns any more."""
HAND_OVER = 5.0
"""Seconds after SIGTERM in which a new kernel process may take the sandbox; an editor restarts a kernel so."""
MAX_LIVES, LIVES_PERIOD = 20, 60.0
"""How often the inner kernel may die within so many seconds. No real one starts so fast."""


class SandboxSession(SessionSettings):
    """Owns at most one sandbox at a time. Its methods are called on the event loop's thread."""

    def __init__(  # noqa: PLR0915 - what commands keep belongs elsewhere
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
        self.cells = CellMemory()
        """The last cells that people ran."""
        self.offers: list[Callable[[], Iterable[str]]] = []
        """What else code in the sandbox can use: each gives lines, as in "tools.search(query): finds pages"."""
        self.uploaded: deque[str] = deque(maxlen=MAX_UPLOADED)
        """The last files that were uploaded, by their paths in the sandbox."""
        self._companions: dict[Callable[[SandboxSession], Any], Any] = {}
        policy = RetryPolicy(self.start_attempts, self.retry_delay, self.retry_longest_delay, self.retry_jitter)
        self._retry = Retry(policy, sleep)
        self._state = State.INACTIVE
        self._sandbox: Sandbox | None = None
        self._channel: LinkChannel | Connection | None = None
        self._connection: Connection | None = None
        """The channel, where it is made again when it is lost."""
        self._start: asyncio.Task[None] | None = None
        self._moving = asyncio.Lock()
        self._ready: asyncio.Event = asyncio.Event()
        self._blocked = False
        self._deaths = 0
        self._death_times: deque[float] = deque(maxlen=MAX_LIVES)
        self.dropped = 0
        """Events of the bridge that were broken."""
        self._created: float | None = None
        self._correlation_id = ""
        self._python = ""
        self._error = ""
        self._takeover: Takeover | None = None
        self._news = ""
        self._released = False
        self._taken_over = False
        """It was not made for this session."""
        self.used = False
        """A person has run a cell in it."""
        self._replays: dict[int, asyncio.Future[Replayed]] = {}
        self._background: list[asyncio.Task[None]] = []
        self.attached: Ready | None = None
        """What the bridge said of the cells of an earlier kernel process, when this one came in its place."""
        self.idle_since: Callable[[], float] = lambda: 0.0
        """Tells since when no cell runs, in seconds since the epoch; 0 while one does."""
        self._commands: dict[int, ShellCommand] = {}
        self._command_numbers = 0
        self._operations = Operations(self._send_operation, self._backlog, self._next_number, self._ids)
        self._link_files = LinkFiles(self._operations)
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_state: Callable[[State], None] = lambda state: None

    # ---- what it is

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

    def companion(self, make: Callable[[SandboxSession], T]) -> T:
        """Return what a family of commands keeps as long as this session lives, made by its first use."""
        if make not in self._companions:
            self._companions[make] = make(self)
        found: T = self._companions[make]
        return found

    @property
    def passages(self) -> Passages:
        """The ways for large values between this process and cells of the running sandbox."""
        return Passages(self._operations)

    def approval_of(self, action: str) -> str:
        """Return "ask", "allow" or "deny" for a command that changes this machine."""
        return str(self.approvals.get(action, "ask"))

    def versions(self) -> tuple[str, str]:
        """Return the versions of Python and IPython that cells see, as far as they are known before a start."""
        try:
            return self._python or self._provider.language_version(), self._provider.implementation_version()
        except SandboxKernelError:
            # The environment cannot be used; the first cell says why.
            return self._python, ""

    @property
    def ready(self) -> bool:
        """Whether an inner kernel takes requests now."""
        return self._state is State.ACTIVE and self._ready.is_set()

    @property
    def is_receiving(self) -> bool:
        """Whether a part of a message has arrived."""
        return self._channel is not None and self._channel.is_receiving

    @property
    def info(self) -> SessionInfo:
        """A snapshot for people."""
        sandbox = self._sandbox
        return SessionInfo(
            state=self._state,
            provider=self._provider.name,
            isolation=sandbox.isolation.value if sandbox else "",
            sandbox_id=sandbox.sandbox_id if sandbox else "",
            created=self._created if sandbox else None,
            correlation_id=self._correlation_id,
            python=self.versions()[0],
            guard=self.guard.description,
            notebook=self.notebook,
            error=self._error,
            details={**(sandbox.describe() if sandbox else {}), **self._describe_connection()},
        )

    def _describe_connection(self) -> dict[str, str]:
        lost_for = self._connection.lost_for if self._connection is not None else None
        return {} if lost_for is None else {"connection": f"lost for {lost_for:.0f} s; it is made again"}

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
        if self._connection is not None:
            self._connection.sleep(state in (State.PAUSING, State.PAUSED, State.RESUMING))
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

    # ---- starting

    def begin_start(self) -> asyncio.Task[None]:
        """Start in the background unless that is under way or done. The task never raises: see `state`."""
        if self._start is None or self._state in (State.INACTIVE, State.ERROR):
            self._begin_background()
            self._move(State.STARTING)
            self._start = asyncio.create_task(self._run_start())
        return self._start

    async def start(self) -> None:
        """Start, or wait for the start that is under way. Raises what made it fail."""
        if self._state is State.PAUSED:
            await self.resume()
            return
        # Not awaited as such: it is cancelled when the sandbox is given up, and that is told by the state.
        await asyncio.wait([self.begin_start()])
        if self._state is State.ERROR:
            raise self._failure
        if self._state is not State.ACTIVE:
            raise StateError(f"the sandbox did not start: the session is {self._state.value}")

    _failure: SandboxKernelError = SessionError("the sandbox could not be started")

    async def _run_start(self) -> None:
        self._correlation_id = f"sk-{uuid.uuid4().hex[:12]}"
        self._error = ""
        self._deaths = 0
        began = time.monotonic()
        self._event("start")
        try:
            sandbox = await self._retry.run(self._obtain, self._log_retry)
            if self._state is not State.STARTING:
                # Given up meanwhile; a cancellation can be lost in what it arrives together with.
                if not self._taken_over:
                    await sandbox.close()
                return
            self._sandbox = sandbox
            self._created = time.time()
            await self._retry.run(lambda: self._open_link(sandbox), self._log_retry)
            await asyncio.wait_for(self._ready.wait(), self.startup_timeout)
        except asyncio.TimeoutError:
            self._fail(
                SandboxTimeoutError(
                    f"The sandbox did not start within {self.startup_timeout:g} s; run the cell again, "
                    "or raise SandboxSession.startup_timeout.",
                    provider=self._provider.name,
                    correlation_id=self._correlation_id,
                )
            )
        except SandboxKernelError as exc:
            self._fail(exc)
        except Exception as exc:  # noqa: BLE001 - the edge: a provider's fault must become an error in the cell
            self._fail(SessionError(f"The sandbox could not be started: {exc!r}. The log has more.", **self._ids()))
        else:
            if self._takeover is not None:
                self._takeover.wanted = None
            self._event("started", seconds=round(time.monotonic() - began, 3))

    async def _obtain(self) -> Sandbox:
        """Return the sandbox that is wanted, or is left from this notebook's last kernel process; else a new one."""
        outlives = self.capabilities.outlives_kernel
        found = await self._sandboxes().find(self._correlation_id) if outlives else None
        self._taken_over = found is not None
        if found is not None:
            return found
        sandbox = await self._provider.create(
            SandboxSpec(self._correlation_id, directory=self._directory, kept=outlives)
        )
        if self._recorder is not None:
            self._spawn(self._recorder.made(sandbox, self._provider, correlation_id=self._correlation_id))
        return sandbox

    def _sandboxes(self) -> Takeover:
        """Return who finds the sandboxes that there are already."""
        if self._takeover is None:
            # Imported here: the local provider's end with their kernel process.
            from .takeover import Takeover

            self._takeover = Takeover(self._provider, self._recorder, self._event)
        return self._takeover

    def _log_retry(self, attempt: int, delay: float, error: SandboxError) -> None:
        self._event("retry", "warning", attempt=attempt, delay=round(delay, 3), error=str(error))

    async def _open_link(self, sandbox: Sandbox) -> None:
        self._ready.clear()
        link = Link(os.urandom(16), max_received=self.guard.largest or MAX_MESSAGE)
        channel: LinkChannel | Connection

        def on_lost(reason: str, error: SandboxError | LinkError | None) -> None:
            if channel is self._channel and self._state is not State.CLOSED:
                self._on_lost(reason, error)

        if self.capabilities.outlives_kernel:
            channel = self._channel = self._connection = await self._make_connection(sandbox, link, on_lost)
        else:
            channel = LinkChannel(link, self._on_message, self._listener.on_excess, on_lost)
            transport = await sandbox.open_link()
            self._channel = channel
            channel.attach(transport)
        if self._blocked:
            channel.hold()

    async def _make_connection(self, sandbox: Sandbox, link: Link, on_lost: OnEnded) -> Connection:
        # Imported here: the local provider's sandboxes end with their link.
        from .connection import Connection

        connection = Connection(
            sandbox,
            link,
            self._on_message,
            self._listener.on_excess,
            on_lost,
            policy=replace(CALL_RETRY, longest_delay=self.reconnect_longest_delay),
            patience=self.reconnect_timeout,
            report=lambda name, level, fields: self._event(name, level, **fields),
        )
        await connection.open()
        return connection

    # ---- sending

    def send(self, parts: Sequence[Buffer], *, urgent: bool = False) -> None:
        """Send a Jupyter message (see link/envelope.py). Only while `ready`, or paused with a resume under way."""
        assert self._channel is not None
        self._channel.send(parts, urgent=urgent)

    def greeting(self) -> str:
        """What the notebook's first cell has to say, as lines; said once."""
        news, self._news = self._news, ""
        if self._takeover is not None:
            news, self._takeover.news = self._takeover.news + news, ""
        return news + (self._sandbox.greeting() if self._sandbox is not None else "")

    def belongs_to(self, notebook: str) -> bool:
        """Take note of the notebook's file; return whether only a new sandbox can show what was kept of it."""
        self.notebook = notebook
        left = False
        if self._recorder is not None and self._recorder.connection_file:
            self._recorder.notebook = notebook
            self._spawn(self._recorder.sign(self.idle_since()))
            left = self.capabilities.outlives_kernel and not self._taken_over and self._sandboxes().is_left()
        return self._provider.belongs_to(notebook) or left

    def before_cell(self) -> str:
        """Make ready for a cell that a person ran; return what it has to say.

        Raises SandboxLostError where the sandbox had to be given up for it; the next cell starts another.
        """
        if self._sandbox is None:
            return ""
        try:
            return self._sandbox.before_cell()
        except SandboxLostError as exc:
            self._fail(exc)
            raise

    @property
    def changes(self) -> WorkspaceChanges | None:
        """What cells changed in the notebook's folder; None where there is no sandbox, or it keeps no changes."""
        return self._sandbox.changes if self._sandbox is not None else None

    def command(self, op: str, **fields: object) -> None:
        """Send the bridge a command, past everything that waits."""
        if self._channel is not None:
            self._channel.send([envelope.COMMAND, json.dumps({"op": op, **fields}).encode()], urgent=True)

    def set_count(self, execution_count: int, inputs: list[str]) -> None:
        """Let the inner kernel go on counting at ``execution_count``; ``inputs`` were run elsewhere before it."""
        fields = {"op": "count", "execution_count": execution_count, "inputs": inputs}
        # In order with the cells, hence not urgent.
        self.send([envelope.COMMAND, json.dumps(fields).encode()])

    def interrupt(self) -> None:
        """Interrupt what runs, variables kept. A paused sandbox goes on for it."""
        self._event("interrupt", "debug")
        if self._state is State.PAUSED:
            self._spawn(self._resume_and_interrupt())
        else:
            self.command("interrupt")

    async def _resume_and_interrupt(self) -> None:
        # In this order: a signal that finds all threads stopped may be taken by one that does not wake the cell's.
        await self.resume()
        await asyncio.sleep(AWAKE_AFTER)
        self.command("interrupt")

    def hold(self, blocked: bool) -> None:
        """Slow the sandbox down while the front ends take nothing."""
        self._blocked = blocked
        if self._channel is not None:
            if blocked:
                self._channel.hold()
            else:
                self._channel.release()

    # ---- what the bridge says

    def _on_message(self, parts: list[Buffer]) -> None:
        if not parts or bytes(parts[0][:1]) != envelope.EVENT:
            self._on_jupyter(parts)
            return
        try:
            event = read_event(parts)
        except ValueError as exc:
            self.dropped += 1
            self._event("event_dropped", "debug", error=str(exc)[:200])
            return
        match event:
            case Ready():
                self._on_ready(event)
            case Died():
                self._on_died(event.exit, event.stderr)
            case Output(command=command) if command in self._commands:
                self._commands[command].feed(event.data)
            case Skipped():
                self._event("output_skipped", "warning", messages=event.messages)
                self._listener.on_skipped(event.messages)
            case Replayed(number=number) if number in self._replays and not self._replays[number].done():
                self._replays[number].set_result(event)
            case Operation():
                self._operations.on_event(event.fields, event.data)
            case Finished(command=command) if command in self._commands:
                self._commands.pop(command).finish(event.exit)

    def _on_jupyter(self, parts: list[Buffer]) -> None:
        if not parts or parts[0] != envelope.JOURNAL:
            self._listener.on_message(parts)
        elif self._replays:
            self._listener.on_past(parts[1:])
        else:
            # Only what was asked for: the bridge may be anybody's.
            self.dropped += 1

    def _on_ready(self, event: Ready) -> None:
        if self._ready.is_set():
            # Each life says so once, and the one before it was renewed, or died, first.
            self.dropped += 1
            return
        self._deaths = 0
        self._python = event.python
        if self._takeover is not None and self._takeover.renews:
            # The notebook was restarted: what ran for it must not go on, and nothing of it is shown.
            self._takeover.renews = False
            self.command("restart")
            return
        # Of a sandbox that was made for this session there is nothing to tell, whatever its bridge says.
        self.attached = event if self._taken_over and (event.count or event.open or event.missed) else None
        self._ready.set()
        self._event("kernel_ready", life=event.life)
        if self._state is State.STARTING:
            self._move(State.ACTIVE)
        self._listener.on_ready()

    def _on_died(self, code: int, stderr: str) -> None:
        was_ready = self._ready.is_set()
        self._ready.clear()
        self._deaths += 1
        now = time.monotonic()
        if len(self._death_times) == MAX_LIVES and now - self._death_times[0] < LIVES_PERIOD:
            # Somebody makes this up, or it would go on for ever; either way it fills the log.
            self._fail(SessionError(f"The sandbox's Python ended {MAX_LIVES} times within a minute.", **self._ids()))
            return
        self._death_times.append(now)
        self._event("kernel_died", "error", exit=code, stderr=stderr)
        self._spawn(self._bury(code, stderr, was_ready=was_ready))

    async def _bury(self, code: int, stderr: str, *, was_ready: bool) -> None:
        sandbox = self._sandbox
        if sandbox is None:
            return
        reason = await sandbox.kernel_death_reason(code) or _exit_reason(code)
        if sandbox is not self._sandbox:
            return
        if not was_ready and self._deaths >= MAX_DEATHS:
            last = f" Its last words: {stderr.splitlines()[-1]}" if stderr else ""
            self._fail(
                SessionError(
                    f"The sandbox's Python cannot start: {reason}.{last} `jupyter sandbox doctor` looks for the cause.",
                    **self._ids(),
                )
            )
            return
        if was_ready:
            self._listener.on_ended(
                SandboxLostError(
                    f"The sandbox's Python ended: {reason}. Its variables are gone; the next cell runs in a fresh one.",
                    **self._ids(),
                )
            )
        self.command("restart")

    def _ids(self) -> dict[str, Any]:
        sandbox_id = self._sandbox.sandbox_id if self._sandbox else ""
        return {"provider": self._provider.name, "sandbox_id": sandbox_id, "correlation_id": self._correlation_id}

    # ---- ending

    def _on_lost(self, reason: str, error: SandboxError | LinkError | None) -> None:
        if isinstance(error, LinkRefusedError):
            self._on_taken()
        elif isinstance(error, SandboxError):
            self._on_unreachable(error)
        else:
            self._spawn(self._bury_sandbox(reason))

    def _on_taken(self) -> None:
        """Another kernel process uses the sandbox now."""
        error = SandboxTakenError(
            "Another kernel process has taken the sandbox and has its variables; the next cell starts a fresh one.",
            **self._ids(),
        )
        self._fail(error, keep=True)

    def _on_unreachable(self, error: SandboxError) -> None:
        """The sandbox may live, but nobody can say; the next cell looks for it again."""
        from .ownership import Leftover

        ids = self._ids()
        self._fail(
            SandboxConnectionError(
                f"The sandbox {ids['sandbox_id']} cannot be reached ({error}), so what it did meanwhile is not known; "
                "run a cell to try again.",
                **ids,
            ),
            keep=True,
        )
        self._sandboxes().wanted = Leftover(ids["sandbox_id"], fresh=False)

    async def _bury_sandbox(self, reason: str) -> None:
        sandbox, ids = self._sandbox, self._ids()
        if sandbox is None or self._state in (State.STOPPING, State.CLOSED, State.ERROR):
            return
        try:
            reason = await sandbox.loss_reason() or reason
        except SandboxKernelError as exc:
            self._fail(exc)
            return
        if sandbox is self._sandbox:
            self._fail(
                SandboxLostError(
                    f"The sandbox ended: {reason}. Its variables are gone; the next cell starts a fresh one.", **ids
                )
            )

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
            self._spawn(sandbox.close())
        self._listener.on_ended(error)

    def _release(self, *, detached: bool = False, restarted: bool = False) -> None:
        """Tell the next kernel process how this one leaves its sandbox."""
        if self._recorder is not None:
            self._recorder.release(detached=detached, restarted=restarted)

    def _drop(self, *, keep: bool = False) -> Sandbox | None:
        if not keep:
            self._record(lambda recorder, sandbox: recorder.gone(sandbox))
        sandbox, self._sandbox = self._sandbox, None
        self._ready.clear()
        if self._channel is not None:
            self._channel.close()
            self._channel = self._connection = None
        for command in self._commands.values():
            command.finish(None)
        self._commands.clear()
        self._operations.on_lost()
        for replay in self._replays.values():
            if not replay.done():
                replay.set_exception(SandboxLostError("The sandbox ended while past outputs were read.", **self._ids()))
        self.attached = None
        self.used = False
        return sandbox

    async def stop(self, reason: str = "it was stopped") -> None:
        """Give the sandbox back. The session can be started again."""
        async with self._moving:
            if self._state in (State.INACTIVE, State.CLOSED):
                return
            self._move(State.STOPPING)
            try:
                await self._close_sandbox()
            finally:
                # Also where it cannot be reached: nothing here uses it any more.
                self._move(State.INACTIVE)
        self._listener.on_ended(SandboxLostError(f"The sandbox is gone: {reason}. The next cell starts a fresh one."))

    async def detach(self) -> str:
        """Leave the sandbox, which goes on, for any kernel to attach to; return its id. Raises SandboxError."""
        if not self.capabilities.outlives_kernel:
            raise SessionError(f"Sandboxes of the provider {self._provider.name} end with their kernel process.")
        self._require_running()
        async with self._moving:
            sandbox_id = str(self._ids()["sandbox_id"])
            self._move(State.STOPPING)
            self._release(detached=True)
            self._drop(keep=True)
            self._move(State.INACTIVE)
        self._listener.on_ended(
            SandboxLostError(
                f"The sandbox {sandbox_id} was detached and goes on; `%sandbox attach {sandbox_id}` shows what it does."
            )
        )
        return sandbox_id

    async def attach(self, sandbox_id: str, *, force: bool = False) -> None:
        """Go on with an existing sandbox in place of this one, in which no person has run anything.

        Raises SessionError where another kernel process uses it, unless it is taken away by ``force``; NotFoundError.
        """
        from .ownership import Leftover

        if not self.capabilities.outlives_kernel:
            raise SessionError(f"Sandboxes of the provider {self._provider.name} end with their kernel process.")
        if self._state not in (State.INACTIVE, State.ERROR):
            if self.used:
                raise SessionError(
                    f"This notebook uses the sandbox {self._ids()['sandbox_id']}; `%sandbox detach` or `%sandbox stop` "
                    "comes first."
                )
            await self.stop("another one is attached")
        sandboxes = self._sandboxes()
        sandboxes.wanted, sandboxes.forced = Leftover(sandbox_id, fresh=False), force
        try:
            await self.start()
        finally:
            sandboxes.wanted, sandboxes.forced = None, False
        self.used = True

    async def attachable(self) -> Sequence[SessionRecord]:
        """Return the recorded sandboxes that `attach` may be called with, this notebook's at the end."""
        return await self._sandboxes().attachable() if self.capabilities.outlives_kernel else []

    async def replay(self, count: int | None) -> Replayed:
        """Have past messages sent to the listener again; return when all are there, and what became of them.

        ``count`` is a cell's number, 0 for the last cell; None stands for what earlier kernel processes did not get.
        """
        if not self.capabilities.outlives_kernel:
            raise SessionError(f"Sandboxes of the provider {self._provider.name} keep no journal of what they sent.")
        self._require_running()
        number = self._next_number()
        ended: asyncio.Future[Replayed] = asyncio.get_running_loop().create_future()
        self._replays[number] = ended
        try:
            self.command("journal", id=number, count=count)
            return await ended
        finally:
            del self._replays[number]

    async def close(self, *, restart: bool = False) -> None:
        """Leave the sandbox for good: what becomes of it says `on_shutdown`. Idempotent.

        Before a ``restart`` a sandbox that outlives this process is left for the next one.
        """
        if self._state is State.CLOSED:
            return
        self._move(State.CLOSED)
        try:
            await self._leave_sandbox(restart=restart)
        except SandboxKernelError as exc:
            # The kernel ends all the same; what cannot be reached now is ended by who runs it.
            self._event("not_given_back", "error", error=str(exc))
        if self._tasks:
            # The records' last words; a task that hangs is not waited for.
            await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT)
        for task in (*self._tasks, *self._background):
            task.cancel()

    async def _leave_sandbox(self, *, restart: bool) -> None:
        if self._released:
            await self._hand_over()
        elif restart and self.capabilities.outlives_kernel and self._sandbox is not None:
            self._release(restarted=True)
            self._drop(keep=True)
        else:
            await self._end_sandbox()

    async def _end_sandbox(self) -> None:
        ending = self.on_shutdown.get(self._provider.name, "close") if self.capabilities.outlives_kernel else "close"
        if self._sandbox is None or ending == "close":
            await self._close_sandbox()
            return
        if ending == "pause":
            try:
                await self._sandbox.pause()
            except SandboxKernelError as exc:
                self._event("pause_failed", "warning", error=str(exc))
        self._release(detached=True)
        self._drop(keep=True)

    async def _hand_over(self) -> None:
        """Wait for the next kernel process of a restart by signal; where none comes, do as for any shutdown."""
        sandbox, recorder = self._sandbox, self._recorder
        if sandbox is None or recorder is None:
            await self._close_sandbox()
            return
        deadline = time.monotonic() + HAND_OVER
        while time.monotonic() < deadline and recorder.is_released(self._provider.name, sandbox.sandbox_id):  # noqa: ASYNC110 - another process's doing
            await asyncio.sleep(HAND_OVER / 25)
        try:
            await recorder.claim(sandbox.sandbox_id, self._provider, correlation_id=self._correlation_id, force=False)
        except SandboxKernelError:
            # Another process has it.
            self._drop(keep=True)
        else:
            await self._end_sandbox()

    def kill(self) -> None:
        """What `close` does, without waiting. A sandbox that can be handed over is: who signals may start anew."""
        if self._sandbox is None:
            return
        if self.capabilities.outlives_kernel:
            self._released = True
            self._release(restarted=True)
        else:
            self._sandbox.kill()

    def leave(self) -> None:
        """Let go of a sandbox that outlives this process, as if the process had crashed: its starter has died."""
        if self._sandbox is not None and self.capabilities.outlives_kernel:
            self._drop(keep=True)

    @property
    def lingers(self) -> bool:
        """Whether `close` will wait for another kernel process."""
        return self._released and self._state is not State.CLOSED

    async def _close_sandbox(self) -> None:
        if self._start is not None and not self._start.done():
            self._start.cancel()
            await asyncio.wait([self._start])
        sandbox = self._drop()
        if sandbox is not None:
            await sandbox.close()

    def _begin_background(self) -> None:
        """Give signs of life, and stop once what nobody owns any more."""
        if self._recorder is None or self._background:
            return
        self._background = [
            asyncio.ensure_future(self._recorder.beat(self.idle_since, self._on_taken)),
            asyncio.ensure_future(self._reap(self._recorder)),
        ]

    async def _reap(self, recorder: Recorder) -> None:
        # The start comes first.
        await asyncio.sleep(REAP_AFTER)
        from .reaping import reap

        await reap(recorder, self._provider, self.config, self.orphan_grace, self.log)

    # ---- pausing and renewing

    async def pause(self) -> None:
        """Freeze the sandbox. Raises SandboxError where the provider cannot."""
        if not self._provider.capabilities.pause:
            raise SessionError(f"Sandboxes of the provider {self._provider.name} cannot be paused.")
        async with self._moving:
            if self._state is State.PAUSED:
                return
            sandbox = self._sandbox
            self._move(State.PAUSING)
            assert sandbox is not None
            try:
                await sandbox.pause()
            except BaseException:
                if self._state is State.PAUSING:
                    self._move(State.ACTIVE)
                raise
            self._move(State.PAUSED)

    async def resume(self) -> None:
        """Let a paused sandbox go on."""
        async with self._moving:
            if self._state is State.ACTIVE:
                return
            sandbox = self._sandbox
            self._move(State.RESUMING)
            assert sandbox is not None
            try:
                await sandbox.resume()
            except BaseException:
                if self._state is State.RESUMING:
                    self._move(State.PAUSED)
                raise
            self._news += "The sandbox was paused and goes on: variables, files and packages are kept.\n"
            self._move(State.ACTIVE)
        if self._ready.is_set():
            self._listener.on_ready()

    async def restart(self) -> None:
        """Renew the inner kernel in the same sandbox: files stay, variables go."""
        if self._state is State.PAUSED:
            await self.resume()
        if self._state is not State.ACTIVE:
            await self.start()
            return
        self._ready.clear()
        self.command("restart")
        self._listener.on_ended(
            SandboxLostError("The sandbox's Python was restarted. Its variables are gone.", **self._ids())
        )
        try:
            await asyncio.wait_for(self._ready.wait(), self.startup_timeout)
        except asyncio.TimeoutError:
            # What does not let itself be renewed may still run what was to be ended.
            error = SandboxTimeoutError(
                f"The sandbox's Python did not start within {self.startup_timeout:g} s, so the sandbox was given up; "
                "the next cell starts a fresh one.",
                **self._ids(),
            )
            self._fail(error)
            raise error from None

    def shell(self, text: str) -> ShellCommand:
        """Run a shell command in the sandbox. Raises SandboxConnectionError where none is running."""
        return self._run("run", text=text)

    def _run(self, op: str, **fields: object) -> ShellCommand:
        self._require_running()
        number = self._next_number()
        command = ShellCommand(lambda: self.command("kill", id=number))
        self._commands[number] = command
        self.command(op, id=number, **fields)
        return command

    def _require_running(self) -> None:
        if self._channel is None or self._state is not State.ACTIVE:
            raise SandboxConnectionError(f"No sandbox is running (the session is {self._state.value}).")

    def _next_number(self) -> int:
        self._command_numbers += 1
        return self._command_numbers

    def _send_operation(self, fields: dict[str, Any], data: Buffer | None, *, begins: bool) -> None:
        """Send a command of an operation, in order with its data."""
        if begins:
            self._require_running()
        if self._channel is not None:
            parts: list[Buffer] = [envelope.COMMAND, json.dumps(fields).encode()]
            self._channel.send(parts if data is None else [*parts, data], urgent=data is None)

    def _backlog(self) -> int:
        return self._channel.backlog if self._channel is not None else 0

    # ---- packages

    async def describe_packages(self) -> dict[str, Any]:
        """Return what bridge/packages.py says of the sandbox's Python and of the packages that were added to it."""
        return await self._run_packages("describe")

    async def install_wheels(self, folder: str) -> dict[str, Any]:
        """Add the wheels of a folder in the sandbox to its packages; return what bridge/packages.py says of them.

        "imported" are those of their modules that the inner kernel had imported before.
        """
        said = await self._run_packages("install", folder)
        with self._operations.begun("installed", modules=said["modules"]) as operation:
            try:
                ended = await asyncio.wait_for(operation.ended(), TELL_TIMEOUT)
            except asyncio.TimeoutError:
                # It is stopped in a debugger, or was just ended; it looks for packages by itself when it goes on.
                ended = {}
        return {**said, "imported": ended.get("imported", [])}

    async def describe(self, **request: object) -> dict[str, Any]:
        """Return what bridge/describing.py answers to a request, of whatever shape it is: a cell may have answered.

        Raises InvocationError where no answer comes in time, or none that can be read, and SandboxConnectionError where
        no sandbox is running.
        """
        with self._operations.begun("describe", request=request) as operation:
            try:
                _, data = await asyncio.wait_for(operation.last(), TELL_TIMEOUT)
            except asyncio.TimeoutError:
                raise InvocationError("The sandbox did not say in time what it has.", **self._ids()) from None
        try:
            answer = json.loads(bytes(data)) if len(data) <= MAX_DESCRIPTION else None
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or "failed" in answer:
            raise InvocationError("The sandbox could not say what it has.", **self._ids())
        return answer

    async def _run_packages(self, *arguments: str) -> dict[str, Any]:
        command = self._run("packages", arguments=arguments)
        said = b"".join([chunk async for chunk in command])
        try:
            answer = json.loads(said)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            last = said.decode(errors="replace").strip().rpartition("\n")[2] or "it ended"
            raise InvocationError(f"The packages in the sandbox could not be changed: {last}.", **self._ids())
        return answer

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._event("background_error", "error", error=f"{type(error).__name__}: {error}")


def _exit_reason(code: int) -> str:
    if code >= 0:
        return f"it exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    explanations = {"SIGKILL": "killed (SIGKILL), perhaps for want of memory", "SIGSEGV": "a segmentation fault"}
    return explanations.get(name, f"ended by {name}")
