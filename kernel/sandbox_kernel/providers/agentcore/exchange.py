"""A link's transport over calls: one call carries what is to be sent, and returns what has come.

While the sandbox has something to do there is always one call that waits for its output (the *poll*). What has to reach
it meanwhile, such as an interrupt, goes by a second call beside. When it has nothing to do, nobody calls, but for a
seldom look whether something has come by itself.
"""

from __future__ import annotations

import asyncio
import os
import time
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sandbox_kernel.errors import QuotaError, SandboxError, SandboxKernelError
from sandbox_kernel.link.protocol import is_acknowledgement
from sandbox_kernel.link.transport import Buffer, Receiver, Transport
from sandbox_kernel.patience import in_time
from sandbox_kernel.retry import RetryPolicy

from .carriers import Carriers
from .pace import AT_ONCE, Pace
from .questions import Answer

HOLD = 50.0
"""Seconds that a poll waits for output at most."""
HOLD_ALONE = 0.5
"""The same where no second call can be made beside it."""
BATCH = 3 * 1024 * 1024
"""Bytes that one call carries in each direction."""
BESIDE = 16 * 1024
"""Bytes that a call beside a poll carries; for more the poll is called back."""
MAX_BACKLOG = 4 * 1024 * 1024
"""Bytes that wait to leave before the link has to wait."""
LOOK_AFTER, LONGEST_PAUSE = 4.0, 300.0
"""Seconds of idleness until it is looked for what has come by itself, and between two such looks at most."""
POLICY = RetryPolicy(attempts=6, first_delay=0.1, longest_delay=3.0, jitter=0.2)
"""For calls that failed: each may be made again, since bytes are numbered."""


class SessionTransport(Transport):
    """A transport that may be told that its session has ended."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether it has ended, for whatever reason."""

    @abstractmethod
    def lose(self, reason: str) -> None:
        """End it, because the session is known to be gone."""


