"""A sandbox for a test, and folders in which nothing is configured."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sandbox_kernel import Sandbox

from .pools import bubblewraps


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tester's own configuration not count."""
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox.create() as made:
        yield made


@pytest.fixture
async def pair() -> AsyncIterator[list[Sandbox]]:
    """Two sandboxes that a map is given."""
    async with Sandbox.create() as first, Sandbox.create() as second:
        yield [first, second]


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """The test leaves no sandbox behind, whatever it ended by."""
    before = bubblewraps()
    yield
    deadline = time.monotonic() + 10
    while bubblewraps() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert bubblewraps() == before
