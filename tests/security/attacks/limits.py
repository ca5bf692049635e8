"""Attacks that use more than a sandbox is given. Each takes a bounded amount, a little more than the limit it tries."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable

from .toolbox import PATIENCE, Verdict, World, attack, checked, libc

MEGABYTE = 1 << 20
CHUNK = 4 * MEGABYTE
HOLD = 2.0
"""Seconds that too much must be held inside for it to count: a watchdog needs a moment."""
IPC_PRIVATE, IPC_CREAT, IPC_RMID = 0, 0o1000, 0


def _hold(world: World) -> None:
    time.sleep(0.1 if world["outside"] else HOLD)


def _too_much(world: World) -> int:
    return int(world["memory_limit"] * 1.4)


@attack(ends_sandbox=True)
def one_process_takes_too_much_memory(world: World) -> Verdict:
    size = _too_much(world)
    memory = mmap.mmap(-1, size)
    _touch(memory, size)
    _hold(world)
    memory.close()
    return True, f"held {size} bytes"


def _touch(memory: mmap.mmap, size: int) -> None:
    for offset in range(0, size, mmap.PAGESIZE):
        memory[offset] = 1


@attack(ends_sandbox=True)
def many_processes_take_too_much_memory(world: World) -> Verdict:
    count = 7
    share = _too_much(world) // count

    def take() -> None:
        _kept.append(mmap.mmap(-1, share))
        _touch(_kept[-1], share)

    alive = _held_by_children(world, count, take)
    return alive == count, f"{alive} of {count} processes held {share} bytes each"


def _held_by_children(world: World, count: int, take: Callable[[], None]) -> int:
    """Return how many children said that they took their share and were alive a while after the last said so."""
    children = [_child(take) for _ in range(count)]
    try:
        ready = sum(
            1 for _, reading in children if select.select([reading], [], [], PATIENCE)[0] and os.read(reading, 1)
        )
        _hold(world)
        gone = sum(1 for pid, _ in children if os.waitpid(pid, os.WNOHANG) != (0, 0))
    finally:
        for pid, reading in children:
            _end(pid)
            os.close(reading)
    return ready - gone


def _child(take: Callable[[], None]) -> tuple[int, int]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            take()
            os.write(writing, b"1")
            # Its end comes by the parent's hand, or by itself.
            time.sleep(10 * PATIENCE)
        finally:
            os._exit(0)
    os.close(writing)
    return pid, reading


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return


@attack(ends_sandbox=True)
def one_process_hides_too_much_shared_memory(world: World) -> Verdict:
    """Pages of a shared mapping stay in memory when the process lets go of them: it does not seem to use any."""
    size = _too_much(world) // CHUNK * CHUNK
    memory = mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    for start in range(0, size, CHUNK):
        for offset in range(start, start + CHUNK, mmap.PAGESIZE):
            memory[offset] = 1
        memory.madvise(mmap.MADV_DONTNEED, start, CHUNK)
    _hold(world)
    still_there = memory[0] == 1
    memory.close()
    return still_there, f"hid {size} bytes"


_kept: list[mmap.mmap] = []
"""What a child goes on holding."""


@attack()
def memory_files_take_too_much_memory(world: World) -> Verdict:
    descriptors: list[int] = []
    try:
        while len(descriptors) < 8:
            descriptors.append(os.memfd_create("attack"))
        for descriptor in descriptors:
            _fill(descriptor, _too_much(world) // len(descriptors))
        _hold(world)
        return True, f"{len(descriptors)} files hold {_too_much(world)} bytes"
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _fill(descriptor: int, size: int) -> None:
    block = b"\1" * MEGABYTE
    for _ in range(size // MEGABYTE):
        os.write(descriptor, block)


@attack()
def shared_memory_segments_take_too_much_memory(world: World) -> Verdict:
    """The System V kind, which outlives its process and counts for no limit of one."""
    libc.shmat.restype = ctypes.c_void_p
    segments = []
    share = _too_much(world) // 8
    try:
        for _ in range(8):
            segments.append(checked(libc.shmget(IPC_PRIVATE, share, IPC_CREAT | 0o600), "shmget"))
            address = libc.shmat(segments[-1], None, 0)
            ctypes.memset(address, 1, share)
            libc.shmdt(ctypes.c_void_p(address))
        _hold(world)
        return True, f"8 segments hold {share} bytes each"
    finally:
        for segment in segments:
            libc.shmctl(segment, IPC_RMID, None)


@attack(ends_sandbox=True)
def files_in_memory_take_too_much(world: World) -> Verdict:
    """What looks like folders may be memory; together they must not hold more than the sandbox may have."""
    folders = ["/dev/shm"] if world["outside"] else ["/dev/shm", "/tmp", os.path.expanduser("~"), "/run", "/var/tmp"]
    paths, held = [], 0
    try:
        for folder in folders:
            path = f"{folder}/attack-{os.getpid()}"
            paths.append(path)
            held += _fill_file(path, _too_much(world) - held)
        _hold(world)
        return held >= _too_much(world) - MEGABYTE, f"{held} bytes in {folders}"
    finally:
        for path in filter(os.path.exists, paths):
            os.unlink(path)


def _fill_file(path: str, size: int) -> int:
    """Return how much of it there was room for."""
    written = 0
    try:
        with open(path, "wb", buffering=0) as file:
            while written + MEGABYTE <= size:
                written += file.write(b"\1" * MEGABYTE)
    except OSError:
        pass
    return written


@attack()
def starts_too_many_processes(world: World) -> Verdict:
    wanted = world["process_limit"] + 20
    children: list[int] = []
    try:
        while len(children) < wanted:
            children.append(_sleeping_child())
    except OSError as exc:
        return False, f"{exc} after {len(children)}"
    finally:
        for pid in children:
            _end(pid)
    return True, f"{wanted} processes"


def _sleeping_child() -> int:
    pid = os.fork()
    if pid == 0:
        try:
            time.sleep(10 * PATIENCE)
        finally:
            os._exit(0)
    return pid


@attack()
def opens_too_many_files(world: World) -> Verdict:
    wanted = world["open_files_limit"] + 20
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    opened: list[int] = []
    try:
        while len(opened) < wanted:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return True, f"{wanted} files"


@attack()
def makes_too_large_a_file(world: World) -> Verdict:
    """A sparse one, which takes no room; then a byte behind the limit, as `truncate` is not the only way."""
    path = f"large-{os.getpid()}"
    size = world["file_size_limit"] + MEGABYTE
    # Python ignores SIGXFSZ, so that the call fails instead of ending the process.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, size)
        os.pwrite(descriptor, b"1", size)
    finally:
        os.close(descriptor)
        os.unlink(path)
    return True, f"{size} bytes"


@attack(ends_sandbox=True)
def fills_the_work_folder(world: World) -> Verdict:
    paths: list[str] = []
    try:
        return _fill_slowly(world, paths.append)
    finally:
        for path in paths:
            os.unlink(path)


@attack(ends_sandbox=True)
def fills_the_disk_with_removed_files(world: World) -> Verdict:
    """A file without a name takes its room for as long as somebody has it open."""
    descriptors: list[int] = []

    def hide(path: str) -> None:
        descriptors.append(os.open(path, os.O_RDONLY))
        os.unlink(path)

    try:
        return _fill_slowly(world, hide)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


@attack(ends_sandbox=True)
def fills_the_disk_with_removed_files_that_are_mapped(world: World) -> Verdict:
    """No descriptor shows that they are there."""
    mappings: list[int] = []

    def hide(path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        mappings.append(_map(descriptor, CHUNK))
        os.close(descriptor)
        os.unlink(path)

    try:
        return _fill_slowly(world, hide)
    finally:
        for address in mappings:
            libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(CHUNK))


def _map(descriptor: int, size: int) -> int:
    """Map a file by the C library, because Python's own mappings keep a descriptor open."""
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap")
    return int(address)


@attack(ends_sandbox=True)
def fills_the_disk_with_removed_files_on_their_way(world: World) -> Verdict:
    """Descriptors that were sent and not received are in no process."""
    sender, receiver = socket.socketpair()

    def hide(path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        socket.send_fds(sender, [b"x"], [descriptor])
        os.close(descriptor)
        os.unlink(path)

    with sender, receiver:
        # Only free space tells of them, and others give room back beside it: until the disk is really fuller.
        return _fill_slowly(world, hide, until_disk_lost=True)


def _free_space() -> int:
    status = os.statvfs(".")
    return status.f_bfree * status.f_frsize


def _fill_slowly(world: World, then: Callable[[str], None], *, until_disk_lost: bool = False) -> Verdict:
    """Write three times the limit, about 80 MB each second, so that a watchdog has its second."""
    wanted, written, before = world["work_folder_limit"] * 3, 0, _free_space()
    while written < wanted or (until_disk_lost and before - _free_space() < wanted):
        path = f"filling-{written}"
        if _fill_file(path, CHUNK) < CHUNK:
            return False, f"no room after {written} bytes"
        then(path)
        written += CHUNK
        time.sleep(0 if world["outside"] else 0.05)
    _hold(world)
    return True, f"{written} bytes"