class ExchangeTransport(SessionTransport):
    """One stream to one bridge. A call that fails is made again; the link is lost when that does not help."""

    def __init__(self, carriers: Carriers, pace: Pace) -> None:
        self._carriers, self._pace = carriers, pace
        self._name = os.urandom(8).hex()
        self._receiver: Receiver | None = None
        self._out = bytearray()
        self._base = 0
        """The offset of `_out`: everything before it has arrived."""
        self._sent = 0
        """The offset up to which bytes are in some call that is under way, or have arrived."""
        self._due = 0
        """The offset up to which bytes have to leave soon; behind it are acknowledgements, which may wait."""
        self._have = 0
        """Bytes that have come."""
        self._working = True
        """Whether output may come of what was sent."""
        self._open = False
        self._polling = False
        self._full = False
        self._closed = False
        self._lively = False
        """Whether something goes on there that may say something when nothing is to be done."""
        self._wake = asyncio.Event()
        self._resting = asyncio.Event()
        """Set while nothing is to be done."""
        self._stirred = asyncio.Event()
        """Set while something is."""
        self._rests = 0
        """How often it has come to rest."""
        self._wake_beside = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # ---- contract

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._tasks = [asyncio.ensure_future(work()) for work in (self._run, self._run_beside, self._look)]
        for task in self._tasks:
            task.add_done_callback(self._done)

    def write(self, buffers: Sequence[Buffer]) -> bool:
        if self._closed:
            return False
        for buffer in buffers:
            self._out += buffer
        if not is_acknowledgement(buffers):
            self._due = self._base + len(self._out)
            self._wake.set()
            self._wake_beside.set()
        self._full = len(self._out) > MAX_BACKLOG
        return not self._full

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for task in self._tasks:
                if task is not _current_task():
                    task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        """End it with a reason where a task failed: nobody would send or take anything any more."""
        if not task.cancelled() and (error := task.exception()) is not None:
            ours = isinstance(error, SandboxKernelError)
            self._lose(str(error) if ours else f"its bytes cannot be carried: {type(error).__name__}: {error}")

    @property
    def closed(self) -> bool:
        return self._closed

    def lose(self, reason: str) -> None:
        self._lose(reason)

    # ---- the poll

    async def _run(self) -> None:
        """Call as long as there is something to send or to wait for."""
        failures = 0
        while not self._closed:
            if self._open and not self._working and self._base >= self._due:
                self._wake.clear()
                self._stirred.clear()
                self._rests += 1
                self._resting.set()
                await self._wake.wait()
                self._resting.clear()
                self._stirred.set()
                continue
            # What is written in this turn of the loop goes together.
            await asyncio.sleep(0)
            try:
                await self._poll()
                failures = 0
            except SandboxError as exc:
                failures += 1
                self._sent = self._base
                await self._after_failure(exc, failures)

    async def _poll(self) -> None:
        data = self._next(BATCH)
        more = self._base + len(self._out) > self._sent
        hold = 0.0 if more else HOLD if self._carriers.has_commands else HOLD_ALONE
        self._polling = True
        self._wake_beside.set()
        try:
            # A call beside may still carry what answers come to; it need not be asked for them again and again.
            answer = await self._ask(data, hold=hold, want=True, until=self._sent, spacing=self._pace.spacing)
        finally:
            self._polling = False
        self._open = True
        self._working, self._lively = answer.working, answer.lively
        self._deliver(answer)

    def _next(self, limit: int) -> tuple[int, bytes]:
        """Return the offset of the bytes that leave now, and them."""
        at = self._sent
        data = bytes(memoryview(self._out)[at - self._base : at - self._base + limit])
        self._sent = at + len(data)
        return at, data

    async def _ask(self, data: tuple[int, bytes], *, beside: bool = False, **head: Any) -> Answer:
        self._pace.take()
        question = {
            "stream": self._name,
            "at": data[0],
            "have": self._have,
            "limit": BATCH,
            "want": False,
            "linger": AT_ONCE,
            **head,
        }
        if not self._open:
            question["open"] = True
        answer = await self._carriers.exchange(question, data[1], beside=beside)
        if answer.unknown:
            self._lose(answer.ended or "another kernel process uses the sandbox now")
        return answer

    def _deliver(self, answer: Answer) -> None:
        """Take what an answer brings."""
        if self._closed:
            return
        self._take_note(answer)
        fresh = answer.data[max(0, self._have - answer.at) :] if answer.at <= self._have else b""
        self._have += len(fresh)
        assert self._receiver is not None
        for start in range(0, len(fresh), BATCH):
            if not self._closed:
                self._receiver.data_received(memoryview(fresh)[start : start + BATCH])
        if answer.ended:
            self._lose(answer.ended)

    def _take_note(self, answer: Answer) -> None:
        """Forget what has arrived there."""
        arrived = min(answer.taken, self._base + len(self._out)) - self._base
        if arrived > 0:
            del self._out[:arrived]
            self._base += arrived
            self._sent = max(self._sent, self._base)
        if self._full and len(self._out) <= MAX_BACKLOG // 2:
            self._full = False
            assert self._receiver is not None
            self._receiver.writable()

    async def _after_failure(self, error: SandboxKernelError, failures: int) -> None:
        """Wait for another try, or give up."""
        pause = self._pause_after(error, failures)
        if pause is None or failures >= POLICY.attempts:
            self._lose(str(error))
            return
        await asyncio.sleep(pause)

    def _pause_after(self, error: SandboxKernelError, failures: int) -> float | None:
        """Return the seconds until a call may be made again, after so many failures; None where that is of no use."""
        throttled = isinstance(error, QuotaError)
        if throttled:
            self._pace.throttled()
        if not (throttled or getattr(error, "retryable", False)):
            return None
        return POLICY.delay_at_random(failures + 2 * throttled)

    def _lose(self, reason: str) -> None:
        if not self._closed:
            self.close()
            assert self._receiver is not None
            self._receiver.connection_lost(reason)

    # ---- beside the poll

    async def _run_beside(self) -> None:
        """While a poll waits, send what comes meanwhile."""
        failures = 0
        while not self._closed:
            await self._wake_beside.wait()
            self._wake_beside.clear()
            # The poll that is just leaving takes what is there.
            await asyncio.sleep(0)
            if not (self._polling and self._open and self._due > self._sent and self._carriers.has_commands):
                continue
            at, data = self._next(BESIDE)
            release = self._base + len(self._out) > self._sent
            try:
                answer = await self._ask((at, data), beside=True, release=release, hold=0.0)
            except SandboxError as exc:
                # The poll takes it along when it comes back, or finds what is wrong.
                failures += 1
                self._sent = min(self._sent, at)
                pause = self._pause_after(exc, failures)
                if pause is not None:
                    await self._call_back(pause)
                continue
            failures = 0
            if not self._closed:
                self._working = self._working or answer.working
                self._take_note(answer)
                self._wake.set()

    async def _call_back(self, pause: float) -> None:
        """Have another try, after so many seconds, while the poll waits."""
        await asyncio.sleep(pause)
        if self._polling:
            self._wake_beside.set()

    async def _look(self) -> None:
        """While nothing is to be done, look whether something has come by itself, such as a thread's output.

        Where something goes on in the sandbox a call waits for it all the time, else one is made now and then.
        """
        pause, prompt = LOOK_AFTER, True
        while not self._closed:
            await self._resting.wait()
            if await self._stirs_within(0.0 if self._lively and prompt else pause):
                pause, prompt = LOOK_AFTER, True
                continue
            rest, before, began = self._rests, self._have, time.monotonic()
            answered = await self._look_once()
            fruitful = self._have > before
            if fruitful or rest != self._rests or self._stirred.is_set():
                pause, prompt = LOOK_AFTER, answered
            else:
                # A call that ought to wait and does not is not made again at once.
                pause, prompt = min(LONGEST_PAUSE, pause * 2), answered and time.monotonic() - began > LOOK_AFTER

    async def _look_once(self) -> bool:
        """Make one call that looks; return whether it was answered."""
        beside = self._carriers.has_commands
        hold = HOLD if beside and self._lively else 0.0
        try:
            # In the place of the code's, which the next cell needs.
            answer = await self._ask(
                (self._sent, b""), beside=beside, want=True, waits=beside, hold=hold, spacing=self._pace.spacing
            )
        except SandboxError:
            return False
        self._lively = answer.lively
        self._deliver(answer)
        if answer.working and self._resting.is_set():
            self._working = True
            self._wake.set()
        return True

    async def _stirs_within(self, seconds: float) -> bool:
        """Wait so long; return whether something has to be done before that."""
        with suppress(asyncio.TimeoutError):
            await in_time(self._stirred.wait(), seconds)
        return self._stirred.is_set()


def _current_task() -> asyncio.Task[Any] | None:
    with suppress(RuntimeError):
        return asyncio.current_task()
    return None
