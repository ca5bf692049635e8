"""The processes of one sandbox, seen from outside through the sandbox's own /proc: no other process is looked at.

A process is signalled through its folder in that /proc, which the kernel takes for a pidfd: its number may be given to
another one meanwhile, and no signal of ours goes astray. The first process is looked at through the host's /proc, since
its folder is hidden inside: it leads to the host's own bubblewrap.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

INIT = "1"
"""The first process of the namespace: when it is killed, so are all others."""
_HAS_SYSCONF = hasattr(os, "sysconf")
PAGE = os.sysconf("SC_PAGE_SIZE") if _HAS_SYSCONF else 4096
_PAGE_TABLE_SHARE = 512
"""Bytes of addresses for which there is a byte of page tables, where they are used."""
_TICKS = os.sysconf("SC_CLK_TCK") if _HAS_SYSCONF else 100

_MAPPING = re.compile(
    r"^(?P<start>\w+)-(?P<end>\w+) ..(?P<modes>..) (?P<offset>\w+) (?P<object>\S+ \d+) +(?P<path>/.*) \(deleted\)$",
    re.MULTILINE,
)
"""A line of `maps` (proc(5)) for something that has no name any more, as shared memory never has."""
_SHARED_MEMORY = "/dev/zero"
_PIPE = re.compile(r"/proc/(?P<process>[0-9]{1,10})/fd/(?P<descriptor>[0-9]{1,10})", re.ASCII)
_IN_FLIGHT = re.compile(r"^scm_fds:\s*([1-9]\d*)$", re.MULTILINE)


@dataclass
class RemovedFiles:
    """Files on one disk that have no name any more and are still in use."""

    size: int
    """Bytes of those that are open or mapped; of those that are mapped only as far as they are mapped."""
    in_flight: bool
    """Whether descriptors were sent and not received, which may be of more such files, of any size."""


class SandboxProcesses:
    """A sandbox's process namespace. ``pid`` is the number, outside, of its first process."""

    def __init__(self, pid: int) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        self._init = os.open(f"/proc/{pid}", flags)
        try:
            self._proc = os.open("root/proc", flags, dir_fd=self._init)
        except OSError:
            os.close(self._init)
            raise
        self._extents: dict[str, int] = {}

    def close(self) -> None:
        """Let go of the namespace. Idempotent."""
        if self._proc >= 0:
            os.close(self._proc)
            os.close(self._init)
            self._proc = self._init = -1

    def numbers(self) -> list[str]:
        """Return the process numbers inside, outermost first; none when the sandbox has ended."""
        try:
            return [name for name in os.listdir(self._proc) if name.isdigit()]
        except OSError:
            return []

    def alive(self) -> bool:
        """Whether a process is there that has not ended."""
        return any(set(states) - set("XZ") for states in self.states().values())

    def resident(self) -> int:
        """Return the bytes of memory that processes have mapped: what they share is counted for each of them.

        Page tables are counted as if they were there for every address.
        """
        sizes = (text.split()[:2] for _, text in self._each("statm"))
        return sum((int(resident) + int(addresses) // _PAGE_TABLE_SHARE) * PAGE for addresses, resident in sizes)

    def memory(self) -> int:
        """Return the bytes of memory in use that are nobody else's: private pages, and each shared object once.

        Never too few, but for what `shared_memory` tells; a private page is counted for each process that has it.
        """
        return self._sum("status", "RssAnon", "VmPTE") + self.shared_memory()

    def exact_memory(self) -> int:
        """Return what `memory` does, counting each private page once. It takes some ten times as long."""
        private = self._sum("smaps_rollup", "Pss_Anon") or self._sum("smaps_rollup", "Pss")
        if not private:
            return self.memory()
        return private + self._sum("status", "VmPTE") + self.shared_memory()

    def shared_memory(self) -> int:
        """Return the bytes that shared objects have in memory, at most.

        A page of such an object stays when no process has it mapped any more. So an object counts as far as it was ever
        seen mapped, but all together for no more than the machine has of such memory.
        """
        extents: dict[str, int] = {}
        for _, mapping in self._unnamed("s"):
            if mapping["path"] == _SHARED_MEMORY:
                known = extents.get(mapping["object"]) or self._extents.get(mapping["object"], 0)
                extents[mapping["object"]] = max(known, _extent(mapping))
        self._extents = extents
        return min(sum(extents.values()), machine_shared_memory()) if extents else 0

    def _sum(self, file: str, *names: str) -> int:
        """Return the sum of these sizes in a file of each process."""
        total = 0
        for _, text in self._each(file):
            for line in text.splitlines():
                name, _, value = line.partition(":")
                if name in names:
                    total += int(value[:-3]) * 1024
        return total

    def _unnamed(self, mode: str = "") -> Iterator[tuple[str, re.Match[str]]]:
        """Yield the mappings of what has no name, with process numbers; ``mode`` is "s" for shared ones only."""
        for number, text in self._each("maps"):
            for mapping in _MAPPING.finditer(text):
                if mode in mapping["modes"]:
                    yield number, mapping

    def cpu_time(self) -> float:
        """Return the seconds of processor time of all processes, with those of ended ones that were waited for."""
        return self._counted(slice(11, 15)) / _TICKS

    def faults(self) -> int:
        """Return how many page faults all processes had that read nothing, with ended ones that were waited for."""
        return self._counted(slice(7, 9))

    def _counted(self, fields: slice) -> int:
        """Return the sum of these fields of `stat`, counted from the state."""
        texts = (text.rpartition(") ")[2].split() for text in self._read_all("stat"))
        return sum(int(value) for text in texts for value in text[fields])

    def removed_files(self, device: int, folders: tuple[str, ...]) -> RemovedFiles:
        """Return what is known of the files on a device that are in use and have no name any more.

        ``folders`` are where the device may be mounted inside: some file systems tell another device for a mapping.
        """
        sizes: dict[int, int] = {}
        sockets: dict[int, bool] = {}
        inside = tuple(f"{folder}/" for folder in folders)
        for _, mapping in self._unnamed():
            number, inode = mapping["object"].split()
            major, _, minor = number.partition(":")
            in_folder = mapping["path"].startswith(inside)
            if in_folder or os.makedev(int(major, 16), int(minor, 16)) == device:
                sizes[int(inode)] = max(sizes.get(int(inode), 0), _extent(mapping))
        # Last, because an open file tells its size.
        for path, status in self._open_files():
            if stat.S_ISSOCK(status.st_mode):
                # A thread that has just ended tells nothing; another one does.
                if status.st_ino not in sockets and (told := self._read(*path)):
                    sockets[status.st_ino] = bool(_IN_FLIGHT.search(told))
            elif (
                not status.st_nlink
                and stat.S_ISREG(status.st_mode)
                # An overlay tells another device than the one its layer lies on, but it tells the path.
                and (status.st_dev == device or self._link(*path).startswith(inside))
            ):
                sizes[status.st_ino] = status.st_blocks * 512
        return RemovedFiles(sum(sizes.values()), any(sockets.values()))

    def _link(self, number: str, path: str) -> str:
        """Return what the open file with this `fdinfo` was opened as."""
        with suppress(OSError), self._open(number, os.O_DIRECTORY) as folder:
            return os.readlink(path.replace("/fdinfo/", "/fd/"), dir_fd=folder)
        return ""

    def _open_files(self) -> Iterator[tuple[tuple[str, str], os.stat_result]]:
        """Yield process and path of the `fdinfo` of each open file, and its status.

        Of each thread, because one can have open files of its own.
        """
        for number in self.numbers():
            for thread in self._threads(number):
                with suppress(OSError), self._open(f"{number}/task/{thread}/fd", os.O_DIRECTORY) as folder:
                    for name in os.listdir(folder):
                        with suppress(OSError):
                            yield (number, f"task/{thread}/fdinfo/{name}"), os.stat(name, dir_fd=folder)

    def states(self) -> dict[str, str]:
        """Return the state letters (proc(5)) of the threads of each process, outermost first."""
        return {number: "".join(self._thread_states(number)) for number in self.numbers()}

    def _thread_states(self, number: str) -> Iterator[str]:
        for thread in self._threads(number):
            _, _, rest = self._read(number, f"task/{thread}/stat").rpartition(") ")
            yield rest[:1] or "X"

    def _threads(self, number: str) -> list[str]:
        try:
            with self._open(f"{number}/task", os.O_DIRECTORY) as folder:
                return os.listdir(folder)
        except OSError:
            return []

    def send(self, number: str, sent: signal.Signals) -> None:
        """Send a signal to one process; one that has ended meanwhile is no error."""
        with suppress(FileNotFoundError, ProcessLookupError), self._open(number, os.O_DIRECTORY) as folder:
            signal.pidfd_send_signal(folder, sent)

    def send_all(self, sent: signal.Signals) -> None:
        """Send a signal to every process, init first: what it would start is then not started."""
        for number in self.numbers():
            self.send(number, sent)

    def open_pipe(self, path: str, flags: int) -> int | None:
        """Open a pipe that a process has open, by its path inside (``/proc/N/fd/M``); None where that is no pipe.

        The path is the sandbox's word, and what it leads to is whatever that process has open: a device or a file is
        looked at, and not opened.
        """
        named = _PIPE.fullmatch(path)
        if named is None or named["process"] == INIT:
            return None
        try:
            with self._open(f"{named['process']}/fd/{named['descriptor']}", os.O_PATH) as found:
                if not stat.S_ISFIFO(os.fstat(found).st_mode):
                    return None
                return os.open(f"/proc/self/fd/{found}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None

    def _each(self, file: str) -> Iterator[tuple[str, str]]:
        """Yield number and text of a file about its memory for each process.

        Where the first thread has ended and others go on, the process's own file tells nothing, but theirs do.
        """
        for number in self.numbers():
            text = self._read(number, file)
            if not _has_memory(file, text):
                others = (self._read(number, f"task/{thread}/{file}") for thread in self._threads(number))
                text = next((other for other in others if _has_memory(file, other)), "")
            if text:
                yield number, text

    def _read_all(self, file: str) -> Iterator[str]:
        for number in self.numbers():
            text = self._read(number, file)
            if text:
                yield text

    def _read(self, number: str, file: str) -> str:
        """Return a file of a process, "" when it has ended."""
        try:
            with self._open(f"{number}/{file}") as descriptor:
                chunks = []
                while chunk := os.read(descriptor, 65536):
                    chunks.append(chunk)
                return b"".join(chunks).decode(errors="replace")
        except OSError:
            return ""

    @contextmanager
    def _open(self, path: str, flags: int = 0) -> Iterator[int]:
        number, _, rest = path.partition("/")
        folder, path = (self._init, rest or ".") if number == INIT else (self._proc, path)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags, dir_fd=folder)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def machine_shared_memory() -> int:
    """Return the bytes of shared memory and of files in memory that the whole machine has."""
    with open("/proc/meminfo", "rb") as file:
        found = re.search(rb"^Shmem: +(\d+) kB", file.read(), re.MULTILINE)
    return int(found[1]) * 1024 if found else sys.maxsize


def _extent(mapping: re.Match[str]) -> int:
    """Return how far into its object a mapping reaches."""
    return int(mapping["offset"], 16) + int(mapping["end"], 16) - int(mapping["start"], 16)


def _has_memory(file: str, text: str) -> bool:
    return "VmRSS" in text if file == "status" else bool(text) and not text.startswith("0 ")
