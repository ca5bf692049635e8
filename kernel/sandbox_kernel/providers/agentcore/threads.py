"""Runs blocking calls in threads of their own, which do not keep the process from ending."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
_Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class CallThreads:
    """Threads that take calls, as many as there are calls at one time.

    A call may wait for minutes, and one that nobody waits for any more must delay no exit; the loop's own executor
    has few threads, and waits for them.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._idle = 0
        self._lock = threading.Lock()

    async def run(self, function: Callable[[], T]) -> T:
        """Return what the function returns. Who is cancelled leaves it to itself."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        with self._lock:
            fresh = self._idle == 0
            if not fresh:
                self._idle -= 1
        self._jobs.put((function, loop, future))
        if fresh:
            threading.Thread(target=self._serve, name="agentcore", daemon=True).start()
        return await future

    def _serve(self) -> None:
        while True:
            function, loop, future = self._jobs.get()
            result, error = None, None
            try:
                result = function()
            except BaseException as exc:  # noqa: BLE001 - it is raised where the call is waited for
                error = exc
            with self._lock:
                self._idle += 1
            # A loop that has ended waits for nothing.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_settle, future, result, error)
            del function, future, result, error


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
