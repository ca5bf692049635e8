"""One notebook's use of one sandbox: lazy start, states, retries, the link, and the inner kernel's lives."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import signal
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from traitlets import Dict, Enum, Float, Integer, List, Unicode, default
from traitlets.config import Config
from traitlets.config.configurable import Configurable

from .bridge_events import Died, Finished, Operation, Output, Ready, ToolFrame, read_event
from .cell_memory import CellMemory
from .errors import (
    InvocationError,
    SandboxConnectionError,
    SandboxError,
    SandboxKernelError,
    SandboxLostError,
    SandboxTimeoutError,
    SessionError,
    StateError,
)
from .events import EventLog
from .guard import Guard
from .host_tools import HostTools
from .lifecycle import State, move
from .link import envelope
from .link.channel import LinkChannel
from .link.protocol import MAX_MESSAGE, Buffer, Link
from .operations import Operations
from .passages import Passages
from .providers.base import Capabilities, Provider, Sandbox, SandboxFiles, SandboxSpec, WorkspaceChanges
from .providers.registry import create_provider, provider_name
from .recording import Recorder
from .retry import Retry, RetryPolicy
from .session_files import LinkFiles
from .shell_command import ShellCommand

if TYPE_CHECKING:
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
MAX_LIVES, LIVES_PERIOD = 20, 60.0
"""How often the inner kernel may die within so many seconds. No real one starts so fast."""


@dataclass(frozen=True)
class SessionInfo:
    """What `%sandbox status` shows. Times in seconds since the epoch."""

    state: State
    provider: str
    mode: str = "bridge"
    isolation: str = ""
    sandbox_id: str = ""
    created: float | None = None
    correlation_id: str = ""
    python: str = ""
    guard: str = ""
    notebook: str = ""
    error: str = ""
    details: Mapping[str, str] = field(default_factory=dict)


class SessionListener(Protocol):
    """Who is told what happens to the sandbox. Called on the event loop's thread."""

    def on_message(self, parts: list[Buffer]) -> None:
        """A message of the inner kernel's (see link/envelope.py)."""

    def on_excess(self, parts: list[Buffer], size: int) -> None:
        """The first parts of a message of ``size`` bytes, which was dropped since it is too large."""

    def on_ready(self) -> None:
        """A fresh inner kernel takes requests."""

    def on_ended(self, error: SandboxKernelError) -> None:
        """What was sent to the sandbox gets no answer any more, for the reason given; its variables are gone."""


