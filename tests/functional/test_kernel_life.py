"""The kernel process lives on whatever happens to its sandbox; interrupts, limits, ends and forms of the start."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import zmq

from tests.ports import write_connection

from .client import (
    PATIENCE,
    Exchange,
    FrontEnd,
    KernelProcess,
    SharedKernel,
    kernel_command,
    kernel_environment,
    running,
    spawn,
    spawn_with,
)

NOTICE = "the variables of earlier cells are gone"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedKernel]:
    """A kernel for all tests after which the next cell works."""
    kernel = SharedKernel(lambda: tmp_path_factory.mktemp("kernel"), "--LocalProvider.memory=400 MiB")
    yield kernel
    kernel.end()


@pytest.fixture
def notebook(shared: SharedKernel) -> Iterator[FrontEnd]:
    """The shared kernel's front end; its sandbox is up and healthy."""
    assert shared.front_end.run("import os, time, signal, subprocess, asyncio, re, sys").status == "ok"
    yield shared.front_end
    shared.check()


def assert_all_lost(notebook: FrontEnd, *cells: Exchange, because: str) -> None:
    """Each cell has one error, one reply and one idle; a fresh kernel runs the next one and says so."""
    notebook.finish(*cells)
    notebook.drain()
    for cell in cells:
        cell.assert_ended_once()
        assert cell.error["ename"] == "SandboxLostError"
        assert because in cell.error["evalue"]
        assert "variables are gone" in cell.error["evalue"]
    fresh = notebook.run("'fresh', 'before' in dir()")
    assert fresh.result == "('fresh', False)"
    assert NOTICE in fresh.stream("stderr")
    again = notebook.run("'again'")
    assert again.stream("stderr") == ""
    assert again.count == fresh.count + 1


def mark(notebook: FrontEnd, code: str, *, first: str = "") -> Exchange:
    """Send a cell and wait until it has done what comes ``first``, and goes on."""
    cell = notebook.cell(f"{first}\nprint('begun', flush=True)\n{code}")
    notebook.until(lambda: "begun" in cell.stream(), state=lambda: cell.order)
    return cell


# ---- deaths


