"""Kernel processes whose sandboxes are an emulator's."""

from __future__ import annotations

import json
from typing import Any

from .process import EmulatorProcess


def arguments(emulator: EmulatorProcess, **options: Any) -> list[str]:
    """Return the command line of a kernel process that uses it."""
    given = {"api_url": emulator.url, "sandbox_url": emulator.url, **options}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    return ["--provider=e2b", *(f"--E2BProvider.{name}={value}" for name, value in texts.items())]
