"""Since when what cells changed may differ from what they had seen of this machine's files.

A cell begins with what the overlay shows it, and that may be as old as the sandbox: of a file that was replaced on this
machine (many editors save so) an overlay goes on showing the one that was looked at first. So what was changed on this
machine after the sandbox's start may be something that cells never saw, and is not to be overwritten unasked.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from itertools import islice

from .layers import Layer, read_json, write_json

_FILE = "bases.json"
_MOST = 10_000
"""Names in a layer that are looked through at a sandbox's start; it takes some milliseconds."""


class Bases:
    """For each entry of one layer the time, in nanoseconds since the epoch, since when this machine's may be unseen."""

    def __init__(self, layer: Layer) -> None:
        self._layer = layer
        content = read_json(os.path.join(layer.path, _FILE))
        self._start: int | None = content["start"] if isinstance(content, dict) else None
        self._paths: dict[str, int] = content["paths"] if isinstance(content, dict) else {}

    def begin(self) -> None:
        """Note that a sandbox starts now: what is already in the layer keeps its time."""
        names = _names(self._layer)
        if names is None:
            # Too many to look through: an earlier time is right for all of them.
            return
        start = time.time_ns()
        self._paths = {name: self.of(name) or start for name in names}
        self._start = start
        self._write()

    def of(self, path: str) -> int | None:
        """Return the time of an entry; None where no sandbox began with this layer."""
        while path:
            if path in self._paths:
                return self._paths[path]
            path = path.rpartition("/")[0]
        return self._start

    def renew(self, paths: list[str]) -> None:
        """Note that these are the same on both sides now."""
        now = time.time_ns()
        self._paths.update(dict.fromkeys(paths, now))
        self._write()

    def is_newer(self, path: str, status: os.stat_result) -> bool:
        """Whether this machine's entry was changed, or put there, after that time. Its other times can be set."""
        base = self.of(path)
        return base is not None and status.st_ctime_ns > base

    def _write(self) -> None:
        write_json(os.path.join(self._layer.path, _FILE), {"start": self._start, "paths": self._paths})


def _names(layer: Layer) -> list[str] | None:
    """Return the paths of all entries in a layer; None if there are too many."""
    names: list[str] = []
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        beginning = f"{folder}/" if folder else ""
        # What a cell made unreadable counts as a whole.
        with suppress(OSError), os.scandir(os.path.join(layer.upper, folder)) as entries:
            for entry in islice(entries, _MOST + 1):
                names.append(beginning + entry.name)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(beginning + entry.name)
        if len(names) > _MOST:
            return None
    return names
