"""Keeps the memory of a link's pieces, where the C library is glibc.

By itself it has the system give the memory of each block from 128 KiB on, and takes none of it twice (malloc(3)): for
a flood of output that is more work than all the rest.
"""

from __future__ import annotations

import ctypes
import sys

from .protocol import LINK_CHUNK

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3), by the numbers of malloc.h."""
KEPT = 32 * LINK_CHUNK
"""Bytes that the process may have left for later."""


def keep_blocks() -> bool:
    """Have blocks of a piece's size come from memory that the process keeps; return whether that could be had."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and bool(mallopt(MMAP_THRESHOLD, 4 * LINK_CHUNK) and mallopt(TRIM_THRESHOLD, KEPT))
