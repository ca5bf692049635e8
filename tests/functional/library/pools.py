"""Functions for maps, and what shows that these leave nothing."""

from __future__ import annotations

import os
import time
from typing import Any

from tests.processes import sandboxes_of


def square(number: int) -> int:
    return number * number


def deadly(number: int) -> int:
    if number % 40 == 7:
        os._exit(3)
    return number


def slow(number: int) -> int:
    time.sleep(600)
    return number


def busy(number: int) -> int:
    time.sleep(0.002)
    return -number


def told(data: Any) -> Any:
    return data


def bubblewraps() -> set[int]:
    """Return the sandboxes of this process."""
    return {one.pid for one in sandboxes_of()}
