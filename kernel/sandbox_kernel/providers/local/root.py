"""Root mode: what is different where the kernel process is the host's root.

Then there is no user namespace, because the host's root in one could still write kernel settings and has no limit on
processes. The sandbox's processes become a user that exists nowhere else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from sandbox_kernel.errors import ConfigurationError, IsolationUnavailableError

_UNUSED = range(0x70000000, 0x7FFFFFFE)
"""User ids that no system hands out, by systemd's table of them ("Users, Groups, UIDs and GIDs")."""
_LOWER = range(62000, 65000)
"""Where a container maps 65536 ids only."""


def is_root() -> bool:
    """Whether this process is root, of the host or of a user namespace that has other users too."""
    return os.geteuid() == 0 and any(count > 1 or outside == 0 for _, outside, count in _id_map())


def free_user() -> int:
    """Return a user id, for one sandbox, that no one else has. Raises IsolationUnavailableError if there is none."""
    ranges = [range(inside, inside + count) for inside, _, count in _id_map()]
    for candidates in (_UNUSED, _LOWER):
        user = candidates[int.from_bytes(os.urandom(4), "big") % len(candidates)]
        if any(user in ids for ids in ranges):
            return user
    raise IsolationUnavailableError(
        "There is no user id for a sandbox here; run Jupyter as an ordinary user, or in a container with more user ids."
    )


def is_spare(user: int) -> bool:
    """Whether a user id is one of those that `free_user` returns."""
    return user in _UNUSED or user in _LOWER


def require_readable(paths: Iterable[str]) -> None:
    """Raise ConfigurationError if another user could not read one of these, once it is shown to him."""
    for path in paths:
        mode = os.stat(path).st_mode
        needed = 0o005 if stat.S_ISDIR(mode) else 0o004
        if mode & needed != needed:
            raise ConfigurationError(
                f"As root, cells run as another user, who cannot read {path}: run `chmod -R o+rX {path}`."
            )


def _id_map() -> list[tuple[int, ...]]:
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return [tuple(map(int, line.split())) for line in file]
