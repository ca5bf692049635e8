"""Tools that a configuration names in the tests of the kernel."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from sandbox_kernel.tools import current_context


def where() -> str:
    """Return a secret of the host's, in a way."""
    return str(len(os.environ["SAMPLE_SECRET"]))


def note(text: str) -> int:
    """Write something down on this machine, and return how much there is."""
    file = Path(os.environ["SAMPLE_FILE"])
    with file.open("a") as opened:
        opened.write(f"{text}\n")
    return len(file.read_text().splitlines())


def context() -> dict[str, Any]:
    """Return the context's variables."""
    return dict(current_context().variables)


async def blocking() -> str:
    """A coroutine function that blocks its loop, as it should not."""
    time.sleep(3)  # noqa: ASYNC251 - that is what it is for
    return "done"


class Greeter:
    """Greets."""

    def __init__(self, word: str = "hello") -> None:
        self.word = word

    async def run(self, name: str) -> str:
        """Greet somebody."""
        await asyncio.sleep(0)
        return f"{self.word} {name}"
