"""What of the notebook's folder on this machine goes to a sandbox elsewhere.

Not what is hidden, nor what is too large, nor links that lead out, nor devices, nor other file systems. A file's
digest is computed again only when its time, size or number has changed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from .beneath import MAX_DEPTH, open_one, opened_folder, opened_root, split
from .changes import leads_out
from .entries import FILE, FOLDER, LINK, Entries, Entry, kind_of, signature
from .patterns import Patterns
from .secrets import Secrets

PIECE = 1024 * 1024
SETTLED = 100_000_000
"""Nanoseconds after which a second change of a file has another time."""


@dataclass(frozen=True)
class Caps:
    """How much of a folder goes to a sandbox; sizes in bytes."""

    files: int
    size: int
    file_size: int


@dataclass
class Found:
    """What a look at the folder found."""

    entries: dict[str, Entry] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Files that do not go, with the reason as a clause."""
    skipped: set[str] = field(default_factory=set)
    """What does not go because of Workspace.sync_skipped."""
    size: int = 0
    """Bytes of the files among the entries."""
    seconds: float = 0.0
    """How long it took."""


class HostFiles:
    """Looks at one folder, again and again. Blocking: to be called in a thread where the folder is large."""

    def __init__(self, secrets: Secrets, caps: Caps, skipped: Patterns) -> None:
        self._secrets, self._caps, self._skipped = secrets, caps, skipped

    def look(self, known: Entries) -> Found:
        """Return what there is now; ``known`` are entries whose digests count as long as their signatures do.

        Raises OSError where the folder itself cannot be opened.
        """
        began = time.monotonic()
        # What has to be hidden since the last look must be known before anything is read.
        self._secrets.look_again(self._secrets.changed(0))
        found = Found()
        with opened_root(self._secrets.root) as root:
            device = os.fstat(root).st_dev
            waiting = deque([""])
            while waiting:
                path = waiting.popleft()
                with suppress(OSError), opened_folder(root, path) as folder:
                    if os.fstat(folder).st_dev == device:
                        self._look_into(folder, path, known, found, waiting)
        found.seconds = time.monotonic() - began
        return found

    def _look_into(self, folder: int, path: str, known: Entries, found: Found, waiting: deque[str]) -> None:
        with os.scandir(folder) as entries:
            statuses = sorted((entry.name, status) for entry in entries if (status := _status(entry)) is not None)
        for name, status in statuses:
            inner = f"{path}/{name}" if path else name
            if self._secrets.holds(inner, status):
                continue
            if not _is_text(name):
                found.left_out[inner] = "its name is no text"
                continue
            kind = kind_of(status)
            if self._skipped.match(inner, folder=kind == FOLDER):
                found.skipped.add(inner)
            elif kind == FOLDER:
                self._take_folder(inner, status, found, waiting)
            elif kind == LINK:
                _take_link(folder, name, inner, status, found)
            elif kind == FILE:
                self._take_file(folder, name, inner, status, known.get(inner), found)

    def _take_folder(self, path: str, status: os.stat_result, found: Found, waiting: deque[str]) -> None:
        if path.count("/") >= MAX_DEPTH:
            found.left_out[path] = f"it lies more than {MAX_DEPTH} folders deep"
        elif len(found.entries) >= self._caps.files:
            found.left_out[path] = "there are more files than Workspace.sync_files"
        else:
            found.entries[path] = Entry(FOLDER, mode=stat.S_IMODE(status.st_mode), modified=status.st_mtime_ns)
            waiting.append(path)

    def _take_file(
        self, folder: int, name: str, path: str, status: os.stat_result, known: Entry | None, found: Found
    ) -> None:
        if len(found.entries) >= self._caps.files:
            found.left_out[path] = "there are more files than Workspace.sync_files"
        elif status.st_size > self._caps.file_size:
            found.left_out[path] = "it is larger than Workspace.sync_file_size"
        elif found.size + status.st_size > self._caps.size:
            found.left_out[path] = "together the files are larger than Workspace.sync_size"
        else:
            entry = known if known is not None and known.signature == signature(status) else _read(folder, name)
            if entry is None:
                found.left_out[path] = "it cannot be read"
                return
            found.entries[path] = entry
            found.size += entry.size


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    with suppress(OSError):
        return entry.stat(follow_symlinks=False)
    return None


def _is_text(name: str) -> bool:
    """Whether a name can be told to somebody else."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _take_link(folder: int, name: str, path: str, status: os.stat_result, found: Found) -> None:
    try:
        target = os.readlink(name, dir_fd=folder)
    except OSError:
        found.left_out[path] = "it cannot be read"
        return
    refused = leads_out(path, target) if _is_text(target) else "where it leads is no text"
    if refused:
        found.left_out[path] = refused
    else:
        found.entries[path] = Entry(LINK, modified=status.st_mtime_ns, said=target)


def _read(folder: int, name: str) -> Entry | None:
    """Return a file with its digest; None if it cannot be read."""
    try:
        descriptor = open_one(folder, name)
    except OSError:
        return None
    try:
        now, status = time.time_ns(), os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return None
        found, left = hashlib.sha256(), status.st_size
        while left and (piece := os.read(descriptor, min(PIECE, left))):
            found.update(piece)
            left -= len(piece)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    is_settled = max(status.st_mtime_ns, status.st_ctime_ns) < now - SETTLED and not left
    return Entry(
        FILE,
        size=status.st_size,
        mode=stat.S_IMODE(status.st_mode),
        modified=status.st_mtime_ns,
        said=found.hexdigest(),
        signature=signature(status) if is_settled else (),
    )


def open_to_send(secrets: Secrets, path: str) -> int:
    """Return a descriptor of a file in the folder that is to be sent. Raises OSError, also for what is hidden now."""
    parent, name = split(path)
    with opened_root(secrets.root) as root, opened_folder(root, parent) as folder:
        descriptor = open_one(folder, name)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or secrets.holds(path, status):
        os.close(descriptor)
        raise PermissionError(f"{path} is not to be sent")
    return descriptor
