"""Which files of a sandbox a download takes and where they land. Everything that the sandbox says may be a trap."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from sandbox_kernel.errors import NotFoundError
from sandbox_kernel.providers.base import FileEntry, SandboxFiles
from sandbox_kernel.workspace.patterns import Patterns

from .host_folder import HostFolder

MAX_FILES = 200_000
"""Files and folders that one pattern may stand for."""
MAX_NAME = 255
"""Bytes of a name that every usual file system takes."""


@dataclass(frozen=True)
class Arrival:
    """A file that is to land."""

    source: str
    """Path in the sandbox."""
    size: int
    parts: tuple[str, ...]
    """The names from the notebook's folder to where it lands."""
    replaced: os.stat_result | None
    """What is there now."""

    @property
    def path(self) -> str:
        """Where it lands, for people."""
        return "/".join(self.parts)


@dataclass
class Arrivals:
    """What the patterns of one download come to."""

    files: list[Arrival] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """How many were not taken, by reason."""

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(file.size for file in self.files)

    @property
    def replacing(self) -> list[Arrival]:
        """Those in whose place something is now."""
        return [file for file in self.files if file.replaced is not None]


class Sorter:
    """Finds the files that match patterns in the sandbox, and a safe place for each."""

    def __init__(
        self,
        files: SandboxFiles,
        folder: HostFolder,
        target: tuple[str, ...],
        hidden: Patterns,
        *,
        dotted: bool = True,
    ) -> None:
        """``hidden`` are names under which nothing lands; ``dotted`` says whether any does that begins with a dot."""
        self._files, self._folder, self._target = files, folder, target
        self._hidden, self._dotted = hidden, dotted
        self._sources: dict[str, str] = {}
        self.arrivals = Arrivals()

    async def sort(self, patterns: Sequence[str]) -> Arrivals:
        """Return what all the patterns match. Raises NotFoundError for one that matches nothing."""
        for pattern in patterns:
            found = [entry async for entry in self._files.list(pattern, limit=MAX_FILES)]
            if not found:
                raise NotFoundError(f"Nothing in the sandbox matches {pattern!r}.")
            for entry in found:
                if matches_pattern(entry.path, pattern):
                    await self._take_match(entry)
                else:
                    self.arrivals.left_out["that do not match"] += 1
        return self.arrivals

    async def _take_match(self, entry: FileEntry) -> None:
        path = entry.path
        # A path that begins in the working folder keeps its folders; of another one its last name is taken.
        elsewhere = path.startswith("/") or ".." in path.split("/")
        base = path.rstrip("/").rpartition("/")[0] if elsewhere else ""
        if entry.kind != "folder":
            self._take(entry, base)
            return
        room = MAX_FILES - len(self._sources)
        async with aclosing(self._files.list(path, recursive=True, limit=room)) as below:
            async for one in below:
                if one.kind == "folder":
                    continue
                relative = one.path.removeprefix(path.rstrip("/") + "/")
                if relative == one.path:
                    self.arrivals.left_out["with a name that does not belong there"] += 1
                elif any(part.startswith(".") for part in relative.split("/")):
                    self.arrivals.left_out["hidden"] += 1
                else:
                    self._take(one, base)

    def _take(self, entry: FileEntry, base: str) -> None:
        reason = self._place(entry, base)
        if reason:
            self.arrivals.left_out[reason] += 1

    def _place(self, entry: FileEntry, base: str) -> str:
        """Add a file; return why not, if it cannot be."""
        if entry.kind != "file":
            return "links" if entry.kind == "link" else "no regular files"
        relative = entry.path[len(base) :].lstrip("/") if base else entry.path.lstrip("/")
        names = [name for name in relative.split("/") if name not in ("", ".")]
        if not names or not all(map(is_harmless, names)):
            return "with a name that is dangerous or that no file can have here"
        parts = (*self._target, *names)
        # What programs of this machine take keys or orders from; `apply` does not write it either.
        if self._hidden.cover("/".join(parts)):
            return "with a name that Workspace.hidden hides on this machine"
        if not self._dotted and any(part.startswith(".") for part in parts):
            return "with a name that begins with a dot, in a folder that is no notebook's own"
        key = unicodedata.normalize("NFC", "/".join(parts)).casefold()
        if key in self._sources:
            # Of the same file nothing is said: another pattern had it.
            other = self._sources[key] != entry.path
            return "with a name that differs from another's in letter case or encoding only" if other else ""
        return self._add(key, entry, parts)

    def _add(self, key: str, entry: FileEntry, parts: tuple[str, ...]) -> str:
        try:
            now = self._folder.status(parts)
        except OSError:
            return "with a link or a file of this machine in the way"
        if now is not None and not stat.S_ISREG(now.st_mode):
            return "with a link or a folder of this machine in their place"
        self._sources[key] = entry.path
        self.arrivals.files.append(Arrival(entry.path, entry.size, parts, now))
        return ""


def is_harmless(name: str) -> bool:
    """Whether a name that a sandbox gives is that of one file in one folder, and looks like what it is."""
    if name in ("", ".", "..") or "/" in name or "\\" in name or name != name.strip():
        return False
    # Not printable are control characters, those that turn the direction of writing, and what cannot be encoded.
    return name.isprintable() and len(os.fsencode(name)) <= MAX_NAME


def matches_pattern(path: str, pattern: str) -> bool:
    """Whether a path, which the sandbox says matches a pattern, does so."""
    wanted = [part for part in pattern.split("/") if part not in ("", ".")]
    names = [part for part in path.split("/") if part not in ("", ".")]
    if wanted and wanted[0].startswith("~"):
        # The home folder's path is not known here.
        wanted, names = wanted[1:], names[-len(wanted) + 1 :] if "**" not in wanted else names
    elif pattern.startswith("/") != path.startswith("/"):
        return False
    return wanted == names or _match(wanted, names)


def _match(wanted: Sequence[str], names: Sequence[str]) -> bool:
    if not wanted:
        return not names
    first = wanted[0]
    if first == "**" and _match(wanted[1:], names):
        return True
    if not names or (names[0].startswith(".") and not first.startswith(".")):
        return False
    if first == "**":
        return len(wanted) == 1 or _match(wanted, names[1:])
    return fnmatchcase(names[0], first) and _match(wanted[1:], names[1:])
