"""The watchdog: notices when a sandbox uses more than its limits where the kernel does not hold them.

It costs next to nothing while nothing happens: how soon it looks again follows from how soon a limit could be reached.
What it does not see without a control group is memory that belongs to no process, such as the buffers of sockets, and
shared memory that a process let go of, between two looks, while it holds other parts of the same object.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack, suppress
from itertools import chain

from sandbox_kernel.providers.local import folder_size
from sandbox_kernel.providers.local.command import PACKAGES, WORK_FOLDERS
from sandbox_kernel.providers.local.limits import Limits, format_size
from sandbox_kernel.providers.local.pausing import Freezer
from sandbox_kernel.providers.local.processes import PAGE, SandboxProcesses, machine_shared_memory

MEMORY_INTERVAL = (0.02, 1.0)
"""Seconds between two looks at the memory: the shortest and the longest."""
WORK_INTERVAL = 0.5
"""Seconds between two looks at the work folder's disk, so also the time for which a sandbox can write too much."""
IDLE_INTERVAL = 1.0
"""Seconds between two looks at whether a sandbox is still idle."""
_FILL_RATE = 3 * 1024**3
"""Bytes of memory per second that a sandbox is thought to be able to take on one processor."""
_MEMORY_SHARE, _SUSPICION_SHARE, _WORK_SHARE = 20, 4, 50
"""A look that takes a second of a processor is made once in so many, at the memory sooner where there is a suspicion.

On the clock a look takes longest when a sandbox takes all processors, and that one fills memory or disk meanwhile.
"""
_PER_FAULT = 2 * PAGE
"""Bytes that a page fault brings at most, where it maps nothing new: a page, and a page table for it."""
_QUICK = 0.025
"""Seconds that a look at the work folder may take to be made each time."""
_SLICE = 0.002
"""Seconds for which a folder is measured before the event loop has its turn."""


ROOM = 4 * 1024 * 1024
"""Bytes that a sandbox may write whatever was kept from the one before it."""


class Watchdog:
    """Watches one sandbox with its folders on disk, the work folder first, and its temporary ones in memory."""

    def __init__(
        self, limits: Limits, processes: SandboxProcesses, freezer: Freezer, disk: list[str], temporary: list[str]
    ) -> None:
        self._limits, self._processes, self._freezer = limits, processes, freezer
        self._folders = ExitStack()
        with ExitStack() as folders:
            # Held open, because their paths lead through a process that may end.
            self._temporary = [_open_folder(path, folders) for path in temporary]
            self._disk = [_open_folder(path, folders) for path in disk]
            self._folder = self._disk[0]
            self._folders = folders.pop_all()
        self._work_limit = limits.work_size
        self.work_used = 0
        """Bytes in the folders on disk, when they were last measured."""
        self._free = self._free_space()
        self._seen = self._in_flight = 0
        self._work = _Work(processes)
        self._next_measurement = 0.0

    async def run(self, *, memory: bool) -> str:
        """Return when a limit is exceeded: which one, as a clause. ``memory`` says whether memory is watched too."""
        watches = [asyncio.ensure_future(self._watch_work())]
        if memory and self._limits.memory:
            watches.append(asyncio.ensure_future(self._watch_memory()))
        try:
            done, _ = await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for watch in watches:
                watch.cancel()
        return done.pop().result()

    def close(self) -> None:
        """Let go of the folders. Idempotent."""
        self._folders.close()
        self._temporary = []

    def memory_used(self) -> int:
        """Return the bytes that the processes and their temporary folders take."""
        return self._processes.exact_memory() + self._temporary_used()

    async def _watch_memory(self) -> str:
        limit = self._limits.memory
        shortest, longest = MEMORY_INTERVAL
        rate = _FILL_RATE * (self._limits.cpus or os.cpu_count() or 1)
        shared = _Shared(self._processes)
        taken = _Taken(self._processes)
        while True:
            started = time.thread_time()
            rough = self._processes.resident() + self._temporary_used() + shared.unseen()
            used = taken.at_most(rough, limit)
            took = time.thread_time() - started
            if rough > limit and taken.is_due(suspicious=used > limit):
                started = time.thread_time()
                used = self._memory_used_beyond(limit)
                shared.look()
                taken.note(used, rough, time.thread_time() - started)
                if used > limit:
                    return f"it used more than its {format_size(limit)} of memory"
            soon = max(shortest, (limit - used) / rate)
            await asyncio.sleep(min(longest, max(soon, took * _MEMORY_SHARE)))

    def _memory_used_beyond(self, limit: int) -> int:
        """Return the bytes in use, exactly if that may be beyond the limit."""
        used = self._processes.memory() + self._temporary_used()
        return self.memory_used() if used > limit else used

    def _temporary_used(self) -> int:
        used = 0
        for descriptor in self._temporary:
            with suppress(OSError):
                status = os.statvfs(descriptor)
                used += (status.f_blocks - status.f_bfree) * status.f_frsize
        return used

    async def _watch_work(self) -> str:
        if self._work_limit:
            with suppress(folder_size.TooDeepError):
                await self._measure()
                # What was kept from an earlier sandbox may fill it; there must be room to look at it and remove it.
                self._work_limit = max(self._work_limit, self.work_used + ROOM)
        while True:
            await asyncio.sleep(WORK_INTERVAL)
            if self._freezer.frozen:
                self._freezer.refreeze()
                continue
            reason = ""
            if self._work_limit:
                reason = await self._check_work()
            if reason:
                return reason

    async def _check_work(self) -> str:
        """Return why the work folder is too large, if it is; measured when there is a reason to."""
        grown = self._free - self._free_space()
        try:
            if self.work_used + grown > self._work_limit:
                # Frozen while it is measured, because a large folder takes longer than it may go on writing.
                async with self._freezer:
                    await self._measure()
            elif time.monotonic() > self._next_measurement:
                self._next_measurement = time.monotonic() + IDLE_INTERVAL
                if self._work.was_done():
                    # Also where the disk's free space tells nothing, because others give room back.
                    await self._measure()
                else:
                    # What others gave back meanwhile must not hide what it takes next.
                    self._free = max(self._free, self._free_space())
        except folder_size.TooDeepError:
            return f"folders in its work folder are nested more than {folder_size.MAX_DEPTH} deep"
        if self.work_used > self._work_limit:
            return f"its work folder grew beyond its {format_size(self._work_limit)}"
        return ""

    def _free_space(self) -> int:
        status = os.statvfs(self._folder)
        return status.f_bfree * status.f_frsize

    async def _measure(self) -> None:
        """Measure the work folder, with files that were removed and are still open."""
        before, self._free = self._free, self._free_space()
        started, turn = time.thread_time(), time.monotonic()
        removed = self._processes.removed_files(os.fstat(self._folder).st_dev, (*WORK_FOLDERS, PACKAGES))
        total = removed.size
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        for size in chain.from_iterable(folder_size.sizes(os.open(".", flags, dir_fd=one)) for one in self._disk):
            total += size
            if time.monotonic() - turn > _SLICE:
                await asyncio.sleep(0)
                turn = time.monotonic()
        self._in_flight = self._hidden(before - self._free, total - self._seen) if removed.in_flight else 0
        self._seen, self.work_used = total, total + self._in_flight
        took = time.thread_time() - started
        self._next_measurement = time.monotonic() + (took * _WORK_SHARE if took > _QUICK else 0.0)

    def _hidden(self, lost: int, grown: int) -> int:
        """Return the bytes taken for files whose descriptors are in flight, which nothing shows.

        They are what the disk lost and the sandbox's other files did not gain. What the disk gains says nothing about
        them: that may be others' doing.
        """
        more = lost - grown
        return max(0, self._in_flight + (more if lost >= 0 else max(0, more)))


