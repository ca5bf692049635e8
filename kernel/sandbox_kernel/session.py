"""One notebook's use of one sandbox: what a kernel, a command or a program does with it."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from traitlets.config import Config

from .bridge_events import Replayed
from .cell_memory import CellMemory
from .companions import Companions
from .errands import TELL_TIMEOUT
from .errors import (
    SandboxKernelError,
    SandboxLostError,
    SandboxTimeoutError,
    SessionError,
)
from .events import EventLog
from .lifecycle import State
from .link import envelope
from .link.protocol import Buffer
from .providers.base import ClusterView, CodeOutcome, Provider, Resources, SandboxRecord, Template
from .recording import Recorder
from .session_folder import LEAVING, STOPPING
from .session_info import SessionListener
from .session_life import SessionLife
from .shell_command import ShellCommand

if TYPE_CHECKING:
    from .records import SessionRecord
    from .session_care import SessionCare
    from .workspace.folder import NotebookFolder
    from .workspace.layers import Layer

T = TypeVar("T")

OTHERS_TIMEOUT = 5.0
"""Seconds in which a provider has to list what others have made."""
CLOSE_TIMEOUT = 0.5
"""Seconds that a closing session waits for what it does in the background."""
AWAKE_AFTER = 0.05
"""Seconds after a resume in which a signal may still find threads stopped."""
MAX_UPLOADED = 100
REAP_AFTER = 15.0
"""Seconds from the first start until it is looked for sandboxes that nobody owns any more."""
REAP_AGAIN = 120.0
"""Seconds between further attempts to stop those that were to be stopped and could not be reached."""
HAND_OVER = 5.0
"""Seconds after SIGTERM in which a new kernel process may take the sandbox; an editor restarts a kernel so."""


class SandboxSession(SessionLife):
    """Owns at most one sandbox at a time. Its methods are called on the event loop's thread."""

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
        """``directory`` is the notebook's, by default the working directory; ``sleep`` waits between attempts."""
        super().__init__(
            listener, config=config, directory=directory, log=log, provider=provider, recorder=recorder, sleep=sleep
        )
        self.cells = CellMemory()
        """The last cells that people ran."""
        self.uploaded: deque[str] = deque(maxlen=MAX_UPLOADED)
        """The last files that were uploaded, by their paths in the sandbox."""
        self._companions = Companions(self._report)
        self._released = False
        self._background: list[asyncio.Task[None]] = []
        self.idle_since: Callable[[], float] = lambda: 0.0
        """Tells since when no cell runs, in seconds since the epoch; 0 while one does."""
        self.runs_command: Callable[[], bool] = lambda: False
        """Tells whether a command runs."""

    def companion(self, make: Callable[[SandboxSession], T]) -> T:
        """Return what a family of commands keeps as long as this session lives, made by its first use.

        A coroutine method `close` of it is called when the session is closed.
        """
        return self._companions.of(make, self)

    # ---- cells

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
        kept = self.folder.belongs_to(notebook, fresh=not self._taken_over)
        return self._provider.belongs_to(notebook) or kept or left

    def be_called(self, name: str) -> None:
        """Take note which of the notebook's sessions this is, before it starts; "" for the ordinary one."""
        self._provider.session_name = name

    def notebook_folder(self) -> NotebookFolder | None:
        """Return the notebook's folder with the changes that are kept of it; None if there are none to be kept.

        Raises ConfigurationError.
        """
        return self._provider.notebook_folder()

    async def take_over_changes(self, folder: NotebookFolder, layer: Layer) -> bool:
        """Give the sandbox back, and go on with another layer in the next; return False if somebody uses it."""
        await self.stop("other changes are shown")
        self._provider.abandon()
        return await asyncio.to_thread(folder.take_over, layer)

    def before_cell(self) -> str:
        """Make ready for a cell that a person ran; return what it has to say.

        Raises SandboxLostError where the sandbox had to be given up for it; the next cell starts another.
        """
        if self._sandbox is None:
            return ""
        try:
            return self._sandbox.before_cell() + self.folder.before_cell()
        except SandboxLostError as exc:
            self._fail(exc)
            raise

    def _is_wanted(self) -> bool:
        return not self.idle_since()

    def _is_idle(self) -> bool:
        return super()._is_idle() and self.idle_since() > 0

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

    # ---- copies

    async def fork(self) -> str:
        """Make a copy of the sandbox, which runs by itself; return its id. Raises SandboxError."""
        self._require_running()
        assert self._sandbox is not None
        return await self._sandbox.fork()

    async def snapshot(self, name: str = "") -> str:
        """Keep the sandbox as it is; return what another one can be made of. Raises SandboxError."""
        self._require_running()
        assert self._sandbox is not None
        return await self._sandbox.snapshot(name)

    async def templates(self, tags: Sequence[str] = (), name: str = "") -> Sequence[Template]:
        """Return what sandboxes can be made of. Raises ConfigurationError, SandboxError."""
        return await self._provider.templates(tags, name)

    def choose_resources(self, resources: Resources) -> None:
        """Have the next sandboxes made with so much, until this is called again. Raises ConfigurationError."""
        self._provider.choose_resources(resources)

    async def cluster(self) -> ClusterView:
        """Return what the machines of the provider have and hold. Raises ConfigurationError, SandboxError."""
        return await self._provider.cluster()

    def choose_template(self, name: str) -> None:
        """Have the next sandbox made of this template. Raises ConfigurationError."""
        self._provider.choose_template(name)

    # ---- leaving

    async def stop(self, reason: str = "it was stopped") -> None:
        """Give the sandbox back. The session can be started again."""
        if self._state is State.PAUSED and self.folder.enabled:
            await self.resume(to_leave=True)
        lost = ""
        async with self._moving:
            if self._state in (State.INACTIVE, State.CLOSED):
                return
            self._move(State.STOPPING)
            try:
                if not await self.folder.keep(STOPPING):
                    lost = self.folder.lost()
                await self._close_sandbox()
            finally:
                # Also where it cannot be reached: nothing here uses it any more.
                self._news = ""
                self._move(State.INACTIVE)
        self._listener.on_ended(
            SandboxLostError(f"The sandbox is gone: {reason}. The next cell starts a fresh one.{lost}")
        )

    async def detach(self) -> str:
        """Leave the sandbox, which goes on, for any kernel to attach to; return its id. Raises SandboxError."""
        if not self.capabilities.outlives_kernel:
            raise SessionError(f"Sandboxes of the provider {self._provider.name} end with their kernel process.")
        self._require_running()
        async with self._moving:
            sandbox_id = str(self._ids()["sandbox_id"])
            self._move(State.STOPPING)
            await self.folder.keep(STOPPING)
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
        await self.settle()
        if self._state is State.ACTIVE and self._ids()["sandbox_id"] == sandbox_id:
            self.used = True
            return
        if self._state not in (State.INACTIVE, State.ERROR):
            # One that was found is somebody's work as well, though nobody has run anything from here.
            if self.used or self._taken_over:
                raise SessionError(
                    f"This notebook uses the sandbox {self._ids()['sandbox_id']}; `%sandbox detach` or `%sandbox stop` "
                    "comes first."
                )
            await self.stop("another one is attached")
        sandboxes = self._sandboxes()
        sandboxes.wanted, sandboxes.forced = Leftover(sandbox_id, fresh=False), force
        try:
            await self.start()
        except asyncio.CancelledError:
            await self._leave_start()
            raise
        finally:
            sandboxes.wanted, sandboxes.forced = None, False
        self.used = True

    async def settle(self) -> None:
        """Wait for a start that is under way, however it ends: it may be taking over the sandbox of before."""
        if self._state is State.STARTING:
            await asyncio.wait([self.begin_start()])

    async def attachable(self) -> Sequence[SessionRecord]:
        """Return the recorded sandboxes that `attach` may be called with, this notebook's at the end."""
        return await self._sandboxes().attachable() if self.capabilities.outlives_kernel else []

    async def others(self) -> Sequence[SandboxRecord]:
        """Return what exists at the provider that others have made, and can be attached. Raises SandboxKernelError."""
        try:
            return await asyncio.wait_for(self._provider.others(), OTHERS_TIMEOUT)
        except asyncio.TimeoutError as exc:
            raise SandboxTimeoutError(f"The provider {self._provider.name} did not answer in time.") from exc

    @property
    def is_foreign(self) -> bool:
        """Whether the sandbox is one that others have made."""
        return self._sandbox is not None and self._sandbox.is_foreign

    async def replay(self, count: int | None, on_end: Callable[[], None]) -> Replayed:
        """Have past messages sent to the listener again; return when all are there, and what became of them.

        ``count`` is a cell's number, 0 for the last cell; None stands for what earlier kernel processes did not get.
        ``on_end`` is called between the last of them and what comes next.
        """
        if not self.capabilities.outlives_kernel:
            raise SessionError(f"Sandboxes of the provider {self._provider.name} keep no journal of what they sent.")
        if self.mode == "relay" and count is not None:
            raise SessionError("A gateway's kernel keeps no journal of what it sent, so nothing can be shown again.")
        return await self._errands.replay(count, on_end)

    async def close(self, *, restart: bool = False) -> None:
        """Leave the sandbox for good: what becomes of it says `on_shutdown`. Idempotent.

        Before a ``restart`` a sandbox that outlives this process is left for the next one.
        """
        if self._state is not State.CLOSED:
            await self._leave(restart=restart)
        await self._link.wait_closed()

    async def _leave(self, *, restart: bool) -> None:
        if self._state is State.PAUSED and self.folder.enabled and not restart:
            try:
                await self.resume(to_leave=True)
            except SandboxKernelError as exc:
                self._event("resume_failed", "warning", error=str(exc))
        self._move(State.CLOSED)
        try:
            await self._leave_sandbox(restart=restart)
        except SandboxKernelError as exc:
            # The kernel ends all the same; what cannot be reached now is ended by who runs it.
            self._event("not_given_back", "error", error=str(exc))
        if self.host_tools is not None:
            await self.host_tools.close()
        await self._companions.close()
        self.folder.close()
        if self._tasks:
            # The records' last words; a task that hangs is not waited for.
            await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT)
        for task in (*self._tasks, *self._background):
            task.cancel()
        await self._provider.disconnect()
        self._provider.close()

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
        is_kept = await self.folder.keep(LEAVING)
        if self._sandbox is None or (ending == "close" and is_kept):
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
            # Else what is made elsewhere would be waited for, to be given back.
            self._provider.stop_waiting()
            self._start.cancel()
            await asyncio.wait([self._start])
        sandbox = self._drop()
        if sandbox is not None:
            await self._give_back(sandbox)

    def _begin_background(self) -> None:
        """Give signs of life, and stop once what nobody owns any more."""
        if self._background:
            return
        if self.capabilities.outlives_kernel:
            self._background.append(asyncio.ensure_future(self._care().run()))
        if self._recorder is not None:
            self._background += [
                asyncio.ensure_future(self._recorder.beat(self.idle_since, self._on_taken)),
                asyncio.ensure_future(self._reap(self._recorder)),
            ]

    def _care(self) -> SessionCare:
        # Imported here: sandboxes that end with their kernel need none.
        from .session_care import SessionCare

        return SessionCare(
            self._provider,
            lambda: (self._state, self._sandbox),
            # A command may run code in the sandbox that is no cell of its kernel's.
            lambda: 0.0 if self.runs_command() else self.idle_since(),
            self.pause,
            self._event,
        )

    async def _reap(self, recorder: Recorder) -> None:
        # The start comes first.
        await asyncio.sleep(REAP_AFTER)
        from .reaping import reap

        grace = self.orphan_grace
        while True:
            await reap(recorder, self._provider, self.config, grace, self.log)
            # From then on only what was to be stopped, and could not be.
            grace = math.inf
            await asyncio.sleep(REAP_AGAIN)

    # ---- renewing

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

    # ---- beside cells

    def send_tool_frame(self, connection: int, data: Sequence[Buffer]) -> None:
        """Answer a process in the sandbox; dropped where there is none. Raises ValueError where it is too large."""
        if self._link.is_open:
            command = json.dumps({"op": "tool", "connection": connection}).encode()
            self._link.send([envelope.COMMAND, command, b"".join(data)])

    @property
    def sandbox_ids(self) -> dict[str, str]:
        """Provider, sandbox and correlation id, as far as there are any."""
        return self._ids()

    @property
    def tool_backlog(self) -> int:
        """Bytes that wait to leave for the sandbox."""
        return self._link.backlog

    async def room_for_tools(self) -> None:
        """Wait while much waits to leave for the sandbox."""
        await self._errands.operations.room()

    def shell(self, text: str) -> ShellCommand:
        """Run a shell command in the sandbox. Raises SandboxConnectionError where none is running."""
        return self._errands.shell(text)

    async def describe_packages(self) -> dict[str, Any]:
        """Return what bridge/packages.py says of the sandbox's Python and of the packages that were added to it."""
        return await self._errands.describe_packages()

    async def install_wheels(self, folder: str) -> dict[str, Any]:
        """Add the wheels of a folder in the sandbox to its packages; return what bridge/packages.py says of them.

        "imported" are those of their modules that the inner kernel had imported before.
        """
        return await self._errands.install_wheels(folder)

    async def run_code(self, code: str, language: str) -> CodeOutcome:
        """Run code in a language of the provider's, beside the notebook's own interpreter. Raises SandboxError."""
        self._require_running()
        assert self._sandbox is not None
        return await self._sandbox.run_code(code, language)

    async def describe(self, *, patience: float = TELL_TIMEOUT, **request: object) -> dict[str, Any]:
        """Return what bridge/describing.py answers to a request, of whatever shape it is: a cell may have answered.

        It has ``patience`` seconds for that.

        Raises InvocationError where no answer comes in time, or none that can be read, and SandboxConnectionError where
        no sandbox is running.
        """
        return await self._errands.describe(patience=patience, **request)
