"""The local provider's limits: each is tried to be exceeded, from inside."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the local provider runs on Linux", allow_module_level=True)

from sandbox_kernel.providers.local.sandbox import LocalSandbox
from tests.waiting import until

from .local_stub import CodeError, Inside, started

MIB = 1024**2
LIMIT = 256 * MIB


@pytest.fixture
def work_root(tmp_path: Path) -> str:
    return str(tmp_path)


async def lost_for(sandbox: LocalSandbox, inside: Inside) -> str:
    """Wait for the sandbox's end; return the reason it gives."""
    await inside.until_lost()
    return await sandbox.loss_reason()


def is_held_by_watchdog(sandbox: LocalSandbox) -> bool:
    return sandbox.describe()["limits held by"] == "a watchdog"


# ---- memory

HOARD = """
import os, time
for _ in range(8):
    if not os.fork():
        kept = []
        while True:
            kept.append(bytearray(os.urandom(4096)) * 256)
time.sleep(60)
"""
PAGES_OF_THEIR_OWN = """
import os, time
kept = bytearray(os.urandom(4096)) * (150 * 256)
for _ in range(8):
    if not os.fork():
        for at in range(0, len(kept), 4096):
            kept[at] = 1
        time.sleep(60)
time.sleep(60)
"""
"""Forks write to what they have in common, by which no process seems to grow."""
PAGE_TABLES = """
import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
at = libc.mmap(None, 4 << 40, 1, 0x4022, -1, 0)
for step in range(0, 4 << 40, 2 << 20):
    ctypes.c_byte.from_address(at + step).value
"""
"""Memory that is read and was never written takes no pages, but a page table for each 2 MB."""


async def test_one_process_that_asks_for_too_much_gets_a_memory_error(work_root: str) -> None:
    async with started(work_root=work_root, memory=LIMIT) as (_, inside):
        with pytest.raises(CodeError, match="MemoryError"):
            await inside.run(f"bytearray({LIMIT} + 1)")
        with pytest.raises(CodeError, match="MemoryError"):
            await inside.run("kept = []\nwhile True: kept.append(bytearray(2**20))")
        assert await inside.run("result = len(bytearray(2**20))") == 2**20


async def test_reserved_address_space_is_not_counted(work_root: str) -> None:
    async with started(work_root=work_root, memory=LIMIT) as (_, inside):
        # As runtimes with a heap of their own do it: PROT_NONE, private, anonymous.
        assert await inside.run("import mmap; result = len(mmap.mmap(-1, 2**34, 0x22, 0))") == 2**34


async def test_many_processes_cannot_exceed_the_memory_together(work_root: str) -> None:
    """Either the kernel ends the greedy ones and says how many, or the watchdog ends everything and says why."""
    async with started(work_root=work_root, memory=LIMIT) as (sandbox, inside):
        watched = is_held_by_watchdog(sandbox)
        inside.send(HOARD)
        most = 0
        deadline = time.monotonic() + 30
        while not inside.lost and not sandbox.out_of_memory_kills() and time.monotonic() < deadline:
            most = max(most, resident_memory())
            await asyncio.sleep(0.02)
        if watched:
            assert await lost_for(sandbox, inside) == "it used more than its 256 MiB of memory"
        else:
            assert sandbox.out_of_memory_kills() > 0
        # Generous, because the watchdog may be kept waiting for the processor.
        assert most < LIMIT + 1024 * MIB


@pytest.mark.parametrize("code", [PAGES_OF_THEIR_OWN, PAGE_TABLES], ids=["pages", "page-tables"])
async def test_memory_that_no_process_seems_to_have_counts(code: str, work_root: str) -> None:
    async with started(work_root=work_root, memory=LIMIT) as (sandbox, inside):
        inside.send(code)
        if is_held_by_watchdog(sandbox):
            assert "256 MiB of memory" in await lost_for(sandbox, inside)
        else:
            await until(lambda: sandbox.out_of_memory_kills() > 0)