@pytest.mark.parametrize(
    ("code", "because"),
    [
        ("os._exit(7)", "status 7"),
        ("import ctypes\nctypes.string_at(0)", "segmentation fault"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("data = []\nwhile True: data.append(bytearray(b'x' * 10_000_000))", "memory"),
    ],
    ids=["exit", "segmentation fault", "killed", "out of memory"],
)
def test_a_death_ends_running_and_queued_cells_once_each(notebook: FrontEnd, code: str, because: str) -> None:
    notebook.run("before = 1")
    running_cell = notebook.cell(f"time.sleep(0.3)\n{code}")
    queued = [notebook.cell("'queued'"), notebook.cell("'queued, too'")]
    if "memory" in because:
        # Python may say MemoryError first, as the limit of one process is reached; then nothing is lost.
        notebook.finish(running_cell, *queued)
        if running_cell.error["ename"] == "MemoryError":
            assert notebook.run("del data\nbefore").result == "1"
            return
    assert_all_lost(notebook, running_cell, *queued, because=because)


def test_what_was_printed_before_a_death_is_shown(notebook: FrontEnd) -> None:
    for _ in range(5):
        cell = notebook.run("import os\nprint('last words', flush=True)\nos._exit(1)")
        assert cell.stream() == "last words\n"
        assert cell.error["ename"] == "SandboxLostError"


def test_memory_of_many_processes_in_total_is_limited(notebook: FrontEnd) -> None:
    notebook.run("before = 1")
    hog = "import time; data = bytearray(b'x' * 150_000_000); time.sleep(600)"
    cell = notebook.run(
        f"hogs = [subprocess.Popen([sys.executable, '-c', {hog!r}]) for _ in range(5)]\n"
        "while all(hog.poll() is None for hog in hogs): time.sleep(0.01)\n"
        "for hog in hogs: hog.kill()\n[hog.wait() for hog in hogs]"
    )
    if cell.status == "error":
        assert_all_lost(notebook, cell, because="memory")
    else:
        # The control group's killer took a child, not the kernel.
        assert notebook.run("before").result == "1"


def test_a_sandbox_that_is_killed_from_outside_is_replaced(kernel: KernelProcess, notebook: FrontEnd) -> None:
    notebook.run("before = 1")
    running_cell = mark(notebook, "time.sleep(600)")
    queued = notebook.cell("'queued'")
    (outermost, *_) = [process for process in kernel.descendants() if process.name() == "bwrap"]
    outermost.kill()
    assert_all_lost(notebook, running_cell, queued, because="The sandbox ended")


def test_a_sandbox_that_dies_while_idle_is_replaced_with_a_notice(kernel: KernelProcess, notebook: FrontEnd) -> None:
    notebook.run("before = 1")
    (outermost, *_) = [process for process in kernel.descendants() if process.name() == "bwrap"]
    outermost.kill()
    psutil.wait_procs([outermost], timeout=10)
    notebook.until(lambda: "error" in notebook.run("%sandbox status").contents("display_data")[0]["data"]["text/plain"])
    fresh = notebook.run("'before' in dir()")
    assert fresh.result == "False"
    assert NOTICE in fresh.stream("stderr")


def test_two_deaths_in_a_row_are_survived(notebook: FrontEnd) -> None:
    for _ in range(2):
        cell = notebook.run("import os\nos._exit(1)")
        cell.assert_ended_once()
        assert cell.error["ename"] == "SandboxLostError"
    assert notebook.run("1").result == "1"


def test_requests_of_all_kinds_are_answered_when_the_sandbox_dies(notebook: FrontEnd) -> None:
    dying = mark(notebook, "time.sleep(0.5)\nos._exit(1)")
    others = [
        notebook.send("comm_info_request"),
        notebook.send("history_request", {"hist_access_type": "tail", "n": 1}),
    ]
    notebook.finish(dying, *others)
    assert [len(other.replies) for other in others] == [1, 1]


def test_widgets_and_subshells_of_a_dead_kernel_do_not_hang_the_next(notebook: FrontEnd) -> None:
    notebook.run("import os\nos._exit(1)")
    notebook.send("comm_msg", {"comm_id": "of the dead", "data": {}})
    assert notebook.run("1").result == "1"


# ---- starts that fail


def test_a_missing_interpreter_is_a_clear_error_and_every_cell_tries_again(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    with running(tmp_path, f"--LocalProvider.python={python}") as process:
        notebook = process.front_end()
        first, second = notebook.cell("1"), notebook.cell("2")
        notebook.finish(first, second)
        for cell in (first, second):
            cell.assert_ended_once()
            assert (cell.error["ename"], str(python) in cell.error["evalue"]) == ("ConfigurationError", True)
        assert notebook.run("%sandbox status").status == "ok"
        # What is mended meanwhile is seen: here, so far that another error is told.
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
        assert "has no ipykernel" in notebook.run("3").error["evalue"]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everyone may read; pytest's are private, and a sandbox of root's runs as somebody else."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_an_inner_kernel_that_cannot_start_is_a_clear_error_and_commands_behind_it_run(
    tmp_path: Path, open_folder: Path
) -> None:
    venv = open_folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (folder,) = (venv / "lib").glob("python*/site-packages")
    for name in ("ipykernel", "zmq"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise ImportError('this package is broken')")
    with running(tmp_path, f"--LocalProvider.python={venv / 'bin' / 'python'}") as process:
        notebook = process.front_end()
        cell = notebook.run("1")
        cell.assert_ended_once()
        assert "broken" in cell.error["evalue"]
        cell, start = notebook.cell("2", stop_on_error=False), notebook.cell("%sandbox start")
        notebook.finish(cell, start)
        assert "broken" in cell.error["evalue"]
        assert "broken" in start.error["evalue"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("c.LocalProvider.memory = \n", "line 1"),
        ("c.LocalProvider.memroy = 5\n", "memroy"),
        ("1/0\n", "ZeroDivisionError"),
    ],
    ids=["no Python", "unknown option", "raises"],
)
def test_a_broken_configuration_file_is_shown_in_the_cell(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "jupyter_sandbox_config.py").write_text(text)
    with running(tmp_path) as process:
        notebook = process.front_end()
        for _ in range(2):
            cell = notebook.run("1")
            assert cell.error["ename"] == "ConfigurationError"
            assert said in cell.error["evalue"]
        assert notebook.run("%sandbox help").status == "ok"
        assert notebook.ask("kernel_info_request")["status"] == "ok"


def test_an_unknown_option_is_shown_in_the_cell(tmp_path: Path) -> None:
    with running(tmp_path, "--LocalProvider.memroy=5") as process:
        error = process.front_end().run("1").error
        assert (error["ename"], "memroy" in error["evalue"]) == ("ConfigurationError", True)


# ---- the execution time-out


def test_a_cell_that_takes_too_long_is_interrupted_and_keeps_its_variables(tmp_path: Path) -> None:
    with running(tmp_path, "--SandboxSession.execution_timeout=1") as process:
        notebook = process.front_end()
        notebook.run("kept = 1")
        slow, behind = notebook.cell("import time\ntime.sleep(60)"), notebook.cell("2")
        notebook.finish(slow, behind)
        slow.assert_ended_once()
        assert slow.error["ename"] == "SandboxTimeoutError"
        assert "1 s" in slow.error["evalue"]
        assert behind.status == "aborted"
        assert notebook.run("kept").result == "1"
        # The clock of one cell is not the next one's.
        quick = [notebook.cell("import time\ntime.sleep(0.6)") for _ in range(3)]
        notebook.finish(*quick)
        assert [cell.status for cell in quick] == ["ok"] * 3


def test_a_paused_cell_does_not_use_up_its_time(tmp_path: Path) -> None:
    with running(tmp_path, "--SandboxSession.execution_timeout=3") as process:
        notebook = process.front_end()
        cell = mark(notebook, "import time\ntime.sleep(0.7)\n'done'")
        assert notebook.ask("sandbox_command_request", {"line": "pause"}, channel="control")["status"] == "ok"
        time.sleep(3.5)
        assert notebook.ask("sandbox_command_request", {"line": "resume"}, channel="control")["status"] == "ok"
        assert notebook.finish(cell).result == "'done'"


STUBBORN = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
began = time.monotonic()
while time.monotonic() < began + {seconds}:
    {work}
"""


@pytest.mark.parametrize("work", ["time.sleep(0.01)", "print('x' * 1000)"], ids=["silent", "printing"])
def test_a_cell_that_ignores_the_interrupt_is_ended(tmp_path: Path, work: str) -> None:
    with running(tmp_path, "--SandboxSession.execution_timeout=1") as process:
        notebook = process.front_end()
        notebook.run("kept = 1")
        stubborn = notebook.cell(STUBBORN.format(seconds=600, work=work))
        behind = notebook.cell("2")
        notebook.finish(stubborn, behind, timeout=30)
        stubborn.assert_ended_once()
        assert stubborn.error["ename"] == "SandboxTimeoutError"
        assert len(behind.replies) == 1
        fresh = notebook.run("'kept' in dir()")
        assert fresh.result == "False"
        assert NOTICE in fresh.stream("stderr")
        notebook.drain()
        stubborn.assert_ended_once()


def test_a_cell_that_ends_while_it_is_being_ended_is_answered_once(tmp_path: Path) -> None:
    with running(tmp_path, "--SandboxSession.execution_timeout=1") as process:
        notebook = process.front_end()
        notebook.run("1")
        # Interrupted after 1 s, given up after 5 s more; it ends within the second that is left for exit handlers.
        stubborn = notebook.cell(STUBBORN.format(seconds=6.5, work="time.sleep(0.01)") + "print('too late')\n")
        notebook.finish(stubborn)
        assert notebook.run("2").result == "2"
        notebook.drain()
        stubborn.assert_ended_once()
        assert stubborn.error["ename"] == "SandboxTimeoutError"


# ---- interrupts


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "time.sleep(600)",
        "subprocess.run(['sleep', '600'])",
        "await asyncio.sleep(600)",
        "re.match(r'(a+)+$', 'a' * 40 + 'b')",
        "import threading\nthreading.Event().wait()",
        "while True: print('x' * 1000)",
    ],
    ids=["loop", "sleep", "program", "await", "regular expression", "lock", "printing"],
)
def test_a_running_cell_is_interrupted_and_keeps_its_variables(notebook: FrontEnd, code: str) -> None:
    cell = mark(notebook, code, first="kept = 'kept'")
    behind = notebook.cell("'behind'")
    assert notebook.interrupt() == {"status": "ok"}
    notebook.finish(cell, behind)
    cell.assert_ended_once()
    assert cell.error["ename"] in ("KeyboardInterrupt", "CancelledError")
    assert behind.status == "aborted"
    assert notebook.run("kept").result == "'kept'"


def test_an_interrupt_that_wakes_nobody_ends_the_cell(notebook: FrontEnd) -> None:
    # Another thread takes the signal, and nothing wakes this one: as when it comes just before a wait begins.
    cell = mark(notebook, "time.sleep(600)", first="signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])")
    time.sleep(0.5)
    notebook.interrupt()
    assert notebook.finish(cell).error["ename"] == "KeyboardInterrupt"
    notebook.run("signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])")


def test_a_question_is_interrupted_and_a_late_answer_is_nobodys(notebook: FrontEnd) -> None:
    cell = notebook.cell("kept = 1\ninput('first? ')")
    notebook.until(lambda: bool(cell.questions))
    notebook.interrupt()
    notebook.finish(cell)
    assert cell.error["ename"] == "KeyboardInterrupt"
    notebook.answer("late")
    # Python drops it when it asks next, but only if it has arrived by then.
    assert notebook.run("get_ipython().kernel.stdin_socket.poll(1000)").result == "0"
    second = notebook.cell("input('second? ')")
    notebook.until(lambda: bool(second.questions))
    notebook.answer("right")
    assert notebook.finish(second).result == "'right'"


def test_an_interrupt_while_nothing_runs_is_harmless(notebook: FrontEnd) -> None:
    notebook.run("kept = 1")
    for _ in range(50):
        assert notebook.interrupt() == {"status": "ok"}
    assert notebook.run("kept").result == "1"


def test_many_interrupts_are_harmless(notebook: FrontEnd) -> None:
    for _ in range(5):
        cell = mark(notebook, "time.sleep(600)", first="kept = 1")
        interrupts = [notebook.send("interrupt_request", channel="control") for _ in range(3)]
        notebook.finish(cell, *interrupts)
        assert notebook.run("kept", stop_on_error=False).status in ("ok", "error")
    assert notebook.run("kept").result == "1"


def test_sigint_interrupts_like_a_request(kernel: KernelProcess, notebook: FrontEnd) -> None:
    cell = mark(notebook, "time.sleep(600)", first="kept = 1")
    kernel.process.send_signal(signal.SIGINT)
    assert notebook.finish(cell).error["ename"] == "KeyboardInterrupt"
    assert notebook.run("kept").result == "1"


def test_a_cell_that_waits_for_its_sandbox_is_interrupted(notebook: FrontEnd) -> None:
    notebook.run("%sandbox stop")
    cells = [notebook.cell("time.sleep(600)"), notebook.cell("2")]
    notebook.interrupt()
    notebook.finish(*cells)
    assert cells[0].error["ename"] == "KeyboardInterrupt"
    assert cells[1].status == "aborted"
    for cell in cells:
        cell.assert_ended_once()
    assert notebook.run("3").result == "3"


def test_sigint_while_the_sandbox_is_starting_interrupts_the_cell_that_waits(
    kernel: KernelProcess, notebook: FrontEnd
) -> None:
    notebook.run("%sandbox stop")
    cell = notebook.cell("1")
    kernel.process.send_signal(signal.SIGINT)
    notebook.finish(cell)
    # It may have come before the cell; then it was harmless.
    assert cell.status == "ok" or cell.error["ename"] == "KeyboardInterrupt"


def test_an_interrupt_resumes_a_paused_cell_to_end_it(notebook: FrontEnd) -> None:
    cell = mark(notebook, "time.sleep(600)", first="kept = 1")
    assert notebook.ask("sandbox_command_request", {"line": "pause"}, channel="control")["status"] == "ok"
    notebook.interrupt()
    assert notebook.finish(cell).error["ename"] == "KeyboardInterrupt"
    assert notebook.run("kept").result == "1"


# ---- the end


def gone(kernel: KernelProcess, left: list[psutil.Process], within: float) -> None:
    """The kernel process ends in time; what it started follows."""
    kernel.process.wait(within)
    _, alive = psutil.wait_procs(left, timeout=5)
    assert alive == []


@pytest.mark.parametrize("channel", ["control", "shell"])
@pytest.mark.parametrize("restart", [True, False])
def test_a_shutdown_request_is_answered_and_obeyed(tmp_path: Path, channel: str, restart: bool) -> None:
    kernel = spawn(tmp_path)
    try:
        notebook = kernel.front_end()
        notebook.run("1")
        mark(notebook, "import time\ntime.sleep(600)")
        left = kernel.descendants()
        request = notebook.send("shutdown_request", {"restart": restart}, channel=channel)
        notebook.until(lambda: bool(request.replies))
        assert request.reply == {"status": "ok", "restart": restart}
        gone(kernel, left, 10)
        assert kernel.process.returncode == 0
        assert kernel.complaints() == ""
    finally:
        kernel.end()


def busy(notebook: FrontEnd) -> None:
    mark(notebook, "import time\ntime.sleep(600)")


def printing(notebook: FrontEnd) -> None:
    # The front end does not read, so everything is full.
    mark(notebook, "while True: print('x' * 1000)")
    time.sleep(1)


def paused(notebook: FrontEnd) -> None:
    busy(notebook)
    notebook.ask("sandbox_command_request", {"line": "pause"}, channel="control")


def starting(notebook: FrontEnd) -> None:
    notebook.run("%sandbox stop")
    notebook.cell("1")
    notebook.ask("kernel_info_request")


def idle(notebook: FrontEnd) -> None:
    notebook.run("1")


@pytest.mark.parametrize("state", [idle, busy, printing, paused, starting])
def test_sigterm_ends_the_process_within_a_second(tmp_path: Path, state: Callable[[FrontEnd], None]) -> None:
    kernel = spawn(tmp_path)
    try:
        notebook = kernel.front_end(queue=2)
        state(notebook)
        left = kernel.descendants()
        kernel.process.send_signal(signal.SIGTERM)
        kernel.process.send_signal(signal.SIGTERM)
        gone(kernel, left, 1.5)
        assert kernel.complaints() == ""
    finally:
        kernel.end()


def test_sigterm_right_after_the_start_ends_the_process(tmp_path: Path) -> None:
    kernel = spawn(tmp_path)
    try:
        left = kernel.descendants()
        kernel.process.send_signal(signal.SIGTERM)
        gone(kernel, left, 5)
    finally:
        kernel.end()


PARENT = """
import subprocess, sys, time
kernel = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          start_new_session=True)
print(kernel.pid, flush=True)
sys.stdin.read()
"""


def test_a_dead_parent_is_noticed_without_being_named(tmp_path: Path) -> None:
    path = tmp_path / "connection.json"
    write_connection(path)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *kernel_command(path)],
        env=kernel_environment(tmp_path),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    kernel = psutil.Process(int(parent.stdout.readline()))
    try:
        notebook = FrontEnd(path).ready()
        assert notebook.run("1").result == "1"
        left = [kernel, *kernel.children(recursive=True)]
        notebook.close()
        parent.kill()
        parent.wait()
        _, alive = psutil.wait_procs(left, timeout=10)
        assert alive == []
    finally:
        parent.stdout.close()
        if parent.stdin is not None:
            parent.stdin.close()
        if kernel.is_running():
            kernel.kill()


# ---- forms of the connection file


def written(path: Path, kernel: KernelProcess) -> None:
    """Wait until the kernel has written its connection file."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            if json.loads(path.read_text())["hb_port"]:
                return
        except (OSError, ValueError, KeyError):
            pass
        assert kernel.process.poll() is None, kernel.complaints()
        time.sleep(0.02)
    raise AssertionError("no connection file was written")


