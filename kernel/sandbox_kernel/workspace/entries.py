"""What is in a folder, as far as it is compared across a distance: entries by path, and how they are kept on disk."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FILE, FOLDER, LINK, SPECIAL = "file", "folder", "link", "special"


@dataclass(frozen=True)
class Entry:
    """One entry of a folder, on this machine or in a sandbox."""

    kind: str
    size: int = 0
    mode: int = 0
    modified: int = 0
    """Nanoseconds since the epoch."""
    said: str = ""
    """Of a file its SHA-256, "" if that is not known; of a link where it leads."""
    signature: tuple[int, ...] = ()
    """Of a file on this machine: what changes whenever it does; () if that may not be relied on yet."""

    @property
    def expected(self) -> str:
        """What a sandbox has to find before this entry is replaced there (see bridge/copies.py)."""
        return {FOLDER: "folder", LINK: f"->{self.said}"}.get(self.kind, self.said)


Entries = Mapping[str, Entry]
"""By path, with `/` between names."""


def is_same(one: Entry | None, other: Entry | None) -> bool:
    """Whether two entries say the same. Times do not count, and of modes only whether a file can be run."""
    if one is None or other is None:
        return one is other
    if one.kind != other.kind or one.kind == SPECIAL:
        return False
    if one.kind == FOLDER:
        return True
    if one.said != other.said or not one.said:
        return False
    return one.kind == LINK or not (one.mode ^ other.mode) & 0o100


def signature(status: os.stat_result) -> tuple[int, ...]:
    """Return what changes whenever a file does."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def kind_of(status: os.stat_result) -> str:
    """Return the kind of an entry."""
    kinds = {stat.S_IFREG: FILE, stat.S_IFDIR: FOLDER, stat.S_IFLNK: LINK}
    return kinds.get(stat.S_IFMT(status.st_mode), SPECIAL)


def save(path: str, entries: Entries) -> None:
    """Write entries to a file that is the user's own. Raises OSError."""
    temporary = f"{path}.new"
    content = {
        name: (entry.kind, entry.size, entry.mode, entry.modified, entry.said, entry.signature)
        for name, entry in entries.items()
    }
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(json.dumps(content))
    os.replace(temporary, path)


def load(path: str) -> dict[str, Entry] | None:
    """Read what `save` wrote; None if it is not there or cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            content: dict[str, list[Any]] = json.load(file)
        return {name: _entry(*fields) for name, fields in content.items()}
    except (OSError, ValueError, TypeError, IndexError, AttributeError):
        return None


def _entry(kind: str, size: int, mode: int, modified: int, said: str, signature: Any) -> Entry:
    return Entry(kind, size, mode, modified, said, tuple(signature))
