"""Patterns of paths and what they match, one step at a time; the same inside the sandbox and outside.

In a pattern are ``*``, ``?``, ``[…]``, and ``**`` for any folders; none stands for a name that begins with a dot. A
path that exists as it is written is taken so. Links to folders are entered only where the pattern names them. Whoever
iterates gets None now and then, and can do something else.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterator
from typing import Any


def described(path: str) -> list[Any] | None:
    """Return path, kind, size, time of change and mode; None if it is gone."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "special")
    size = status.st_size if kind == "file" else 0
    return [path, kind, size, status.st_mtime, stat.S_IMODE(status.st_mode)]


def inside(folder: str) -> Iterator[str | None]:
    """Yield everything below a folder, each folder before what is in it; None between."""
    waiting = [folder]
    while waiting:
        for name, is_folder in names(waiting.pop()):
            if name is not None:
                if is_folder:
                    waiting.append(name)
                yield name
            else:
                yield None


def names(folder: str) -> Iterator[tuple[str | None, bool]]:
    """Yield the paths in a folder and whether each is a folder itself; a folder that cannot be read has none."""
    yield None, False
    try:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                yield os.path.join(folder, entry.name), entry.is_dir(follow_symlinks=False)
    except OSError:
        return


def matches(pattern: str, folder: str = "") -> Iterator[str | None]:
    """Yield the paths that match a pattern, which begins in a folder if it is relative; None between."""
    if os.path.lexists(os.path.join(folder, pattern)):
        yield os.path.join(folder, pattern)
        return
    root = "/" if pattern.startswith("/") else folder
    parts = [part for part in pattern.split("/") if part]
    waiting = [(root, 0)]
    while waiting:
        base, index = waiting.pop()
        if index == len(parts):
            yield base or None
            continue
        for step in _steps(base, parts, index):
            if step is not None:
                waiting.append(step)
            yield None


Step = tuple[str, int]
"""A path that matches the first parts of a pattern, and how many."""


def _steps(base: str, parts: list[str], index: int) -> Iterator[Step | None]:
    """Yield how to go on from a path by one part; None between."""
    part, last = parts[index], index == len(parts) - 1
    if not has_magic(part):
        path = os.path.join(base, part)
        if os.path.lexists(path) if last else os.path.isdir(path):
            yield path, index + 1
        return
    if part == "**":
        yield base, index + 1
    accepts = re.compile(fnmatch.translate(part)).match
    for found, is_folder in names(base):
        name = os.path.basename(found or "")
        if found is None or (name.startswith(".") and not part.startswith(".")):
            yield None
        elif part == "**":
            yield (found, index) if is_folder else (found, len(parts)) if last else None
        elif accepts(name) and (last or is_folder or os.path.isdir(found)):
            yield found, index + 1


def has_magic(part: str) -> bool:
    """Whether a part of a path stands for several names."""
    return any(character in part for character in "*?[")


def with_insides(paths: Iterator[str | None]) -> Iterator[str | None]:
    """Yield each path and what is in it."""
    for path in paths:
        yield path
        if path is not None and not os.path.islink(path):
            yield from inside(path)
