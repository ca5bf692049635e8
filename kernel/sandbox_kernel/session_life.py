"""A session's sandbox while it lives: how it starts, what its bridge says, how it is lost."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import Coroutine
from typing import Any

from .bridge_events import Died, Ready, Skipped, ToolFrame, read_event
from .errors import (
    SandboxConnectionError,
    SandboxError,
    SandboxKernelError,
    SandboxLostError,
    SandboxPausedError,
    SandboxTakenError,
    SandboxTimeoutError,
    SessionError,
    StateError,
)
from .giving_back import made_or_given_back
from .lifecycle import State
from .link import envelope
from .link.protocol import Buffer, LinkError, LinkRefusedError
from .providers.base import GOES_ON, Sandbox, SandboxSpec
from .python_lives import MAX_LIVES
from .session_core import SessionCore


class SessionLife(SessionCore):
    """Starts sandboxes, and takes note of what happens to them."""

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
        try:
            await asyncio.wait([self.begin_start()])
        except asyncio.CancelledError:
            if self.stop_waiting():
                # Else what comes next would find this start, and fail with it.
                await asyncio.wait([self.begin_start()])
            raise
        if self._state is State.ERROR:
            raise self._failure
        if self._state is not State.ACTIVE:
            raise StateError(f"the sandbox did not start: the session is {self._state.value}")

    def stop_waiting(self) -> bool:
        """Give up a start that waits for room at the provider, and return whether there is one; it ends soon.

        One that goes on otherwise is left alone.
        """
        return self._state is State.STARTING and self._provider.stop_waiting()

    async def _run_start(self) -> None:
        self._correlation_id = f"sk-{uuid.uuid4().hex[:12]}"
        self._error = ""
        self._lives.begin()
        began = time.monotonic()
        self._event("start")
        try:
            self.folder.prepare(self.notebook)
            sandbox = await self._retry.run(self._obtain, self._log_retry)
            if self._state is not State.STARTING:
                # Given up meanwhile; a cancellation can be lost in what it arrives together with.
                if not self._taken_over:
                    await self._give_back(sandbox)
                return
            self._sandbox = sandbox
            sandbox.on_news = self._on_news
            self._created = time.time()
            await self._retry.run(lambda: self._open_link(sandbox), self._log_retry)
            if self.folder.enabled:
                await self._copy_folder(sandbox)
            else:
                self.folder.do_without()
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
            what = f"{type(exc).__name__}: {exc}"
            self._fail(SessionError(f"The sandbox could not be started: {what}. The log has more.", **self._ids()))
        else:
            if self._takeover is not None:
                self._takeover.wanted = None
            self._event("started", seconds=round(time.monotonic() - began, 3))

    async def _leave_start(self) -> None:
        """End a start that goes on with an existing sandbox, and leave that as it was found."""
        if self._start is None or self._state is not State.STARTING:
            return
        self._move(State.STOPPING)
        self._start.cancel()
        await asyncio.wait([self._start])
        self._drop(keep=True)
        await self._sandboxes().give_back()
        self._move(State.INACTIVE)

    async def _obtain(self) -> Sandbox:
        """Return the sandbox that is wanted, or is left from this notebook's last kernel process; else a new one."""
        outlives = self.capabilities.outlives_kernel
        self._taken_over = False
        found = await self._sandboxes().find(self._correlation_id) if outlives else None
        self._taken_over = found is not None
        if found is not None:
            return found
        self._provider.on_waiting = self._on_waiting
        creating = self._create(kept=outlives)
        return await (self._created_or_given_back(creating) if outlives else creating)

    async def _create(self, *, kept: bool) -> Sandbox:
        """Return a new sandbox that is noted; where it is ``kept``, before anything runs in it.

        Of one that outlives this process nobody else would know.
        """
        sandbox = await self._provider.create(SandboxSpec(self._correlation_id, directory=self._directory, kept=kept))
        if self._recorder is not None:
            noting = self._recorder.made(sandbox, self._provider, correlation_id=self._correlation_id)
            if kept:
                await noting
            else:
                self._spawn(noting)
        return sandbox

    async def _copy_folder(self, sandbox: Sandbox) -> None:
        """Have the notebook's folder in a sandbox before cells are let into it."""
        await asyncio.wait_for(self._started.wait(), self.startup_timeout)
        self._news += await self.folder.begin(sandbox, fresh=not self._taken_over, is_idle=self._is_idle)
        # Its Python may have died and be renewed now.
        await asyncio.wait_for(self._started.wait(), self.startup_timeout)
        self._admit()

    def _is_idle(self) -> bool:
        """Whether no cell runs, and the sandbox could be asked something."""
        return self.ready

    async def _created_or_given_back(self, creating: Coroutine[Any, Any, Sandbox]) -> Sandbox:
        """Return a new sandbox. Who is cancelled gives it back: it is made elsewhere, and nobody would know of it."""

        async def give_back(sandbox: Sandbox) -> None:
            if self._recorder is not None:
                await self._recorder.made(sandbox, self._provider, correlation_id=self._correlation_id)
            await self._give_back(sandbox)

        return await made_or_given_back(creating, give_back)

    def _log_retry(self, attempt: int, delay: float, error: SandboxError) -> None:
        self._event("retry", "warning", attempt=attempt, delay=round(delay, 3), error=str(error))

    async def _open_link(self, sandbox: Sandbox) -> None:
        self._ready.clear()
        self._started.clear()
        if self.capabilities.outlives_kernel:
            await self._link.open_lasting(
                sandbox, longest_delay=self.reconnect_longest_delay, patience=self.reconnect_timeout
            )
        else:
            await self._link.open(sandbox)

    def _on_news(self, text: str) -> None:
        self._event("news", "warning", text=text)
        self.on_news(text)

    def _on_waiting(self, text: str) -> None:
        self._event("waiting", "debug", text=text)
        self.on_waiting(text)

    def _begin_background(self) -> None:
        """Begin what goes on beside the sandboxes of this session."""

    # ---- pausing

    async def pause(self) -> None:
        """Freeze the sandbox. Raises SandboxError where the provider cannot."""
        if not self._provider.capabilities.pause:
            instead = f" {self._provider.instead_of_pause}" if self._provider.instead_of_pause else ""
            raise SessionError(f"Sandboxes of the provider {self._provider.name} cannot be paused.{instead}")
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

    async def resume(self, *, to_leave: bool = False) -> None:
        """Let a paused sandbox go on; TO_LEAVE it, of which no cell has to be told."""
        async with self._moving:
            if self._state is State.ACTIVE:
                return
            sandbox = self._sandbox
            self._move(State.RESUMING)
            assert sandbox is not None
            try:
                await sandbox.resume()
            except SandboxLostError as exc:
                self._fail(exc)
                raise
            except BaseException:
                if self._state is State.RESUMING:
                    self._move(State.PAUSED)
                raise
            if not to_leave:
                self._news += GOES_ON
            self._move(State.ACTIVE)
        if self._ready.is_set():
            self._listener.on_ready()

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
            case Skipped():
                self._event("output_skipped", "warning", messages=event.messages)
                self._listener.on_skipped(event.messages)
            case ToolFrame():
                if self.host_tools is not None:
                    self.host_tools.on_frame(event.connection, event.data)
            case None:
                pass
            case _:
                self._errands.take(event)

    def _on_jupyter(self, parts: list[Buffer]) -> None:
        if not parts or parts[0] != envelope.JOURNAL:
            self._listener.on_message(parts)
        elif self._errands.replays:
            self._listener.on_past(parts[1:])
        else:
            # Only what was asked for: the bridge may be anybody's.
            self.dropped += 1

    def _on_ready(self, event: Ready) -> None:
        if self._ready.is_set():
            # Each life says so once, and the one before it was renewed, or died, first.
            self.dropped += 1
            return
        self._lives.begin()
        self._python, self._ipython = event.python, event.ipython
        if self._takeover is not None and self._takeover.renews:
            # The notebook was restarted: what ran for it must not go on, and nothing of it is shown.
            self._takeover.renews = False
            self.command("restart")
            return
        # Of a sandbox that was made for this session there is nothing to tell, whatever its bridge says.
        self.attached = event if self._taken_over and (event.count or event.open or event.missed) else None
        self._event("kernel_ready", life=event.life)
        self._started.set()
        if not (self.folder.enabled and self._state is State.STARTING):
            self._admit()

    def _admit(self) -> None:
        """Let cells into the sandbox."""
        self._ready.set()
        if self._state is State.STARTING:
            self._move(State.ACTIVE)
        self._listener.on_ready()

    def _on_died(self, code: int, stderr: str) -> None:
        was_ready = self._ready.is_set()
        self._ready.clear()
        self._started.clear()
        if self._lives.end():
            # Whoever makes that up, it would fill the log.
            self._fail(SessionError(f"The sandbox's Python ended {MAX_LIVES} times within a minute.", **self._ids()))
            return
        self._event("kernel_died", "error", exit=code, stderr=stderr)
        self._spawn(self._bury(code, stderr, was_ready=was_ready))

    async def _bury(self, code: int, stderr: str, *, was_ready: bool) -> None:
        sandbox = self._sandbox
        if sandbox is None:
            return
        reason = await sandbox.kernel_death_reason(code) or _exit_reason(code)
        if sandbox is not self._sandbox:
            return
        if not was_ready and self._lives.cannot_start:
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

    # ---- losing it

    def _on_link_lost(self, reason: str, error: SandboxError | LinkError | None) -> None:
        if self._state is State.CLOSED:
            return
        if isinstance(error, LinkRefusedError):
            self._on_taken()
        elif isinstance(error, SandboxPausedError):
            self._on_paused_elsewhere()
        elif isinstance(error, SandboxError):
            self._on_unreachable(error)
        else:
            self._spawn(self._bury_sandbox(reason))

    def _on_paused_elsewhere(self) -> None:
        """Its provider has paused it, or another program: the next cell resumes it, as does one that runs."""
        if self._state is not State.ACTIVE:
            return
        self._event("paused_elsewhere", "warning")
        self._move(State.PAUSING)
        self._move(State.PAUSED)
        if self._is_wanted():
            self._spawn(self._resume_for_cell())

    async def _resume_for_cell(self) -> None:
        try:
            await self.resume()
        except SandboxKernelError as exc:
            # Nobody else would tell the cell that waits for it.
            self._fail(exc)

    def _is_wanted(self) -> bool:
        """Whether a cell runs in it."""
        return False

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
                    f"The sandbox ended: {reason}. Its variables are gone; the next cell starts a fresh one."
                    f"{self.folder.lost()}",
                    **ids,
                )
            )


def _exit_reason(code: int) -> str:
    if code >= 0:
        return f"it exited with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    explanations = {"SIGKILL": "killed (SIGKILL), perhaps for want of memory", "SIGSEGV": "a segmentation fault"}
    return explanations.get(name, f"ended by {name}")
