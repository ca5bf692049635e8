"""`%load_ext sandbox_magics` in a real ipykernel: commands, cells in sandboxes, variables, completion."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from jupyter_client.manager import KernelManager

from sandbox_kernel.workspace.layers import remove_tree
from tests.processes import sandboxes_of

from .client import FrontEnd, kernel_environment

if sys.platform != "linux":
    pytest.skip("the local provider needs bubblewrap, which only Linux has", allow_module_level=True)

PLOT = """\
%%sandbox
import matplotlib.pyplot as plt
plt.plot([1, 4, 9])
plt.show()
"""
WAITING = """\
%%sandbox
import time
kept = 1
print("going", flush=True)
time.sleep(600)
"""


class PlainNotebook:
    """An ipykernel of this test's own, with the extension loaded, and a front end to it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder), env=kernel_environment(folder))
        self.front_end = FrontEnd(self.manager.get_connection_info())
        self.front_end.ready()
        self.run = self.front_end.run
        assert self.run("%load_ext sandbox_magics").status == "ok"

    def interrupt(self) -> None:
        """Interrupt as a front end does."""
        self.manager.interrupt_kernel()

    def complete(self, code: str) -> list[str]:
        """Ask for what the word at the end of the code may be."""
        reply = self.front_end.ask("complete_request", {"code": code, "cursor_pos": len(code)})
        head = code[: reply["cursor_start"]]
        return [(head + match).split()[-1] for match in reply["matches"]]

    def sandboxes(self) -> list[psutil.Process]:
        """The bubblewraps of this kernel."""
        return sandboxes_of(self.manager.provisioner.pid)  # type: ignore[union-attr]

    def end(self) -> None:
        """End the kernel as a front end does."""
        self.manager.shutdown_kernel()
        self.front_end.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainNotebook]:
    notebook = PlainNotebook(tmp_path_factory.mktemp("plain"))
    yield notebook
    notebook.end()


@pytest.fixture
def notebook(shared: PlainNotebook) -> PlainNotebook:
    assert shared.run("None").status == "ok"
    return shared


# ---- cells


def test_cell_runs_in_a_sandbox_and_its_result_is_the_outer_cells(notebook: PlainNotebook) -> None:
    ran = notebook.run("%%sandbox\nimport os\nprint(os.getcwd(), end='')\n1 + 1")
    assert ran.result == "2"
    assert ran.stream() not in ("", str(notebook.folder))
    assert ran.contents("execute_result")[0]["execution_count"] == ran.count
    assert notebook.run("_").result == "2"
    assert notebook.run("%%sandbox\n1;").outputs == []


def test_cell_shows_rich_output_and_updates_in_their_order(notebook: PlainNotebook) -> None:
    pytest.importorskip("matplotlib")
    assert "image/png" in notebook.run(PLOT).contents("display_data")[0]["data"]
    code = """%%sandbox
from IPython.display import HTML, clear_output, display
print("one")
shown = display(HTML("<b>before</b>"), display_id="shown")
shown.update(HTML("<b>after</b>"))
clear_output(wait=True)
import sys; print("two", file=sys.stderr)
"""
    ran = notebook.run(code)
    assert ran.outputs == ["stream", "display_data", "update_display_data", "clear_output", "stream"]
    (before,), (after,) = ran.contents("display_data"), ran.contents("update_display_data")
    assert after["data"]["text/html"] == "<b>after</b>"
    assert before["transient"]["display_id"] == after["transient"]["display_id"]
    assert ran.stream("stderr") == "two\n"


def test_display_of_an_earlier_cell_is_updated(notebook: PlainNotebook) -> None:
    first = notebook.run("%%sandbox\nhandle = display('before', display_id=True)")
    second = notebook.run("%%sandbox\nhandle.update('after')")
    (shown,), (updated,) = first.contents("display_data"), second.contents("update_display_data")
    assert shown["transient"] == updated["transient"]


