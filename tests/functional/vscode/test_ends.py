"""Interrupts, restarts and deaths.

Where ipykernel itself falls short (it dies of `os._exit`, it outlives its parent) the step asks more of ours only.
"""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.functional.vscode.client import (
    INTERRUPT_TIMEOUT,
    KernelDiedError,
    Request,
    VSCodeClient,
    wait_gone,
)

from .launcher import Launcher
from .steps import assert_idle_comes_last, error_of, reply_status, started_loop

# Interrupt


BUSY_LOOP = "print('running', flush=True)\nwhile True: pass"
# Announced by a thread, so that the interrupt finds the cell asleep and not on its way there.
LONG_SLEEP = """
import threading, time
threading.Timer(0.5, print, ["running"], {"flush": True}).start()
time.sleep(600)
"""


@pytest.mark.parametrize("code", [BUSY_LOOP, LONG_SLEEP], ids=["loop", "sleep"])
def test_interrupt_by_message_ends_the_cell_and_keeps_its_variables(vscode: VSCodeClient, code: str) -> None:
    running = vscode.send_execute(f"kept_through_interrupt = 5\n{code}")
    vscode.wait_until(running.stream, "start of the cell")
    assert vscode.interrupt()["status"] == "ok"
    assert error_of(vscode.wait_done(running, INTERRUPT_TIMEOUT))["ename"] == "KeyboardInterrupt"
    assert_idle_comes_last(running)
    assert vscode.execute("print(kept_through_interrupt)").stream() == "5\n"


def test_interrupt_of_an_idle_kernel_is_answered_and_harmless(vscode: VSCodeClient) -> None:
    assert vscode.interrupt()["status"] == "ok"
    assert vscode.execute("print('unharmed')").stream() == "unharmed\n"


# Stop, restart, death


def test_restart_is_sigterm_and_a_new_process_at_once_on_new_ports(launcher: Launcher) -> None:
    old = launcher.start()
    started_loop(old.client, "while True: pass")
    remaining = old.client.process.terminate()
    old.client.close()

    new = launcher.start()
    assert new.client.connection.shell_port != old.client.connection.shell_port
    assert new.first.reply["execution_count"] == 1
    assert reply_status(new.first) == "ok"
    assert [reply_status(request) for request in new.hidden] == ["ok", "ok"]

    old.client.process.wait()
    assert not wait_gone(remaining)


def test_repeated_sigterm_is_as_good_as_one(launcher: Launcher) -> None:
    client, _ = launcher.connect()
    started_loop(client, "while True: pass")
    remaining = client.process.terminate()
    with suppress(ProcessLookupError):
        os.kill(client.process.pid, signal.SIGTERM)
    client.process.wait()
    assert not wait_gone(remaining)


def test_sigterm_right_after_the_start_ends_the_kernel(launcher: Launcher) -> None:
    client, _ = launcher.connect()
    remaining = client.process.terminate()
    client.process.wait()
    assert not wait_gone(remaining)


def assert_cells_end_with_an_error_and_the_next_recovers(client: VSCodeClient, cells: list[Request]) -> None:
    """What facts of section 6 ask of our kernel when the sandbox or its kernel is gone."""
    for cell in cells:
        client.wait_done(cell)
        error = error_of(cell)
        assert error["evalue"]
        assert error["traceback"]
        assert not re.search(r"File \S*sandbox_kernel", "\n".join(error["traceback"]))
        assert_idle_comes_last(cell)
    assert client.process.exit_code is None
    recovered = client.execute("print('recovered', 'defined_before' in globals())")
    assert reply_status(recovered) == "ok"
    assert recovered.stream().endswith("recovered False\n")


def test_cell_that_kills_its_kernel_ends_with_an_error_and_the_next_recovers(launcher: Launcher) -> None:
    client = launcher.start().client
    client.execute("defined_before = 1")
    dying = client.send_execute("import os; input(); os._exit(3)")
    (asked,) = client.wait_until(lambda: dying.input_requests, "input request")
    queued = client.send_execute("print('never runs')")
    client.answer_input(asked, "now")
    if launcher.spec.name == "python3":
        with pytest.raises(KernelDiedError, match="exited with 3"):
            client.wait_done(dying)
        return
    assert_cells_end_with_an_error_and_the_next_recovers(client, [dying, queued])


@pytest.mark.usefixtures("ours")
def test_cell_that_loses_its_sandbox_ends_with_an_error_and_the_next_recovers(launcher: Launcher) -> None:
    client = launcher.start().client
    client.execute("defined_before = 1")
    running = started_loop(client, "while True: pass")
    sandboxed = [process for process in client.process.descendants() if is_in_another_pid_namespace(process)]
    if not sandboxed:
        pytest.skip("the sandbox shares the process table here, so its processes cannot be told apart")
    for process in sandboxed:
        # The first one killed may be the init of the namespace and take the others along.
        with suppress(psutil.NoSuchProcess):
            process.kill()
    # A cell that is sent before the last of them is gone is lost with the sandbox, too.
    psutil.wait_procs(sandboxed, timeout=30)
    assert_cells_end_with_an_error_and_the_next_recovers(client, [running])


def is_in_another_pid_namespace(process: psutil.Process) -> bool:
    return Path(f"/proc/{process.pid}/ns/pid").readlink() != Path("/proc/self/ns/pid").readlink()
