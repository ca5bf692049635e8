"""Every step that VS Code's Jupyter extension takes with a kernel, for ipykernel and for ours side by side.

Where ipykernel itself falls short (it dies of `os._exit`, it outlives its parent) the step asks more of ours only.
One kernel process serves most steps; those that break one have their own.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.functional.vscode_client import (
    ANSI,
    INTERRUPT_TIMEOUT,
    WAIT_TIMEOUT,
    Connection,
    JsonObject,
    KernelDiedError,
    KernelProcess,
    KernelSpec,
    Message,
    Request,
    VSCodeClient,
    find_kernelspecs,
    launch,
    launch_command,
    launch_environment,
    wait_for_ports,
    wait_gone,
)

NOTEBOOK = "/home/someone/projects/local.ipynb"  # a path of the user's machine: it need not exist where cells run

IPYWIDGETS_VERSION = """
try:
    import ipywidgets as _vscode_widgets
    print("ipywidgets", _vscode_widgets.__version__)
    del _vscode_widgets
except ImportError:
    print("ipywidgets", None)
"""
START_CELL = f"""
import sys as _vscode_sys, types as _vscode_types
import IPython.display as _vscode_display
_vscode_module = _vscode_types.ModuleType("vscode")
_vscode_module.chat = _vscode_types.SimpleNamespace(display=_vscode_display.display)
_vscode_sys.modules["vscode"] = _vscode_module
del _vscode_sys, _vscode_types, _vscode_display, _vscode_module
__vsc_ipynb_file__ = {NOTEBOOK!r}
%config Completer.use_jedi = False
try:
    import matplotlib as _vscode_matplotlib
    get_ipython().run_line_magic("matplotlib", "inline")
    _vscode_matplotlib.rcParams["figure.facecolor"] = "none"
    del _vscode_matplotlib
except ImportError:
    pass
"""
FIRST_CELL = """name_of_first_cell = 1
names = %who_ls
print(len(In), In[1].startswith("name_of_first_cell"), Out, names)
print(len(list(get_ipython().history_manager.get_range())))
print(__vsc_ipynb_file__, get_ipython().Completer.use_jedi)
import vscode
"""

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

FLEETING_PARENT = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(600)"


# Kernels under test


@dataclass
class Started:
    """A running kernel and the traffic of its start."""

    client: VSCodeClient
    connects: list[Request]
    hidden: list[Request]
    first: Request


@dataclass
class Launcher:
    """Starts kernels of one kernelspec as the extension does, and leaves none behind."""

    spec: KernelSpec
    folder: Path
    runtime_folder: Path
    env: dict[str, str]
    processes: list[KernelProcess] = field(default_factory=list)
    clients: list[VSCodeClient] = field(default_factory=list)

    def launch(self, connection: Connection | None = None) -> tuple[Connection, KernelProcess]:
        """Spawn a kernel."""
        connection, process = launch(self.spec, self.folder, self.runtime_folder, self.env, connection)
        self.processes.append(process)
        return connection, process

    def connect(self) -> tuple[VSCodeClient, list[Request]]:
        """Spawn a kernel and connect to it."""
        connection, process = self.launch()
        wait_for_ports(connection, process)
        client = VSCodeClient(connection, process)
        self.clients.append(client)
        return client, client.connect()

    def start(self) -> Started:
        """Spawn, connect, run what the extension hides at the start, then the user's first cell."""
        client, connects = self.connect()
        hidden = [client.execute(code, hidden=True) for code in (IPYWIDGETS_VERSION, START_CELL)]
        client.request("shell", "kernel_info_request")
        # The warm-up of the completer: sent, its reply not awaited.
        client.send("shell", "complete_request", {"code": "__file__.", "cursor_pos": 9})
        return Started(client, connects, hidden, client.execute(FIRST_CELL))

    def close(self) -> None:
        """End everything that was started."""
        for client in self.clients:
            client.close()
        for process in self.processes:
            process.close()


@pytest.fixture(scope="module", params=["python3", "sandbox"])
def spec(request: pytest.FixtureRequest) -> KernelSpec:
    """The kernelspec under test; not finding it is a failure, because then nothing here is tested."""
    specs = find_kernelspecs()
    assert request.param in specs, f"kernelspec {request.param} is not installed; found: {sorted(specs)}"
    return specs[request.param]


@pytest.fixture
def ours(spec: KernelSpec) -> KernelSpec:
    """The kernelspec of this project: for requirements that ipykernel does not meet."""
    if spec.name == "python3":
        pytest.skip("a requirement that ipykernel does not meet")
    return spec


