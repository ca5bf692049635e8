"""One local sandbox: a bubblewrap, the processes in it, and what has to go when it ends."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from signal import SIGKILL, SIGSTOP, Signals

from sandbox_kernel.errors import (
    InvocationError,
    SandboxConnectionError,
    SandboxError,
    SandboxLostError,
    SandboxTimeoutError,
)
from sandbox_kernel.link import envelope
from sandbox_kernel.link.stream import SocketTransport
from sandbox_kernel.link.transport import Transport
from sandbox_kernel.providers.base import IsolationLevel, Sandbox
from sandbox_kernel.providers.local.cgroup import ControlGroup
from sandbox_kernel.providers.local.folders import PrivateFolder
from sandbox_kernel.providers.local.janitor import Janitor
from sandbox_kernel.providers.local.limits import Limits, format_size
from sandbox_kernel.providers.local.pausing import Freezer
from sandbox_kernel.providers.local.processes import INIT, SandboxProcesses
from sandbox_kernel.providers.local.shown import ShownFolder
from sandbox_kernel.providers.local.spawn import Spawned
from sandbox_kernel.providers.local.watchdog import Watchdog

START_TIMEOUT = 30.0
"""Seconds until Python has to run inside; it takes a thousandth of that on a machine that is not overloaded."""
_END_TIMEOUT = 30.0
"""Seconds that killed processes may take to give their memory back."""
_TELL_TIMEOUT = 1.0
"""Seconds to wait for the reason of a loss."""
_OUTPUT_KEPT = 4096
STREAM_BUFFER = 512 * 1024
"""Bytes of a kept sandbox's output that wait in its stream, at most."""
_KILLED = (-SIGKILL, 128 + SIGKILL)
"""Exit status when SIGKILL ended bubblewrap, or what it ran."""
_TEMPORARY = ("dev/shm", "tmp", "home/user", "run/bridge")