def test_output_arrives_while_the_cell_runs_and_interrupt_reaches_it(notebook: PlainNotebook) -> None:
    cell = notebook.front_end.cell(WAITING)
    notebook.front_end.until(lambda: cell.stream() == "going\n")
    notebook.interrupt()
    notebook.front_end.finish(cell)
    assert cell.error["ename"] == "KeyboardInterrupt"
    assert "sandbox_kernel" not in "".join(cell.error["traceback"])
    assert notebook.run("%%sandbox\nkept").result == "1"


def test_cell_that_takes_its_interrupt_ends_well(notebook: PlainNotebook) -> None:
    code = WAITING.replace("time.sleep(600)", "try: time.sleep(600)\nexcept KeyboardInterrupt: print('taken')")
    cell = notebook.front_end.cell(code)
    notebook.front_end.until(lambda: "going" in cell.stream())
    notebook.interrupt()
    ran = notebook.front_end.finish(cell)
    assert (ran.status, ran.stream()) == ("ok", "going\ntaken\n")


def test_interrupt_ends_the_cell_that_uses_the_library(notebook: PlainNotebook) -> None:
    code = "with sandbox_kernel.BlockingSandbox() as s:\n    s.run('1')\n    print('going')\n"
    cell = notebook.front_end.cell(f"import sandbox_kernel\n{code}    s.run('import time; time.sleep(600)')")
    notebook.front_end.until(lambda: "going" in cell.stream())
    notebook.interrupt()
    assert notebook.front_end.finish(cell).error["ename"] == "KeyboardInterrupt"


def test_error_is_shown_as_it_was_and_the_cell_fails(notebook: PlainNotebook) -> None:
    ran = notebook.run("%%sandbox\ndef divide():\n    1 / 0\ndivide()")
    assert (ran.error["ename"], ran.error["evalue"]) == ("ZeroDivisionError", "division by zero")
    text = "".join(ran.error["traceback"])
    assert "divide()" in text
    assert "sandbox_magics" not in text


def test_input_and_getpass_are_answered_in_the_notebook(notebook: PlainNotebook) -> None:
    cell = notebook.front_end.cell("%%sandbox\nimport getpass\ninput('Name? ') + getpass.getpass('Word? ')")
    for number, word in enumerate(("Ada", "secret"), 1):
        notebook.front_end.until(lambda number=number: len(cell.questions) == number)  # type: ignore[misc]
        notebook.front_end.answer(word)
    notebook.front_end.finish(cell)
    assert cell.result == "'Adasecret'"
    assert [(one["content"]["prompt"], one["content"]["password"]) for one in cell.questions] == [
        ("Name? ", False),
        ("Word? ", True),
    ]


def test_input_that_is_interrupted_leaves_the_sandbox_usable(notebook: PlainNotebook) -> None:
    cell = notebook.front_end.cell("%%sandbox\ninput('Name? ')")
    notebook.front_end.until(lambda: bool(cell.questions))
    notebook.interrupt()
    notebook.front_end.finish(cell)
    assert cell.error["ename"] == "KeyboardInterrupt"
    assert notebook.run("%%sandbox\n1").result == "1"


def test_input_where_nobody_answers_is_the_cells_error(notebook: PlainNotebook) -> None:
    assert notebook.run("%%sandbox\ninput()", allow_stdin=False).error["ename"] == "StdinNotImplementedError"


def test_widgets_are_shown_as_text_with_one_note(notebook: PlainNotebook) -> None:
    pytest.importorskip("ipywidgets")
    ran = notebook.run("%%sandbox\nimport ipywidgets\ndisplay(ipywidgets.IntSlider(3))\nipywidgets.Text('x')")
    assert ran.stream("stderr").count("Widgets of a sandbox") == 1
    shown = [*ran.contents("display_data"), *ran.contents("execute_result")]
    assert [list(one["data"]) for one in shown] == [["text/plain"], ["text/plain"]]


# ---- sandboxes