def make_launcher(spec: KernelSpec, folder: Path) -> Launcher:
    """Prepare a notebook folder and a runtime folder, both with a space in their name."""
    folders = {name: folder / name for name in ("my notebooks", "jupyter runtime", "ipython")}
    for path in folders.values():
        path.mkdir()
    env = {"JUPYTER_RUNTIME_DIR": str(folders["jupyter runtime"]), "IPYTHONDIR": str(folders["ipython"])}
    return Launcher(spec, folders["my notebooks"], folders["jupyter runtime"], env)


@pytest.fixture(scope="module")
def started(spec: KernelSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """One kernel for all steps that leave it usable."""
    launcher = make_launcher(spec, tmp_path_factory.mktemp("vscode"))
    try:
        yield launcher.start()
    finally:
        launcher.close()


@pytest.fixture
def vscode(started: Started) -> VSCodeClient:
    """The client of the shared kernel."""
    return started.client


@pytest.fixture(scope="module")
def debugged(spec: KernelSpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VSCodeClient]:
    """The client of a kernel that only the debugger's steps use, because it goes on tracing after them."""
    launcher = make_launcher(spec, tmp_path_factory.mktemp("debugged"))
    try:
        yield launcher.start().client
    finally:
        launcher.close()


@pytest.fixture
def launcher(spec: KernelSpec, tmp_path: Path) -> Iterator[Launcher]:
    """For steps that need a kernel of their own."""
    own = make_launcher(spec, tmp_path)
    try:
        yield own
    finally:
        own.close()


# What the steps share


def reply_status(request: Request) -> str:
    return str(request.reply["status"])


def bundle(request: Request, mime: str) -> object:
    """Return the one value of a MIME type that a cell has shown."""
    (value,) = [shown[mime] for shown in request.shown if mime in shown]
    return value


def started_loop(client: VSCodeClient, code: str) -> Request:
    """Send a cell that announces itself and goes on, and wait for the announcement."""
    running = client.send_execute(f"print('running', flush=True)\n{code}")
    client.wait_until(lambda: "running" in running.stream(), "start of the cell")
    return running


def assert_idle_comes_last(request: Request) -> None:
    kinds = [msg.type for msg in request.published]
    states = [msg.content["execution_state"] for msg in request.published if msg.type == "status"]
    assert states == ["busy", "idle"]
    assert (kinds[0], kinds[-1]) == ("status", "status")


def error_of(request: Request) -> JsonObject:
    """Return the one error that a cell shows, which has to be that of its reply."""
    (error,) = [msg.content for msg in request.outputs if msg.type == "error"]
    assert reply_status(request) == "error"
    assert (error["ename"], error["evalue"]) == (request.reply["ename"], request.reply["evalue"])
    return error


background_numbers = itertools.count(1)


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


# 1 Discovery and the kernelspec


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


# 2 Launch


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


# 3 Hidden code


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


# 4 Variables, data viewer, completion


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


# 5 Execution


def test_outputs_of_a_cell_come_before_its_idle_status(vscode: VSCodeClient) -> None:
    code = """
    import sys
    from IPython.display import display
    print("to stdout"); print("to stderr", file=sys.stderr)
    display({"text/plain": "a picture", "image/png": "iVBORw0KGgo="}, raw=True)
    1 + 1
    """
    cell = vscode.execute(textwrap.dedent(code))
    assert_idle_comes_last(cell)
    assert (cell.stream(), cell.stream("stderr")) == ("to stdout\n", "to stderr\n")
    assert bundle(cell, "image/png") == "iVBORw0KGgo="
    (result,) = [msg.content for msg in cell.outputs if msg.type == "execute_result"]
    assert result["data"] == {"text/plain": "2"}
    assert result["execution_count"] == cell.reply["execution_count"]


def test_display_of_an_earlier_cell_is_updated_by_a_later_one(vscode: VSCodeClient) -> None:
    first = vscode.execute("from IPython.display import display\nshown = display('old', display_id=True)")
    second = vscode.execute("shown.update('new')")
    (displayed,), (update,) = first.outputs, second.outputs
    assert update.type == "update_display_data"
    assert update.content["data"]["text/plain"] == "'new'"
    assert update.content["transient"] == displayed.content["transient"]


def test_failed_cell_does_not_abort_the_cells_queued_behind_it(vscode: VSCodeClient) -> None:
    failing = vscode.send_execute("import time; time.sleep(0.2); 1 / 0")
    following = vscode.send_execute("print('still runs')")
    assert reply_status(vscode.wait_done(failing)) == "error"
    assert vscode.wait_done(following).stream() == "still runs\n"


def test_late_output_of_a_thread_goes_to_the_cell_that_has_ended(vscode: VSCodeClient) -> None:
    code = """
    import threading, time
    def speak_later():
        time.sleep(0.4); print("late", flush=True)
    threading.Thread(target=speak_later).start()
    """
    cell = vscode.execute(textwrap.dedent(code))
    vscode.wait_until(cell.stream, "late output")
    assert cell.stream() == "late\n"


def test_late_output_of_a_task_goes_to_its_own_cell_while_another_runs(vscode: VSCodeClient) -> None:
    code = """
    import asyncio
    async def speak_later():
        await asyncio.sleep(0.3); print("late", flush=True)
    speaking = asyncio.create_task(speak_later())
    """
    cell = vscode.execute(textwrap.dedent(code))
    following = vscode.execute("await speaking; print('on time')")
    assert (cell.stream(), following.stream()) == ("late\n", "on time\n")


def test_next_input_and_pages_are_payloads_of_the_reply(vscode: VSCodeClient) -> None:
    next_input = vscode.execute("get_ipython().set_next_input('x = 1')").reply["payload"]
    page = vscode.execute("len?").reply["payload"]
    # Ours says in a comment above it whose cell that is.
    assert [(item["source"], item["text"].splitlines()[-1]) for item in next_input] == [("set_next_input", "x = 1")]
    assert [item["source"] for item in page] == ["page"]
    assert "number of items" in page[0]["data"]["text/plain"]


@pytest.mark.parametrize(
    ("call", "password"), [("input('Who? ')", False), ("__import__('getpass').getpass('Who? ')", True)]
)
def test_input_box_shows_the_prompt_and_returns_what_was_typed(vscode: VSCodeClient, call: str, password: bool) -> None:
    cell = vscode.send_execute(f"answer = {call}; print(f'<{{answer}}>')")
    (asked,) = vscode.wait_until(lambda: cell.input_requests, "input request")
    assert asked.content == {"prompt": "Who? ", "password": password}
    vscode.answer_input(asked, "m\u00e9")
    assert vscode.wait_done(cell).stream() == "<m\u00e9>\n"


def test_cancelled_input_box_gives_the_empty_string(vscode: VSCodeClient) -> None:
    cell = vscode.send_execute("print([input()])")
    (asked,) = vscode.wait_until(lambda: cell.input_requests, "input request")
    vscode.answer_input(asked, "")
    assert vscode.wait_done(cell).stream() == "['']\n"


def test_input_that_is_never_answered_ends_with_an_interrupt(vscode: VSCodeClient) -> None:
    cell = vscode.send_execute("input()")
    vscode.wait_until(lambda: cell.input_requests, "input request")
    assert vscode.interrupt()["status"] == "ok"
    assert error_of(vscode.wait_done(cell, INTERRUPT_TIMEOUT))["ename"] == "KeyboardInterrupt"


def test_traceback_names_cell_and_line_of_each_frame_in_colour(vscode: VSCodeClient) -> None:
    defined = vscode.execute("def divide(number):\n    return number / 0").reply["execution_count"]
    failed = vscode.execute("# a comment\n\ndivide(1)")
    error = error_of(failed)
    traceback = "\n".join(error["traceback"])
    assert error["ename"] == "ZeroDivisionError"
    assert ANSI.search(traceback)
    plain = ANSI.sub("", traceback)
    assert f"Cell In[{failed.reply['execution_count']}], line 3" in plain
    assert f"Cell In[{defined}], line 2, in divide" in plain


def test_widget_travels_both_ways_with_its_binary_buffers(vscode: VSCodeClient) -> None:
    code = """
    from comm import create_comm
    state = {"_model_module": "@jupyter-widgets/controls", "_model_module_version": "2.0.0",
             "_model_name": "ImageModel", "_view_module": "@jupyter-widgets/controls",
             "_view_module_version": "2.0.0", "_view_name": "ImageView", "format": "png"}
    picture = create_comm(target_name="jupyter.widget", metadata={"version": "2.1.0"},
                          data={"state": state, "buffer_paths": [["value"]]}, buffers=[b"\\x89PNG\\x00"])
    def reverse(msg):
        state = {"format": msg["content"]["data"]["state"]["format"]}
        buffers = [bytes(buffer)[::-1] for buffer in msg["buffers"]]
        picture.send({"method": "update", "state": state, "buffer_paths": [["value"]]}, buffers=buffers)
    picture.on_msg(reverse)
    """
    cell = vscode.execute(textwrap.dedent(code))
    (opened,) = [msg for msg in cell.published if msg.type == "comm_open"]
    assert opened.content["target_name"] == "jupyter.widget"
    assert opened.content["data"]["state"]["_model_name"] == "ImageModel"
    assert opened.metadata["version"] == "2.1.0"
    assert opened.buffers == [b"\x89PNG\x00"]

    comm_id = opened.content["comm_id"]
    update = {"method": "update", "state": {"format": "jpeg"}, "buffer_paths": [["value"]]}
    sent = vscode.send("shell", "comm_msg", {"comm_id": comm_id, "data": update}, buffers=[b"\x00\xff\x01"])
    (answer,) = vscode.wait_until(lambda: [m for m in sent.published if m.type == "comm_msg"], "answer of the widget")
    assert answer.content["comm_id"] == comm_id
    assert answer.content["data"]["state"]["format"] == "jpeg"
    assert answer.buffers == [b"\x01\xff\x00"]

    assert comm_id in comms_of(vscode, "jupyter.widget")
    vscode.send("shell", "comm_close", {"comm_id": comm_id, "data": {}})
    assert comm_id not in comms_of(vscode, "jupyter.widget")


def comms_of(client: VSCodeClient, target_name: str) -> JsonObject:
    """Ask which comms of a target are open."""
    reply = client.wait_done(client.send("shell", "comm_info_request", {"target_name": target_name})).reply
    comms: JsonObject = reply["comms"]
    assert {comm["target_name"] for comm in comms.values()} <= {target_name}
    return comms


def test_renderer_opens_the_widget_control_comm_and_gets_all_states(vscode: VSCodeClient) -> None:
    code = """
    from comm import get_comm_manager
    def control_opened(comm, msg):
        comm.on_msg(lambda asked: comm.send({"method": "update_states", "states": {}, "buffer_paths": []}))
    get_comm_manager().register_target("jupyter.widget.control", control_opened)
    """
    vscode.execute(textwrap.dedent(code))
    opened = {"comm_id": "a" * 32, "target_name": "jupyter.widget.control", "data": {}}
    vscode.send("shell", "comm_open", opened, metadata={"version": "1.0.0"})
    asked = vscode.send("shell", "comm_msg", {"comm_id": "a" * 32, "data": {"method": "request_states"}})
    (answer,) = vscode.wait_until(lambda: [m for m in asked.published if m.type == "comm_msg"], "states of widgets")
    assert answer.content["data"] == {"method": "update_states", "states": {}, "buffer_paths": []}


def test_subshells_if_advertised_answer_comms_while_a_cell_runs(vscode: VSCodeClient) -> None:
    features = vscode.request("control", "kernel_info_request").get("supported_features", [])
    if "kernel subshells" not in features:
        return
    code = """
    from comm import create_comm
    echo = create_comm(target_name="jupyter.widget.control")
    echo.on_msg(lambda msg: echo.send(msg["content"]["data"]))
    """
    vscode.execute("import threading; released = threading.Event()")
    subshell_id = vscode.request("control", "create_subshell_request")["subshell_id"]
    running = started_loop(vscode, "assert released.wait(30)")
    # Opened in the subshell: ipykernel sends a comm's messages to the shell that last used it.
    content = {"code": textwrap.dedent(code), "store_history": False}
    opening = vscode.wait_done(vscode.send("shell", "execute_request", content, subshell_id=subshell_id))
    (comm_id,) = [msg.content["comm_id"] for msg in opening.published if msg.type == "comm_open"]
    sent = vscode.send("shell", "comm_msg", {"comm_id": comm_id, "data": {"n": 1}}, subshell_id=subshell_id)
    vscode.wait_until(lambda: [m for m in sent.published if m.type == "comm_msg"], "echo by the subshell")
    assert not running.replies
    vscode.wait_done(vscode.send("shell", "execute_request", {"code": "released.set()"}, subshell_id=subshell_id))
    assert reply_status(vscode.wait_done(running)) == "ok"
    deleted = vscode.send("control", "delete_subshell_request", {"subshell_id": subshell_id})
    assert reply_status(vscode.wait_done(deleted)) == "ok"


# 5 Debugger


DEBUGGED_CELL = """
def double(number):
    result = number * 2
    return result
debugged_sum = 1
debugged_sum += double(20)
debugged_sum += 1
print(debugged_sum)
""".strip()


def start_debugging(client: VSCodeClient, code: str, line: int) -> str:
    """Attach the debugger and set one breakpoint in a cell; return the path under which the cell was dumped."""
    client.debug("initialize", {"clientID": "vscode", "adapterID": "Python Kernel Debug Adapter", "pathFormat": "path"})
    client.debug("attach", {"justMyCode": True})
    path = str(client.debug("dumpCell", {"code": code})["sourcePath"])
    source = {"source": {"path": path}, "breakpoints": [{"line": line}], "sourceModified": False}
    (breakpoint_set,) = client.debug("setBreakpoints", source)["breakpoints"]
    assert (breakpoint_set["verified"], breakpoint_set["line"]) == (True, line)
    client.debug("configurationDone")
    assert reply_status(client.execute("import debugpy\ndebugpy.debug_this_thread()", hidden=True)) == "ok"
    return path


def wait_for_stop(client: VSCodeClient, count: int) -> int:
    """Wait for the n-th stopped event of the session; return the thread that stopped."""
    client.wait_until(lambda: len(client.debug_events("stopped")) >= count, f"stopped event {count}")
    return int(client.debug_events("stopped")[-1]["body"]["threadId"])


def top_frame(client: VSCodeClient, thread_id: int) -> JsonObject:
    frame: JsonObject = client.debug("stackTrace", {"threadId": thread_id})["stackFrames"][0]
    return frame


def variables_of(client: VSCodeClient, frame: JsonObject) -> dict[str, str]:
    """Read the innermost scope of a frame: names and values."""
    scope = client.debug("scopes", {"frameId": frame["id"]})["scopes"][0]
    listed = client.debug("variables", {"variablesReference": scope["variablesReference"]})["variables"]
    return {variable["name"]: variable["value"] for variable in listed}


def test_ipykernel_where_the_cells_run_is_new_enough_for_the_debugger(vscode: VSCodeClient) -> None:
    asked = vscode.execute("import ipykernel as _vscode_ik; print(_vscode_ik.__version__); del _vscode_ik", hidden=True)
    version = re.fullmatch(r"(\d+)\.\d+\.\d+", asked.stream().strip())
    assert version is not None
    assert int(version[1]) >= 6


def test_cell_is_debugged_from_breakpoint_to_end(debugged: VSCodeClient) -> None:
    stops = len(debugged.debug_events("stopped"))
    path = start_debugging(debugged, DEBUGGED_CELL, line=5)
    running = debugged.send_execute(DEBUGGED_CELL)

    thread_id = wait_for_stop(debugged, stops + 1)
    frame = top_frame(debugged, thread_id)
    assert (frame["source"]["path"], frame["line"]) == (path, 5)
    assert variables_of(debugged, frame)["debugged_sum"] == "1"
    # The shell stands still; control must not.
    assert debugged.request("control", "kernel_info_request")["status"] == "ok"
    assert not running.replies

    debugged.debug("stepIn", {"threadId": thread_id})
    inside = top_frame(debugged, wait_for_stop(debugged, stops + 2))
    assert inside["name"] == "double"
    assert variables_of(debugged, inside)["number"] == "20"

    debugged.debug("continue", {"threadId": thread_id})
    assert debugged.wait_done(running).stream() == "42\n"
    end_debugging(debugged, path)
    assert debugged.execute(DEBUGGED_CELL).stream() == "42\n"
    assert len(debugged.debug_events("stopped")) == stops + 2


def end_debugging(client: VSCodeClient, path: str) -> None:
    """Disconnect and remove the dumped cell, as the extension does at the end of a session."""
    client.debug("disconnect", {"restart": False, "terminateDebuggee": False})
    removed = client.execute(f"import os as _vscode_os; _vscode_os.remove({path!r}); del _vscode_os", hidden=True)
    assert reply_status(removed) == "ok"


def test_second_debugging_session_of_the_same_kernel_stops_again(debugged: VSCodeClient) -> None:
    code = "counted = 5\ncounted += 1"
    for _ in range(2):
        stops = len(debugged.debug_events("stopped"))
        path = start_debugging(debugged, code, line=2)
        running = debugged.send_execute(code)
        thread_id = wait_for_stop(debugged, stops + 1)
        assert top_frame(debugged, thread_id)["line"] == 2
        debugged.debug("continue", {"threadId": thread_id})
        debugged.wait_done(running)
        end_debugging(debugged, path)


# 6 Interrupt


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


# 6 Stop, restart, death


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
