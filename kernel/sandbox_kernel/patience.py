"""Waiting with a limit in which no cancellation is lost, so that an interrupt or a close always has an effect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def in_time(work: Awaitable[T], seconds: float | None) -> T:
    """Do what `asyncio.wait_for` does. Raises asyncio.TimeoutError.

    Before Python 3.12 that drops a cancellation that arrives together with the result: in a loop whose results come
    fast nobody can end it.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait([task], timeout=seconds)
        if task.done():
            return task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
    raise asyncio.TimeoutError
