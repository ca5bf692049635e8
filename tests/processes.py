"""Finds processes by their command lines, while others come and go."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil


def below(pid: int | None, *words: str) -> list[psutil.Process]:
    """Return the living descendants of a process, None: this one, whose command line has all of the words."""
    return [one for one, line in _lines_below(pid) if all(word in line for word in words)]


def sandboxes_of(pid: int | None = None) -> list[psutil.Process]:
    """Return the outer processes of the local sandboxes below a process, None: this one."""
    return [one for one, line in _lines_below(pid) if line.startswith("bwrap:")]


def _lines_below(pid: int | None) -> Iterator[tuple[psutil.Process, str]]:
    for one in psutil.Process(pid).children(recursive=True):
        # One that ends meanwhile, or has ended and was not waited for yet, has no command line.
        with contextlib.suppress(psutil.NoSuchProcess):
            yield one, " ".join(one.cmdline())
