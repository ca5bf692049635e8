"""Exchanging two names in one step, where the system can: so what was replaced can be looked at, and put back."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import cache

_EXCHANGE = 2
"""RENAME_EXCHANGE of renameat2(2)."""
_UNABLE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
"""The kernel does not know the call, or the file system cannot do it."""


def exchange(folder: int, one: str, other: str) -> bool:
    """Let two entries of an open folder change places; return False if that cannot be done here. Raises OSError."""
    rename = _renameat2()
    if rename is None:
        return False
    code = rename(folder, os.fsencode(one), folder, os.fsencode(other), _EXCHANGE)
    if code in _UNABLE:
        return False
    if code:
        raise OSError(code, os.strerror(code))
    return True


@cache
def _renameat2() -> Callable[[int, bytes, int, bytes, int], int] | None:
    """Return renameat2, which gives an error's number or 0; None if the C library does not have it."""
    import ctypes

    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return lambda *arguments: ctypes.get_errno() if function(*arguments) else 0
