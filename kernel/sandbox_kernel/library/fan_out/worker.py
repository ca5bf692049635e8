"""One sandbox at work: it is given inputs ahead of time, and says with which it begins and what came of each."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from sandbox_kernel.errors import FanOutError, InvocationError, LinkProtocolError
from sandbox_kernel.library import values
from sandbox_kernel.library.client import KILL_AFTER, Cell
from sandbox_kernel.library.sandbox import Sandbox
from sandbox_kernel.library.transfer import call_inside
from sandbox_kernel.lifecycle import State
from sandbox_kernel.link.protocol import Buffer
from sandbox_kernel.passages import Passage

from .frames import LAST, Frames, Json, frame
from .outcomes import NOT_RETURNED, RAISED, TIMED_OUT, Failure, Outcome
from .work import MAX_AHEAD_BYTES, Item, Work

SOURCES = (Path(values.__file__), Path(__file__).with_name("inside.py"))
AHEAD = 0.1
"""Seconds of work that a sandbox has before it: longer than the way there, so that it never waits."""
LONG = 1.0
"""Seconds for one input from which on none waits behind it: a sandbox that is idle takes that."""
MAX_WINDOW = 1000
"""Inputs that a sandbox has at most."""
GRACE = 0.05
"""Seconds in which what was said in time is read."""
DRAIN_TIMEOUT = 5.0
"""Seconds in which all of a sandbox that was lost must have ended, so that its last words are its last."""
LARGE = 256 * 1024
"""Bytes of a result from which on it is read in a thread."""


class InterruptedWorkerError(InvocationError):
    """It was interrupted, by its function or for one that took too long; its Python is there still."""


class Worker:
    """Runs the function in one sandbox until there is no more to do, or the sandbox is lost."""

    def __init__(self, sandbox: Sandbox, function: tuple[Json, Sequence[Buffer]], work: Work, max_result: int) -> None:
        self._sandbox, self._function, self._work = sandbox, function, work
        self._max_result = max_result
        self._window = 1
        self._since = 0.0
        self._pace = 0.0
        """Seconds from one end to the next."""
        self._ended = 0
        self._has_room = asyncio.Event()
        self._cell: Cell | None = None
        self.held: deque[Item] = deque()
        """Inputs that were sent and have no outcome; the sandbox takes them in this order."""
        self._began = 0.0
        """When it began with the first of them, by the monotonic clock; 0 between two."""
        self._interrupted = self._renewing = False
        self._says_last = False
        """Its function raised KeyboardInterrupt by itself, which ends it."""
        self.limit = sandbox.session.execution_timeout
        """Seconds for one input; 0 is none."""
        self.late = False
        """Whether the first of them, or making the function, took longer."""
        self.begun = False
        """Whether it has said that it begins with the first of them."""
        self.started = False
        """Whether its code was sent."""
        self.is_ready = False
        """Whether the function was made."""
        self.was_useful = False
        """Whether it has begun with any input."""
        self.told_all = False
        """Whether all that it said before it was lost has come: so what it has not begun with, it has not run."""

    async def run(self) -> None:
        """Work until all inputs have an outcome.

        Raises FanOutError where the function cannot be made there, LinkProtocolError for what no worker says,
        SandboxKernelError when the sandbox is lost.
        """
        sandbox = self._sandbox
        await sandbox.ensure_started()
        passages = sandbox.session.passages
        async with passages.into() as inlet, passages.out() as outlet:
            header, buffers = self._function
            arguments = (header, inlet.path, outlet.path, self._max_result)
            cell = self._cell = call_inside("serve", *arguments, on_value=_ignore, buffers=buffers, files=SOURCES)
            await sandbox.run_cell(cell)
            self.started = True
            doing = (self._read(outlet), self._feed(inlet), self._keep_time(cell))
            tasks = [asyncio.ensure_future(one) for one in doing]
            self._work.listeners.append(self._has_room)
            try:
                await self._watch(cell, outlet, *tasks)
            finally:
                self._work.listeners.remove(self._has_room)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                sandbox.client.abandon(cell)

    async def end(self) -> None:
        """Wait until the sandbox is free for other cells: what ran there was interrupted."""
        if self._cell is not None:
            await asyncio.wait([self._cell.ended], timeout=2 * KILL_AFTER)

    async def _watch(
        self,
        cell: Cell,
        outlet: Passage,
        reader: asyncio.Future[None],
        feeder: asyncio.Future[None],
        timer: asyncio.Future[None],
    ) -> None:
        waiting: set[asyncio.Future[object]] = {reader, feeder, cell.ended}  # type: ignore[arg-type]
        while not cell.ended.done():
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if reader.done():
                reader.result()
            if feeder.done() and not feeder.cancelled():
                feeder.result()
        if self._renewing:
            # For us the cell has ended at once; what it runs may still be about to.
            await asyncio.wait([timer])
        await self._drain(outlet, reader)
        reply = cell.ended.result()
        if reply.get("status") != "ok" and (self._interrupted or self._says_last):
            raise InterruptedWorkerError("The sandbox's Python was interrupted.")
        if reply.get("status") != "ok":
            raise InvocationError(f"The sandbox's Python says: {reply.get('ename')}: {str(reply.get('evalue'))[:500]}")
        if self.held or not self._work.over:
            # It was not told that there is no more; others may still need it, also when it holds nothing.
            raise LinkProtocolError("The sandbox ended its work before it was done.")

    async def _drain(self, outlet: Passage, reader: asyncio.Future[None]) -> None:
        """Take what was said before the end."""
        if self._sandbox.state is not State.ACTIVE:
            # Its processes may still be ending; the pipe has ended when the last of them has.
            await asyncio.wait([reader], timeout=DRAIN_TIMEOUT)
            self.told_all = reader.done() and reader.exception() is None
        outlet.finish()
        await reader
        self.told_all = self.told_all or self._sandbox.state is State.ACTIVE

    # ---- time

    async def _keep_time(self, cell: Cell) -> None:
        """Interrupt what takes longer than the limit; where that is in vain renew the sandbox's Python."""
        while self.limit and not self._renewing:
            since = self._began_at(cell)
            left = since + self.limit - time.monotonic() if since else self.limit
            # What was said in time may not have been read yet.
            await asyncio.sleep(max(left, GRACE))
            if since and left <= 0 and since == self._began_at(cell):
                await self._end_late(cell)

    def _began_at(self, cell: Cell) -> float:
        return self._began if self.is_ready else cell.began

    async def _end_late(self, cell: Cell) -> None:
        self.late = self._interrupted = True
        self._sandbox.client.interrupt()
        deadline = time.monotonic() + KILL_AFTER
        while self.late and not cell.ended.done():
            if time.monotonic() > deadline:
                self._renewing = True
                await self._sandbox.session.restart()
                return
            await asyncio.sleep(GRACE)

    # ---- inputs

    async def _feed(self, inlet: Passage) -> None:
        while True:
            self._has_room.clear()
            room = self._room()
            items = self._work.take(room) if room else []
            if items:
                if not self.held:
                    self._since = time.monotonic()
                self.held.extend(items)
                await inlet.send(_frames(items))
            elif self._work.over:
                await inlet.send([LAST])
                return
            else:
                await self._has_room.wait()

    def _room(self) -> int:
        """Return how many more inputs it should have; none until that is worth while."""
        room = self._window - len(self.held)
        if 2 * len(self.held) > self._window or sum(one.size for one in self.held) > MAX_AHEAD_BYTES:
            return 0
        return max(0, room)

    def _set_pace(self, ended: int) -> None:
        now = time.monotonic()
        pace = (now - self._since) / ended
        self._since = now
        self._pace = pace if not self._pace else 0.7 * self._pace + 0.3 * pace
        least = 2 if self._pace < LONG else 1
        self._window = max(least, min(MAX_WINDOW, int(AHEAD / max(self._pace, 1e-6))))
        self._work.want(self._window)

    # ---- what it says

    async def _read(self, outlet: Passage) -> None:
        frames = Frames(self._max_result)
        try:
            async for piece in outlet.pieces():
                ended = self._ended
                for said, data in frames.feed(piece):
                    await self._take(said, data)
                if self._ended > ended:
                    self._set_pace(self._ended - ended)
                    self._has_room.set()
        except LinkProtocolError as exc:
            raise LinkProtocolError(f"The sandbox sent what no worker sends: {exc}.") from None

    async def _take(self, said: Json, data: bytes) -> None:
        index = said.get("begin", said.get("end"))
        expected = self.held[0].index if self.held else None
        match said:
            case {"begin": int()} if index == expected and not self.begun:
                self.begun = self.was_useful = self._work.has_begun = True
                self._began = time.monotonic()
            case {"end": int(), "error": ["KeyboardInterrupt", *_]} if self._interrupted and index == expected:
                # This was its last word. What becomes of the input is decided when it has ended.
                pass
            case {"end": int()} if index == expected and self.begun:
                outcome = await self._outcome(self.held[0].index, said, data)
                self._says_last = outcome.failure is not None and outcome.failure.name == "KeyboardInterrupt"
                if self.late:
                    outcome = Outcome(outcome.index, failure=self.lateness(outcome.index))
                self.held.popleft()
                self.begun = self.late = False
                self._began = 0.0
                self._ended += 1
                self._work.finish(outcome, 200 + len(data))
            case {"failed": str()} if self.late:
                raise FanOutError(f"The function cannot be made in the sandbox: its code {self._too_long}.")
            case {"failed": str(reason)} if not self.was_useful:
                raise FanOutError(f"The function cannot be made in the sandbox: {reason[:2000]}")
            case {"ready": True} if not self.was_useful:
                self.is_ready = True
            case _:
                raise LinkProtocolError(f"{_shown(said)} where that cannot be")

    @property
    def _too_long(self) -> str:
        return f"ran longer than {self.limit:g} s and was ended (SandboxSession.execution_timeout)"

    def lateness(self, index: int) -> Failure:
        """Return the failure of an input that took too long."""
        return Failure(index, TIMED_OUT, "SandboxTimeoutError", f"the function {self._too_long}")

    async def _outcome(self, index: int, said: Json, data: bytes) -> Outcome:
        match said:
            case {"error": [str(name), str(message), str(traceback)]}:
                return Outcome(index, failure=Failure(index, RAISED, name, message, traceback))
            case {"refused": str(reason)}:
                return _not_returned(index, reason)
            case {"header": dict(header)}:
                try:
                    if len(data) < LARGE:
                        return Outcome(index, values.decode(header, [data]))
                    return Outcome(index, await asyncio.to_thread(values.decode, header, [data]))
                except values.TransferError as exc:
                    return _not_returned(index, str(exc))
        raise LinkProtocolError(f"an end without a result for input {index}")


def _shown(said: Json) -> str:
    try:
        return json.dumps(said)[:100]
    except RecursionError:
        return "a deeply nested object"


def _not_returned(index: int, reason: str) -> Outcome:
    message = f"the result does not travel: {reason}; return data frames, arrays, or what JSON holds"
    return Outcome(index, failure=Failure(index, NOT_RETURNED, "TransferError", message))


def _frames(items: Sequence[Item]) -> list[Buffer]:
    """Return the frames of inputs, small ones in one buffer."""
    joined: list[Buffer] = []
    small = bytearray()
    for item in items:
        for buffer in frame({"index": item.index, "header": item.header}, item.buffers):
            if memoryview(buffer).nbytes < LARGE:
                small += memoryview(buffer).cast("B")
            else:
                joined += [bytes(small), buffer]
                small.clear()
    return [*joined, bytes(small)]


def _ignore(content: Json, buffers: list[Buffer]) -> None:
    """Do nothing with messages: a worker says everything through its pipe."""