def resident_memory() -> int:
    """Bytes that all processes below this one hold; what they share counts for each."""
    held, parents = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = int(fields[1])
            held[int(entry.name)] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    below = {os.getpid()}
    for _ in parents:
        grown = below | {pid for pid, parent in parents.items() if parent in below}
        if grown == below:
            break
        below = grown
    return sum(held[pid] for pid in below - {os.getpid()})


async def test_memory_that_processes_share_counts_and_counts_once(work_root: str) -> None:
    async with started(work_root=work_root, memory=LIMIT) as (sandbox, inside):
        code = """
            import mmap, os, time
            shared = mmap.mmap(-1, 100 * 2**20)
            shared.write(bytes(100 * 2**20))
            for _ in range(4):
                if not os.fork():
                    sum(shared[at] for at in range(0, len(shared), 4096))
                    time.sleep(60)
            time.sleep(2)
        """
        await inside.run(textwrap.dedent(code))
        assert not sandbox.out_of_memory_kills()
        more = """
            import mmap, os, time
            for _ in range(3):
                os.fork()
                shared = mmap.mmap(-1, 90 * 2**20)
                for at in range(0, len(shared), 4096):
                    shared[at] = 1
            time.sleep(60)
        """
        inside.send(textwrap.dedent(more))
        if is_held_by_watchdog(sandbox):
            assert "256 MiB of memory" in await lost_for(sandbox, inside)
        else:
            await until(lambda: sandbox.out_of_memory_kills() > 0)


async def test_memory_that_forks_have_in_common_counts_once(work_root: str) -> None:
    async with started(work_root=work_root, memory=LIMIT) as (sandbox, inside):
        code = """
            import os, time
            kept = bytearray(os.urandom(2**20)) * 50
            for _ in range(20):
                if not os.fork():
                    time.sleep(60)
            time.sleep(2)
            result = len(kept)
        """
        assert await inside.run(textwrap.dedent(code)) == 50 * MIB
        assert not sandbox.out_of_memory_kills()


HIDE = {
    "by letting go of its pages": """
        import mmap, time
        hidden = mmap.mmap(-1, 400 * 2**20)
        for start in range(0, len(hidden), 2**22):
            for at in range(start, start + 2**22, 4096):
                hidden[at] = 1
            hidden.madvise(mmap.MADV_DONTNEED, start, 2**22)
        time.sleep(60)
    """,
    "behind a first thread that has ended": """
        import ctypes, os, threading, time
        def hoard():
            time.sleep(0.5)
            kept = [bytearray(os.urandom(4096)) * 256 for _ in range(400)]
            time.sleep(60)
        if not os.fork():
            threading.Thread(target=hoard).start()
            ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0)
        time.sleep(60)
    """,
}


@pytest.mark.parametrize("way", HIDE)
async def test_memory_that_is_hidden_counts(work_root: str, way: str) -> None:
    async with started(work_root=work_root, memory=LIMIT, memory_per_process=4 * LIMIT) as (sandbox, inside):
        inside.send(textwrap.dedent(HIDE[way]))
        if is_held_by_watchdog(sandbox):
            assert "256 MiB of memory" in await lost_for(sandbox, inside)
        else:
            await until(lambda: sandbox.out_of_memory_kills() > 0)


async def test_reason_of_a_kernels_death_is_told_once_where_it_took_too_much_memory(work_root: str) -> None:
    async with started(work_root=work_root, memory=LIMIT, memory_per_process=4 * LIMIT) as (sandbox, inside):
        assert await sandbox.kernel_death_reason(-9) == ""
        if is_held_by_watchdog(sandbox):
            return
        inside.send("import os\nif not os.fork(): kept = bytearray(os.urandom(2**20)) * 400")
        await until(lambda: sandbox.out_of_memory_kills() > 0)
        assert await sandbox.kernel_death_reason(-9) == "it used more than its 256 MiB of memory"
        assert await sandbox.kernel_death_reason(-9) == ""


