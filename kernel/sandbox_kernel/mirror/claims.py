"""What a sandbox says is in its working folder. It may say anything."""

from __future__ import annotations

import json
from typing import Any

from sandbox_kernel.errors import CommandError, InvocationError
from sandbox_kernel.link.protocol import Buffer
from sandbox_kernel.workspace.beneath import MAX_DEPTH
from sandbox_kernel.workspace.entries import FILE, FOLDER, LINK, SPECIAL, Entry

MAX_ENTRIES = 100_000
"""Entries beyond which a copy is not compared."""
MAX_TEXT = 64 * 1024 * 1024
"""Bytes of all that a sandbox says of its files."""
CLOSED = "closed"
"""What a sandbox says of a folder that it cannot look into."""
_MAX_PATH, _MAX_NAME = 4095, 255
_LATEST = 1 << 62
_DIGEST = 64
_NONSENSE = "The sandbox's list of its files makes no sense"


class Claims:
    """Collects the entries of a list, and checks them."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._size = 0

    def take(self, data: Buffer) -> None:
        """Take some entries. Raises CommandError where there are too many, InvocationError for what is no list."""
        self._size += len(data)
        try:
            said = json.loads(bytes(data) or b"[]")
            for one in said:
                self._take(one)
        except (ValueError, TypeError, RecursionError) as exc:
            raise InvocationError(f"{_NONSENSE}.") from exc

    def _take(self, one: list[Any]) -> None:
        if not one or len(self.entries) >= MAX_ENTRIES or self._size > MAX_TEXT:
            raise CommandError(
                f"There are more than {MAX_ENTRIES} files in the sandbox's working folder, more than can be compared; "
                "remove some in a cell first."
            )
        path, kind, size, mode, modified, said = one
        check_path(path)
        if path in self.entries or kind not in (FILE, FOLDER, LINK, SPECIAL):
            raise ValueError(path)
        if not all(type(number) is int and 0 <= number < _LATEST for number in (size, mode, modified)):
            raise ValueError(path)
        self.entries[path] = Entry(kind, size if kind == FILE else 0, mode & 0o777, modified, _checked(kind, said))

    def checked(self) -> dict[str, Entry]:
        """Return the entries, each folder before what is in it. Raises InvocationError where they are no tree."""
        for path in self.entries:
            parent = path.rpartition("/")[0]
            if parent and getattr(self.entries.get(parent), "kind", "") != FOLDER:
                raise InvocationError(f"{_NONSENSE}.")
        return dict(sorted(self.entries.items(), key=lambda one: (one[0].count("/"), one[0])))


def check_path(path: object) -> None:
    """Raise ValueError unless this is the path of an entry in a folder, CommandError where it lies too deep."""
    if not isinstance(path, str) or len(path) > _MAX_PATH or "\0" in path:
        raise ValueError(path)
    names = path.split("/")
    if len(names) > MAX_DEPTH:
        raise CommandError(f"A cell nested folders more than {MAX_DEPTH} deep; remove them in a cell first.")
    for name in names:
        if name in ("", ".", "..") or len(name.encode("utf-8", "surrogateescape")) > _MAX_NAME:
            raise ValueError(path)


def _checked(kind: str, said: object) -> str:
    """Return what is said of an entry beyond numbers. Raises ValueError."""
    if not isinstance(said, str):
        raise TypeError(said)
    if kind == FILE:
        if said and (len(said) != _DIGEST or not set(said) <= set("0123456789abcdef")):
            raise ValueError(said)
        return said
    if kind == LINK:
        if not said or "\0" in said or len(said.encode("utf-8", "surrogateescape")) > _MAX_PATH:
            raise ValueError(said)
        return said
    return CLOSED if kind == FOLDER and said == CLOSED else ""
