"""Tools of a configuration in the kernel: commands, questions in the notebook, cells that want more than they may."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .client import PATIENCE, Exchange, FrontEnd, running

if not sys.platform.startswith("linux"):
    pytest.skip("the local provider is Linux's", allow_module_level=True)

REPOSITORY = Path(__file__).parents[2]
HERE = "tests.functional.sample_tools"
SECRET = "do not tell"  # noqa: S105 - it opens nothing
CONFIGURATION = f"""
c.Tools.tools = {{
    "where": {{"call": "{HERE}:where", "policy": "allow"}},
    "note": "{HERE}:note",
    "context": {{"call": "{HERE}:context", "policy": "allow"}},
    "blocking": {{"call": "{HERE}:blocking", "policy": "allow"}},
    "greet": {{"call": "{HERE}:Greeter", "options": {{"word": "good day"}}, "policy": "allow"}},
    "other": {{"call": "{HERE}:note", "policy": "ask"}},
    "broken": "nothing.of.this.name:at_all",
    "odd": {{"call": "{HERE}:note", "polic": "ask"}},
}}
c.Tools.agents = {{"greeter": {{"call": "{HERE}:Greeter", "policy": "allow"}}}}
c.Tools.context = {{"region": "eu"}}
"""


@pytest.fixture
def noted(tmp_path: Path) -> Path:
    return tmp_path / "noted.txt"


@pytest.fixture
def front_end(tmp_path: Path, noted: Path) -> Iterator[FrontEnd]:
    folder = tmp_path / "kernel"
    (folder / "config").mkdir(parents=True)
    (folder / "config/jupyter_sandbox_config.py").write_text(CONFIGURATION)
    environment = {"PYTHONPATH": str(REPOSITORY), "SAMPLE_SECRET": SECRET, "SAMPLE_FILE": str(noted)}
    with running(folder, environment=environment) as kernel:
        yield kernel.front_end()


def asked(front_end: FrontEnd, cell: Exchange, count: int = 1) -> str:
    """Wait for a cell's questions; return the last one's text."""
    front_end.until(lambda: len(cell.questions) >= count, state=lambda: cell.order)
    return str(cell.questions[count - 1]["content"]["prompt"])


def test_cells_call_what_the_configuration_names(front_end: FrontEnd) -> None:
    code = "print(tools.where(), tools.greet(name='Ada'), agents.greeter(name='you'), tools.context())"
    assert front_end.run(code).stream() == f"{len(SECRET)} good day Ada hello you {{'region': 'eu'}}\n"
    # A coroutine that blocks holds up neither the kernel nor other cells' completion.
    began = time.monotonic()
    cell = front_end.cell("print(tools.blocking())")
    time.sleep(0.3)
    front_end.ask("kernel_info_request")
    assert time.monotonic() - began < 3
    assert front_end.finish(cell).stream() == "done\n"


def test_a_widgets_callback_calls_tools_and_a_thread_whose_cell_has_ended_does_not(front_end: FrontEnd) -> None:
    code = """
import threading, time
def on_comm(comm, opened):
    comm.on_msg(lambda message: print(tools.where()))
get_ipython().kernel.comm_manager.register_target("caller", on_comm)
seen = []
def later():
    time.sleep(1)
    try: seen.append(call())
    except tools.ToolError as exc: seen.append(type(exc).__name__)
