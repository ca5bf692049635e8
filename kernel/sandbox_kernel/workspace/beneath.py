"""Opening what lies in a folder that somebody else may be changing: no link is followed, and nothing waits.

Paths are relative, with `/` between names. Everything goes from descriptor to descriptor.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

MAX_DEPTH = 200
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def opened_folder(root: int, path: str, *, anyway: bool = False) -> Iterator[int]:
    """Give a descriptor of a folder in an open one; ``anyway`` is `open_anyway`. Raises OSError."""
    descriptor = os.dup(root)
    try:
        for name in path.split("/") if path else ():
            open_entry = open_anyway if anyway else open_one
            deeper = open_entry(descriptor, name, os.O_DIRECTORY)
            os.close(descriptor)
            descriptor = deeper
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def opened_root(path: str, *, follow: bool = True) -> Iterator[int]:
    """Give a descriptor of the folder at a path, which is trusted, and may be a link if one is to be followed.

    Raises OSError.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_one(folder: int, name: str, flags: int = 0) -> int:
    """Open an entry for reading. Raises OSError, also for a link.

    A fifo is opened without waiting for a writer; who calls looks at what it got.
    """
    return os.open(name, flags | os.O_RDONLY | os.O_NONBLOCK | _FLAGS, dir_fd=folder)


def open_anyway(folder: int, name: str, flags: int = 0) -> int:
    """Do the same, also where a cell made the entry unreadable. Raises OSError.

    A file stays so for others. A folder is ours to enter from now on, or nothing in it could be looked at.
    """
    try:
        return open_one(folder, name, flags)
    except PermissionError:
        # By descriptor: chmod(2) would follow a link that has taken the entry's place.
        handle = os.open(name, os.O_PATH | _FLAGS, dir_fd=folder)
    try:
        status = os.fstat(handle)
        if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
            raise PermissionError(f"{name} cannot be opened")
        path = f"/proc/self/fd/{handle}"
        os.chmod(path, stat.S_IMODE(status.st_mode) | 0o700)
        try:
            return os.open(path, flags | os.O_RDONLY | os.O_CLOEXEC)
        finally:
            if not stat.S_ISDIR(status.st_mode):
                os.chmod(path, stat.S_IMODE(status.st_mode))
    finally:
        os.close(handle)


def status_of(folder: int, name: str) -> os.stat_result | None:
    """Return what an entry itself is; None if it is not there."""
    with suppress(OSError):
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    return None


def split(path: str) -> tuple[str, str]:
    """Return the folder of a path, and the last name."""
    folder, _, name = path.rpartition("/")
    return folder, name
