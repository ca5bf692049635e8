"""`map`: a pool of sandboxes that run one function over many inputs, and what becomes of the pool."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Sequence,
    Sized,
)
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Union

from sandbox_kernel.errors import (
    ConfigurationError,
    FanOutError,
    InvocationError,
    LinkProtocolError,
    SandboxKernelError,
    StateError,
)
from sandbox_kernel.library.contents import Call
from sandbox_kernel.library.loop_thread import LoopThread, Turn
from sandbox_kernel.library.sandbox import Sandbox

from .outcomes import MAY_HAVE_RUN, Failure, Outcome, Results
from .pool import make_pool, require_number
from .shipping import of_function, of_source
from .work import Item, Work
from .worker import InterruptedWorkerError, Worker

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

SANDBOXES = 8
RETRIES = 3
MAX_RESULT = 64 * 1024 * 1024
PROGRESS_INTERVAL = 0.1
"""Seconds between two calls of `on_progress`."""
END_TIMEOUT = 5.0
"""Seconds in which sandboxes that are kept must have left the work when all is done."""
STEP = 500
"""Outcomes that are handed over before other tasks have their turn."""

Inputs = Union[Iterable[Any], AsyncIterable[Any]]


def map(  # noqa: A001 - the name that its users look for
    function: Callable[[Any], Any],
    inputs: Inputs,
    *,
    sandboxes: int | Sequence[Sandbox] = SANDBOXES,
    idempotent: bool = False,
    stop_on_failure: bool = False,
    retries: int = RETRIES,
    max_result: int = MAX_RESULT,
    on_progress: Callable[[FanOut], None] | None = None,
    **options: Any,
) -> FanOut:
    """Call a function with each input, in several sandboxes at once.

    ``await map(…)`` gives `Results`, in the order of the inputs; ``async for outcome in map(…)`` gives an `Outcome` as
    soon as it is there, and takes no more inputs than that keeps up with.

    ``sandboxes`` is how many are made for this, with ``options`` as for `Sandbox`; or those that do it. Lost ones are
    replaced; one of them is given up when it was lost more than ``retries`` times without beginning anything. What an
    input was doing in a lost sandbox is not done again, but for ``idempotent`` functions, and then ``retries`` times.
    ``stop_on_failure`` raises the first failure's error, and ends the rest. ``max_result`` in bytes, of one result.

    Raises TransferError where the function cannot travel, FanOutError where the work cannot go on, CommandError.
    """
    return FanOut(
        of_function(function),
        inputs,
        sandboxes,
        options,
        idempotent=idempotent,
        stop_on_failure=stop_on_failure,
        retries=retries,
        max_result=max_result,
        on_progress=on_progress,
    )


def map_source(name: str, source: str, inputs: Inputs, **arguments: Any) -> FanOut:
    """Do what `map` does with the function NAME that this source defines."""
    settings: dict[str, Any] = {"sandboxes": SANDBOXES, "retries": RETRIES, "max_result": MAX_RESULT, **arguments}
    own = ("sandboxes", "idempotent", "stop_on_failure", "retries", "max_result", "on_progress")
    options = {key: settings.pop(key) for key in list(settings) if key not in own}
    return FanOut(of_source(name, source), inputs, settings.pop("sandboxes"), options, **settings)


def blocking_map(function: Callable[[Any], Any], inputs: Iterable[Any], **arguments: Any) -> Results:
    """Do what ``await map(…)`` does, also where a loop runs already; inputs are taken in the thread that waits.

    Ctrl-C ends the work and its sandboxes, and raises KeyboardInterrupt with what was done.
    """
    thread = LoopThread()
    turn = Turn(thread)
    made: list[FanOut] = []

    async def collect() -> Results:
        made.append(map(function, inputs, **arguments))
        made[0].call = turn.call
        return await made[0]

    try:
        return turn.wait_for_end(collect())
    except KeyboardInterrupt as exc:
        raise KeyboardInterrupt(f"interrupted: {made[0].summary}" if made else "interrupted") from exc
    finally:
        thread.close()


class FanOut:
    """One map: await it for its results, or iterate over it for its outcomes. Nothing happens before that."""

    def __init__(
        self,
        function: tuple[dict[str, Any], Sequence[Any]],
        inputs: Inputs,
        sandboxes: int | Sequence[Sandbox],
        options: dict[str, Any],
        *,
        idempotent: bool = False,
        stop_on_failure: bool = False,
        retries: int = RETRIES,
        max_result: int = MAX_RESULT,
        on_progress: Callable[[FanOut], None] | None = None,
    ) -> None:
        """Take what `map` describes; ``function`` as shipping.py makes it. Raises CommandError, ConfigurationError."""
        require_number("retries", retries, 0)
        require_number("max_result", max_result, 1)
        self._function, self._inputs = function, inputs
        self._pool = make_pool(sandboxes, options, inputs)
        self._own = isinstance(sandboxes, int)
        self._idempotent, self._stop, self._retries = idempotent, stop_on_failure, retries
        self._max_result = max_result
        self._on_progress = on_progress
        self._told, self._told_done = 0.0, 0
        self._work: Work | None = None
        self._outcomes: weakref.ref[AsyncGenerator[Outcome, None]] | None = None
        """Weak, as the work refers to this: so the loop closes them when nobody iterates over them any more."""
        self._closing: asyncio.Task[None] | None = None
        self._ending = False
        """What sandboxes end of from now on is this map's own doing."""
        self._tasks: list[asyncio.Task[None]] = []
        self._fatal: Exception | None = None
        self._left = len(self._pool)
        self.call: Call = asyncio.to_thread
        """What takes the next inputs, which may take time."""
        self.results: dict[int, Any] = {}
        """What ``await`` has so far, by the inputs' numbers; a `Failure` where one failed. Also after an error."""
        self.replaced = 0
        """Sandboxes that were lost, and renewed."""

    def __await__(self) -> Generator[Any, None, Results]:
        return self._collect().__await__()

    def __aiter__(self) -> AsyncGenerator[Outcome, None]:
        if self._outcomes is not None:
            raise StateError("A map can be iterated over once.")
        outcomes = self._run()
        self._outcomes = weakref.ref(outcomes)
        return outcomes

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        outcomes = self._outcomes() if self._outcomes is not None else None
        if outcomes is not None:
            await outcomes.aclose()
        elif self._work is not None:
            # Nobody has them any more: they are closed already, or soon.
            await self._close()

    # ---- how far it is

    @property
    def total(self) -> int | None:
        """How many inputs there are; None where nobody knows."""
        return len(self._inputs) if isinstance(self._inputs, Sized) else None

    @property
    def done(self) -> int:
        """Inputs that have a result or a failure."""
        return self._work.done if self._work else 0

    @property
    def failed(self) -> int:
        """Of these, those that have a failure."""
        return self._work.failed if self._work else 0

    @property
    def under_way(self) -> int:
        """Inputs that a sandbox has, and that have no outcome."""
        return self._work.under_way if self._work else 0

    @property
    def summary(self) -> str:
        """What was done, as a phrase."""
        total = "" if self.total is None else f" of {self.total:,}"
        failed = f", {self.failed:,} of them with a failure" if self.failed else ""
        replaced = (
            f"; {self.replaced} sandbox{'es were' if self.replaced > 1 else ' was'} lost" if self.replaced else ""
        )
        return f"{self.done:,}{total} inputs were done{failed}{replaced}"

    # ---- doing it

    async def _collect(self) -> Results:
        found = self.results
        try:
            async with aclosing(self.__aiter__()) as outcomes:
                async for one in outcomes:
                    found[one.index] = one.value if one.failure is None else one.failure
        except FanOutError as exc:
            exc.results = found
            raise
        finally:
            # There are some where an error, or a cancellation, ended it.
            for one in self.rest():
                found[one.index] = one.value if one.failure is None else one.failure
        return Results(found[index] for index in range(len(found)))

    def rest(self) -> Iterator[Outcome]:
        """Give the outcomes that were not taken, when the iteration has ended early."""
        while self._work is not None and self._work.outcomes:
            yield self._work.next_outcome()

    async def _run(self) -> AsyncGenerator[Outcome, None]:
        work = self._work = Work(self._inputs, len(self._pool), self.call)
        doing = [self._serve(sandbox, work) for sandbox in self._pool]
        self._tasks = [asyncio.ensure_future(self._watched(one, work)) for one in (work.pull(), *doing)]
        try:
            while not work.over or work.outcomes:
                work.heard.clear()
                for _ in range(min(STEP, len(work.outcomes))):
                    outcome = work.next_outcome()
                    self._tell_progress()
                    if outcome.failure is not None and self._stop:
                        work.outcomes.appendleft((outcome, 0))
                        raise outcome.failure.error()
                    yield outcome
                if not work.outcomes and not work.over:
                    if self._fatal is not None:
                        raise self._fatal
                    await self._news(work)
            if not self._own:
                # They are told that there is no more, and are free when they have heard it.
                await asyncio.wait(self._tasks, timeout=END_TIMEOUT)
        finally:
            await self._close()

    async def _watched(self, task: Coroutine[Any, Any, None], work: Work) -> None:
        """Do it; what it fails of ends all, also an error of the inputs' own."""
        try:
            await task
        except Exception as exc:  # noqa: BLE001 - it is raised where somebody waits
            self._fatal = self._fatal or exc
            work.heard.set()

    async def _news(self, work: Work) -> None:
        """Wait for outcomes; what was not told of those before is told in time."""
        if self._on_progress is not None and self._told_done != work.done:
            # No time limit around the wait: with outcomes that come all the time it could lose a cancellation.
            timer = asyncio.get_running_loop().call_later(PROGRESS_INTERVAL, work.heard.set)
            try:
                await work.heard.wait()
            finally:
                timer.cancel()
            self._tell_progress()
        else:
            await work.heard.wait()

    def _tell_progress(self) -> None:
        now = time.monotonic()
        if self._on_progress is not None and (now - self._told >= PROGRESS_INTERVAL or self.done == self.total):
            self._told, self._told_done = now, self.done
            self._on_progress(self)

    async def _close(self) -> None:
        if self._closing is None:
            self._ending = True
            self._closing = asyncio.ensure_future(self._end_work())
        await _to_the_end(self._closing)

    async def _end_work(self) -> None:
        if self._own:
            # Before its start is cancelled, if it is starting: so it is known to have ended.
            await asyncio.gather(*(sandbox.close() for sandbox in self._pool), return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ---- one sandbox

    async def _serve(self, sandbox: Sandbox, work: Work) -> None:
        """Keep one sandbox at work, renewed when it is lost, until all is done or it was lost too often."""
        losses = 0
        while not work.over:
            worker = Worker(sandbox, self._function, work, self._max_result)
            try:
                await self._use(worker)
            except (FanOutError, StateError):
                raise
            except SandboxKernelError as exc:
                if self._ending:
                    return
                _require_loss(exc, worker, work)
                self._settle(worker, exc)
                if isinstance(exc, InterruptedWorkerError):
                    # Nothing was lost.
                    continue
                losses = 0 if worker.was_useful else losses + 1
                work.unmade = 0 if worker.is_ready else work.unmade + worker.started
                if work.unmade > self._retries and not work.has_begun:
                    raise FanOutError(f"The function cannot be made in a sandbox: its code ends Python. {exc}") from exc
                if losses > self._retries:
                    self._give_up(exc)
                    return
                if not work.over:
                    await self._renew(sandbox, exc)
            else:
                return

    async def _use(self, worker: Worker) -> None:
        try:
            await _run_guarded(worker)
        finally:
            if not self._own:
                await worker.end()

    def _give_up(self, error: SandboxKernelError) -> None:
        """Do without one sandbox. Raises FanOutError where it was the last one."""
        self._left -= 1
        if not self._left:
            raise FanOutError(f"No sandbox is left for the work ({self.summary}): {error}") from error

    async def _renew(self, sandbox: Sandbox, error: SandboxKernelError) -> None:
        """Let the next use of a sandbox find a fresh one, or a fresh Python."""
        self.replaced += 1
        sandbox.session.log.write("worker_lost", level="warning", error=str(error)[:500])
        if isinstance(error, LinkProtocolError) and self._own:
            # Whatever made it say that may still be there.
            await sandbox.stop()

    def _settle(self, worker: Worker, error: SandboxKernelError) -> None:
        """Decide about the inputs that a lost sandbox had: none that may have run is run again unasked."""
        assert self._work is not None
        waiting = []
        for place, item in enumerate(worker.held):
            may_have_run = (place == 0 and worker.begun) or not worker.told_all
            item.runs += may_have_run
            if may_have_run and not (self._idempotent and item.runs <= self._retries):
                failure = _may_have_run(item, error, again=self._idempotent)
                if place == 0 and worker.late:
                    failure = worker.lateness(item.index)
                self._work.finish(Outcome(item.index, failure=failure))
            else:
                waiting.append(item)
        for item in reversed(waiting):
            self._work.give_back(item)


def _require_loss(error: SandboxKernelError, worker: Worker, work: Work) -> None:
    """Raise what another sandbox would not help against."""
    if isinstance(error, ConfigurationError) and not work.has_begun:
        # Later it is none of the configuration: one that is killed while it starts looks like that.
        raise error
    if isinstance(error, InvocationError) and not worker.started:
        # Nothing was lost: the sandbox has no pipes, or not that kind of code.
        raise FanOutError(f"The sandbox cannot take part in a map: {error}") from error


async def _run_guarded(worker: Worker) -> None:
    """Run a worker. What nobody foresaw comes of what its sandbox sent, and is the loss of that sandbox alone."""
    try:
        await worker.run()
    except SandboxKernelError:
        raise
    except Exception as exc:
        told = f"{type(exc).__name__}: {str(exc)[:500]}"
        raise LinkProtocolError(f"The sandbox sent what cannot be read: {told}") from exc


def _may_have_run(item: Item, error: SandboxKernelError, *, again: bool) -> Failure:
    hint = (
        f"it was tried {item.runs} time{'s' if item.runs > 1 else ''}"
        if again
        else "it may have run and was not run again; idempotent=True allows that"
    )
    return Failure(item.index, MAY_HAVE_RUN, type(error).__name__, f"its sandbox was lost; {hint}. {error}")


async def _to_the_end(task: asyncio.Task[None]) -> None:
    """Wait for this also when whoever waits for it is cancelled meanwhile: nothing may be left behind."""
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    task.result()
