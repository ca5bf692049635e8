"""Waiting with a limit."""

from __future__ import annotations

import asyncio

import pytest

from sandbox_kernel.patience import in_time


async def test_cancellation_that_comes_with_the_result_counts() -> None:
    event = asyncio.Event()
    task = asyncio.ensure_future(in_time(event.wait(), 60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    event.set()
    # The event's waiter has its result now, and the task has not heard of it.
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_result_error_and_end_of_the_time_are_told() -> None:
    async def broken() -> None:
        raise LookupError

    assert await in_time(asyncio.sleep(0, "done"), None) == "done"
    with pytest.raises(LookupError):
        await in_time(broken(), 60)
    late = asyncio.ensure_future(asyncio.sleep(60))
    with pytest.raises(asyncio.TimeoutError):
        await in_time(late, 0.01)
    assert late.cancelled()
