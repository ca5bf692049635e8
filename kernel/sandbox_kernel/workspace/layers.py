"""The layers that cells write to, one folder each, kept until their changes are applied, thrown away, or too old.

A layer has an owner (owners.py). It is locked while a kernel process or the sandbox's janitor uses it, so no two
sandboxes ever share one.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sandbox_kernel.processes import is_same_process, start_mark

from .owners import Owner

_META = "layer.json"
_APPLIED = "applied.json"
_FOLLOWED = "followed.json"
_PASSING = "passing"
"""Folder for the layers that end with their sandbox; without a note of its own it is none of those that are kept."""
_LOCK_TIMEOUT = 3.0
"""Seconds in which the sandbox of a kernel process that was killed gives its layer back."""
_DAY = 86400.0
_NOTED = 600.0
"""Seconds between two notes that a layer is in use."""


@dataclass(eq=False)
class Layer:
    """One layer, locked while ``lock`` is open in a process."""

    path: str
    owner: Owner
    lock: int = -1
    noted: float = 0.0
    """When it was noted last that it is in use, on the monotonic clock."""

    @property
    def name(self) -> str:
        """What it is called."""
        return os.path.basename(self.path)

    @property
    def data(self) -> str:
        """Folder of both that an overlay needs."""
        return os.path.join(self.path, "data")

    @property
    def upper(self) -> str:
        """Folder of what cells wrote."""
        return os.path.join(self.path, "data", "upper")

    @property
    def work(self) -> str:
        """Folder that the overlay needs for itself."""
        return os.path.join(self.path, "data", "work")

    @property
    def used(self) -> float:
        """When it was used last, in seconds since the epoch."""
        try:
            return os.stat(os.path.join(self.path, _META)).st_mtime
        except OSError:
            return 0.0

    def is_empty(self) -> bool:
        """Whether no cell wrote anything."""
        try:
            with os.scandir(self.upper) as entries:
                return next(entries, None) is None
        except OSError:
            return True

    def touch(self) -> None:
        """Note that it is used now."""
        with suppress(OSError):
            os.utime(os.path.join(self.path, _META))

    def keep_young(self) -> None:
        """Note, now and then, that it is in use."""
        if time.monotonic() - self.noted > _NOTED:
            self.noted = time.monotonic()
            self.touch()

    def belong(self, owner: Owner) -> None:
        """Note whose it is, and that this process uses it."""
        self.owner = owner
        mark = {"pid": os.getpid(), "start": start_mark(os.getpid())}
        write_json(os.path.join(self.path, _META), {**owner.write(), **mark})

    def applied(self) -> dict[str, list[int]]:
        """Return what was applied and still lies in the layer: signatures by path (see changes.py)."""
        content = read_json(os.path.join(self.path, _APPLIED))
        return content if isinstance(content, dict) else {}

    def set_applied(self, signatures: dict[str, list[int]]) -> None:
        """Remember what was applied."""
        write_json(os.path.join(self.path, _APPLIED), signatures)

    def mark(self) -> str:
        """Return which sandbox elsewhere it follows; "" if none was told."""
        content = read_json(os.path.join(self.path, _FOLLOWED))
        return content if isinstance(content, str) else ""

    def set_mark(self, name: str) -> None:
        """Remember which sandbox elsewhere it follows."""
        write_json(os.path.join(self.path, _FOLLOWED), name)

    def close(self) -> None:
        """Let go of the lock. Idempotent."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


TryLock = Callable[[int], bool]


