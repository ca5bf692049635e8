"""Which entries of the notebook's folder are not to be shown: found by name, and by device and number of the file."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, islice

from .beneath import opened_folder, opened_root
from .patterns import Patterns
from .watched import KnownFiles, WatchedFolders

_OWN = (".ssh", ".aws", ".gnupg", ".gnupg/private-keys-v1.d", ".azure", ".kube", ".docker", ".config/gcloud")
_OWN_FILES = (".netrc", ".pypirc", ".npmrc", ".git-credentials", ".pgpass", ".vault-token")
"""Where a user's keys lie: a hard link to one is hidden under any name."""
_MASKED_AT_ONCE = 1000
"""Hidden folders that are looked at whenever another folder was changed; a look takes about a microsecond."""
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""There is no such folder, or a link is in its place or that of one around it."""
_FOLDER, _LINK, _OTHER = range(3)
"""Kinds of entries."""


@dataclass
class Secrets:
    """What was found in one folder. Paths are relative to it, with `/` between names."""

    root: str
    """Without symbolic links in it."""
    patterns: Patterns
    paths: tuple[str, ...] = ()
    """Absolute paths that are hidden whatever they are called."""
    skipped: tuple[str, ...] = ()
    """Absolute paths of folders that are not looked through, because cells see them anyway."""
    limit: int = 200_000
    hidden: dict[str, bool] = field(default_factory=dict)
    """Each hidden entry, but none in a hidden folder; whether it is a folder. What was hidden once stays so."""
    unseen: list[str] = field(default_factory=list)
    """Those of them that are hidden because the folder is too large to look through all of it."""
    locked: list[str] = field(default_factory=list)
    """Those of them that are hidden because this user may not look into them."""

    def __post_init__(self) -> None:
        self.folders = WatchedFolders(self.root)
        """The folders that cells see."""
        self._masked = WatchedFolders(self.root)
        self._files = KnownFiles()
        self._links: set[str] = set()
        self._targets: list[str] = []
        self._searched = False
        self._again = False

    def search(self) -> None:
        """Look through the whole folder; it takes about a second for a million entries."""
        self._note_own()
        self._look([""], [])
        self._searched = True
        self._again = False

    @property
    def count(self) -> int:
        """How many folders `changed` looks at."""
        return len(self.folders) + len(self._masked)

    def changed(self, first: int, last: int | None = None) -> list[str]:
        """Return those of the folders number ``first`` to ``last`` that were changed since they were looked at.

        Those that cells see come first, the uppermost before those in them.
        """
        seen = self.folders.changed(islice(self.folders, first, last))
        hidden = len(self.folders)
        end = None if last is None else max(last - hidden, 0)
        return seen + self._masked.changed(islice(self._masked, max(first - hidden, 0), end))

    def look_again(self, names: Iterable[str]) -> list[str]:
        """Look at some folders again; return the entries that have to be hidden and were not."""
        before = set(self.hidden)
        names = list(names)
        masked = {name for name in names if name in self._masked}
        masked.update(self._masked.changed(islice(self._masked, _MASKED_AT_ONCE)))
        self._note_own()
        for name in list(self._links):
            self._note_file(name)
        self._look([name for name in names if name not in self._masked], masked)
        if self._again:
            # A hidden file has, or may have, another name in a folder that was not changed.
            self._look(list(self.folders), [])
            self._again = False
        return [path for path in self.hidden if path not in before]

    def holds(self, path: str, status: os.stat_result | None) -> bool:
        """Whether an entry is hidden, or would be if it were there; ``status`` is what it is on the host."""
        if self.patterns.cover(path, folder=True):
            return True
        names = path.split("/")
        if any("/".join(names[:count]) in self.hidden for count in range(1, len(names) + 1)):
            return True
        return status is not None and self._files.has((status.st_dev, status.st_ino))

    # ---- looking

    def _look(self, names: list[str], masked: Iterable[str]) -> None:
        """Look at folders that cells see, at hidden ones, and at those in both that are new."""
        inside = deque(masked)
        linked: list[tuple[int, str, str]] = []
        waiting = deque(names)
        while waiting:
            folder = waiting.popleft()
            if self._is_in_target(folder):
                continue
            if folder and folder not in self.folders and self._entries() >= self.limit:
                self.hidden[folder] = True
                self.unseen.append(folder)
                continue
            for last, number, kind in self._read(folder, self.folders):
                name = f"{folder}/{last}" if folder else last
                if name in self.hidden or self._hides(name, kind):
                    self.hidden[name] = kind == _FOLDER
                    if kind == _FOLDER:
                        inside.append(name)
                        continue
                    if kind == _LINK:
                        self._links.add(name)
                    self._note_file(name)
                elif kind != _FOLDER:
                    linked.append((number, folder, last))
                elif not self.folders.is_same(name, number) and self._path(name) not in self.skipped:
                    waiting.append(name)
        self._look_inside(chain(inside, self._targets))
        self._hide_linked(linked)

    def _read(self, folder: str, watched: WatchedFolders) -> list[tuple[str, int, int]]:
        """Return name, number and kind of a folder's entries.

        No symbolic link is followed to it. What we may not look into is hidden.
        """
        try:
            with self._opened(folder) as descriptor:
                # By its name, which needs the right to search it: without that its entries have no numbers.
                status = os.stat(".", dir_fd=descriptor)
                with os.scandir(descriptor) as found:
                    entries = [(entry.name, entry.inode(), _kind(entry)) for entry in found]
        except OSError as exc:
            watched.forget(folder)
            if watched is self.folders and exc.errno not in _GONE:
                # An overlay could show cells what the user may not see himself.
                self.hidden[folder] = True
                self.locked.append(folder)
            return []
        watched.note(folder, status, len(entries))
        return entries

    @contextmanager
    def _opened(self, folder: str) -> Iterator[int]:
        if self._searched:
            with opened_root(self.root) as root, opened_folder(root, folder) as descriptor:
                yield descriptor
            return
        # No cell runs, and the folders around it have just been looked at. It is done several times as fast.
        with opened_root(self._path(folder), follow=False) as descriptor:
            yield descriptor

    def _look_inside(self, folders: Iterable[str]) -> None:
        """Remember what hidden folders hold; ``limit`` counts for it too."""
        waiting = deque(folders)
        while waiting and self._entries() < self.limit:
            folder = waiting.popleft()
            with suppress(OSError):
                device = os.lstat(self._path(folder)).st_dev
                for last, number, kind in self._read(folder, self._masked):
                    name = f"{folder}/{last}"
                    if kind != _FOLDER:
                        self._add(device, number, name)
                    elif not self._masked.is_same(name, number):
                        waiting.append(name)

    def _entries(self) -> int:
        return self.folders.entries + self._masked.entries

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    # ---- hiding

    def _hides(self, name: str, kind: int) -> bool:
        if self.patterns.match(name, folder=kind != _OTHER):
            return True
        return bool(self.paths) and self._path(name) in self.paths

    def _note_file(self, name: str) -> None:
        """Remember a hidden file itself: it may have another name too, or be one that a link leads to."""
        try:
            status = os.stat(self._path(name))
        except OSError:
            # It is gone, or leads nowhere.
            return
        if stat.S_ISDIR(status.st_mode):
            self._hide_target(name)
        else:
            self._add(status.st_dev, status.st_ino, name, is_link=name in self._links)

    def _add(self, device: int, number: int, name: str, *, is_link: bool = False) -> None:
        if self._files.add((device, number), self._path(name)) and self._searched and not self._again:
            with suppress(OSError):
                self._again = is_link or os.lstat(self._path(name)).st_nlink > 1

    def _hide_target(self, link: str) -> None:
        """Hide the folder that a hidden link leads to, if it is one that cells would see, and not one around it."""
        target = os.path.realpath(self._path(link)).removeprefix(f"{self.root}/")
        if os.path.isabs(target) or f"{link}/".startswith(f"{target}/") or self._is_in_target(target):
            return
        names = target.split("/")
        if any("/".join(names[:count]) in self.hidden for count in range(1, len(names) + 1)):
            return
        for name in [name for name in self.folders if _is_in(name, target)]:
            self.folders.forget(name)
        for name in [name for name in self.hidden if _is_in(name, target)]:
            del self.hidden[name]
        self._targets.append(target)
        self.hidden[target] = True

    def _is_in_target(self, name: str) -> bool:
        return any(_is_in(name, target) for target in self._targets)

    def _hide_linked(self, entries: list[tuple[int, str, str]]) -> None:
        """Hide the entries that are other names of hidden files."""
        for number, folder, name in entries:
            if self._files.may_have(number):
                path = f"{folder}/{name}" if folder else name
                with suppress(OSError):
                    status = os.lstat(self._path(path))
                    if self._files.has((status.st_dev, status.st_ino)) and not self._is_in_target(path):
                        self.hidden[path] = False

    def _note_own(self) -> None:
        """Remember the user's own keys."""
        for path in _own_files():
            with suppress(OSError):
                status = os.stat(path)
                self._files.add((status.st_dev, status.st_ino), path)


def _is_in(name: str, folder: str) -> bool:
    return name == folder or name.startswith(f"{folder}/")


def _kind(entry: os.DirEntry[str]) -> int:
    if entry.is_dir(follow_symlinks=False):
        return _FOLDER
    return _LINK if entry.is_symlink() else _OTHER


def _own_files() -> Iterator[str]:
    home = os.path.expanduser("~")
    for name in _OWN_FILES:
        yield os.path.join(home, name)
    for folder in _OWN:
        with suppress(OSError), os.scandir(os.path.join(home, folder)) as entries:
            yield from [entry.path for entry in entries]