@pytest.mark.parametrize("attempt", ["memfd_create", "System V", "io_uring"])
async def test_memory_that_nothing_would_count_is_refused(work_root: str, attempt: str) -> None:
    calls = {
        "memfd_create": "os.memfd_create('x')",
        "System V": "check(libc.shmget(0, 4096, 0o1600))",
        "io_uring": "check(libc.syscall(425, 1, 0))",
    }
    code = """
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        def check(result):
            if result < 0: raise OSError(ctypes.get_errno(), "refused")
    """
    async with started(work_root=work_root) as (_, inside):
        with pytest.raises(CodeError, match=r"PermissionError|refused|not implemented"):
            await inside.run(textwrap.dedent(code) + calls[attempt])


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm", "/home/user"])
async def test_temporary_folders_have_their_sizes(work_root: str, folder: str) -> None:
    sizes = {"tmp_size": 8 * MIB, "shm_size": 8 * MIB, "home_size": 8 * MIB}
    async with started(work_root=work_root, **sizes) as (_, inside):
        with pytest.raises(CodeError, match="No space left"):
            await inside.run(f"open('{folder}/big', 'wb').write(bytes({9 * MIB}))")
        assert await inside.run(f"import os; result = os.stat('{folder}/big').st_size") <= 8 * MIB


# ---- processes, files, processor


async def test_fork_bomb_stops_at_the_limit_and_the_sandbox_lives(work_root: str) -> None:
    async with started(work_root=work_root, processes=50) as (_, inside):
        code = """
            import os, signal, time
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
            children = []
            try:
                while True:
                    child = os.fork()
                    if not child:
                        time.sleep(60)
                    children.append(child)
            except BlockingIOError:
                result = len(children)
            for child in children:
                os.kill(child, signal.SIGKILL)
        """
        assert 30 <= await inside.run(textwrap.dedent(code)) <= 50
        await asyncio.sleep(0.2)
        assert await inside.run("import subprocess; result = subprocess.run(['true']).returncode") == 0


async def test_file_size_open_files_and_core_dumps_are_limited(work_root: str) -> None:
    async with started(work_root=work_root, file_size=MIB, open_files=64) as (_, inside):
        with pytest.raises(CodeError, match="File too large"):
            await inside.run("import os; os.truncate(os.open('big', os.O_CREAT | os.O_WRONLY), 2**20 + 1)")
        with pytest.raises(CodeError, match="Too many open files"):
            await inside.run("import os\nopened = []\nwhile True: opened.append(open('/dev/null'))")
        assert await inside.run("import resource; result = resource.getrlimit(resource.RLIMIT_CORE)") <= [1, 1]


async def test_limits_cannot_be_raised_again(work_root: str) -> None:
    async with started(work_root=work_root, open_files=64) as (_, inside):
        with pytest.raises(CodeError, match="not allowed to raise maximum limit"):
            await inside.run("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (65, 65))")


async def test_processor_time_of_a_process_is_limited(work_root: str) -> None:
    async with started(work_root=work_root, cpu_seconds=1) as (_, inside):
        code = "result = subprocess.run([sys.executable, '-c', 'while True: pass']).returncode"
        assert await inside.run(f"import subprocess, sys; {code}") < 0


async def test_number_of_processors_is_limited_for_good(work_root: str) -> None:
    async with started(work_root=work_root, cpus=1) as (_, inside):
        assert await inside.run("import os; result = len(os.sched_getaffinity(0))") == 1
        with pytest.raises(CodeError, match="not permitted"):
            await inside.run("import os; os.sched_setaffinity(0, range(os.cpu_count()))")


# ---- the work folder

WORK = 64 * MIB


