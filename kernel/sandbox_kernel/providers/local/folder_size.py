"""How much of the disk a folder takes that its owner may be hiding things in."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress

_BLOCK = 512
_ENTRY = 512
"""Bytes that an entry is taken to need beside its blocks, so that empty files cost something."""
MAX_DEPTH = 200


class TooDeepError(Exception):
    """The folder is nested deeper than can be measured."""


class _Level:
    """An open folder, and the names of the folders in it that were not entered yet."""

    def __init__(self, descriptor: int, mode: int | None = None) -> None:
        self.descriptor, self.names = descriptor, list[str]()
        self._mode = mode

    def close(self) -> None:
        """Close it, with the mode that it had."""
        try:
            if self._mode is not None:
                os.fchmod(self.descriptor, self._mode)
        finally:
            os.close(self.descriptor)


def sizes(folder: int) -> Iterator[int]:
    """Yield what each entry below an open folder takes, in bytes, following no link and closing the descriptor.

    Folders that their owner may not look into are opened for as long as that takes. What cannot be looked at because
    it changes meanwhile is left out. Raises TooDeepError.
    """
    levels = [_Level(folder)]
    linked: set[int] = set()
    try:
        yield from _list(levels[0], linked)
        while levels:
            level = levels[-1]
            if not level.names:
                levels.pop().close()
                continue
            below = _open(level.descriptor, level.names.pop())
            if below is None:
                continue
            levels.append(below)
            if len(levels) > MAX_DEPTH:
                raise TooDeepError
            yield from _list(below, linked)
    finally:
        for level in reversed(levels):
            level.close()


def _list(level: _Level, linked: set[int]) -> Iterator[int]:
    with os.scandir(level.descriptor) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if stat.S_ISDIR(status.st_mode):
                level.names.append(entry.name)
            elif status.st_nlink > 1:
                if status.st_ino in linked:
                    continue
                linked.add(status.st_ino)
            yield status.st_blocks * _BLOCK + _ENTRY


def _open(parent: int, name: str) -> _Level | None:
    """Open a folder in an open one; None if it is gone."""
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(name, os.O_RDONLY | flags, dir_fd=parent)
    except PermissionError:
        return _open_unreadable(parent, name, flags)
    except OSError:
        return None
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if mode & stat.S_IXUSR:
        return _Level(descriptor)
    # Its names can be read, and nothing of what they name.
    with suppress(OSError):
        os.fchmod(descriptor, mode | stat.S_IRWXU)
    return _Level(descriptor, mode)


def _open_unreadable(parent: int, name: str, flags: int) -> _Level | None:
    try:
        handle = os.open(name, os.O_PATH | flags, dir_fd=parent)
    except OSError:
        return None
    try:
        path = f"/proc/self/fd/{handle}"
        mode = stat.S_IMODE(os.stat(path).st_mode)
        os.chmod(path, mode | stat.S_IRWXU)
        try:
            return _Level(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), mode)
        except OSError:
            os.chmod(path, mode)
            return None
    except OSError:
        return None
    finally:
        os.close(handle)
