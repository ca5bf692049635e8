"""The limits of a local sandbox, sizes as a user writes and reads them, and the program that sets limits inside."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from traitlets import Int, TraitError

_UNITS = ("", "K", "M", "G", "T")
_NO_CORE = 1
"""Bytes of a core dump. For a program on the host that takes dumps the kernel minds only 1, not 0 (core(5))."""
OOM_SCORE = 500
"""When the whole machine runs out of memory, a sandbox goes before the user's own programs."""


class Size(Int[int, Any]):
    """A number of bytes, or text such as "512M" or "4 GiB" (units of 1024)."""

    def __init__(self, *arguments: Any, floor: int = 0, **options: Any) -> None:
        """``floor``: what it must be at least, unless it is 0, which stands for no limit."""
        super().__init__(*arguments, **options)
        self._floor = floor

    def validate(self, obj: Any, value: Any) -> int:
        if isinstance(value, str):
            try:
                value = parse_size(value)
            except ValueError as exc:
                raise TraitError(f"The '{self.name}' trait: {exc}") from None
        number: int = super().validate(obj, value)
        if 0 < number < self._floor:
            least = format_size(self._floor)
            raise TraitError(
                f"The '{self.name}' trait: with {format_size(number)} no Python starts; give at least {least}, or 0 "
                "for no limit"
            )
        return number

    def from_string(self, s: str) -> int:
        return parse_size(s)


def parse_size(text: str) -> int:
    """Return the bytes that "512M", "4 GiB" or "1000" means. Raises ValueError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not found:
        raise ValueError(f"{text!r} is no size; write a number of bytes, or such as 512M or 4 GiB")
    return int(float(found[1]) * 1024 ** _UNITS.index(found[2].upper()))


def format_size(size: float) -> str:
    """Return the size as a person reads it: "512 MiB", "1.5 GiB"."""
    power = 0
    while size >= 1024 and power < len(_UNITS) - 1:
        size /= 1024
        power += 1
    unit = f"{_UNITS[power]}iB" if power else "bytes"
    return f"{size:.1f}".removesuffix(".0") + f" {unit}"


def machine_memory() -> int:
    """Return the bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def processes_counted_outside() -> int:
    """Return how many of this user's processes and threads RLIMIT_NPROC counts although they are not in the sandbox.

    None since Linux 5.14, which counts for each user namespace.
    """
    major, minor = (int(number) for number in os.uname().release.split(".")[:2])
    if (major, minor) >= (5, 14):
        return 0
    return sum(_threads(name) for name in os.listdir("/proc") if name.isdigit())


def _threads(number: str) -> int:
    try:
        if os.stat(f"/proc/{number}").st_uid == os.getuid():
            return len(os.listdir(f"/proc/{number}/task"))
    except OSError:
        pass
    return 0


@dataclass(frozen=True)
class Limits:
    """What a sandbox may use. Sizes in bytes; 0 is no limit."""

    memory: int
    memory_per_process: int = 0
    processes: int = 0
    file_size: int = 0
    work_size: int = 0
    open_files: int = 0
    cpus: float = 0.0
    cpu_seconds: int = 0

    def prologue(self, processes_of_user: int = 0) -> str:
        """Return the program that sets the limits of the process that runs it and of its children.

        They are set inside, because processes are counted per user namespace. ``processes_of_user`` is added where the
        kernel counts what runs outside as well.
        """
        values = {
            "CORE": _NO_CORE,
            # Not RLIMIT_AS: libraries reserve address space that they never use. This one counts what can be written.
            "DATA": self.memory_per_process,
            "NPROC": self.processes and self.processes + processes_of_user,
            "FSIZE": self.file_size,
            "NOFILE": self.open_files,
            "CPU": self.cpu_seconds,
        }
        wanted = [(f"RLIMIT_{name}", value) for name, value in values.items() if value]
        return _PROLOGUE.format(limits=wanted, oom_score=OOM_SCORE)


@contextmanager
def bound_to(cpus: float) -> Iterator[None]:
    """Bind what is started meanwhile to so many processors, rounded up; 0: to all.

    From outside, because the filter forbids it inside: there it could be undone.
    """
    allowed = sorted(os.sched_getaffinity(0)) if cpus else []
    count = math.ceil(cpus)
    if not cpus or count >= len(allowed):
        yield
        return
    # Not always the same ones for all sandboxes.
    first = int.from_bytes(os.urandom(2), "big") % len(allowed)
    os.sched_setaffinity(0, [allowed[(first + index) % len(allowed)] for index in range(count)])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


_PROLOGUE = """\
import os, resource
for name, value in {limits!r}:
    kind = getattr(resource, name)
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
try:
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("{oom_score}")
except OSError:
    pass
"""