def test_two_named_sandboxes_are_apart(notebook: PlainNotebook) -> None:
    assert notebook.run("%%sandbox --session first\nname = 'one'").status == "ok"
    assert notebook.run("%%sandbox --session second\n'name' in globals()").result == "False"
    assert notebook.run("%%sandbox --session=first\nname").result == "'one'"
    before = len(notebook.sandboxes())
    assert "is stopped" in notebook.run("%sandbox --session second stop").stream()
    assert 0 < len(notebook.sandboxes()) < before
    assert notebook.run("%%sandbox --session first\nname").result == "'one'"
    assert notebook.run("%%sandbox --session second\n'name' in globals()").result == "False"


def test_each_named_sandbox_keeps_changes_of_its_own(tmp_path: Path) -> None:
    write = "%%sandbox{}\nopen({!r}, 'w').write('kept')".format
    notebook = PlainNotebook(tmp_path)
    notebook.run(write("", "a.txt"))
    # Used last, it would be the first to be found.
    notebook.run(write(" --session two", "b.txt"))
    notebook.end()
    again = PlainNotebook(tmp_path)
    files = "import glob; glob.glob('*.txt')"
    try:
        assert again.run(f"%%sandbox --session two\n{files}").result == "['b.txt']"
        assert again.run(f"%%sandbox\n{files}").result == "['a.txt']"
    finally:
        again.end()
        remove_tree(str(tmp_path / "data"))


def test_sandboxes_end_with_the_kernel(tmp_path: Path) -> None:
    notebook = PlainNotebook(tmp_path)
    for name in ("a", "b"):
        assert notebook.run(f"%%sandbox --session {name}\n1").status == "ok"
    sandboxes = notebook.sandboxes()
    assert len(sandboxes) >= 2
    notebook.end()
    _, left = psutil.wait_procs(sandboxes, 10)
    assert left == []


def test_cell_chooses_only_among_allowed_providers(notebook: PlainNotebook) -> None:
    assert notebook.run("%%sandbox --provider local\n1").result == "1"
    error = notebook.run("%%sandbox --provider e2b --session other\n1").error
    assert error["ename"] == "CommandError"
    assert "does not let a cell choose the provider 'e2b'; it allows: local" in error["evalue"]


def test_configuration_is_the_kernels(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    options = {"LocalProvider": {"open_files": 77}, "SandboxSession": {"allowed_providers": ["elsewhere"]}}
    (tmp_path / "config/jupyter_sandbox_config.json").write_text(json.dumps(options))
    notebook = PlainNotebook(tmp_path)
    try:
        ran = notebook.run("%%sandbox\nimport resource\nresource.getrlimit(resource.RLIMIT_NOFILE)[0]")
        assert ran.result == "77"
        # Allowed, and not there.
        assert (
            "no provider 'elsewhere'" in notebook.run("%%sandbox --provider elsewhere --session x\n1").error["evalue"]
        )
        assert notebook.complete("%%sandbox --provider ") == ["elsewhere", "local"]
    finally:
        notebook.end()


# ---- commands


def test_commands_are_those_of_the_other_kernel(notebook: PlainNotebook) -> None:
    assert "push" in notebook.run("%sandbox").stream()
    notebook.run("%sandbox start")
    assert "active" in notebook.run("%sandbox status").contents("display_data")[0]["data"]["text/plain"].split()
    assert notebook.run("%sandbox shell echo $((40 + 2))").stream() == "42\n"
    notebook.run("%%sandbox\nkept = 1")
    assert "paused" in notebook.run("%sandbox pause").stream()
    assert notebook.run("%%sandbox\nkept").result == "1"
    notebook.run("%sandbox restart")
    assert notebook.run("%%sandbox\n'kept' in globals()").result == "False"


def test_command_is_interrupted(notebook: PlainNotebook) -> None:
    cell = notebook.front_end.cell("%sandbox shell echo going; sleep 600")
    notebook.front_end.until(lambda: cell.stream() == "going\n")
    notebook.interrupt()
    notebook.front_end.finish(cell)
    assert cell.error["ename"] == "KeyboardInterrupt"
    assert notebook.run("%sandbox shell echo there").stream() == "there\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("%sandbox nothing", "no command"),
        ("%sandbox push", "called as"),
        ("%sandbox push absent", "no variable absent in this notebook"),
        ("%sandbox pull absent", "no variable of that name in the sandbox"),
        ("%sandbox --session", "needs a name"),
        ("%sandbox --session a/b status", "no name of a session"),
        ("%sandbox --session nosuch status", "There is no session 'nosuch'; there are: default"),
        ("%sandbox --session=nosuch explain", "There is no session 'nosuch'; there are: default"),
        ("%%sandbox --session nosuch generate\nplot", "There is no session 'nosuch'; there are: default"),
        ("%sandbox --session 'a b' status", "'a b' is no name of a session"),
        ("%%sandbox --session 'a b'\n1", "'a b' is no name of a session"),
        ("%%sandbox --session é\n1", "letters from a to z"),
        ("%%sandbox --bogus\n1", "unrecognized arguments"),
        ("%%sandbox -o\n1", "expected one argument"),
    ],
)
def test_mistakes_are_told_in_one_sentence(notebook: PlainNotebook, line: str, reason: str) -> None:
    error = notebook.run(line).error
    assert reason in error["evalue"]
    assert len(error["traceback"]) == 1