class LayerStore:
    """All layers of this user, in one folder that is private."""

    def __init__(self, root: str, try_lock: TryLock, settle: Callable[[Layer], None] = lambda _: None) -> None:
        """``try_lock`` locks an open folder, or returns False: systems have different ways to do it.

        ``settle`` is called with a locked layer, to remove what is no change any more.
        """
        self.root = os.path.abspath(root)
        self._try_lock = try_lock
        self._settle = settle

    def open(self, owner: Owner) -> Layer:
        """Return a layer of this owner, locked: of those that are free the one with changes that was used last.

        Else an empty one. Raises OSError.
        """
        os.makedirs(self.root, 0o700, exist_ok=True)
        layer = self.kept_for(owner)
        if layer is not None:
            return layer
        for empty in self.all():
            if empty.owner.is_now(owner) and empty.is_empty() and self.take(empty):
                empty.belong(owner)
                return empty
        return self.make(owner)

    def all(self) -> Iterator[Layer]:
        """Give every layer, unlocked."""
        with suppress(OSError), os.scandir(self.root) as entries:
            for entry in entries:
                meta = read_json(os.path.join(entry.path, _META))
                if isinstance(meta, dict) and isinstance(meta.get("folder"), str):
                    yield Layer(entry.path, Owner.read(meta))

    def kept_for(self, owner: Owner) -> Layer | None:
        """Return the layer with changes of this owner that was used last and that nobody uses, locked."""
        found = [layer for layer in self.all() if layer.owner.is_now(owner) and not layer.is_empty()]
        for layer in sorted(found, key=lambda layer: layer.used, reverse=True):
            if not self.take(layer):
                continue
            self._settle(layer)
            if not layer.is_empty():
                layer.belong(owner)
                return layer
            layer.close()
        return None

    def free(self) -> Iterator[Layer]:
        """Give every layer with changes that nobody uses, unlocked."""
        for layer in self.all():
            if not layer.is_empty() and self._lock(layer):
                layer.close()
                yield layer

    def clean(self, keep_days: float, keep_size: int) -> list[Layer]:
        """Remove layers that are empty, too old, or, the oldest first, too large together; return those with changes.

        Layers in use are left alone. Takes as long as it takes to look at every file in them.
        """
        self._sweep()
        removed = []
        left = keep_size
        for layer in sorted(self.all(), key=lambda layer: layer.used, reverse=True):
            if not self._lock(layer):
                continue
            try:
                empty = layer.is_empty()
                size = 0 if empty else size_of(layer.upper)
                if empty or layer.used < time.time() - keep_days * _DAY or size > left:
                    remove_tree(layer.path)
                    if not empty:
                        removed.append(layer)
                else:
                    left -= size
            finally:
                layer.close()
        return removed

    def make_passing(self, owner: Owner) -> Layer:
        """Return a new layer, locked, that is never kept: who has it removes it with its sandbox. Raises OSError."""
        passing = self._passing()
        for folder in (self.root, passing.root):
            os.makedirs(folder, 0o700, exist_ok=True)
        return passing.make(owner)

    def _passing(self) -> LayerStore:
        return LayerStore(os.path.join(self.root, _PASSING), self._try_lock)

    def _sweep(self) -> None:
        """Remove layers that should have ended with their sandbox: a machine was switched off, for example."""
        passing = self._passing()
        for layer in passing.all():
            passing.remove(layer)

    def remove(self, layer: Layer) -> bool:
        """Remove a layer with its changes; return False if a kernel uses it."""
        if not self._lock(layer):
            return False
        try:
            remove_tree(layer.path)
        finally:
            layer.close()
        return True

    def take(self, layer: Layer) -> bool:
        """Lock a layer; return False if somebody uses it. Waits for what a dead kernel process left if there is one."""
        deadline = time.monotonic() + _LOCK_TIMEOUT
        while not self._lock(layer):
            if time.monotonic() > deadline or _has_user(layer):
                return False
            time.sleep(0.01)
        return True

    def _lock(self, layer: Layer) -> bool:
        try:
            layer.lock = os.open(layer.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        if not self._try_lock(layer.lock) or not _is_at(layer.lock, layer.path):
            layer.close()
            return False
        return True

    def make(self, owner: Owner) -> Layer:
        """Return a new layer, locked. Raises OSError."""
        layer = Layer(os.path.join(self.root, os.urandom(8).hex()), owner)
        os.mkdir(layer.path, 0o700)
        self._lock(layer)
        for path in (layer.data, layer.upper, layer.work):
            os.mkdir(path, 0o700)
        layer.belong(owner)
        return layer


def size_of(folder: str) -> int:
    """Return the bytes on disk that a folder takes."""
    total = 0
    waiting = [folder]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return total


def remove_tree(path: str) -> None:
    """Remove a folder whose entries a cell made: deep, unreadable, with links, none of which is followed.

    Raises OSError if something is left.
    """
    for prepare in ([], ["chmod", "-R", "u+rwx", path]):
        if prepare:
            subprocess.run(prepare, check=False, capture_output=True)
        subprocess.run(["rm", "-rf", "--one-file-system", path], check=False, capture_output=True)
        if not os.path.lexists(path):
            return
    raise OSError(f"{path} could not be removed; remove it by hand.")


def _is_at(descriptor: int, path: str) -> bool:
    """Whether an open folder still lies there: who had it locked before may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except OSError:
        return False


def _has_user(layer: Layer) -> bool:
    """Whether the kernel process that used it last still runs."""
    meta = read_json(os.path.join(layer.path, _META))
    return not isinstance(meta, dict) or is_same_process(int(meta.get("pid", 0)), str(meta.get("start", "")))


def read_json(path: str) -> Any:
    """Return what `write_json` wrote; None if there is nothing that can be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def write_json(path: str, content: object) -> None:
    """Write a file, in one step. Raises OSError."""
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(content, file)
    os.replace(temporary, path)
