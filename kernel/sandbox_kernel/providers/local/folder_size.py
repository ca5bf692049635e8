"""How much of the disk a folder takes that its owner may be hiding things in."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

_BLOCK = 512
_ENTRY = 512
"""Bytes that an entry is taken to need beside its blocks, so that empty files cost something."""
MAX_DEPTH = 200


class TooDeepError(Exception):
    """The folder is nested deeper than can be measured."""


def sizes(folder: int) -> Iterator[int]:
    """Yield what each entry below an open folder takes, in bytes, following no link and closing the descriptor.

    What cannot be looked at because it changes meanwhile is left out. Raises TooDeepError.
    """
    levels: list[tuple[int, list[str]]] = [(folder, [])]
    linked: set[int] = set()
    try:
        yield from _list(levels[0], linked)
        while levels:
            parent, names = levels[-1]
            if not names:
                os.close(levels.pop()[0])
                continue
            descriptor = _open(parent, names.pop())
            if descriptor < 0:
                continue
            levels.append((descriptor, []))
            if len(levels) > MAX_DEPTH:
                raise TooDeepError
            yield from _list(levels[-1], linked)
    finally:
        for descriptor, _ in levels:
            os.close(descriptor)


def _list(level: tuple[int, list[str]], linked: set[int]) -> Iterator[int]:
    descriptor, folders = level
    with os.scandir(descriptor) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode):
                folders.append(entry.name)
            elif status.st_nlink > 1:
                if status.st_ino in linked:
                    continue
                linked.add(status.st_ino)
            yield status.st_blocks * _BLOCK + _ENTRY


def _open(parent: int, name: str) -> int:
    """Open a folder in an open one; -1 if it is gone. One that was made unreadable is opened all the same."""
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, os.O_RDONLY | flags, dir_fd=parent)
    except PermissionError:
        pass
    except OSError:
        return -1
    try:
        handle = os.open(name, os.O_PATH | flags, dir_fd=parent)
    except OSError:
        return -1
    try:
        return _open_unreadable(handle)
    except OSError:
        return -1
    finally:
        os.close(handle)


def _open_unreadable(handle: int) -> int:
    path = f"/proc/self/fd/{handle}"
    mode = stat.S_IMODE(os.stat(path).st_mode)
    os.chmod(path, 0o700)
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.chmod(path, mode)