# ---- variables


def test_variables_travel_both_ways(notebook: PlainNotebook) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    made = (
        "import pandas as pd, numpy as np\nframe = pd.DataFrame({'a': [1, 2]})\narray = np.eye(2)\nwords = {'x': (1,)}"
    )
    notebook.run(made)
    assert notebook.run("%sandbox push frame array words").status == "ok"
    cell = "%%sandbox -o total -o frame\ntotal = int(frame.a.sum() + array.sum()) + words['x'][0]\nframe['b'] = 3"
    assert notebook.run(cell).status == "ok"
    assert notebook.run("total, list(frame.columns)").result == "(6, ['a', 'b'])"
    notebook.run("%%sandbox\nhere = [1.5, None]")
    notebook.run("%sandbox pull here")
    assert notebook.run("here").result == "[1.5, None]"


def test_failed_pull_changes_nothing(notebook: PlainNotebook) -> None:
    notebook.run("good = 'mine'")
    notebook.run("%%sandbox\ngood, bad = 1, object()")
    error = notebook.run("%sandbox pull good bad").error
    assert error["ename"] == "TransferError"
    assert "type object" in error["evalue"]
    assert notebook.run("good").result == "'mine'"


# ---- the notebook's folder


def test_what_the_session_has_to_say_is_told_in_the_next_cell(tmp_path: Path) -> None:
    notebook = PlainNotebook(tmp_path)
    try:
        assert notebook.run("%%sandbox\nopen('made', 'w').close()").stream("stderr") == ""
        (status,) = notebook.run("%sandbox status").contents("display_data")
        if ", overlay:" not in status["data"]["text/plain"]:
            pytest.skip("no overlay can be had here")
        notebook.run("%unload_ext sandbox_magics")
        notebook.run("%load_ext sandbox_magics")
        ran = notebook.run("%%sandbox\nprint(1)")
        assert [one["name"] for one in ran.contents("stream")] == ["stderr", "stdout"]
        assert "not applied" in ran.stream("stderr")
        (tmp_path / "server.key").write_text("SECRET")
        ran = notebook.run("%%sandbox\nprint(1)")
        assert "server.key appeared" in (ran.error["evalue"] if ran.status == "error" else ran.stream("stderr"))
        assert notebook.run("%%sandbox\nimport os; os.path.exists('server.key')").result == "False"
    finally:
        notebook.end()


# ---- completion


