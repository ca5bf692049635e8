"""The kernel on AgentCore as a front end sees it: hidden cells, commands, snapshots, the doctor and the program."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.emulators.agentcore import CREDENTIALS, AgentCore
from tests.functional.client import Exchange, FrontEnd, KernelProcess, running

HIDDEN = {"store_history": False}


@pytest.fixture
def process(emulator: AgentCore, tmp_path: Path) -> Iterator[KernelProcess]:
    """A kernel process with the emulator, in a folder of its own; it may write snapshots without asking."""
    folder = tmp_path / "notebook"
    folder.mkdir()
    options = [
        "--provider=agentcore",
        f"--AgentCoreProvider.endpoint_url={emulator.url}",
        "--AgentCoreProvider.session_timeout=60",
        "--SandboxSession.approvals=snapshot=allow",
    ]
    with running(folder, *options) as made:
        yield made
        # Whoever ends it by a signal may mean a restart, for which it waits a while.
        made.front_ends[0].ask("shutdown_request", {"restart": False}, channel="control")


@pytest.fixture
def notebook(process: KernelProcess) -> FrontEnd:
    return process.front_end()


def table(cell: Exchange) -> str:
    """Return the text of what a command shows."""
    return str(cell.contents("display_data")[0]["data"]["text/plain"])


def test_opening_a_notebook_makes_no_call(notebook: FrontEnd, emulator: AgentCore) -> None:
    # What VS Code and JupyterLab send by themselves.
    notebook.run("__vsc_ipynb_file__ = '/tmp/x.ipynb'", **HIDDEN)
    notebook.run("import os as _os; _os.getcwd()", silent=True)
    notebook.run("%sandbox status")
    notebook.run("%sandbox list")
    assert emulator.calls("") == []
    assert notebook.run("6 * 7").result == "42"
    assert len(emulator.calls("StartCodeInterpreterSession")) == 1


def test_status_and_list_tell_lifetime_and_cost(notebook: FrontEnd) -> None:
    notebook.run("1")
    shown = table(notebook.run("%sandbox status"))
    for text in ("of 1 min 0 s; it cannot be extended", "Cost so far", "$0.2546 an hour at most, rates of 2025-10"):
        assert text in shown
    listed = notebook.run("%sandbox list").stream()
    assert "agentcore" in listed
    assert "$0.00" in listed


def test_variables_and_files_come_to_another_sandbox_when_the_time_is_over(
    notebook: FrontEnd, emulator: AgentCore
) -> None:
    notebook.run("import math\nx = {'a': [1, 2]}\ny = math.pi\nf = open('data.txt', 'w')\nf.write('text'); f.flush()")
    refused = notebook.run("%sandbox pause")
    assert "cannot be paused" in str(refused.error)
    assert "snapshot" in str(refused.error)
    said = notebook.run("%sandbox snapshot").stream()
    assert "3 variables" in said
    assert "'f': TypeError: it is an open file" in said
    emulator.tell("clock", advance=61.0)
    assert "its lifetime of 60 s is over" in str(notebook.run("x").error)
    said = notebook.run("%sandbox restore").stream()
    assert "3 variables" in said
    assert notebook.run("x, y == math.pi, open('data.txt').read()").result == "({'a': [1, 2]}, True, 'text')"


def test_a_cell_in_another_language(notebook: FrontEnd) -> None:
    cell = notebook.run("%%sandbox --language typescript\nconst a: number = 6\nconsole.log(a * 7)")
    assert cell.status == "ok"
    assert cell.stream() == "42\n"
    failed = notebook.run("%%sandbox --language javascript\nthrow new Error('no')")
    assert "javascript code ended with an error" in str(failed.error)


# ---- the program


def program(*words: str, url: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `jupyter sandbox …`."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("AWS_")}
    own["AWS_EC2_METADATA_DISABLED"] = "true"
    own["AWS_CONFIG_FILE"] = own["AWS_SHARED_CREDENTIALS_FILE"] = "/nonexistent"
    if url:
        own["AWS_ENDPOINT_URL_BEDROCK_AGENTCORE"] = url
    command = [sys.executable, "-m", "sandbox_kernel.cli", *words]
    return subprocess.run(command, env={**own, **environment}, capture_output=True, text=True, check=False, timeout=60)


def doctor(url: str = "", **environment: str) -> tuple[int, str]:
    """Run the doctor; return its exit code and what it says."""
    done = program("doctor", "--provider", "agentcore", url=url, **environment)
    return done.returncode, done.stdout


def test_the_doctor_names_what_is_missing_and_starts_nothing(emulator: AgentCore, tmp_path: Path) -> None:
    code, said = doctor()
    assert code == 1
    assert "no   a region is set" in said
    assert "no   there are AWS credentials" in said
    code, said = doctor(emulator.url, **CREDENTIALS)
    assert (code, "no " in said) == (0, False), said
    assert "emulated-secret-key" not in said
    emulator.plan("deny", operation="ListCodeInterpreterSessions")
    code, said = doctor(emulator.url, **CREDENTIALS)
    assert code == 1
    assert "AWS denies bedrock-agentcore:ListCodeInterpreterSessions" in said
    config = tmp_path / "config.py"
    config.write_text("c.AgentCoreProvider.code_interpreter_identifier = 'absent-0123456789'\n")
    done = program("doctor", "--provider", "agentcore", "--config", str(config), url=emulator.url, **CREDENTIALS)
    assert "no   the code interpreter absent-0123456789 exists" in done.stdout
    code, said = doctor("http://127.0.0.1:9", **CREDENTIALS)
    assert code == 1
    assert "cannot be reached" in said
    assert emulator.calls("StartCodeInterpreterSession") == []
    assert emulator.calls("InvokeCodeInterpreter") == []


def test_the_emulator_says_how_it_is_used() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox_kernel.cli", "emulate", "agentcore"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(6)]
    process.terminate()
    assert process.wait(20) == 0
    process.stdout.close()
    assert lines[0].startswith("AgentCore Code Interpreter at http://127.0.0.1:")
    assert any("AWS_ENDPOINT_URL_BEDROCK_AGENTCORE=http://" in line for line in lines)
