"""An event loop in a thread of its own, and how another thread waits for what runs there."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from .client import ANSWERING

T = TypeVar("T")

GENTLE_INTERRUPTS = 2
"""Interrupts that are passed on; with the next one the waiting thread gives the work up."""
INTERRUPT_TIMEOUT = 5.0
"""Seconds in which the loop must have passed an interrupt on."""


class LoopThread:
    """Lives until `close`: the kernel ends a local sandbox when the thread that started it ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        # A program that forgets to close must be able to end.
        self._thread = threading.Thread(target=self._run, name="sandbox", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine there."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in that thread, where nothing may wait for it."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """End loop and thread, once what it does is done or cancelled. Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
            self._loop.close()


class _Call:
    """Something that the waiting thread has to do, and where its result goes."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self.result: Future[Any] = Future()

    def run(self) -> None:
        """Do it; an interrupt cancels it and goes on to who waits."""
        try:
            value = self._function()
        except KeyboardInterrupt:
            self.result.cancel()
            raise
        except Exception as exc:  # noqa: BLE001 - it belongs to who asked for it
            self.result.set_exception(exc)
        else:
            self.result.set_result(value)


class Turn:
    """Lets this thread wait for work on a loop's thread, and do meanwhile what that work wants done here.

    Only this thread can print into its notebook's cell, or ask its user.
    """

    def __init__(self, thread: LoopThread) -> None:
        self._thread = thread
        self._calls: deque[_Call] = deque()
        self._news: SimpleQueue[None] = SimpleQueue()
        self.interrupted = False
        """A KeyboardInterrupt came during the last wait."""

    def wait(self, work: Coroutine[Any, Any, T], on_interrupt: Callable[[], bool] = lambda: False) -> T:
        """Return what the work returns.

        A KeyboardInterrupt becomes ``on_interrupt``, called on the loop's thread, where that returns True: the work
        will end by itself. Else the work is cancelled. In both cases it is raised when the work has ended.
        """
        value = self.wait_gently(work, on_interrupt)
        if self.interrupted:
            raise KeyboardInterrupt
        return value

    def wait_for_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what `wait` does; work that a KeyboardInterrupt cancels does first what it has to do at its end."""
        tasks: list[asyncio.Task[Any] | None] = []

        async def noted() -> T:
            tasks.append(asyncio.current_task())
            return await work

        def cancel() -> bool:
            for task in tasks:
                if task is not None:
                    task.cancel()
            return bool(tasks)

        return self.wait(noted(), cancel)

    def wait_gently(self, work: Coroutine[Any, Any, T], on_interrupt: Callable[[], bool] = lambda: False) -> T:
        """Do what `wait` does, but return what the work that was not cancelled comes to: see `interrupted`."""
        future = self._thread.submit(work)
        future.add_done_callback(lambda _: self._news.put(None))
        interrupts = 0
        self.interrupted = False
        while not future.done() or self._calls:
            try:
                self._news.get()
                self._do_calls()
            except KeyboardInterrupt:
                interrupts += 1
                self.interrupted = True
                if interrupts > GENTLE_INTERRUPTS or not self._passed_on(on_interrupt):
                    future.cancel()
                # What was taken off the queue may not have been done.
                self._news.put(None)
        try:
            return future.result()
        except CancelledError:
            raise KeyboardInterrupt from None
        except Exception as exc:
            if self.interrupted:
                # Whatever the interrupt made the work fail with.
                raise KeyboardInterrupt from exc
            raise

    async def call(self, function: Callable[[], T]) -> T:
        """Have the waiting thread call this; return what it returns. Cancelled where that was interrupted."""
        call = _Call(function)
        self._calls.append(call)
        self._news.put(None)
        result: T = await asyncio.wrap_future(call.result)
        return result

    def tell(self, function: Callable[[], object]) -> None:
        """Have the waiting thread call this, without waiting for it."""
        self._calls.append(_Call(function))
        self._news.put(None)

    def _do_calls(self) -> None:
        while self._calls:
            # Removed afterwards: an interrupt that comes between must not lose it.
            call = self._calls[0]
            try:
                if not call.result.done():
                    call.run()
            finally:
                with suppress(IndexError):
                    self._calls.popleft()

    def _passed_on(self, on_interrupt: Callable[[], bool]) -> bool:
        async def pass_on() -> bool:
            return on_interrupt()

        return self._thread.submit(pass_on()).result(INTERRUPT_TIMEOUT)


def awaitable(function: Callable[[Any], Any], turn: Turn) -> Callable[[Any], Awaitable[Any]]:
    """Return a coroutine function that has the waiting thread call FUNCTION."""

    async def called(argument: Any) -> Any:
        asking = ANSWERING.get()

        def call() -> Any:
            token = ANSWERING.set(asking)
            try:
                return function(argument)
            finally:
                ANSWERING.reset(token)

        return await turn.call(call)

    return called
