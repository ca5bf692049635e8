"""Which entries of the notebook's folder are not to be shown: found by name, and by device and number of the file."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from .patterns import Patterns

_SETTLED = 100_000_000
"""Nanoseconds after which a second change of a folder has another time: file systems count in ticks."""
_OWN = (".ssh", ".aws", ".gnupg", ".azure", ".kube", ".docker", ".config/gcloud")
_OWN_FILES = (".netrc", ".pypirc", ".npmrc", ".git-credentials", ".pgpass", ".vault-token")
"""Where a user's keys lie: a hard link to one is hidden under any name."""

Inode = tuple[int, int]
"""Device and number."""


@dataclass
class Secrets:
    """What was found in one folder. Paths are relative to it, with `/` between names."""

    root: str
    patterns: Patterns
    paths: tuple[str, ...] = ()
    """Absolute paths that are hidden whatever they are called."""
    skipped: tuple[str, ...] = ()
    """Absolute paths of folders that are not looked through, because cells see them anyway."""
    limit: int = 200_000
    hidden: dict[str, bool] = field(default_factory=dict)
    """Each hidden entry, but none in a hidden folder; whether it is a folder."""
    unseen: list[str] = field(default_factory=list)
    """Those of them that are hidden because the folder is too large to look through all of it."""
    folders: dict[str, int] = field(default_factory=dict)
    """The folders that were looked at, the uppermost first, with their times of change then; 0 if that may change."""
    _inodes: set[Inode] = field(default_factory=set)
    _looked: int = 0

    def search(self) -> None:
        """Look through the whole folder; it takes about a second for a million entries."""
        self._inodes.update(_own_inodes())
        linked: list[tuple[int, str, str]] = []
        masked = self._walk([""], linked)
        self._collect_inodes(masked)
        for path in self._linked(linked):
            self.hidden[path] = False

    def changed(self, first: int, last: int | None = None) -> list[str]:
        """Return those of the folders number ``first`` to ``last`` that were changed since they were looked at."""
        names = list(self.folders)[first:last]
        return [name for name in names if _changed(os.path.join(self.root, name)) != self.folders[name]]

    def look_again(self, names: Iterable[str]) -> list[str]:
        """Look at some folders again; return the entries that have to be hidden and were not."""
        before, looked = set(self.hidden), self._looked
        linked: list[tuple[int, str, str]] = []
        self._collect_inodes(self._walk(list(names), linked))
        # However often an entry is looked at, it counts once.
        self._looked = looked
        for path in self._linked(linked):
            self.hidden[path] = False
        return [path for path in self.hidden if path not in before]

    def holds(self, path: str, status: os.stat_result | None) -> bool:
        """Whether an entry is hidden, or would be if it were there; ``status`` is what it is on the host."""
        if self.patterns.cover(path, folder=True):
            return True
        names = path.split("/")
        if any("/".join(names[:count]) in self.hidden for count in range(1, len(names) + 1)):
            return True
        return status is not None and (status.st_dev, status.st_ino) in self._inodes

    def _walk(self, names: list[str], linked: list[tuple[int, str, str]]) -> list[str]:
        """Look through folders and those in them; return the folders that are hidden."""
        waiting = deque(names)
        again = set(names)
        masked = []
        while waiting:
            folder = waiting.popleft()
            if self._looked >= self.limit and folder:
                self.hidden[folder] = True
                self.unseen.append(folder)
                continue
            path = os.path.join(self.root, folder)
            before = _changed(path)
            beginning = f"{folder}/" if folder else ""
            entries = _entries(path)
            self._looked += len(entries)
            for entry in entries:
                name = beginning + entry.name
                is_folder = entry.is_dir(follow_symlinks=False)
                if self._hides(entry, name, is_folder=is_folder):
                    if name not in self.hidden:
                        self.hidden[name] = is_folder
                        self._add_target(entry, is_folder=is_folder)
                        if is_folder:
                            masked.append(name)
                elif not is_folder:
                    linked.append((entry.inode(), folder, entry.name))
                elif (folder not in again or name not in self.folders) and entry.path not in self.skipped:
                    waiting.append(name)
            # A change so soon behind the last one could leave the time as it is.
            self.folders[folder] = before if time.time_ns() - before > _SETTLED else 0
        return masked

    def _hides(self, entry: os.DirEntry[str], name: str, *, is_folder: bool) -> bool:
        if self.patterns.match(name, folder=is_folder or entry.is_symlink()):
            return True
        return bool(self.paths) and entry.path in self.paths

    def _add_target(self, entry: os.DirEntry[str], *, is_folder: bool) -> None:
        """Remember the file itself: it may have another name too, or be one that a link leads to."""
        if not is_folder:
            with suppress(OSError):
                status = os.stat(entry.path)
                self._inodes.add((status.st_dev, status.st_ino))

    def _collect_inodes(self, folders: list[str]) -> None:
        """Remember what hidden folders hold; ``limit`` counts for it too."""
        waiting = [os.path.join(self.root, folder) for folder in folders]
        while waiting and self._looked < self.limit:
            folder = waiting.pop()
            with suppress(OSError):
                device = os.lstat(folder).st_dev
                for entry in _entries(folder):
                    self._looked += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        self._inodes.add((device, entry.inode()))

    def _linked(self, entries: list[tuple[int, str, str]]) -> Iterator[str]:
        """Give the entries that are other names of hidden files."""
        numbers = {number for _, number in self._inodes}
        for number, folder, name in entries:
            if number in numbers:
                path = f"{folder}/{name}" if folder else name
                with suppress(OSError):
                    status = os.lstat(os.path.join(self.root, path))
                    if (status.st_dev, status.st_ino) in self._inodes:
                        yield path


def _own_inodes() -> Iterator[Inode]:
    """Give the user's own keys that have more than one name."""
    home = os.path.expanduser("~")
    files = [os.path.join(home, name) for name in _OWN_FILES]
    for folder in _OWN:
        files += [entry.path for entry in _entries(os.path.join(home, folder))]
    for path in files:
        with suppress(OSError):
            status = os.stat(path)
            if status.st_nlink > 1:
                yield status.st_dev, status.st_ino


def _entries(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError:
        # It is gone, or not for us to read, and so not for a cell.
        return []


def _changed(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1
