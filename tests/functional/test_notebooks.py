"""The notebooks that come with the project: executed without a front end, their outputs looked at."""

from __future__ import annotations

import os
import shutil
import sys
from ast import literal_eval
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from sandbox_kernel.workspace.layers import remove_tree
from tests.emulators.agentcore import CREDENTIALS
from tests.emulators.agentcore import emulating as emulating_agentcore
from tests.emulators.bedrock import KEYS, bedrock
from tests.emulators.e2b.process import KEY
from tests.emulators.e2b.process import emulating as emulating_e2b
from tests.executor_process import serving

from .client import kernel_environment

KERNEL = os.environ.get("SANDBOX_KERNEL_UNDER_TEST", "sandbox")
NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
PLAIN = "any-notebook"
GENERATE = "generate"
DURABLE = "durable"
AGENTCORE = "agentcore"
E2B = "e2b"
AGENTS = "ppio-agents"
CELL_TIMEOUT = 120

ALLOWED = 'c.SandboxSession.approvals = {"apply": "allow", "discard": "allow"}'
MODEL = """\
c.SandboxSession.approvals = {{"generate": "allow"}}
c.BedrockModel.endpoint_url = "{}"
c.BedrockModel.region = "us-east-1"
"""
"""A user whose models are emulated."""
EXECUTOR = """\
c.SandboxSession.provider = "executor"
c.ExecutorProvider.address = "{}"
c.ExecutorProvider.key_file = "{}"
"""
"""A user with an executor."""
CLOUD = """\
{}
c.SandboxSession.approvals = {{"agent": "allow"}}
for provider in (c.E2BProvider, c.PPIOProvider):
    provider.api_url = provider.sandbox_url = "{}"
"""
"""A user of E2B or PPIO, which are emulated."""
written: dict[str, set[str]] = {}
"""By notebook, the files that are there after it was executed and were not before."""

pytest.importorskip("matplotlib")
pytest.importorskip("pandas")
pytest.importorskip("ipywidgets")
pytest.importorskip("pyarrow")


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call, no-any-return]


@cache
def executed(path: Path) -> NotebookNode:
    """Execute a notebook once; a cell that fails without being marked for it raises CellExecutionError."""
    notebook = read(path)
    # A copy of the folder, because a notebook may write to it and JupyterLab leaves its own files there, and Jupyter's
    # folders of a user who allows that.
    with TemporaryDirectory(dir="/var/tmp") as place, ExitStack() as services:
        folder = Path(place, "notebooks")
        folder.mkdir()
        for each in NOTEBOOKS:
            shutil.copy(each, folder)
        environment = {**kernel_environment(Path(place)), "JUPYTER_PATH": f"{sys.prefix}/share/jupyter"}
        Path(place, "config").mkdir()
        Path(place, "config/jupyter_sandbox_config.py").write_text(f"{ALLOWED}\n{own_configuration(notebook)}")
        if path.stem == GENERATE:
            environment |= {"AWS_ACCESS_KEY_ID": KEYS, "AWS_SECRET_ACCESS_KEY": "of the emulator"}
            Path(place, "config/jupyter_sandbox_config.py").write_text(
                MODEL.format(services.enter_context(bedrock()).url)
            )
        elif path.stem == DURABLE:
            executor = services.enter_context(serving(Path(place, "executor")))
            Path(place, "config/jupyter_sandbox_config.py").write_text(
                EXECUTOR.format(executor.address, executor.key_file())
            )
        elif path.stem == AGENTCORE:
            environment |= services.enter_context(emulating_agentcore(Path(place, "emulator"))).environment
        elif path.stem in (E2B, AGENTS):
            emulator = services.enter_context(emulating_e2b(Path(place, "e2b")))
            environment |= {"E2B_API_KEY": KEY, "PPIO_API_KEY": KEY}
            Path(place, "config/jupyter_sandbox_config.py").write_text(
                CLOUD.format(own_configuration(notebook), emulator.url)
            )
        resources = {"metadata": {"path": str(folder)}}
        client = NotebookClient(notebook, timeout=CELL_TIMEOUT, kernel_name=kernel_of(path), resources=resources)
        client.execute(env=environment)
        written[path.stem] = {file.name for file in folder.iterdir()} - {each.name for each in NOTEBOOKS}
        remove_tree(f"{place}/data")
    return notebook


