"""Memory and processor time of processes, read from /proc (Linux)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kernel_bench.plan import UNANSWERED

PROC = Path("/proc")
KILOBYTE = 1024
MEGABYTE = 1_000_000


def resident(pid: int) -> float:
    """Resident memory of one process, in MB of 10^6 bytes."""
    return _field(PROC / str(pid) / "status", "VmRSS:") * KILOBYTE / MEGABYTE


def proportional(pid: int) -> float:
    """Memory of a process and its descendants in MB, shared pages by share; UNANSWERED without the right to read it."""
    try:
        sizes = [_field(PROC / str(each) / "smaps_rollup", "Pss:") for each in tree(pid)]
    except PermissionError:
        return UNANSWERED
    return sum(sizes) * KILOBYTE / MEGABYTE


def processor_seconds(pid: int) -> float:
    """Processor time of one process with all its threads, to the nanosecond where `stat` counts in hundredths."""
    threads = (PROC / str(pid) / "task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def tree(pid: int) -> Iterator[int]:
    """A process and its descendants, as they are now."""
    yield pid
    for thread in (PROC / str(pid) / "task").iterdir():
        for child in (thread / "children").read_text().split():
            yield from tree(int(child))


def _field(file: Path, name: str) -> int:
    for line in file.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise LookupError(f"{file} has no field {name}")
