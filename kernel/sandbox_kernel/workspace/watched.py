"""Folders that were looked at, and whether that has to be done again; and files that are known by their numbers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress

_SETTLED = 100_000_000
"""Nanoseconds after which a second change of a folder has another time: file systems count in ticks."""

Inode = tuple[int, int]
"""Device and number."""
_Mark = tuple[int, int, int, int]
"""Device, number, time of the last change of the entries, and of any change; the last can be set by nobody."""


class WatchedFolders:
    """Folders in one folder, in the order in which they were looked at, the uppermost first.

    Paths are relative to it, with `/` between names.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._folders: dict[str, tuple[_Mark, int]] = {}
        self.entries = 0
        """How many entries they have together."""

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)

    def __contains__(self, name: object) -> bool:
        return name in self._folders

    def note(self, name: str, status: os.stat_result, entries: int) -> None:
        """Remember what a folder was before its entries were read, and how many there were."""
        mark = _mark(status)
        if time.time_ns() - status.st_ctime_ns <= _SETTLED:
            # A change so soon behind the last one could leave the time as it is: it is looked at again anyway.
            mark = (*mark[:3], -1)
        known = self._folders.get(name)
        self.entries += entries - (known[1] if known else 0)
        self._folders[name] = mark, entries

    def forget(self, name: str) -> None:
        """Forget a folder that is not there any more, or not to be looked at any more, if it is known."""
        known = self._folders.pop(name, None)
        self.entries -= known[1] if known else 0

    def is_same(self, name: str, number: int) -> bool:
        """Whether a folder was looked at that had this number."""
        known = self._folders.get(name)
        return known is not None and known[0][1] == number

    def changed(self, names: Iterator[str]) -> list[str]:
        """Return those of these folders that are not what they were when they were looked at."""
        return [name for name in names if self._now(name) != self._folders[name][0]]

    def _now(self, name: str) -> _Mark | None:
        try:
            return _mark(os.lstat(f"{self._root}/{name}"))
        except OSError:
            return None


def _mark(status: os.stat_result) -> _Mark:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


class KnownFiles:
    """Files by device and number, which tell them under each of their names.

    A number is given to another file when its own is gone. So each is kept with the paths that it was found under, and
    counts only as long as one of them leads to it.
    """

    def __init__(self) -> None:
        self._paths: dict[Inode, tuple[str, ...]] = {}
        self._numbers: set[int] = set()

    def add(self, inode: Inode, path: str) -> bool:
        """Remember a file that is found under an absolute path; return whether it was not known under it."""
        paths = self._paths.get(inode, ())
        if path in paths:
            return False
        self._paths[inode] = (*paths, path)
        self._numbers.add(inode[1])
        return True

    def may_have(self, number: int) -> bool:
        """Whether it is worth asking `has` about a file with this number."""
        return number in self._numbers

    def has(self, inode: Inode) -> bool:
        """Whether this is one of the files now."""
        paths = self._paths.get(inode, ())
        left = tuple(path for path in paths if _inode_of(path) == inode)
        if paths and not left:
            del self._paths[inode]
        return bool(left)


def _inode_of(path: str) -> Inode | None:
    with suppress(OSError):
        status = os.stat(path)
        return status.st_dev, status.st_ino
    return None