def own_configuration(notebook: NotebookNode) -> str:
    """Return the lines that a notebook says it needs, in the first block of Python in its first cell."""
    return str(notebook.cells[0].source).partition("```python\n")[2].partition("```")[0]


def kernel_of(path: Path) -> str:
    """The kernel under test, but for the notebook that is for an ordinary one."""
    return "python3" if path.stem == PLAIN else KERNEL


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_without_outputs_and_for_its_kernel(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    name, display_name = ("python3", "Python 3 (ipykernel)") if path.stem == PLAIN else ("sandbox", "Python (sandbox)")
    assert notebook.metadata.kernelspec == {"name": name, "display_name": display_name, "language": "python"}
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


# Whoever attaches a sandbox goes on with its numbers.
@pytest.mark.parametrize("path", [one for one in NOTEBOOKS if one.stem != DURABLE], ids=lambda path: path.stem)
def test_notebook_runs_and_counts_its_cells(path: Path) -> None:
    code = [cell for cell in executed(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


def outputs_of(name: str, cell: str) -> list[NotebookNode]:
    """Return the outputs of a cell, by its id."""
    (path,) = (path for path in NOTEBOOKS if path.stem == name)
    (found,) = (one for one in executed(path).cells if one.id == cell)
    return list(found.outputs)


def text_of(name: str, cell: str) -> str:
    """Return what a cell printed, or its result as text."""
    outputs = outputs_of(name, cell)
    return "".join(one.text if one.output_type == "stream" else one.data["text/plain"] for one in outputs)


@pytest.fixture(scope="module")
def outputs() -> Callable[[str], list[NotebookNode]]:
    """A function that gives the outputs of a cell of the quick-start notebook by the cell's id."""
    return partial(outputs_of, "quickstart")


@pytest.fixture(scope="module")
def text() -> Callable[[str], str]:
    """A function that gives what a cell of the quick-start notebook printed, or its result as text."""
    return partial(text_of, "quickstart")


def test_quickstart_prints(text: Callable[[str], str]) -> None:
    assert text("streaming") == "step 1 step 2 step 3 step 4 step 5 done\n"


def test_quickstart_shows_a_plot_and_a_table(outputs: Callable[[str], list[NotebookNode]]) -> None:
    (plot,), (table,) = outputs("plot"), outputs("table")
    assert plot.data["image/png"].startswith("iVBOR")
    assert "<table" in table.data["text/html"]


def test_quickstart_shows_the_error_of_a_cell(outputs: Callable[[str], list[NotebookNode]]) -> None:
    (error,) = outputs("error")
    assert (error.output_type, error.ename, error.evalue) == ("error", "ZeroDivisionError", "division by zero")


def test_quickstart_shows_widgets(outputs: Callable[[str], list[NotebookNode]]) -> None:
    assert ["application/vnd.jupyter.widget-view+json" in one.data for one in outputs("widget")] == [True, True]


def test_quickstart_pauses_and_goes_on_with_its_variables(text: Callable[[str], str]) -> None:
    assert "is paused" in text("pause")
    assert "paused" in text("paused-status").split()
    notice = "The sandbox was paused and goes on: variables, files and packages are kept.\n"
    assert text("after-pause") == f"{notice}'still here'"
    assert "active" in text("status").split()


def test_quickstart_sees_nothing_of_this_machine(text: Callable[[str], str]) -> None:
    home = text("home")
    assert "[]\nwork folder: " in home
    assert "/etc/shadow: FileNotFoundError" in home
    shown = text("environment").removeprefix("environment: ").splitlines()[0].split(", ")
    assert "PYTEST_CURRENT_TEST" in os.environ
    assert "PYTEST_CURRENT_TEST" not in shown
    assert text("network").startswith("interfaces: ['lo']\nnetwork: ")


def test_quickstart_runs_commands(text: Callable[[str], str]) -> None:
    assert "hello from /" in text("shell")
    assert "isolated process, shared kernel" in text("status")
    assert "%sandbox help COMMAND" in text("help")


def test_workspace_applies_what_it_shows_and_no_more() -> None:
    text = partial(text_of, "workspace")
    assert text("read") == "this notebook has 13 cells\n"
    assert "squares.csv  21 bytes" in text("diff")
    assert ".env  24 bytes  (never applied" in text("diff")
    assert "Applied: 1 added." in text("apply")
    assert "Discarded: 3 added." in text("discard")
    notebooks = [path.name for path in NOTEBOOKS]
    assert literal_eval(text("after")) == sorted([*notebooks, "squares.csv"])
    assert "overlay: changes stay in a layer" in text("status")
    assert written["workspace"] == {"squares.csv"}


def test_tools_are_called_as_the_notebook_says() -> None:
    text = partial(text_of, "tools")
    assert "machine" in text("list")
    assert "outside: True" in text("call")
    assert text("mean") == "3.0"
    assert text("many") == "([1.0, 2.0, 3.0], 50)"
    assert text("error") == (
        "ToolError - fmean requires at least one data point\ndata: 'numbers' is not of type 'array'\n"
    )
    assert text("context") == 'client_id = "acme"\n'
    assert text("narrow").endswith("False")
    assert text("register").startswith("area: version 1 is registered (")
    assert text("invoke").startswith("measuring\n6\n(run-")
    assert text("own-call") == "4.0"
    (error,) = outputs_of("tools", "refused")
    assert error.ename == "ToolValidationError"
    assert "line 6: Starting a process with a shell" in error.evalue
    assert text("versions").startswith("*   1  ")


def test_generate_writes_runs_refines_and_corrects_code() -> None:
    def answer(cell: str) -> str:
        (shown,) = (one for one in outputs_of(GENERATE, cell) if "text/markdown" in one.get("data", {}))
        return str(shown.data["text/markdown"])

    assert 'ax.bar(cities["city"], cities["population"])' in answer("plot")
    assert "It ran, in " in answer("plot")
    assert 'ax.set_title("Cities")' in answer("refine")
    for cell in ("plot", "refine"):
        assert any("image/png" in one.get("data", {}) for one in outputs_of(GENERATE, cell))
    assert any(one.get("text", "").startswith("sum 144") for one in outputs_of(GENERATE, "file"))
    assert '+print("in all", cities["population"].sum())' in answer("fix")
    assert any(one.get("text", "").startswith("in all 144") for one in outputs_of(GENERATE, "fix"))
    assert "- cities: pandas.DataFrame; shape (4, 2)" in text_of(GENERATE, "context")
    assert "begins with" in answer("explain")
    assert text_of(GENERATE, "history").count("generate") == 3
    assert "5 entries" in text_of(GENERATE, "forget")
    assert text_of(GENERATE, "models").count("Amazon Bedrock") == 3


@pytest.mark.skipif(sys.platform != "linux", reason="an executor's sandboxes need bubblewrap, which only Linux has")
def test_durable_leaves_its_sandbox_and_comes_back() -> None:
    pytest.importorskip("grpc")
    text = partial(text_of, DURABLE)
    assert "executor" in text("status").split()
    assert text("compute") == "computed 332833500\n"
    sandbox_id = text("detach").split()[2]
    assert f"%sandbox attach {sandbox_id}" in text("detach")
    assert "detached" in text("list")
    assert f"The sandbox {sandbox_id} is attached" in text("attach")
    assert text("after") == "still 332833500 - and the work went on: True\n"
    assert "computed 332833500\n" in text("replay")
    assert text("after-restart").endswith("False 332833500\n")
    assert "is stopped" in text("stop")


@pytest.fixture(scope="module")
def plain() -> Callable[[str], NotebookNode]:
    """A function that gives the only output of a cell of the notebook for ordinary kernels, by the cell's id."""
    (path,) = (path for path in NOTEBOOKS if path.stem == PLAIN)
    cells = {cell.id: cell for cell in executed(path).cells}

    def only(cell: str) -> NotebookNode:
        (output,) = cells[cell].outputs
        return output

    return only


def test_ordinary_notebook_shows_what_its_sandboxes_produce(plain: Callable[[str], NotebookNode]) -> None:
    assert plain("plot").data["image/png"].startswith("iVBOR")
    assert plain("progress").data["text/plain"] == "'5 of 5'"
    assert plain("error").ename == "ZeroDivisionError"
    assert "active" in plain("status").data["text/plain"].split()
    assert "is stopped" in plain("stop").text


def test_ordinary_notebook_exchanges_variables_with_its_sandboxes(plain: Callable[[str], NotebookNode]) -> None:
    assert plain("pulled").data["text/plain"] == "'Lima'"
    assert plain("second").data["text/plain"] == "False"
    assert plain("library").data["text/plain"] == "('hello\\n', '2')"


def test_agentcore_shows_what_the_service_does_not() -> None:
    assert "inactive" in text_of(AGENTCORE, "before")
    assert text_of(AGENTCORE, "streaming").endswith("step 1 step 2 step 3 step 4 step 5 done\n")
    assert outputs_of(AGENTCORE, "plot")[-1].data["image/png"].startswith("iVBOR")
    status = text_of(AGENTCORE, "status")
    assert "it cannot be extended" in status
    assert "an hour at most" in status


def test_agentcore_saves_and_restores() -> None:
    assert text_of(AGENTCORE, "typescript").startswith("[ 1, 4, 9 ]")
    assert "work.sandbox-snapshot" in text_of(AGENTCORE, "snapshot")
    assert text_of(AGENTCORE, "restored").endswith("({'mean': 7.5, 'values': [1, 4, 9, 16]}, 'mean 7.5')")
    assert "work.sandbox-snapshot" in written[AGENTCORE]


def test_agentcore_keeps_no_credentials() -> None:
    (path,) = (path for path in NOTEBOOKS if path.stem == AGENTCORE)
    text = nbformat.writes(executed(path))
    assert [value for name, value in CREDENTIALS.items() if "KEY" in name and value in text] == []


def test_e2b_pauses_resumes_and_keeps() -> None:
    text = partial(text_of, E2B)
    assert "code-interpreter-v1" in text("templates")
    assert "says 42" in text("first")
    assert "$0.1 an hour, rates of 2026-11-01" in text("status")
    assert any("image/png" in one.get("data", {}) for one in outputs_of(E2B, "plot"))
    assert "is paused" in text("pause")
    results = [one for one in outputs_of(E2B, "resumed") if one.output_type == "execute_result"]
    assert results[0].data["text/plain"] == "43"
    assert "--template" in text("keep")
    assert "kept.txt" in text("shell")


def test_agents_answer_remember_stream_and_are_paused() -> None:
    text = partial(text_of, AGENTS)
    assert "You said: What do you know about Lima?" in text("ask")
    assert '"temperature": 0.2' in text("again")
    assert '"turn": 2' in text("again")
    assert text("stream") == "onetwothree\n"
    assert "[3] You said: third" in text("batch")
    assert "Healthy" in text("sessions")
    assert "is paused" in text("pause")
    assert '"turn": 4' in text("after")


def test_cluster_works_in_many_sandboxes() -> None:
    text = partial(text_of, "cluster")
    assert "local" in text("status").split()
    assert sum(one.get("text", "").count("replicas 1, 3:") for one in outputs_of("cluster", "replicas")) == 1
    assert text("results") == "'1161 needs 181 steps, 2000 results'"
    assert any("2,000 of 2,000 done" in str(one.get("data", "")) for one in outputs_of("cluster", "map"))
    assert text("failed") == "(0.25, 'ZeroDivisionError', 'raised')"
