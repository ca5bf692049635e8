"""Which files of this machine an upload takes, where they go, and which of them have to be asked for."""

from __future__ import annotations

import asyncio
import os
import posixpath
import stat
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sandbox_kernel.bridge.paths import inside, matches
from sandbox_kernel.errors import CommandError
from sandbox_kernel.workspace.patterns import Patterns

MAX_FILES = 100_000
TURN = 0.005
"""Seconds for which folders are searched before the event loop has its turn."""


@dataclass(frozen=True)
class HostFile:
    """A regular file that is to be handed over."""

    anchor: str
    """The folder that is opened to reach it: the notebook's, or the root for what lies elsewhere."""
    parts: tuple[str, ...]
    """The names from there to the file, none of them a link."""
    target: str
    """Path in the sandbox."""
    size: int
    mode: int
    is_inside: bool
    """Whether it lies in the notebook's folder."""
    asked: str = ""
    """Why it has to be asked for, "" if it has not."""

    @property
    def path(self) -> str:
        """Where it lies, for people."""
        return os.path.join(self.anchor, *self.parts)


@dataclass
class Choice:
    """What the patterns of one upload come to."""

    files: list[HostFile] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """How many were not taken, by reason."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(file.size for file in self.files)

    @property
    def asked(self) -> list[HostFile]:
        """Those that have to be asked for."""
        return [file for file in self.files if file.asked]


class Chooser:
    """Finds files for patterns that begin in the notebook's folder."""

    def __init__(self, directory: Path, target: str, hidden: Patterns) -> None:
        """``hidden``: what no pattern and no folder hands over; who wants such a file names it, and is asked."""
        self._hidden = hidden
        self._directory = os.path.realpath(directory)
        self._target = target
        self._home = os.path.realpath(os.path.expanduser("~"))
        self._taken: set[str] = set()
        self._matched = False
        self.choice = Choice()

    async def choose(self, patterns: Sequence[str]) -> Choice:
        """Return what all the patterns match. Raises CommandError for one that matches nothing."""
        for pattern in patterns:
            self._matched = False
            async for _ in _with_turns(self._steps(pattern)):
                if len(self.choice.files) > MAX_FILES:
                    raise CommandError(f"{pattern!r} matches more than {MAX_FILES:,} files; narrow it, or pack them.")
            if not self._matched:
                place = (
                    "on this machine"
                    if pattern.startswith(("/", "~"))
                    else f"in the notebook's folder, {self._directory}"
                )
                raise CommandError(f"Nothing matches {pattern!r} {place}.")
        return self.choice

    def _steps(self, pattern: str) -> Iterator[None]:
        pattern = os.path.expanduser(pattern)
        fixed = os.path.normpath(os.path.join(self._directory, *_before_wildcards(pattern)))
        for path in matches(pattern, self._directory):
            if path is not None:
                self._matched = True
                named = path == os.path.join(self._directory, pattern)
                if not named and _leads_over_link(os.path.normpath(path), fixed):
                    self.choice.left_out["links"] += 1
                    continue
                # The real path is without links, so that it says where the file lies.
                yield from self._take_match(os.path.normpath(path), os.path.realpath(path), named=named)
            yield

    def _take_match(self, path: str, real: str, *, named: bool) -> Iterator[None]:
        is_own = path == self._directory or self._is_inside(path)
        base = self._directory if is_own else os.path.dirname(path)
        if not os.path.isdir(real):
            self._take(real, os.path.relpath(path, base), named=named)
            return
        if self._is_secret(real) and not named:
            self.choice.left_out["taken for secrets"] += 1
            return
        for below in inside(real):
            if below is not None:
                relative = os.path.relpath(below, real)
                if any(part.startswith(".") for part in relative.split(os.sep)):
                    self.choice.left_out["hidden"] += 1
                elif not os.path.isdir(below) or os.path.islink(below):
                    self._take(below, os.path.join(os.path.relpath(path, base), relative), named=False)
            yield

    def _take(self, real: str, relative: str, *, named: bool) -> None:
        try:
            status = os.lstat(real)
        except OSError:
            self.choice.left_out["gone"] += 1
            return
        if not stat.S_ISREG(status.st_mode):
            self.choice.left_out["links" if stat.S_ISLNK(status.st_mode) else "no regular files"] += 1
            return
        secret = self._is_secret(real)
        if secret and not named:
            self.choice.left_out["taken for secrets"] += 1
            return
        if not named and not os.access(real, os.R_OK):
            self.choice.left_out["that cannot be read"] += 1
            return
        if real in self._taken:
            return
        self._taken.add(real)
        is_inside = self._is_inside(real)
        anchor = self._directory if is_inside else Path(real).anchor
        parts = Path(real).relative_to(anchor).parts
        target = posixpath.join(self._target, Path(relative).as_posix())
        asked = self._reason(real, secret=secret)
        mode = stat.S_IMODE(status.st_mode)
        self.choice.files.append(HostFile(anchor, parts, target, status.st_size, mode, is_inside, asked))

    def _reason(self, real: str, *, secret: bool) -> str:
        if secret:
            return "taken for a secret"
        if not self._is_inside(real):
            return "outside the notebook's folder"
        if self._home == self._directory or self._home.startswith(self._directory.rstrip(os.sep) + os.sep):
            return "in the home folder, or around it"
        return ""

    def _is_inside(self, path: str) -> bool:
        return path.startswith(self._directory.rstrip(os.sep) + os.sep)

    def _is_secret(self, real: str) -> bool:
        # Of what lies in the notebook's folder, the names on the way to that folder say nothing.
        path = Path(os.path.relpath(real, self._directory) if self._is_inside(real) else real)
        return self._hidden.cover(path.as_posix().lstrip("/"), folder=os.path.isdir(real))


def _before_wildcards(pattern: str) -> Iterator[str]:
    """Give the folders that a pattern names without a wildcard, as far as they go."""
    if pattern.startswith("/"):
        yield "/"
    for part in pattern.split("/")[:-1]:
        if any(char in part for char in "*?["):
            return
        yield part


def _leads_over_link(path: str, above: str) -> bool:
    """Whether a path, or a folder on the way to it from another one, is a link."""
    while len(path) > len(above):
        if os.path.islink(path):
            return True
        path = os.path.dirname(path)
    return False


async def _with_turns(steps: Iterator[None]) -> AsyncIterator[None]:
    """Go through steps, leaving the event loop its turns."""
    until = time.monotonic() + TURN
    for _ in steps:
        if time.monotonic() > until:
            await asyncio.sleep(0)
            until = time.monotonic() + TURN
        yield