class LocalSandbox(Sandbox):
    """Made by `LocalProvider.create`; lives as long as the process that made it at most.

    One that is ``kept`` outlives its streams to the bridge, of which it may have one after the other.
    """

    provider_name = "local"
    isolation = IsolationLevel.SHARED_KERNEL

    def __init__(
        self,
        spawned: Spawned,
        folder: PrivateFolder,
        limits: Limits,
        group: ControlGroup | None,
        janitor: Janitor,
        shown: ShownFolder,
        *,
        kept: bool = False,
    ) -> None:
        self.kept = kept
        self.sandbox_id = folder.sandbox_id
        self._spawned = spawned
        self._folder = folder
        self._limits = limits
        self._group = group
        self._janitor = janitor
        self._shown = shown
        self._processes: SandboxProcesses | None = None
        self._freezer: Freezer | None = None
        self._watchdog: Watchdog | None = None
        self._watching: asyncio.Task[None] | None = None
        self._output = b""
        self._kills_told = 0
        self._reason = ""
        self._linked = False
        self._closing: asyncio.Future[None] | None = None

    async def started(self) -> bool:
        """Wait until Python runs inside; return False if that failed. Raises SandboxTimeoutError."""
        if not await self._is_ready_or_dead():
            raise SandboxTimeoutError(
                f"The sandbox did not start in {START_TIMEOUT:g} seconds; is the machine overloaded? {self.output()}",
                provider=self.provider_name,
                sandbox_id=self.sandbox_id,
            )
        if not self._said_ready():
            return False
        # It may have ended already; then its link tells.
        with suppress(OSError):
            self._observe(json.loads(os.read(self._spawned.status, 4096).splitlines()[0])["child-pid"])
        return True

    async def _is_ready_or_dead(self) -> bool:
        """Wait until it says that it is ready, or cannot any more; return False if neither happens in time."""
        deadline = time.monotonic() + START_TIMEOUT
        while self._spawned.process.poll() is None:
            # Not for long at a time: a bubblewrap that is killed while it starts leaves a child that says nothing.
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(_readable(self._spawned.ready), 1)
                return True
            if time.monotonic() > deadline:
                return False
        return True

    def _said_ready(self) -> bool:
        with suppress(BlockingIOError):
            return bool(os.read(self._spawned.ready, 1))
        return False

    def _observe(self, pid: int) -> None:
        """Begin to watch the sandbox whose first process has this number, outside."""
        self._processes = processes = SandboxProcesses(pid)
        self._freezer = freezer = Freezer(processes)
        if self._group and not self._group.holds(pid):
            self._group = None
        temporary = [f"/proc/{pid}/root/{name}" for name in _TEMPORARY]
        self._shown.observe(pid, freezer)
        disk = [self._shown.written or self._folder.work, self._folder.packages]
        self._watchdog = watchdog = Watchdog(self._limits, processes, freezer, disk, temporary)
        self._watching = asyncio.ensure_future(self._watch(watchdog, processes))

    @property
    def was_killed(self) -> bool:
        """Whether it was killed and had said nothing."""
        return self._spawned.process.poll() in _KILLED and not self.output()

    def output(self) -> str:
        """Return the end of what bubblewrap and the bridge wrote to their standard outputs."""
        # What a cell writes there fills the pipe, and then it waits; it is read only so far.
        with suppress(OSError):
            for _ in range(4):
                self._output = (self._output + os.read(self._spawned.output, 65536))[-_OUTPUT_KEPT:]
        return self._output.decode(errors="replace").strip()

    def processor_time(self) -> float:
        """Return the seconds that its processes have computed; what ended without a parent's notice does not count."""
        return self._processes.cpu_time() if self._processes is not None else 0.0

    @property
    def alive(self) -> bool:
        """Whether it runs, or is paused; False when it was closed or ended by itself (`loss_reason` says why)."""
        return self._closing is None and not self._reason and self._spawned.process.poll() is None

    def open_stream(self) -> socket.socket:
        """Return a new stream to the bridge of a sandbox that is kept, for the bytes of a link; the caller closes it.

        The stream before it ends when the new one has brought the greeting of a link. Raises SandboxLostError where
        the sandbox has ended, SandboxConnectionError where it takes no more streams now.
        """
        return self._pass_stream(envelope.LINK_STREAM)

    def open_errands(self) -> socket.socket:
        """Return a new stream to a process in a sandbox that is kept, which serves files and commands.

        The bytes are those of a link; what is said over it is what a session says to the bridge of files and commands.
        Raises what `open_stream` does.
        """
        return self._pass_stream(envelope.ERRANDS_STREAM)

    def _pass_stream(self, kind: bytes) -> socket.socket:
        if not self.kept or not self.alive:
            raise self._lost("has ended")
        ours, theirs = socket.socketpair()
        # Twice as much on its way as is usual, where the system allows that: whoever carries it on does so in one go.
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, STREAM_BUFFER)
        try:
            # Without blocking: a paused sandbox takes none, and so many as fit wait for it.
            socket.send_fds(self._spawned.link, [kind], [theirs.fileno()], socket.MSG_DONTWAIT)
        except BlockingIOError as exc:
            ours.close()
            raise SandboxConnectionError(
                "The sandbox takes no more connections now; try again.",
                provider=self.provider_name,
                sandbox_id=self.sandbox_id,
            ) from exc
        except OSError as exc:
            ours.close()
            raise self._lost("has ended") from exc
        finally:
            theirs.close()
        return ours

    def _lost(self, what: str) -> SandboxLostError:
        return SandboxLostError(
            f"The sandbox {what}; start a new one.", provider=self.provider_name, sandbox_id=self.sandbox_id
        )

    def open_pipe(self, path: str, flags: int) -> int | None:
        return self._processes.open_pipe(path, flags) if self._processes is not None and self.alive else None

    async def open_link(self) -> Transport:
        if self.kept:
            return SocketTransport(self.open_stream())
        if self._linked:
            raise self._lost("ended with its link")
        self._linked = True
        return SocketTransport(self._spawned.link)

    async def pause(self) -> None:
        if self._freezer is None or not await self._freezer.freeze():
            raise InvocationError(
                "A process in the sandbox could not be stopped, so all go on; try again.",
                provider=self.provider_name,
                sandbox_id=self.sandbox_id,
                retryable=True,
            )

    async def resume(self) -> None:
        if self._freezer is None or self._spawned.process.poll() is not None:
            raise SandboxLostError(
                "The sandbox ended while it was paused; its variables are gone.",
                provider=self.provider_name,
                sandbox_id=self.sandbox_id,
            )
        await self._freezer.thaw()

    async def close(self) -> None:
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    def kill(self) -> None:
        with suppress(OSError):
            self._spawned.process.kill()
        self._janitor.release()

    async def loss_reason(self) -> str:
        await _until(lambda: bool(self._reason) or self._spawned.process.poll() is not None, _TELL_TIMEOUT)
        if self._reason:
            return self._reason
        if self._spawned.process.poll() in _KILLED and self.out_of_memory_kills():
            return self._too_much_memory()
        lines = self.output().splitlines()
        if lines:
            return f"its bridge ended: {lines[-1]}"
        status = self._spawned.process.poll()
        if status is None:
            return "its bridge closed the connection"
        return f"its bridge was ended by {_signal_name(status)}"

    async def kernel_death_reason(self, exit_code: int) -> str:
        # The kernel counts before it kills.
        before, self._kills_told = self._kills_told, self.out_of_memory_kills()
        return self._too_much_memory() if exit_code in _KILLED and self._kills_told > before else ""

    def _too_much_memory(self) -> str:
        return f"it used more than its {format_size(self._limits.memory)} of memory"

    def out_of_memory_kills(self) -> int:
        """Return how many of its processes were killed for the memory limit, where that is known; else 0."""
        return self._group.out_of_memory_kills() if self._group else 0

    def greeting(self) -> str:
        return self._shown.notebook.take_greeting()

    def before_cell(self) -> str:
        return self._shown.before_cell()

    @property
    def changes(self) -> ShownFolder | None:
        return self._shown if self._shown.keeps_changes else None

    def describe(self) -> dict[str, str]:
        rows = {"workspace": self._shown.notebook.describe(), "hidden": self._shown.notebook.describe_hidden()}
        if self._processes is None or self._watchdog is None:
            return rows
        limits = self._limits
        used = self._group.memory_used() if self._group else self._watchdog.memory_used()
        rows["memory"] = _of(format_size(used), limits.memory and format_size(limits.memory))
        rows["processes"] = _of(str(len(self._processes.numbers())), limits.processes)
        rows["work folder"] = _of(
            format_size(self._watchdog.work_used), limits.work_size and format_size(limits.work_size)
        )
        if limits.cpus:
            rows["processors"] = f"{limits.cpus:g}"
        rows["limits held by"] = "a control group" if self._group else "a watchdog"
        return rows

    async def _watch(self, watchdog: Watchdog, processes: SandboxProcesses) -> None:
        try:
            self._reason = await watchdog.run(memory=self._group is None)
        except Exception as exc:  # noqa: BLE001 - without its limits nothing may run
            self._reason = f"its watchdog failed ({exc!r})"
        # Stopped first: a tree that has much memory to give back goes on for seconds after SIGKILL.
        processes.send_all(SIGSTOP)
        self._end()

    async def _close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        if self.kept or not self._linked:
            self._spawned.link.close()
            self._linked = True
        self._end()
        ended = await _until(self._has_ended)
        if not ended:
            self._spawned.process.kill()
        self._release()
        self._janitor.release()
        cleaned = await _until(self._janitor.finished)
        if not ended or not cleaned:
            raise SandboxError(
                f"What the sandbox left could not be removed from {self._folder.path}; remove it by hand.",
                provider=self.provider_name,
                sandbox_id=self.sandbox_id,
            )

    def _end(self) -> None:
        """Kill the sandbox's first process, with which all others go; bubblewrap buries it and ends."""
        if self._processes is None:
            self._spawned.process.kill()
        else:
            self._processes.send(INIT, SIGKILL)

    def _has_ended(self) -> bool:
        if self._spawned.process.poll() is None:
            return False
        return self._processes is None or not self._processes.alive()

    def _release(self) -> None:
        self.output()
        self._spawned.close()
        self._folder.close()
        if self._watchdog is not None:
            self._watchdog.close()
        if self._processes is not None:
            self._processes.close()


def _of(used: str, limit: object) -> str:
    return f"{used} of {limit}" if limit else used


def _signal_name(status: int) -> str:
    # bubblewrap reports a signal that ended what it ran as 128 and its number.
    number = -status if status < 0 else status - 128
    try:
        return f"signal {Signals(number).name}"
    except ValueError:
        return f"exit status {status}"


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    arrived = loop.create_future()

    def tell() -> None:
        if not arrived.done():
            arrived.set_result(None)

    loop.add_reader(descriptor, tell)
    try:
        await arrived
    finally:
        loop.remove_reader(descriptor)


async def _until(condition: Callable[[], bool], seconds: float = _END_TIMEOUT) -> bool:
    """Wait until it holds; return whether it does so in time."""
    deadline = time.monotonic() + seconds
    pause = 0.001
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    return True