class _Work:
    """Whether processes used the processor since the last question: of idle ones nothing need be measured."""

    def __init__(self, processes: SandboxProcesses) -> None:
        self._processes, self._before = processes, 0.0

    def was_done(self) -> bool:
        """Whether it was; the first time, whether there ever was any."""
        before, self._before = self._before, self._processes.cpu_time()
        return before != self._before


class _Taken:
    """Memory that is in use: what there was at the last exact look, and what may have come since."""

    def __init__(self, processes: SandboxProcesses) -> None:
        self._processes = processes
        self._exact = self._rough = 0
        self._faults = self._faults_then = 0
        self._next_look = self._next_suspicion = 0.0

    def at_most(self, rough: int, limit: int) -> int:
        """Return the bytes in use, at most; ``rough`` has what processes share for each of them.

        It came to no more than by what this has grown, from its lowest on, because some may have let go of what others
        share, and than page faults bring: a page that was shared becomes somebody's own by one, which nothing else
        shows. Of what is beyond doubt below the limit the faults are not counted.
        """
        self._rough = min(self._rough, rough)
        if rough <= limit:
            return rough
        self._faults = self._processes.faults()
        came = rough - self._rough + max(0, self._faults - self._faults_then) * _PER_FAULT
        return min(rough, self._exact + came)

    def is_due(self, *, suspicious: bool) -> bool:
        """Whether it is time for an exact look."""
        return time.monotonic() > (self._next_suspicion if suspicious else self._next_look)

    def note(self, exact: int, rough: int, took: float) -> None:
        """Take note of an exact look, which took so many seconds of the processor's."""
        self._exact, self._rough, self._faults_then = exact, rough, self._faults
        now = time.monotonic()
        self._next_look, self._next_suspicion = now + took * _MEMORY_SHARE, now + took * _SUSPICION_SHARE


class _Shared:
    """Shared memory that no process seems to use: what there was at the last exact look, and may have come since."""

    def __init__(self, processes: SandboxProcesses) -> None:
        self._processes, self._work = processes, _Work(processes)
        self._known = 0
        self._machine = machine_shared_memory()
        self._next_look = 0.0

    def unseen(self) -> int:
        """Return the bytes that there may be: at most by so many the machine's shared memory has grown."""
        if time.monotonic() > self._next_look:
            self._next_look = time.monotonic() + IDLE_INTERVAL
            if self._work.was_done():
                self.look()
        machine = machine_shared_memory()
        # From the lowest on, because others give theirs back.
        self._machine = min(self._machine, machine)
        return self._known + machine - self._machine

    def look(self) -> None:
        """Find out exactly."""
        started = time.thread_time()
        self._known = self._processes.shared_memory()
        self._machine = machine_shared_memory()
        took = time.thread_time() - started
        self._next_look = time.monotonic() + max(WORK_INTERVAL, took * _WORK_SHARE)


def _open_folder(path: str, opened: ExitStack) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    opened.callback(os.close, descriptor)
    return descriptor
