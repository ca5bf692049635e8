"""Both texts of a changed file, for a diff."""

from __future__ import annotations

import difflib
import os
import stat

from .beneath import open_anyway, open_one, opened_folder, opened_root, split
from .changes import Change
from .layers import Layer
from .secrets import Secrets

MAX_SIZE = 256 * 1024
"""Bytes beyond which no text is compared: it takes time that grows with the square."""
MAX_LINES = 4000


def read_both(layer: Layer, secrets: Secrets, change: Change) -> tuple[bytes, bytes]:
    """Return the beginning of a file's content on the host and in the layer; b"" where it is not there.

    Raises OSError.
    """
    parent, name = split(change.path)
    before = after = b""
    if change.host is not None:
        with opened_root(secrets.root) as host, opened_folder(host, parent) as folder:
            before = _read(open_one(folder, name))
    if change.digest:
        with opened_root(layer.upper) as upper, opened_folder(upper, parent, anyway=True) as folder:
            after = _read(open_anyway(folder, name))
    return before, after


def _read(descriptor: int) -> bytes:
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        return os.pread(descriptor, MAX_SIZE + 1, 0)
    finally:
        os.close(descriptor)


def obstacle(before: bytes, after: bytes) -> str:
    """Return why the lines of two contents are not compared, as a clause; "" if they can be."""
    if max(len(before), len(after)) > MAX_SIZE:
        return f"the lines of files beyond {MAX_SIZE // 1024} KiB are not compared"
    try:
        longest = max(len(one.decode().splitlines()) for one in (before, after))
    except UnicodeDecodeError:
        return "it is no text"
    if b"\0" in before + after:
        return "it is no text"
    return f"the lines of files with more than {MAX_LINES} are not compared" if longest > MAX_LINES else ""


def difference(before: bytes, after: bytes) -> list[str]:
    """Return the lines of a unified diff of two texts without an obstacle."""
    old, new = before.decode().splitlines(), after.decode().splitlines()
    return list(difflib.unified_diff(old, new, "this machine", "the sandbox", lineterm=""))[2:]