call = tools.where
thread = threading.Thread(target=later)
thread.start()
"""
    assert front_end.run(code).status == "ok"
    time.sleep(2)
    assert front_end.run("thread.join()\nprint(seen)").stream() == "['ToolDeniedError']\n"
    front_end.send("comm_open", {"comm_id": "one", "target_name": "caller", "data": {}})
    clicked = front_end.send("comm_msg", {"comm_id": "one", "data": {}})
    front_end.until(lambda: "idle" in clicked.statuses)
    assert clicked.stream() == f"{len(SECRET)}\n"


def test_names_and_parameters_are_completed_also_beside_a_cell(front_end: FrontEnd) -> None:
    def completed(code: str) -> list[str]:
        reply = front_end.ask("complete_request", {"code": code, "cursor_pos": len(code)})
        return [str(match) for match in reply["matches"]]

    assert any("greet" in match for match in completed("tools.gre"))
    assert any("greet" in match for match in completed("tools['gre"))
    assert any("name=" in match for match in completed("tools.greet("))
    cell = front_end.cell("import time\ntime.sleep(2)")
    assert any("greeter" in match for match in completed("agents.gre"))
    front_end.finish(cell)
    shown = front_end.ask("inspect_request", {"code": "tools.greet", "cursor_pos": 11, "detail_level": 0})
    assert "(*, name: str)" in shown["data"]["text/plain"]
    assert "Greets." in shown["data"]["text/plain"]


def test_a_person_is_asked_and_each_answer_counts_once(front_end: FrontEnd, noted: Path) -> None:
    cell = front_end.cell("print(tools.note(text='one'), tools.note(text='two'))")
    question = asked(front_end, cell)
    assert 'A cell calls the tool note(text="one") outside of the sandbox.' in question
    assert not noted.exists()
    front_end.answer("y")
    assert 'note(text="two")' in asked(front_end, cell, 2)
    front_end.answer("")
    assert front_end.finish(cell).error["ename"] == "ToolDeniedError"
    assert noted.read_text() == "one\n"
    cell = front_end.cell("print(tools.note(text='three'), tools.note(text='four'))")
    asked(front_end, cell)
    front_end.answer("always")
    assert front_end.finish(cell).stream() == "2 3\n"
    # Another tool is another question.
    cell = front_end.cell("tools.other(text='five')")
    asked(front_end, cell)
    front_end.answer("never")
    assert front_end.finish(cell).status == "error"
    assert "were refused for this session" in front_end.run("tools.other(text='six')").error["evalue"]
    assert noted.read_text() == "one\nthree\nfour\n"


def test_where_nobody_can_be_asked_a_call_is_denied(front_end: FrontEnd, noted: Path) -> None:
    error = front_end.run("tools.note(text='x')", allow_stdin=False).error
    assert "nobody can be asked" in error["evalue"]
    code = "import threading\nseen = []\ndef later():\n    try: tools.note(text='x')\n"
    code += "    except Exception as exc: seen.append(exc)"
    front_end.run(f"{code}\nthread = threading.Thread(target=later)")
    # A thread that runs on when its cell has ended belongs to no cell; in the next cell it belongs to that.
    front_end.run("import time\nthread.run = lambda: (time.sleep(1), later())\nthread.start()")
    time.sleep(2)
    assert "is not running" in front_end.run("print(seen[0])").stream()
    assert not noted.exists()


def test_an_answer_to_a_cell_is_no_approval(front_end: FrontEnd, noted: Path) -> None:
    code = """
import threading
seen = []
def call():
    try: seen.append(tools.note(text="x"))
    except Exception as exc: seen.append(type(exc).__name__)