def test_a_connection_file_that_does_not_exist_is_written_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "connection.json"
    path.parent.mkdir()
    kernel = spawn_with(path)
    try:
        written(path, kernel)
        assert path.stat().st_mode & 0o777 == 0o600
        assert json.loads(path.read_text())["key"]
        notebook = kernel.front_end()
        assert notebook.run("1").result == "1"
        notebook.send("shutdown_request", {"restart": False}, channel="control")
        kernel.process.wait(10)
        assert not path.exists()
    finally:
        kernel.end()


def test_a_connection_files_name_alone_lies_in_the_runtime_folder(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    stderr = folder / "stderr"
    with stderr.open("wb") as file:
        process = subprocess.Popen(
            kernel_command(Path("kernel-name.json")),
            cwd=folder,
            env=kernel_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )
    path = folder / "runtime" / "kernel-name.json"
    kernel = KernelProcess(process, path, stderr)
    try:
        written(path, kernel)
        assert kernel.front_end().run("1").result == "1"
    finally:
        kernel.end()


def test_ports_of_zero_are_chosen_and_written(tmp_path: Path) -> None:
    ports = dict.fromkeys(("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port"), 0)
    with running(tmp_path, connection=ports) as kernel:
        written(kernel.connection_file, kernel)
        assert kernel.front_end().run("1").result == "1"


def test_messages_travel_over_ipc(tmp_path: Path) -> None:
    with running(tmp_path, connection={"transport": "ipc", "ip": str(tmp_path / "socket")}) as kernel:
        written(kernel.connection_file, kernel)
        assert kernel.front_end().run("1").result == "1"


def test_an_empty_key_means_unsigned_messages(tmp_path: Path) -> None:
    with running(tmp_path, connection={"key": ""}) as kernel:
        notebook = kernel.front_end()
        assert notebook.run("1").result == "1"
        assert notebook.client.session.auth is None


def test_another_signature_scheme_is_used(tmp_path: Path) -> None:
    with running(tmp_path, connection={"signature_scheme": "hmac-sha512"}) as kernel:
        assert kernel.front_end().run("1").result == "1"


@pytest.mark.skipif(not zmq.has("curve"), reason="this libzmq has no CurveZMQ")
def test_curve_keys_encrypt_every_channel(tmp_path: Path) -> None:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    keys = {"curve_publickey": public, "curve_secretkey": secret}
    with running(tmp_path, connection=keys) as kernel:
        notebook = kernel.front_end()
        assert notebook.run("1").result == "1"
        question = notebook.cell("input()")
        notebook.until(lambda: bool(question.questions))
        notebook.answer("2")
        assert notebook.finish(question).result == "'2'"
        assert beats(kernel, public.encode())
        # Who has no keys is not heard.
        info = {
            name: value for name, value in json.loads(kernel.connection_file.read_text()).items() if "curve" not in name
        }
        stranger = FrontEnd(info)
        request = stranger.send("kernel_info_request")
        notebook.run("3")
        stranger.client.shell_channel.socket.poll(500)
        assert not request.replies
        assert not beats(kernel, None)
        stranger.close()


def beats(kernel: KernelProcess, server_key: bytes | None) -> bool:
    """Whether the heartbeat answers a client with, or without, the kernel's public key."""
    info = json.loads(kernel.connection_file.read_text())
    with zmq.Context() as context, context.socket(zmq.REQ) as sock:
        sock.linger = 0
        if server_key:
            sock.curve_publickey, sock.curve_secretkey = zmq.curve_keypair()
            sock.curve_serverkey = server_key
        sock.connect(f"tcp://{info['ip']}:{info['hb_port']}")
        sock.send(b"beat")
        if not sock.poll(10_000 if server_key else 500):
            return False
        return sock.recv() == b"beat"


def test_a_front_end_that_asks_for_encryption_gets_it(tmp_path: Path) -> None:
    from jupyter_client.kernelspec import KernelSpecManager

    from .client import KERNEL

    metadata = KernelSpecManager().get_kernel_spec(KERNEL).metadata
    assert "curve" in metadata.get("supported_encryption", ())


def test_a_connection_file_that_is_no_json_ends_the_process_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "connection.json"
    path.write_text("{")
    kernel = spawn_with(path)
    try:
        assert kernel.process.wait(PATIENCE) != 0
        assert str(path) in kernel.complaints()
    finally:
        kernel.end()


@pytest.mark.parametrize("variable", ["SANDBOX_KERNEL_LOG_LEVEL", "SANDBOX_KERNEL_PROVIDER"])
def test_a_mistake_in_the_environment_is_told_by_the_first_cell(variable: str, tmp_path: Path) -> None:
    with running(tmp_path, environment={variable: "nonsense"}) as process:
        assert "nonsense" in process.front_end().run("1").error["evalue"]
