"""What is made elsewhere while its maker is cancelled is given back: else nobody would know of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

GIVE_BACK_TIMEOUT = 5.0
"""Seconds that who gives up waits for what is being made, to give it back."""


async def made_or_given_back(making: Coroutine[Any, Any, T], give_back: Callable[[T], Awaitable[object]]) -> T:
    """Return what ``making`` makes. Where the caller is cancelled it is given back first, if it comes in time."""
    task = asyncio.ensure_future(making)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=GIVE_BACK_TIMEOUT)
        if not task.done():
            task.cancel()
        elif not task.cancelled() and task.exception() is None:
            await give_back(task.result())
        raise
