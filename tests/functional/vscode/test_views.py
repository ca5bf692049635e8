"""The variable view, the data viewer, work beside the kernel and completion."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pytest

from tests.functional.vscode.client import (
    ANSI,
    INTERRUPT_TIMEOUT,
    Message,
    Request,
    VSCodeClient,
)

from .steps import background_numbers, error_of, reply_status, started_loop

# The variable view: names by %who_ls, their types as JSON, then one inspect_request for each.
GET_VARIABLES = """
def _VSCODE_getVariable(what, names):
    import json
    space = get_ipython().user_ns
    print(json.dumps([{"name": name, "type": type(space[name]).__name__} for name in names]))
_VSCODE_names = %who_ls
_VSCODE_getVariable("types", _VSCODE_names)
del _VSCODE_getVariable, _VSCODE_names
"""
# The data viewer: shape and columns first, then pages of rows, each as one JSON text on stdout.
DEFINE_FRAME = """
class DataFrame:
    def __init__(self, columns):
        self.columns = columns
        self.shape = (len(next(iter(columns.values()))), len(columns))
    def __repr__(self):
        head = "   " + " ".join(self.columns)
        return head + "\\n0  1 a\\n1  2 b\\n\\n[%d rows x %d columns]" % self.shape
viewed_frame = DataFrame({"number": list(range(5000)), "text": ["row \\u00e9 %d" % n for n in range(5000)]})
"""
GET_FRAME = """
def _VSCODE_getDataFrame(what, frame, start=0, end=0):
    import json
    if what == "info":
        columns = [{{"key": key, "type": type(cells[0]).__name__}} for key, cells in frame.columns.items()]
        print(json.dumps({{"shape": frame.shape, "rowCount": frame.shape[0], "columns": columns}}))
    else:
        rows = [dict(zip(frame.columns, row)) for row in zip(*frame.columns.values())]
        print(json.dumps({{"data": rows[start:end]}}))
_VSCODE_getDataFrame({arguments})
del _VSCODE_getDataFrame
"""

# Work beside the kernel: an empty display now, its update when the thread has the answer, after the execute_reply.
RUN_IN_BACKGROUND = """
def _vscode_run():
    from threading import Thread
    from time import sleep
    from IPython.display import display
    def show():
        return display({{{mime!r}: ""}}, raw=True, display_id=True)
    def work(output=None):
        output = output or show()
        sleep(0.3)
        try:
            output.update({{{mime!r} + ".result": {expression}}}, raw=True)
        except Exception as error:
            output.update({{{mime!r} + ".error": repr(error)}}, raw=True)
    Thread(target=work, args=() if {in_thread} else (show(),), daemon=True).start()
