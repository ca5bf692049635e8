"""The private folder of each sandbox on the host's disk. It is locked while its kernel process or its janitor lives.

So it tells which sandboxes exist, also across containers, and systemd-tmpfiles leaves it alone, however old it is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from sandbox_kernel.errors import ConfigurationError
from sandbox_kernel.providers.base import SandboxRecord

_PREFIX = "sandbox-kernel-"
_WORK = "work"
MEMORY = "/dev/shm"
"""A file system in memory, where there is one."""
_PACKAGES = "packages"
_YOUNG = 60.0
"""Seconds for which a folder without a lock may be one that is being made."""


@dataclass
class PrivateFolder:
    """A sandbox's folder, locked while ``lock`` is open in a process."""

    path: str
    lock: int
    memory: PrivateFolder | None = None
    """Another one, in memory, for many small entries; None if there is no place for it."""

    @property
    def locks(self) -> list[int]:
        """The descriptors that keep it, while they are open."""
        return [self.lock, *(self.memory.locks if self.memory else [])]

    @property
    def paths(self) -> list[str]:
        """What has to be removed after the sandbox."""
        return [self.path, *(self.memory.paths if self.memory else [])]

    @property
    def sandbox_id(self) -> str:
        """The sandbox's id, after which the folder is named."""
        return os.path.basename(self.path).removeprefix(_PREFIX)

    @property
    def work(self) -> str:
        """What the sandbox sees as its work folder."""
        return os.path.join(self.path, _WORK)

    @property
    def packages(self) -> str:
        """Where packages that are added to the sandbox lie."""
        return os.path.join(self.path, _PACKAGES)

    def close(self) -> None:
        """Let go of the lock. Idempotent."""
        if self.memory is not None:
            self.memory.close()
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def remove(self) -> None:
        """Remove the folder, in which nothing has run yet."""
        for path in (self.work, self.packages, self.path):
            with suppress(OSError):
                os.rmdir(path)
        self.close()


def create(root: str, user: int | None) -> PrivateFolder:
    """Make a folder for a new sandbox. ``user`` is to own what is in it, if not us. Raises ConfigurationError."""
    path = os.path.join(os.path.abspath(root), f"{_PREFIX}local-{os.urandom(6).hex()}")
    folder = PrivateFolder(path, -1)
    try:
        os.mkdir(path, 0o700)
        folder.lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try_lock(folder.lock)
        for inner in (folder.work, folder.packages):
            os.mkdir(inner, 0o700)
            if user is not None:
                os.chown(inner, user, user)
    except OSError as exc:
        folder.remove()
        raise ConfigurationError(
            f"No folder for the sandbox's files could be made in {root} ({exc.strerror}); set LocalProvider.work_root."
        ) from exc
    return folder


def create_in_memory() -> PrivateFolder | None:
    """Make a folder for what is never written to a disk; None where there is no place for it."""
    try:
        return create(MEMORY, None) if os.access(MEMORY, os.W_OK) else None
    except ConfigurationError:
        return None


def records(root: str) -> list[SandboxRecord]:
    """Return this user's sandboxes with folders in ``root``."""
    return [
        SandboxRecord(PrivateFolder(entry.path, -1).sandbox_id, "running", entry.stat().st_mtime)
        for entry in _entries(root)
        if not _is_free(entry.path)
    ]


def abandoned(root: str) -> list[str]:
    """Return this user's folders in ``root`` whose kernel process and janitor were both killed."""
    old = time.time() - _YOUNG
    return [entry.path for entry in _entries(root) if entry.stat().st_mtime < old and _is_free(entry.path)]


def _entries(root: str) -> Iterator[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(root) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and _is_ours(entry):
                yield entry


def _is_ours(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
    except OSError:
        # Its janitor has just removed it.
        return False


def _is_free(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return try_lock(descriptor)
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Lock an open folder for this process and those that inherit it; return False if somebody else has it."""
    import fcntl  # not everywhere where this package is imported

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        # Someone else has it; or this is a file system without locks, where no folder is ever taken for abandoned.
        return False
    return True