FILL = {
    "many files": """
        n = 0
        while True:
            n += 1
            open(f"file{n}", "wb").write(bytes(2**20))
    """,
    "an unreadable folder": """
        import os
        os.mkdir("hidden")
        folder = os.open("hidden", os.O_PATH)
        os.chmod("hidden", 0o300)
        n = 0
        while True:
            n += 1
            file = os.open(f"file{n}", os.O_CREAT | os.O_WRONLY, dir_fd=folder)
            os.write(file, bytes(2**20))
            os.close(file)
    """,
    "removed files": """
        import os
        kept = []
        while True:
            kept.append(os.open("file", os.O_CREAT | os.O_WRONLY))
            os.unlink("file")
            os.write(kept[-1], bytes(2**20))
    """,
    "removed files of one thread": """
        import ctypes, os, threading
        def fill():
            # From here on this thread has open files of its own (close_range with CLOSE_RANGE_UNSHARE).
            assert not ctypes.CDLL(None).syscall(436, 4000, 4001, 2)
            kept = []
            while True:
                kept.append(os.open("file", os.O_CREAT | os.O_WRONLY))
                os.unlink("file")
                os.write(kept[-1], bytes(2**20))
        threading.Thread(target=fill).start()
    """,
    "reserved space": """
        import os
        n = 0
        while True:
            n += 1
            file = os.open(f"file{n}", os.O_CREAT | os.O_WRONLY)
            os.posix_fallocate(file, 0, 2**20)
            os.close(file)
    """,
}


@pytest.mark.parametrize("way", FILL)
async def test_work_folder_that_grows_too_large_ends_the_sandbox(work_root: str, way: str) -> None:
    async with started(work_root=work_root, work_size=WORK) as (sandbox, inside):
        inside.send(textwrap.dedent(FILL[way]))
        assert await lost_for(sandbox, inside) == "its work folder grew beyond its 64 MiB"


async def test_packages_count_as_the_work_folder_does(work_root: str) -> None:
    async with started(work_root=work_root, work_size=WORK) as (sandbox, inside):
        await inside.run(f"open('file', 'wb').write(bytes({WORK // 2}))")
        inside.send(f"open('/opt/sandbox-packages/file', 'wb').write(bytes({WORK}))")
        assert await lost_for(sandbox, inside) == "its work folder grew beyond its 64 MiB"


async def test_work_folder_is_never_more_than_a_second_of_writing_too_large(work_root: str) -> None:
    """Writing at a known rate: a mebibyte every ten milliseconds, at most."""
    code = """
        import time
        n = 0
        while True:
            n += 1
            open(f"file{n}", "wb").write(bytes(2**20))
            time.sleep(0.01)
    """
    async with started(work_root=work_root, work_size=WORK) as (sandbox, inside):
        inside.send(textwrap.dedent(code))
        await lost_for(sandbox, inside)
        assert disk_used(work_root) < WORK + 100 * MIB


def disk_used(folder: str) -> int:
    return sum(path.lstat().st_blocks * 512 for path in Path(folder).rglob("*"))


async def test_work_folder_within_its_size_is_left_alone(work_root: str) -> None:
    async with started(work_root=work_root, work_size=WORK) as (sandbox, inside):
        for _ in range(5):
            await inside.run(f"open('file', 'wb').write(bytes({WORK - MIB}))")
            await asyncio.sleep(0.3)
        assert not inside.lost
        await until(lambda: sandbox.describe()["work folder"].endswith("of 64 MiB"))


async def test_work_folder_that_is_nested_too_deep_ends_the_sandbox(work_root: str) -> None:
    async with started(work_root=work_root, work_size=WORK) as (sandbox, inside):
        code = """
            import os
            for _ in range(2000):
                os.mkdir("deeper")
                os.chdir("deeper")
            while True:
                open(os.urandom(4).hex(), "wb").write(bytes(2**20))
        """
        inside.send(textwrap.dedent(code))
        assert "deep" in await lost_for(sandbox, inside)
    assert disk_used(work_root) == 0


# ---- what watching costs


async def test_watching_an_idle_sandbox_costs_next_to_nothing(work_root: str) -> None:
    async with started(work_root=work_root):
        await asyncio.sleep(1)
        before = time.process_time()
        await asyncio.sleep(5)
        assert (time.process_time() - before) / 5 < 0.005
