"""Sandboxes for programs without an event loop."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sandbox_kernel import BlockingSandbox
from sandbox_kernel.errors import (
    CellError,
    StateError,
)
from sandbox_kernel.library import InputRequest, Output, Result, Status, Stream
from sandbox_kernel.lifecycle import State

if sys.platform != "linux":
    pytest.skip("the local provider needs bubblewrap, which only Linux has", allow_module_level=True)


def test_blocking_sandbox_does_the_same() -> None:
    with BlockingSandbox.create() as sandbox:
        assert sandbox.run("1 + 1").text == "2"
        assert [one for one in sandbox.stream("print(1)") if isinstance(one, Stream)] == [Stream("stdout", "1\n")]
        thread = threading.get_ident()
        asked_in: list[int] = []

        def answer(request: InputRequest) -> str:
            asked_in.append(threading.get_ident())
            return request.prompt

        assert sandbox.run("input('Name? ')", on_input=answer).text == "'Name? '"
        assert asked_in == [thread]
        with pytest.raises(StateError, match="waits for this answer"):
            sandbox.run("input()", on_input=lambda request: sandbox.run("1").text)
        assert sandbox.run("1").text == "1"
        sandbox.push(value=[1])
        assert sandbox.pull("value") == [1]
        sandbox.pause()
        sandbox.resume()
        sandbox.restart()
        sandbox.stop()
        assert sandbox.state is State.INACTIVE
        with pytest.raises(CellError):
            sandbox.run("1 / 0").raise_on_error()
    with pytest.raises(StateError, match="closed"):
        sandbox.run("1")
    sandbox.close()


async def test_blocking_sandbox_works_inside_a_running_loop() -> None:
    with BlockingSandbox() as sandbox:
        assert sandbox.run("1 + 1").text == "2"


def test_who_stops_iterating_over_a_blocking_stream_interrupts_the_cell() -> None:
    with BlockingSandbox() as sandbox:
        for output in sandbox.stream("import time\nprint(1)\ntime.sleep(600)"):
            if isinstance(output, Stream):
                break
        gc.collect()
        assert sandbox.run("2").text == "2"


def test_blocking_sandbox_outlives_the_thread_that_used_it_first() -> None:
    with BlockingSandbox() as sandbox:
        results: list[Result] = []
        user = threading.Thread(target=lambda: results.append(sandbox.run("kept = 1; kept")))
        user.start()
        user.join()
        assert results[0].text == "1"
        assert sandbox.run("kept").text == "1"


def test_blocking_sandbox_is_interrupted_from_another_thread() -> None:
    with BlockingSandbox() as sandbox:
        sandbox.start()
        interrupter = threading.Timer(0.3, sandbox.interrupt)
        interrupter.start()
        error = sandbox.run("import time\ntime.sleep(600)").error
        interrupter.join()
        assert error is not None
        assert error.name == "KeyboardInterrupt"


SCRIPT = """
import signal, os, threading
from sandbox_kernel import BlockingSandbox

sandbox = BlockingSandbox()
print(sandbox.run("kept = 40\\nkept + 2").text, flush=True)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
runs = 0
try:
    while True:
        runs += 1
        sandbox.run("import time\\ntry:\\n    time.sleep(600)\\nexcept KeyboardInterrupt:\\n    ended = True")
except KeyboardInterrupt:
    print("KeyboardInterrupt after", runs, sandbox.run("ended").text, flush=True)
print(sandbox.run("kept").text, sandbox.info.details.get("limits held by") is not None, flush=True)
print(os.getpid(), sandbox.info.sandbox_id)
"""


def test_script_runs_cells_takes_ctrl_c_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    *lines, last = done.stdout.splitlines()
    assert lines == ["42", "KeyboardInterrupt after 1 True", "40 True"]
    sandbox_id = last.split()[1]
    left = [entry.name for entry in os.scandir("/proc") if entry.name.isdigit() and sandbox_id in command(entry.name)]
    assert left == []
    log = next((tmp_path / "runtime").glob("*.log")).read_text()
    assert "record_failed" not in log


def test_interrupted_stream_goes_on_to_the_cells_end_and_raises() -> None:
    with BlockingSandbox() as sandbox:
        outputs: list[Output] = []
        code = "import time\nprint('first')\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print('last')"
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the outputs before it count
            for output in sandbox.stream(code):
                outputs.append(output)
                if output == Stream("stdout", "first\n"):
                    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        assert outputs[-2:] == [Stream("stdout", "last\n"), Status("idle")]
        assert sandbox.run("1").text == "1"


def command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""
