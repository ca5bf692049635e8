"""`%%sandbox tool` and `%sandbox tool` in the kernel, and the tools that they register in cells."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .client import FrontEnd, running

if not sys.platform.startswith("linux"):
    pytest.skip("the local provider is Linux's", allow_module_level=True)

CELL = '''%%sandbox tool add --version 1.0
def add(a: int, b: int = 1) -> int:
    """Add two numbers."""
    print("adding")
    return a + b
'''
CONFIGURATION = """
c.WorkshopSettings.owner = "ada"
"""


@pytest.fixture
def front_end(tmp_path: Path) -> Iterator[FrontEnd]:
    folder = tmp_path / "kernel"
    (folder / "config").mkdir(parents=True)
    (folder / "config/jupyter_sandbox_config.py").write_text(CONFIGURATION)
    with running(folder) as kernel:
        yield kernel.front_end()


def approved(front_end: FrontEnd, line: str, answer: str = "y") -> str:
    """Run a line that asks; return what it printed, or its error."""
    cell = front_end.cell(line)
    front_end.until(lambda: bool(cell.questions) or cell.done, state=lambda: cell.order)
    assert cell.questions, cell.contents("error")
    front_end.answer(answer)
    front_end.finish(cell)
    return cell.stream() if cell.status == "ok" else str(cell.error["evalue"])


def test_a_cell_becomes_a_tool_of_commands_and_of_cells(front_end: FrontEnd) -> None:
    assert front_end.run(CELL).stream().startswith("add: version 1 is registered (")
    assert "add                       version 1 (1.0)  " in front_end.run("%sandbox tool list").stream()
    shown = front_end.run("%sandbox tool invoke add a=2 b=40").stream()
    assert shown.startswith("adding\n42\n(run-")
    assert "done, " in shown
    # Another notebook's cells, and this one's, call it by its name; it runs in a sandbox of its own.
    assert front_end.run("print(tools.add(a=2), 'add' in tools)").stream() == "3 True\n"
    assert "Add two numbers." in front_end.run("print(tools.add.__doc__)").stream()
    error = front_end.run("tools.add(a='x')").error
    assert error["ename"] == "ToolArgumentsError"
    assert "is a tool 'add' of yours already" in front_end.run(CELL).error["evalue"]
    assert "executions: 2" in front_end.run("%sandbox tool stats").stream()


def test_changes_of_a_tool_are_asked_for(front_end: FrontEnd) -> None:
    front_end.run(CELL)
    update = CELL.replace(" --version 1.0", " --update").replace("a + b", "a - b")
    assert "was not confirmed" in approved(front_end, update, "n")
    assert "add: version 2 is registered" in approved(front_end, update)
    assert front_end.run("print(tools.add(a=5, b=2))").stream() == "3\n"
    versions = front_end.run("%sandbox tool versions add").stream().splitlines()
    assert [line[:5] for line in versions] == ["    1", "*   2"]
    assert "at version 1 again" in approved(front_end, "%sandbox tool rollback add")
    assert front_end.run("print(tools.add(a=5, b=2))").stream() == "7\n"
    assert "is disabled" in approved(front_end, "%sandbox tool disable add")
    assert front_end.run("tools.add(a=1)").error["ename"] == "UnknownToolError"
    assert "can be run" in approved(front_end, "%sandbox tool enable add")
    assert "is removed" in approved(front_end, "%sandbox tool remove add --artifact")
    assert "There are no tools yet" in front_end.run("%sandbox tool list").stream()
    # A cell that is not its user's own cannot answer for him.
    front_end.run(CELL)
    assert "nobody can be asked" in front_end.run("%sandbox tool remove add", allow_stdin=False).error["evalue"]


def test_mistakes_are_told(front_end: FrontEnd) -> None:
    error = front_end.run(
        "%%sandbox tool bad\nimport os\ndef bad(a: str) -> None:\n    '''x'''\n    os.system(a)"
    ).error
    assert error["ename"] == "ToolValidationError"
    assert "line 4: Starting a process with a shell" in error["evalue"]
    assert "line 1: " in front_end.run("%%sandbox tool bad\ndef bad(:").error["evalue"]
    assert "needs a name" in front_end.run("%sandbox tool show").error["evalue"]
    assert "invalid choice" in front_end.run("%sandbox tool shwo").error["evalue"]
    front_end.run(CELL)
    assert "NAME=VALUE" in front_end.run("%sandbox tool invoke add 3").error["evalue"]
    assert "required property" in front_end.run("%sandbox tool invoke add b=3").error["evalue"]
    assert "did you mean 'add'" in front_end.run("%sandbox tool invoke ad a=1").error["evalue"]
    assert "beside the notebook" in front_end.run("%sandbox tool register ..").error["evalue"]


def test_of_a_long_value_the_notebook_gets_the_beginning(front_end: FrontEnd) -> None:
    front_end.run('%%sandbox tool long\ndef long(n: int) -> str:\n    """x"""\n    return n * "x"')
    shown = front_end.run("%sandbox tool invoke long n=3000000").stream()
    assert len(shown) < 110_000
    assert "(The first 100000 of 3000002 characters are shown; in a cell, tools.long(…) returns them all.)" in shown
    assert front_end.run("print(len(tools.long(n=3000000)))").stream() == "3000000\n"


def test_a_long_run_goes_on_behind_and_is_cancelled(front_end: FrontEnd) -> None:
    code = "import time\ndef slow(n: float) -> float:\n    '''Wait.'''\n    time.sleep(n)\n    return n"
    front_end.run(f"%%sandbox tool slow\n{code}")
    run = front_end.run("%sandbox tool invoke slow n=100 --background").stream().split()[0]
    assert f"{run}  slow" in front_end.run("%sandbox tool status").stream()
    assert "running" in front_end.run(f"%sandbox tool status {run}").stream()
    assert "is cancelled" in front_end.run(f"%sandbox tool cancel {run}").stream()
    assert "cancelled" in front_end.run(f"%sandbox tool status {run}").stream()
    error = front_end.run("%sandbox tool invoke slow n=100 --timeout 1").error
    assert error["ename"] == "ToolTimeoutError"
    cell = front_end.cell("%sandbox tool invoke slow n=100")
    front_end.until(lambda: "busy" in cell.statuses)
    front_end.interrupt()
    assert front_end.finish(cell).error["ename"] == "KeyboardInterrupt"
