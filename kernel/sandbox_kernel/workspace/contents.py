"""Contents of files: digests and copies that take no longer, and no more room, than what is really in the file.

A cell can make a file of a terabyte that has nothing in it. What was never written is skipped, and what is all zeros is
not written, so a digest says the same of both.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator

_BLOCK = 1 << 17
_ZEROS = bytes(_BLOCK)


def blocks(descriptor: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Give the offsets and contents of the blocks in the first ``size`` bytes that are not all zeros."""
    offset = 0
    while offset < size:
        offset = _next_data(descriptor, offset)
        if offset < 0 or offset >= size:
            return
        # From multiples on, so that files with the same content have the same blocks.
        offset -= offset % _BLOCK
        block = os.pread(descriptor, min(_BLOCK, size - offset), offset)
        if not block:
            return
        if block != _ZEROS[: len(block)]:
            yield offset, block
        offset += _BLOCK


def _next_data(descriptor: int, offset: int) -> int:
    """Return where the next byte is that may not be zero; -1 if there is none."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            return -1
        # A file system that does not know.
        return offset


def digest(descriptor: int, size: int) -> str:
    """Return the digest of the first ``size`` bytes."""
    found = hashlib.blake2b(str(size).encode(), digest_size=32)
    for offset, block in blocks(descriptor, size):
        found.update(b"%d:" % offset)
        found.update(block)
    return found.hexdigest()


def copy(source: int, target: int, size: int) -> str:
    """Copy the first ``size`` bytes into an empty file; return their digest. Raises OSError."""
    found = hashlib.blake2b(str(size).encode(), digest_size=32)
    for offset, block in blocks(source, size):
        found.update(b"%d:" % offset)
        found.update(block)
        written = 0
        while written < len(block):
            written += os.pwrite(target, block[written:], offset + written)
    os.ftruncate(target, size)
    return found.hexdigest()
