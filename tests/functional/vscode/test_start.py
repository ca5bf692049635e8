"""How the extension finds a kernel, launches it and runs hidden cells.

Where ipykernel itself falls short (it dies of `os._exit`, it outlives its parent) the step asks more of ours only.
"""

from __future__ import annotations

import importlib.util
import json
import re
import socket
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.functional.vscode.client import (
    INTERRUPT_TIMEOUT,
    WAIT_TIMEOUT,
    Connection,
    KernelSpec,
    VSCodeClient,
    find_kernelspecs,
    launch_command,
    launch_environment,
    wait_gone,
)

from .launcher import NOTEBOOK, Launcher, Started
from .steps import assert_idle_comes_last, reply_status, started_loop

FLEETING_PARENT = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(600)"


# Discovery and the kernelspec


def test_kernelspec_is_listed_as_a_python_kernel_with_a_name_of_its_own(spec: KernelSpec) -> None:
    others = [other for other in find_kernelspecs().values() if other != spec]
    assert spec.language == "python"
    assert (spec.display_name, spec.argv[0]) not in [(other.display_name, other.argv[0]) for other in others]
    interpreter = spec.metadata.get("interpreter", {}).get("path")
    assert interpreter is None or Path(interpreter).exists()
    assert "jvsc74a57bd0" not in spec.name


def test_kernelspec_belongs_to_an_interpreter_that_has_ipykernel(spec: KernelSpec) -> None:
    # A bare `python` of no known interpreter is hidden; an interpreter without ipykernel masks every error.
    assert Path(spec.argv[0]).is_absolute() or spec.folder.is_relative_to(sys.prefix)
    assert importlib.util.find_spec("ipykernel") is not None


def test_kernelspec_uses_only_placeholders_that_are_filled_in(spec: KernelSpec) -> None:
    known = re.compile(r"\{(connection_file|resource_dir)\}")
    assert not [argument for argument in spec.argv if re.search(r"\{\w+\}", known.sub("", argument))]
    assert spec.argv[spec.argv.index("{connection_file}") - 1] == "-f"


def test_kernelspec_is_not_taken_for_the_default_python_kernel(ours: KernelSpec) -> None:
    assert not re.fullmatch(r"python(\d+(\.\d+)*)?", ours.name)
    assert not re.fullmatch(r"Python 3( \(ipykernel\))?", ours.display_name)
    assert not (re.search(r"[0-9a-f]{32}$", ours.name) and "interpreter" in ours.metadata)
    # A module named after ipykernel would get `--f=` instead of `-f`, and another interpreter.
    assert "ipykernel" not in " ".join(ours.argv)


def test_kernelspec_asks_for_interrupts_by_message_and_offers_the_debugger(ours: KernelSpec) -> None:
    assert ours.interrupt_mode == "message"
    assert ours.metadata["debugger"] is True


# Launch


def test_each_repeated_kernel_info_is_answered_on_its_own_channel(started: Started) -> None:
    # What was published before the subscription reached the kernel is lost: at the start only the replies are sure.
    started.client.wait_until(lambda: all(request.replies for request in started.connects), "kernel_info_reply")
    assert {request.reply["language_info"]["name"] for request in started.connects} == {"python"}
    repeated = [started.client.send(channel, "kernel_info_request", {}) for channel in ("control", "shell") * 3]
    for request in repeated:
        started.client.wait_done(request)
        assert [msg.type for msg in request.replies] == ["kernel_info_reply"]
        assert_idle_comes_last(request)


def test_control_answers_kernel_info_while_the_shell_is_busy(vscode: VSCodeClient) -> None:
    running = started_loop(vscode, "while True: pass")
    assert vscode.request("control", "kernel_info_request")["status"] == "ok"
    assert not running.replies
    vscode.interrupt()
    vscode.wait_done(running, INTERRUPT_TIMEOUT)


def test_kernel_that_cannot_bind_its_port_exits_and_says_why_on_stderr(launcher: Launcher) -> None:
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", 0))
        occupant.listen()
        connection = Connection(shell_port=occupant.getsockname()[1])
        _, process = launcher.launch(connection)
        assert process.wait() != 0
    assert "in use" in process.stderr


def test_kernel_ends_when_the_process_that_launched_it_is_killed(ours: KernelSpec, launcher: Launcher) -> None:
    file = Connection().write(launcher.runtime_folder, ours.name)
    command = [sys.executable, "-c", FLEETING_PARENT, *launch_command(ours, file)]
    env = launch_environment(ours, launcher.env)
    connection = json.loads(file.read_text())
    with subprocess.Popen(command, env=env, cwd=launcher.folder, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        kernel = psutil.Process(int(parent.stdout.readline()))
        try:
            wait_until_listening(connection["shell_port"])
            family = [kernel, *kernel.children(recursive=True)]
        finally:
            parent.kill()
    alive = wait_gone(family)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    assert not alive


def wait_until_listening(port: int) -> None:
    deadline = time.monotonic() + WAIT_TIMEOUT
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


# Hidden code


def test_hidden_cells_at_the_start_succeed_and_show_nothing(started: Started) -> None:
    versions, start_cell = started.hidden
    assert [reply_status(request) for request in started.hidden] == ["ok", "ok"]
    assert versions.stream().startswith("ipywidgets ")
    assert start_cell.outputs == []


def test_first_cell_of_the_user_is_number_one_and_sees_nothing_hidden(started: Started) -> None:
    assert reply_status(started.first) == "ok"
    assert started.first.reply["execution_count"] == 1
    assert [msg.content["execution_count"] for msg in started.first.published if msg.type == "execute_input"] == [1]
    kept, counted, hidden_values = started.first.stream().splitlines()
    assert kept == "2 True {} ['name_of_first_cell']"
    assert counted == "1"
    assert hidden_values == f"{NOTEBOOK} False"


def test_hidden_cells_do_not_count_and_are_not_kept(vscode: VSCodeClient) -> None:
    before = vscode.execute("len(In)").reply["execution_count"]
    hidden = vscode.execute("'kept by nobody'", hidden=True)
    failed = vscode.execute("import surely_not_installed", hidden=True)
    after = vscode.execute("print(any('nobody' in cell for cell in In[:-1]), Out.get(len(In) - 1))")
    assert [reply_status(hidden), reply_status(failed)] == ["ok", "error"]
    assert failed.reply["ename"] == "ModuleNotFoundError"
    assert after.reply["execution_count"] == before + 1
    assert after.stream() == "False None\n"


def test_cells_still_run_when_the_interactive_window_wraps_run_cell(vscode: VSCodeClient) -> None:
    hook = """
    def _vscode_wrap(shell):
        original = shell.run_cell
        shell.run_cell = lambda *args, **options: original(*args, **options)
    _vscode_wrap(get_ipython())
    del _vscode_wrap
    """
    assert reply_status(vscode.execute(textwrap.dedent(hook), hidden=True)) == "ok"
    assert vscode.execute("print(6 * 7)").stream() == "42\n"
    assert reply_status(vscode.execute("del get_ipython().run_cell", hidden=True)) == "ok"