_vscode_run()
del _vscode_run
"""


@dataclass(frozen=True)
class BackgroundWork:
    """Code that the extension runs in a thread of the kernel; its answer comes as the update of an empty display."""

    client: VSCodeClient
    mime: str
    request: Request

    @property
    def updates(self) -> list[Message]:
        """The updates, found by their type of this one request, whichever cell ran when the thread sent them."""
        updates = [msg for msg in self.client.messages if msg.type == "update_display_data"]
        return [msg for msg in updates if any(mime.startswith(f"{self.mime}.") for mime in msg.content["data"])]

    def answer(self, kind: str = "result") -> Any:
        """Wait for the update, which has to belong to the display, and return what it carries."""
        (update,) = self.client.wait_until(lambda: self.updates, "answer of the thread")
        (display,) = [msg for msg in self.request.outputs if msg.type == "display_data"]
        assert display.content["data"] == {self.mime: ""}
        assert update.content["transient"]["display_id"] == display.content["transient"]["display_id"]
        assert list(update.content["data"]) == [f"{self.mime}.{kind}"]
        return update.content["data"][f"{self.mime}.{kind}"]


def run_in_background(client: VSCodeClient, expression: str, *, displayed_by_thread: bool = False) -> BackgroundWork:
    """Send code that is to run in a thread, and do not wait for it."""
    mime = f"application/vnd.vscode.bg.execution.{next(background_numbers)}"
    code = RUN_IN_BACKGROUND.format(mime=mime, expression=expression, in_thread=displayed_by_thread)
    return BackgroundWork(client, mime, client.send_execute(code, hidden=True))


def test_variable_view_gets_names_and_types_as_the_first_output(vscode: VSCodeClient) -> None:
    vscode.execute("viewed_number = 7\nviewed_list = [1, 2, 3]\n_hidden = 0")
    listed = vscode.execute(GET_VARIABLES, hidden=True)
    assert {(msg.type, msg.content["name"]) for msg in listed.outputs} == {("stream", "stdout")}
    types = {variable["name"]: variable["type"] for variable in json.loads(listed.stream())}
    assert (types["viewed_number"], types["viewed_list"]) == ("int", "list")
    assert not [name for name in types if name.startswith("_") or "vscode" in name.lower().removeprefix("vscode")]


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("inspected_number", r"Type:\s*(\S+)", "int"),
        ("inspected_number", r"String form:\s*(.*)", "7"),
        ("inspected_list", r"Length:\s*(\d+)", "3"),
        ("inspected_list", r"String form:\s*(.*)", "[1, 2, 3]"),
        ("inspected_function", r"Docstring:\s*(.*)", "Tell what it does."),
        ("inspected_frame", r"\[(\d+ rows x \d+ columns)\]", "5000 rows x 2 columns"),
    ],
)
def test_inspect_request_has_the_lines_that_the_variable_view_reads(
    vscode: VSCodeClient, name: str, pattern: str, expected: str
) -> None:
    vscode.execute(DEFINE_FRAME + "inspected_frame = viewed_frame", hidden=True)
    vscode.execute("inspected_number, inspected_list = 7, [1, 2, 3]")
    vscode.execute("def inspected_function():\n    'Tell what it does.'")
    query = vscode.send("shell", "inspect_request", {"code": name, "cursor_pos": len(name), "detail_level": 0})
    reply = vscode.wait_done(query).reply
    assert (reply["status"], reply["found"]) == ("ok", True)
    match = re.search(pattern, ANSI.sub("", reply["data"]["text/plain"]))
    assert match is not None
    assert match[1] == expected


def test_data_viewer_reads_a_frame_as_json_from_stdout(vscode: VSCodeClient) -> None:
    vscode.execute(DEFINE_FRAME)
    info = vscode.execute(GET_FRAME.format(arguments="'info', viewed_frame"), hidden=True)
    rows = vscode.execute(GET_FRAME.format(arguments="'rows', viewed_frame, 0, 5000"), hidden=True)
    described = json.loads(info.stream())
    assert described["shape"] == [5000, 2]
    assert [column["type"] for column in described["columns"]] == ["int", "str"]
    assert json.loads(rows.stream())["data"][4999] == {"number": 4999, "text": "row \u00e9 4999"}


def test_missing_pandas_is_told_by_the_error_of_a_hidden_cell(vscode: VSCodeClient) -> None:
    asked = vscode.execute("import pandas as _vscode_pd; print(_vscode_pd.__version__); del _vscode_pd", hidden=True)
    if reply_status(asked) == "ok":
        assert re.fullmatch(r"\d+\.\d+\.\d+\S*", asked.stream().strip())
    else:
        assert error_of(asked)["ename"] == "ModuleNotFoundError"


@pytest.mark.parametrize("by_thread", [False, True], ids=["displayed_by_the_cell", "displayed_by_the_thread"])
def test_background_completion_of_an_idle_kernel_updates_its_display(vscode: VSCodeClient, by_thread: bool) -> None:
    vscode.execute("completed_by_thread = 1")
    expression = "get_ipython().kernel.do_complete('completed_by', 12)"
    completion = run_in_background(vscode, expression, displayed_by_thread=by_thread).answer()
    assert "completed_by_thread" in completion["matches"]
    assert (completion["cursor_start"], completion["cursor_end"], completion["status"]) == (0, 12, "ok")


def test_background_update_comes_after_the_reply_and_idle_of_its_cell(vscode: VSCodeClient) -> None:
    vscode.execute("import threading; work_released = threading.Event()")
    work = run_in_background(vscode, "work_released.wait(60) and {'plain': [1, None, True, 'text']}")
    vscode.wait_done(work.request)
    assert reply_status(work.request) == "ok"
    assert work.updates == []
    vscode.execute("work_released.set()", hidden=True)
    assert work.answer() == {"plain": [1, None, True, "text"]}


def test_background_inspection_returns_the_documentation_of_a_name(vscode: VSCodeClient) -> None:
    vscode.execute("def documented():\n    'A sentence for the tooltip.'")
    inspection = run_in_background(vscode, "get_ipython().kernel.do_inspect('documented', 10, 0)").answer()
    assert inspection["found"] is True
    assert "A sentence for the tooltip." in inspection["data"]["text/plain"]


def test_background_failure_is_told_in_the_error_type(vscode: VSCodeClient) -> None:
    assert "ZeroDivisionError" in run_in_background(vscode, "1 / 0").answer("error")


def test_background_completion_queued_behind_a_running_cell_is_answered_beside_the_next(vscode: VSCodeClient) -> None:
    running = started_loop(vscode, "import time; completed_later = 1; time.sleep(0.5); print('before')")
    completion = run_in_background(vscode, "get_ipython().kernel.do_complete('completed_la', 12)")
    inspection = run_in_background(vscode, "get_ipython().kernel.do_inspect('completed_later', 15, 0)")
    following = vscode.send_execute("print('after')\nwhile True: time.sleep(0.01)")
    assert "completed_later" in completion.answer()["matches"]
    assert inspection.answer()["found"] is True
    assert vscode.wait_done(running).stream() == "running\nbefore\n"
    vscode.wait_until(following.stream, "start of the next cell")
    assert not following.replies
    vscode.interrupt()
    assert error_of(vscode.wait_done(following, INTERRUPT_TIMEOUT))["ename"] == "KeyboardInterrupt"
    assert following.stream() == "after\n"


def test_complete_request_is_answered_on_shell(vscode: VSCodeClient) -> None:
    vscode.execute("completed_by_request = 1")
    asked = vscode.send("shell", "complete_request", {"code": "completed_by_r", "cursor_pos": 14})
    assert vscode.wait_done(asked).reply["matches"] == ["completed_by_request"]
