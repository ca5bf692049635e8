"""What is made while its maker is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from sandbox_kernel import giving_back
from sandbox_kernel.giving_back import made_or_given_back


async def test_what_is_made_is_returned_and_kept() -> None:
    given_back: list[str] = []
    assert await made_or_given_back(asyncio.sleep(0, "made"), _to(given_back)) == "made"
    assert given_back == []


async def test_what_comes_after_its_maker_was_cancelled_is_given_back() -> None:
    given_back: list[str] = []
    await _cancelled(made_or_given_back(asyncio.sleep(0.2, "made"), _to(given_back)))
    assert given_back == ["made"]


async def test_what_fails_or_takes_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving_back, "GIVE_BACK_TIMEOUT", 0.1)
    given_back: list[str] = []

    async def failing() -> str:
        await asyncio.sleep(0.05)
        raise OSError

    await _cancelled(made_or_given_back(failing(), _to(given_back)))
    await _cancelled(made_or_given_back(asyncio.sleep(1000, "late"), _to(given_back)))
    assert given_back == []


def _to(given_back: list[str]) -> Callable[[str], Awaitable[None]]:
    async def give_back(made: str) -> None:
        given_back.append(made)

    return give_back


async def _cancelled(making: Coroutine[Any, Any, str]) -> None:
    task = asyncio.ensure_future(making)
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
