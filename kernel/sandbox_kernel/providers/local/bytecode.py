"""Compiled files of what runs inside. A sandbox sees them read-only and would compile anew at each start."""

from __future__ import annotations

import importlib.util
import os
from contextlib import suppress


def compile_stale(folder: str) -> None:
    """Compile the modules in a folder whose compiled files are missing or old, for the Python that runs this."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.endswith(".py") and not _is_fresh(path):
            import py_compile  # rarely needed

            # An installation that cannot be written to, or a file that Python will complain about anyway.
            with suppress(OSError, py_compile.PyCompileError):
                py_compile.compile(path, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP)


def _is_fresh(path: str) -> bool:
    # "Cached bytecode invalidation" in Python's import documentation: magic, flags, time and size of the source.
    status = os.stat(path)
    expected = importlib.util.MAGIC_NUMBER + bytes(4)
    expected += (int(status.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little")
    expected += (status.st_size & 0xFFFFFFFF).to_bytes(4, "little")
    try:
        with open(importlib.util.cache_from_source(path), "rb") as file:
            return file.read(16) == expected
    except OSError:
        return False