def test_completion_knows_commands_options_sessions_and_variables(notebook: PlainNotebook) -> None:
    notebook.run("%%sandbox --session second\n1")
    notebook.run("my_variable = 1")
    assert notebook.complete("%sandbox st") == ["start", "status", "stop"]
    assert notebook.complete("%sandbox --s") == ["--session"]
    assert "second" in notebook.complete("%sandbox --session ")
    assert notebook.complete("%sandbox --session second pa") == ["pause"]
    notebook.run("%%sandbox\nopen('made-inside.txt', 'w').close()")
    assert notebook.complete("%sandbox download made-") == ["made-inside.txt"]
    assert "made-inside.txt" not in notebook.complete("%sandbox upload made-")
    assert notebook.complete("%sandbox status --l") == ["--log"]
    assert notebook.complete("%sandbox push my_v") == ["my_variable"]
    assert notebook.complete("%%sandbox --s") == ["--session"]
    assert notebook.complete("%%sandbox --session sec") == ["second"]
    assert notebook.complete("%%sandbox --provider l") == ["local"]
    assert "my_variable" in notebook.complete("my_v")
    (notebook.folder / "below").mkdir()
    (notebook.folder / "below/needs.txt").touch()
    assert notebook.complete("%sandbox install -r below/") == ["below/needs.txt"]
    assert notebook.complete("%sandbox upload below/needs.txt --to made-") == ["made-inside.txt"]
    for nothing in ("%%sandbox -o ", "%sandbox upload nowhere/", "%sandbox nothing a"):
        assert notebook.complete(nothing) == []
    assert notebook.complete("%%sandbox\nmy_variable = 1\nimpor") == ["import"]


# ---- the library


def test_library_works_in_a_cell_with_and_without_await(notebook: PlainNotebook) -> None:
    blocking = "import sandbox_kernel\nwith sandbox_kernel.BlockingSandbox() as s:\n    print(s.run('1 + 1').text)"
    assert notebook.run(blocking).stream() == "2\n"
    awaiting = "async with sandbox_kernel.Sandbox.create() as s:\n    print((await s.run('2 + 2')).text)"
    assert notebook.run(awaiting).stream() == "4\n"


def test_extension_can_be_unloaded_and_loaded_again(tmp_path: Path) -> None:
    notebook = PlainNotebook(tmp_path)
    try:
        notebook.run("%%sandbox\nkept = 1")
        notebook.run("%%sandbox --session 'second'\nkept = 2")
        assert notebook.run("%reload_ext sandbox_magics").stream() == ""
        assert notebook.run("%%sandbox\nkept").result == "1"
        assert notebook.run("%%sandbox --session=second\nkept").result == "2"
        assert notebook.complete("%sandbox st") == ["start", "status", "stop"]
        assert "were ended: default, second" in notebook.run("%unload_ext sandbox_magics").stream()
        assert notebook.sandboxes() == []
        assert notebook.run("%%sandbox\n1").status == "error"
        assert notebook.run("%load_ext sandbox_magics").status == "ok"
        assert notebook.run("%%sandbox\n1").result == "1"
    finally:
        notebook.end()


def test_cells_call_tools_of_the_configuration_and_of_the_notebook(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/jupyter_sandbox_config.py").write_text('c.Tools.tools = {"node": "platform:node"}')
    notebook = PlainNotebook(tmp_path)
    try:
        cell = notebook.front_end.cell("%%sandbox\nprint(tools.node() != '')")
        notebook.front_end.until(lambda: len(cell.questions) == 1)
        assert "A cell calls the tool node()" in cell.questions[0]["content"]["prompt"]
        notebook.front_end.answer("y")
        assert notebook.front_end.finish(cell).stream() == "True\n"
        code = "def twice(n: int) -> int:\n    '''Double.'''\n    return 2 * n"
        assert "version 1 is registered" in notebook.run(f"%%sandbox tool twice\n{code}").stream()
        assert notebook.run("%%sandbox\nprint(tools.twice(n=4))").stream() == "8\n"
        assert "\n6\n" in f"\n{notebook.run('%sandbox tool invoke twice n=3').stream()}"
    finally:
        notebook.end()