tools.note
thread = threading.Thread(target=call)
thread.start()
{before}
seen.append(input("Do you like tools? "))
thread.join()
print(sorted(seen))
"""
    # The tool's question comes first: that of the cell waits, however the cell hurries.
    cell = front_end.cell(code.format(before="import time; time.sleep(1)"))
    assert "A cell calls" in asked(front_end, cell)
    time.sleep(1.5)
    front_end.ask("kernel_info_request", channel="control")
    assert len(cell.questions) == 1
    front_end.answer("n")
    assert asked(front_end, cell, 2) == "Do you like tools? "
    front_end.answer("y")
    assert front_end.finish(cell).stream() == "['ToolDeniedError', 'y']\n"
    # The cell's question comes first: that of the tool waits, and the cell's answer goes to the cell.
    slow = "tools.note.options()\noriginal = call\ndef call_later():\n    import time; time.sleep(1); original()\n"
    cell = front_end.cell(slow + code.format(before="").replace("target=call", "target=call_later"))
    assert asked(front_end, cell) == "Do you like tools? "
    time.sleep(1.5)
    front_end.ask("kernel_info_request", channel="control")
    assert len(cell.questions) == 1
    front_end.answer("y")
    assert "A cell calls" in asked(front_end, cell, 2)
    front_end.answer("n")
    assert front_end.finish(cell).stream() == "['ToolDeniedError', 'y']\n"
    assert not noted.exists()


def test_a_late_answer_to_an_interrupted_question_approves_nothing(front_end: FrontEnd, noted: Path) -> None:
    cell = front_end.cell("tools.note(text='one')")
    asked(front_end, cell)
    first = cell.questions[0]
    front_end.interrupt()
    assert front_end.finish(cell).error["ename"] == "KeyboardInterrupt"
    cell = front_end.cell("tools.note(text='two')")
    asked(front_end, cell)
    late = front_end.client.session.msg("input_reply", {"value": "y"}, parent=first)
    front_end.client.session.send(front_end.client.stdin_channel.socket, late)
    time.sleep(0.5)
    front_end.answer("n")
    assert front_end.finish(cell).error["ename"] == "ToolDeniedError"
    assert not noted.exists()


def test_commands_show_narrow_and_set(front_end: FrontEnd) -> None:
    listed = front_end.run("%sandbox tools")
    assert "tool   where     allow  Return a secret of the host's, in a way." in listed.stream()
    assert "agent  greeter   allow  Greets." in listed.stream()
    problems = listed.stream("stderr").splitlines()
    assert problems[0].startswith("Tools.tools['broken']: nothing.of.this.name:at_all cannot be used")
    assert problems[1].startswith("Tools.tools['odd']: there is no 'polic'; there are: call, ")
    assert "There is no tool 'delete'" in front_end.run("%sandbox tools delete").error["evalue"]
    assert "where" not in front_end.run("%sandbox tools gr* context\nprint(list(tools))").stream().splitlines()[-1]
    error = front_end.run("tools.where()").error
    assert error["ename"] == "UnknownToolError"
    assert front_end.run("%sandbox tools --all\nprint(tools.where())").stream().endswith(f"{len(SECRET)}\n")
    shown = front_end.run("%sandbox context client=acme level=3\nprint(tools.context())").stream()
    assert 'client = "acme"\nlevel = 3\nregion = "eu"  (configuration)\n' in shown
    assert "{'client': 'acme', 'level': 3, 'region': 'eu'}" in shown
    assert "set by the configuration" in front_end.run("%sandbox context region=us").error["evalue"]
    assert front_end.run("%sandbox context --clear\nprint(tools.context())").stream().endswith("{'region': 'eu'}\n")


def test_a_mistake_in_the_configuration_is_told_by_the_first_cell(tmp_path: Path) -> None:
    with running(tmp_path / "kernel", "--Tools.default_policy=perhaps") as kernel:
        assert "default_policy" in kernel.front_end().run("1").error["evalue"]


def test_nothing_of_it_is_loaded_before_somebody_uses_it(front_end: FrontEnd) -> None:
    code = "import sys\nprint('sandbox_tools' in sys.modules)\nrepr(tools)\nprint('sandbox_tools' in sys.modules)"
    assert front_end.run(code).stream() == "False\nTrue\n"


HANGING = f"""
import sys
never = [sys.executable, "-c", "import time; print('no json', flush=True); time.sleep(1000)"]
c.Tools.mcp_servers = {{"hangs": {{"command": never}}, "absent": {{"command": ["/no/such/program"]}}}}
c.Tools.tools = {{"where": {{"call": "{HERE}:where", "policy": "allow"}}}}
"""


def test_a_server_that_hangs_leaves_the_other_tools_and_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "kernel"
    (folder / "config").mkdir(parents=True)
    (folder / "config/jupyter_sandbox_config.py").write_text(HANGING)
    with running(folder, environment={"PYTHONPATH": str(REPOSITORY), "SAMPLE_SECRET": SECRET}) as kernel:
        front_end = kernel.front_end()
        assert front_end.run("print(tools.where())").stream() == f"{len(SECRET)}\n"
        deadline = time.monotonic() + PATIENCE
        while True:
            shown = front_end.run("%sandbox tools")
            assert "tool  where  allow" in shown.stream()
            assert "the server 'hangs'" in shown.stream("stderr")
            if "the server 'absent' cannot be used: FileNotFoundError" in shown.stream("stderr"):
                break
            # What talks to servers is imported first, which takes its time on a busy machine.
            assert "the server 'absent' is not there yet" in shown.stream("stderr")
            assert time.monotonic() < deadline
        told = front_end.run("tools")
        assert "Not there: the MCP server 'hangs', the MCP server 'absent'" in str(told.result)
