"""What one layer has of what cells changed elsewhere: made to follow a plan, and sent to the next sandbox."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial

from sandbox_kernel.errors import QuotaError
from sandbox_kernel.workspace.entries import FILE, FOLDER, LINK, Entries, Entry, is_same
from sandbox_kernel.workspace.layers import Layer
from sandbox_kernel.workspace.staging import INCOMING, OPAQUE, REMOVED, Staging, staged

from .comparing import Plan, upwards
from .threads import in_thread
from .transfers import OnProgress, Sending, Sent, Transfers

SPARE = 256 * 1024 * 1024
"""Bytes that are left free on this machine's disk."""

Step = Callable[[str, int], OnProgress]
"""Is told what begins, and how many bytes it moves; returns what is told of each piece."""


class Staged:
    """The entries of a layer that this process alone writes to."""

    def __init__(self, layer: Layer, largest: int) -> None:
        """Look at it, which blocks; files with more than ``largest`` bytes are left alone."""
        self._layer = layer
        self._staging = Staging(layer)
        self._largest = largest
        for name in os.listdir(layer.data):
            if name.startswith(INCOMING):
                # A process that was killed left it.
                with suppress(OSError):
                    os.unlink(os.path.join(layer.data, name))
        self.entries = staged(layer, largest)
        self._pinned: set[str] = set()
        """What was not sent to the sandbox, so nothing that the sandbox says is about it."""

    @property
    def covered(self) -> frozenset[str]:
        """The entries that stand in the place of the folder's own, with all that is in these."""
        return frozenset(path for path, entry in self.entries.items() if entry.kind != FOLDER or entry.said == OPAQUE)

    def to_send(self) -> list[Sending]:
        """Return what a sandbox has to get of it, each folder before what is in it."""
        found: list[Sending] = []
        for path, entry in sorted(self.entries.items(), key=lambda one: one[0].count("/")):
            if path in self._pinned:
                continue
            if entry.kind in (FOLDER, LINK):
                found.append(Sending(path, entry, None))
            elif entry.kind == FILE and entry.said:
                found.append(Sending(path, entry, None, partial(self._staging.read, path)))
            elif entry.kind != REMOVED:
                self._pinned.add(path)
        return found

    def pin(self, paths: Iterable[str]) -> None:
        """Keep what could not be sent."""
        self._pinned.update(path for path in paths if path in self.entries)

    def forget(self, paths: Iterable[str]) -> None:
        """Remove entries, and what is in them, because they were discarded. Blocking; raises OSError."""
        gone = set(paths)
        for path in sorted(gone, key=lambda path: path.count("/"), reverse=True):
            self._staging.drop(path)
        self._pinned -= gone
        self._without(gone)

    def _without(self, gone: set[str]) -> None:
        self.entries = {
            path: entry
            for path, entry in self.entries.items()
            if path not in gone and not any(around in gone for around in upwards(path))
        }

    async def follow(self, plan: Plan, base: Entries, transfers: Transfers, step: Step) -> None:
        """Make the layer what is planned. Raises QuotaError, SandboxError, OSError."""
        try:
            arriving = await in_thread(lambda: self._arrange(plan))
        except OSError:
            # Half of it is done.
            self.entries = await in_thread(lambda: staged(self._layer, self._largest))
            raise
        if not arriving:
            return
        size = sum(entry.size for entry in arriving.values())
        self._require_room(size)
        fetched = Sent()
        try:
            await transfers.fetch(arriving, self._staging, fetched, step("Fetch", size))
        finally:
            # Also of what is ended before it is done.
            self.entries.update(fetched.entries)
        for path, why in fetched.refused.items():
            plan.refuse(path, why, base)

    def _require_room(self, size: int) -> None:
        free = shutil.disk_usage(self._layer.data).free
        if size > free - SPARE:
            raise QuotaError(
                f"Cells changed {size // 1024**2} MiB, and this machine's disk has {free // 1024**2} MiB left, of "
                f"which {SPARE // 1024**2} stay free; make room."
            )

    def _arrange(self, plan: Plan) -> dict[str, Entry]:
        """Do all that needs no content; return the files that have to be fetched."""
        self._drop_all_but(plan.wanted)
        arriving = {}
        for path, entry in plan.wanted.items():
            before = self.entries.get(path)
            if is_same(entry, before) or (before is not None and entry.kind == before.kind == REMOVED):
                continue
            if entry.kind == FILE:
                arriving[path] = entry
                continue
            if entry.kind == FOLDER:
                self._staging.folder(path, entry.mode)
            elif entry.kind == LINK:
                self._staging.link(path, entry.said)
            else:
                self._staging.remove(path)
            self.entries[path] = entry
        return arriving

    def _drop_all_but(self, wanted: Mapping[str, Entry]) -> None:
        to_pinned = {around for path in self._pinned for around in upwards(path)}
        ways = {around for path in wanted for around in upwards(path)} | to_pinned
        gone: set[str] = set()
        for path in sorted(self.entries, key=lambda path: path.count("/")):
            if path in self._pinned or any(around in gone for around in upwards(path)):
                continue
            entry = self.entries[path]
            # An opaque one would hide what cells have not touched.
            is_kept = path in wanted or (entry.kind == FOLDER and path in ways)
            if not is_kept or (entry.kind == FOLDER and entry.said == OPAQUE and path not in to_pinned):
                self._staging.drop(path)
                gone.add(path)
        self._without(gone)
