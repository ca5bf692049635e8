"""What cells changed elsewhere, brought into a layer of this machine, as an overlay would have written it.

So whatever reads, shows, applies or keeps layers does it for sandboxes elsewhere, too. A layer may be one that a cell
of a local sandbox wrote to, so no link in it is followed and nothing in it is waited for.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from .beneath import MAX_DEPTH, open_anyway, opened_folder, opened_root, split, status_of
from .changes import is_opaque, is_whiteout
from .entries import FILE, FOLDER, LINK, Entry, kind_of
from .layers import Layer

REMOVED = "removed"
"""The kind of an entry of a layer that says that there is none."""
INCOMING = "incoming-"
"""How the names of files begin that are on their way into a layer."""
OPAQUE = "opaque"
"""What is said of a folder of a layer that hides the one beneath it."""
PIECE = 1024 * 1024


def staged(layer: Layer, largest: int) -> dict[str, Entry]:
    """Return what a layer has, by path. Files with more than ``largest`` bytes have no digest. Raises OSError."""
    found: dict[str, Entry] = {}
    with opened_root(layer.upper) as upper:
        waiting = [""]
        while waiting:
            path = waiting.pop()
            with suppress(OSError), opened_folder(upper, path, anyway=True) as folder:
                for name in os.listdir(folder):
                    inner = f"{path}/{name}" if path else name
                    entry = _entry(folder, name, largest)
                    if entry is None:
                        continue
                    found[inner] = entry
                    if entry.kind == FOLDER and inner.count("/") < MAX_DEPTH:
                        waiting.append(inner)
    return found


def _entry(folder: int, name: str, largest: int) -> Entry | None:
    status = status_of(folder, name)
    if status is None:
        return None
    if is_whiteout(status):
        return Entry(REMOVED)
    kind, said = kind_of(status), ""
    if kind == FOLDER:
        with opened_folder(folder, name, anyway=True) as inner:
            said = OPAQUE if is_opaque(inner) else ""
    elif kind == LINK:
        said = os.readlink(name, dir_fd=folder)
    elif kind == FILE and status.st_size <= largest:
        said = _digest(folder, name)
    size = status.st_size if kind == FILE else 0
    return Entry(kind, size, stat.S_IMODE(status.st_mode), status.st_mtime_ns, said)


def _digest(folder: int, name: str) -> str:
    descriptor = open_anyway(folder, name)
    try:
        found = hashlib.sha256()
        while piece := os.read(descriptor, PIECE):
            found.update(piece)
    finally:
        os.close(descriptor)
    return found.hexdigest()


@dataclass(frozen=True)
class Incoming:
    """A file that is on its way into a layer."""

    path: str
    descriptor: int


class Staging:
    """Writes to a layer that no sandbox has mounted. Paths have been checked to be such. Blocking; raises OSError."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    def probe(self) -> None:
        """Raise OSError where the layer's disk cannot hold one."""
        path = os.path.join(self._layer.data, f"{INCOMING}{os.urandom(8).hex()}")
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(0, 0))
        os.unlink(path)

    def drop(self, path: str) -> None:
        """Remove an entry, of a folder all that is in it."""
        parent, name = split(path)
        with suppress(FileNotFoundError, NotADirectoryError), self._folder(parent) as folder:
            _remove(folder, name)

    def remove(self, path: str) -> None:
        """Say that there is nothing at a path."""
        with self._made(path) as (folder, name):
            os.mknod(name, stat.S_IFCHR | 0o600, os.makedev(0, 0), dir_fd=folder)

    def link(self, path: str, target: str) -> None:
        """Have a link at a path."""
        with self._made(path) as (folder, name):
            os.symlink(target, name, dir_fd=folder)

    def folder(self, path: str, mode: int) -> None:
        """Have a folder at a path; one that is there stays as it is."""
        parent, name = split(path)
        with self._folder(parent, make=True) as folder:
            status = status_of(folder, name)
            if status is not None and stat.S_ISDIR(status.st_mode):
                return
            _remove(folder, name)
            os.mkdir(name, mode & 0o777 | 0o700, dir_fd=folder)

    @contextmanager
    def incoming(self) -> Iterator[Incoming]:
        """Give a new file on the layer's disk, which is gone at the end of the block unless it was placed."""
        path = os.path.join(self._layer.data, f"{INCOMING}{os.urandom(8).hex()}")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            yield Incoming(path, descriptor)
        finally:
            os.close(descriptor)
            with suppress(FileNotFoundError):
                os.unlink(path)

    def place(self, incoming: Incoming, path: str, mode: int, modified: int) -> None:
        """Have a file that is whole at a path."""
        os.fchmod(incoming.descriptor, mode & 0o777 | 0o600)
        os.utime(incoming.descriptor, ns=(modified, modified))
        with self._made(path) as (folder, name):
            os.rename(incoming.path, name, dst_dir_fd=folder)

    def read(self, path: str) -> int:
        """Return a descriptor of a file in the layer."""
        parent, name = split(path)
        with self._folder(parent) as folder:
            descriptor = open_anyway(folder, name)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise PermissionError(f"{path} is no file")
        return descriptor

    @contextmanager
    def _folder(self, path: str, *, make: bool = False) -> Iterator[int]:
        with opened_root(self._layer.upper) as upper:
            if make:
                _make(upper, path.split("/") if path else [])
            with opened_folder(upper, path, anyway=True) as folder:
                yield folder

    @contextmanager
    def _made(self, path: str) -> Iterator[tuple[int, str]]:
        """Give the folder of a path, made where it is missing, and a name in it at which there is nothing."""
        parent, name = split(path)
        with self._folder(parent, make=True) as folder:
            _remove(folder, name)
            yield folder, name


def _make(upper: int, names: Sequence[str]) -> None:
    """Have folders on the way; what is no folder there gives way."""
    for count in range(1, len(names) + 1):
        name = names[count - 1]
        with opened_folder(upper, "/".join(names[: count - 1]), anyway=True) as folder:
            status = status_of(folder, name)
            if status is not None and not stat.S_ISDIR(status.st_mode):
                os.unlink(name, dir_fd=folder)
                status = None
            if status is None:
                os.mkdir(name, 0o755, dir_fd=folder)


def _remove(folder: int, name: str, depth: int = 0) -> None:
    status = status_of(folder, name)
    if status is None:
        return
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=folder)
        return
    if depth > MAX_DEPTH:
        raise OSError(errno.ENAMETOOLONG, f"folders are nested more than {MAX_DEPTH} deep")
    with opened_folder(folder, name, anyway=True) as inner:
        for below in os.listdir(inner):
            _remove(inner, below, depth + 1)
    os.rmdir(name, dir_fd=folder)