class SandboxSession(Configurable):
    """Owns at most one sandbox at a time. Its methods are called on the event loop's thread."""

    provider = Unicode(config=True, help="The provider that creates sandboxes. Environment: SANDBOX_KERNEL_PROVIDER.")
    allowed_providers = List(
        Unicode(),
        config=True,
        help="Further providers among which a cell of an ordinary kernel may choose: %%sandbox --provider NAME.",
    )
    startup_timeout = Float(60.0, config=True, help="Seconds in which a sandbox must have started.")
    execution_timeout = Float(
        0.0, config=True, help="Seconds after which a cell is interrupted, then its kernel ended; 0 means never."
    )
    start_attempts = Integer(3, config=True, help="How often a start is tried when a try may help.")
    retry_delay = Float(1.0, config=True, help="Seconds before the second attempt; doubles with each further one.")
    retry_longest_delay = Float(10.0, config=True, help="Seconds between attempts at most.")
    retry_jitter = Float(0.1, config=True, help="Fraction by which the delay varies at random.")

    approvals = Dict(
        value_trait=Enum(("ask", "allow", "deny")),
        key_trait=Unicode(),
        config=True,
        help="What a %sandbox command that changes this machine, or hands something over, needs: by command's name "
        "(apply, discard, download, upload, install, generate) 'ask', 'allow' or 'deny'. Default: ask.",
    )

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
        self._provider = provider or create_provider(self.provider, self.config)
        self.guard = Guard(self._provider.name, config=config)
        """What of the sandbox's output may reach a front end."""
        self.cells = CellMemory()
        """The last cells that people ran."""
        self.uploaded: deque[str] = deque(maxlen=MAX_UPLOADED)
        """The last files that were uploaded, by their paths in the sandbox."""
        self._companions: dict[Callable[[SandboxSession], Any], Any] = {}
        policy = RetryPolicy(self.start_attempts, self.retry_delay, self.retry_longest_delay, self.retry_jitter)
        self._retry = Retry(policy, sleep)
        self._state = State.INACTIVE
        self._sandbox: Sandbox | None = None
        self._channel: LinkChannel | None = None
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
        self._commands: dict[int, ShellCommand] = {}
        self._command_numbers = 0
        self._operations = Operations(self._send_operation, self._backlog, self._next_number, self._ids)
        self._link_files = LinkFiles(self._operations)
        self._tasks: set[asyncio.Task[None]] = set()
        self.on_state: Callable[[State], None] = lambda state: None
        self.host_tools: HostTools | None = None
        """Who serves `tools` in cells; without one they hear that there are none."""

    @default("provider")
    def _default_provider(self) -> str:
        return provider_name(Config())

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
        """Return what a family of commands keeps as long as this session lives, made by its first use.

        A coroutine method `close` of it is called when the session is closed.
        """
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
            error=self._error,
            details=sandbox.describe() if sandbox else {},
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
            sandbox = await self._retry.run(self._create, self._log_retry)
            if self._state is not State.STARTING:
                # Given up meanwhile; a cancellation can be lost in what it arrives together with.
                await sandbox.close()
                return
            self._sandbox = sandbox
            self._created = time.time()
            correlation_id, outlives = self._correlation_id, self.capabilities.outlives_kernel
            self._record(
                lambda recorder, made: recorder.made(made, correlation_id=correlation_id, outlives_kernel=outlives)
            )
            await self._open_link(sandbox)
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
            self._event("started", seconds=round(time.monotonic() - began, 3))

    async def _create(self) -> Sandbox:
        return await self._provider.create(SandboxSpec(self._correlation_id, directory=self._directory))

    def _log_retry(self, attempt: int, delay: float, error: SandboxError) -> None:
        self._event("retry", "warning", attempt=attempt, delay=round(delay, 3), error=str(error))

    async def _open_link(self, sandbox: Sandbox) -> None:
        transport = await sandbox.open_link()
        self._ready.clear()
        link = Link(os.urandom(16), max_received=self.guard.largest or MAX_MESSAGE)
        channel = LinkChannel(
            link, self._on_message, self._listener.on_excess, lambda reason: self._on_lost(channel, reason)
        )
        self._channel = channel
        channel.attach(transport)
        if self._blocked:
            channel.hold()

    # ---- sending

    def send(self, parts: Sequence[Buffer], *, urgent: bool = False) -> None:
        """Send a Jupyter message (see link/envelope.py). Only while `ready`, or paused with a resume under way."""
        assert self._channel is not None
        self._channel.send(parts, urgent=urgent)

    def greeting(self) -> str:
        """What the notebook's first cell has to say, as lines; said once."""
        return self._sandbox.greeting() if self._sandbox is not None else ""

    def belongs_to(self, notebook: str) -> bool:
        """Take note of the notebook's file; return whether only a new sandbox can show what was kept of it."""
        return self._provider.belongs_to(notebook)

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
            self._listener.on_message(parts)
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
            case Operation():
                self._operations.on_event(event.fields, event.data)
            case ToolFrame() if self.host_tools is not None:
                self.host_tools.on_frame(event.connection, event.data)
            case Finished(command=command) if command in self._commands:
                self._commands.pop(command).finish(event.exit)

    def _on_ready(self, event: Ready) -> None:
        if self._ready.is_set():
            # Each life says so once, and the one before it was renewed, or died, first.
            self.dropped += 1
            return
        self._deaths = 0
        self._python = event.python
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

    def _on_lost(self, channel: LinkChannel, reason: str) -> None:
        if channel is self._channel and self._state is not State.CLOSED:
            self._spawn(self._bury_sandbox(reason))

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

    def _fail(self, error: SandboxKernelError) -> None:
        """Give up the sandbox, if there is one; the next cell starts another."""
        if self._state in (State.ERROR, State.CLOSED, State.STOPPING):
            return
        self._failure = error
        self._error = str(error)
        self._event("failed", "error", error=str(error), kind=type(error).__name__)
        if self._start is not None and self._start is not asyncio.current_task():
            self._start.cancel()
        sandbox = self._drop()
        self._move(State.ERROR)
        if sandbox is not None:
            self._spawn(sandbox.close())
        self._listener.on_ended(error)

    def _drop(self) -> Sandbox | None:
        self._record(lambda recorder, sandbox: recorder.gone(sandbox))
        sandbox, self._sandbox = self._sandbox, None
        self._ready.clear()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        for command in self._commands.values():
            command.finish(None)
        self._commands.clear()
        self._operations.on_lost()
        if self.host_tools is not None:
            self.host_tools.on_lost()
        return sandbox

    async def stop(self, reason: str = "it was stopped") -> None:
        """Give the sandbox back. The session can be started again."""
        async with self._moving:
            if self._state in (State.INACTIVE, State.CLOSED):
                return
            self._move(State.STOPPING)
            await self._close_sandbox()
            self._move(State.INACTIVE)
        self._listener.on_ended(SandboxLostError(f"The sandbox is gone: {reason}. The next cell starts a fresh one."))

    async def close(self) -> None:
        """Give the sandbox back for good. Idempotent."""
        if self._state is not State.CLOSED:
            self._move(State.CLOSED)
            await self._close_sandbox()
            if self.host_tools is not None:
                await self.host_tools.close()
            for companion in self._companions.values():
                if inspect.iscoroutinefunction(close := getattr(companion, "close", None)):
                    await close()
            if self._tasks:
                # The records' last words; a task that hangs is not waited for.
                await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT)
            for task in self._tasks:
                task.cancel()

    def kill(self) -> None:
        """What `close` does, without waiting."""
        if self._sandbox is not None:
            self._sandbox.kill()

    async def _close_sandbox(self) -> None:
        if self._start is not None and not self._start.done():
            self._start.cancel()
            await asyncio.wait([self._start])
        sandbox = self._drop()
        if sandbox is not None:
            await sandbox.close()

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

    def send_tool_frame(self, connection: int, data: Sequence[Buffer]) -> None:
        """Answer a process in the sandbox; dropped where there is none. Raises ValueError where it is too large."""
        if self._channel is not None:
            command = json.dumps({"op": "tool", "connection": connection}).encode()
            self._channel.send([envelope.COMMAND, command, b"".join(data)])

    @property
    def sandbox_ids(self) -> dict[str, str]:
        """Provider, sandbox and correlation id, as far as there are any."""
        return self._ids()

    @property
    def tool_backlog(self) -> int:
        """Bytes that wait to leave for the sandbox."""
        return self._backlog()

    async def room_for_tools(self) -> None:
        """Wait while much waits to leave for the sandbox."""
        await self._operations.room()

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
