"""Freezing a process tree by SIGSTOP, which works for every user, and not by the freezer of a control group.

A version 1 freezer makes SIGKILL wait until it is thawed; a stopped process is gone at once.
"""

from __future__ import annotations

import asyncio
import time
from signal import SIGCONT, SIGSTOP
from types import TracebackType

from sandbox_kernel.providers.local.processes import SandboxProcesses

_PATIENCE = 2.0
"""Seconds after which a process that does not stop is given up."""
_ROUND = 0.001
_QUIET_ROUNDS = 2

# States of proc(5).
_STOPPED, _ENDED, _WAITING = frozenset("Tt"), frozenset("XZ"), frozenset("D")
_HELD = _STOPPED | _ENDED | _WAITING


class Freezer:
    """Stops and continues the processes of one sandbox.

    `freeze` and `thaw` are for the user. As a context manager, for us: what the user froze stays so.
    """

    def __init__(self, processes: SandboxProcesses) -> None:
        self._processes = processes
        self._stopped_before: frozenset[str] = frozenset()
        self._lock = asyncio.Lock()
        self.frozen = False
        """Whether the user froze it."""

    async def freeze(self) -> bool:
        """Stop everything; return whether that was possible. If not, everything goes on."""
        async with self._lock:
            if not self.frozen:
                self.frozen = await self._stop()
                if not self.frozen:
                    self._continue()
            return self.frozen

    async def thaw(self) -> None:
        """Continue everything that was not already stopped when it was frozen."""
        async with self._lock:
            if self.frozen:
                self.frozen = False
                self._continue()

    def refreeze(self) -> None:
        """Stop again what goes on although it was frozen: a timer can send SIGCONT."""
        for number in self._going():
            self._processes.send(number, SIGSTOP)

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        if not self.frozen:
            await self._stop()

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.frozen:
            self._continue()
        self._lock.release()

    async def _stop(self) -> bool:
        """Stop every process, and look again until nothing new appears."""
        self._stopped_before = frozenset(self._processes.numbers()).difference(self._going())
        deadline = time.monotonic() + _PATIENCE
        sent: set[str] = set()
        quiet = 0
        # Twice nothing: what a process started while the list was read is seen the second time.
        while quiet < _QUIET_ROUNDS:
            going = self._going()
            # One that waits in the kernel, for a disk or for the child that it vforked, stops before it runs again.
            unstopped = {number for number, states in going.items() if number not in sent or set(states) - _HELD}
            quiet = 0 if unstopped else quiet + 1
            if time.monotonic() > deadline:
                return False
            for number in unstopped:
                self._processes.send(number, SIGSTOP)
            sent = set(going)
            if unstopped:
                await asyncio.sleep(_ROUND)
        return True

    def _going(self) -> dict[str, str]:
        """Return the processes of which a thread has neither stopped nor ended, with the states of their threads."""
        states = self._processes.states()
        return {number: threads for number, threads in states.items() if set(threads) - _ENDED - _STOPPED}

    def _continue(self) -> None:
        for number in self._processes.numbers():
            if number not in self._stopped_before:
                self._processes.send(number, SIGCONT)
        self._stopped_before = frozenset()
