"""The notebook's folder in whole kernels: the commands, their questions, and what a killed kernel leaves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from sandbox_kernel.providers.local import bubblewrap
from sandbox_kernel.workspace.layers import remove_tree
from tests.ports import write_connection

from .client import KERNEL, Exchange, FrontEnd, KernelProcess, kernel_environment, spawn, spawn_with

if KERNEL != "sandbox" or not any(binary.overlays for binary in bubblewrap.find()):
    pytest.skip("needs sandboxes with overlays", allow_module_level=True)


class Project:
    """A notebook's folder with kernels in it; Jupyter's own files lie beside it."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.folder = place / "project"
        self.folder.mkdir()
        (self.folder / "data.csv").write_text("a,b\n1,2\n")
        self._kernels: list[KernelProcess] = []

    def kernel(self, *arguments: str, notebook: str = "") -> KernelProcess:
        """Start a kernel in the folder, as a server does that says which notebook it is for."""
        path = self._place / f"connection-{len(self._kernels)}.json"
        write_connection(path)
        environment = {**kernel_environment(self._place)}
        if notebook:
            environment["JPY_SESSION_NAME"] = notebook
        kernel = spawn_with(path, *arguments, environment=environment, folder=self.folder)
        self._kernels.append(kernel)
        return kernel

    def front_end(self, *arguments: str, notebook: str = "") -> FrontEnd:
        return self.kernel(*arguments, notebook=notebook).front_end()

    def cli(self, *arguments: str, fails: bool = False) -> str:
        """Run `jupyter sandbox`; return what it prints, or what it says when it fails."""
        command = [sys.executable, "-m", "sandbox_kernel.cli", *arguments]
        environment = kernel_environment(self._place)
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert bool(ran.returncode) is fails, ran.stderr
        return ran.stderr if fails else ran.stdout

    def end(self) -> None:
        for kernel in self._kernels:
            kernel.end()
        remove_tree(str(self._place / "data"))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    made.end()


def answered(front_end: FrontEnd, code: str, answer: str) -> Exchange:
    """Run a cell that asks one question."""
    cell = front_end.cell(code)
    front_end.until(lambda: bool(cell.questions) or cell.done)
    assert cell.questions, cell.messages
    front_end.answer(answer)
    return front_end.finish(cell)


def test_a_cell_reads_beside_the_notebook_and_its_changes_wait_for_the_user(project: Project) -> None:
    front_end = project.front_end()
    assert front_end.run("open('data.csv').read()").result == "'a,b\\n1,2\\n'"
    front_end.run("open('data.csv', 'a').write('3,4\\n'); open('out.txt', 'w').write('new\\n')")
    assert (project.folder / "data.csv").read_text() == "a,b\n1,2\n"
    diff = front_end.run("%sandbox diff").stream()
    assert "~ data.csv  12 bytes" in diff
    assert "    +3,4" in diff
    assert "+ out.txt  4 bytes" in diff
    assert "1 added, 1 changed" in diff
    denied = answered(front_end, "%sandbox apply", "n")
    assert "not confirmed" in denied.error["evalue"]
    assert not (project.folder / "out.txt").exists()
    applied = answered(front_end, "%sandbox apply data.csv", "y")
    assert "~ data.csv" in applied.stream()
    assert "out.txt" not in applied.stream()
    assert "Applied: 1 changed." in applied.stream()
    assert (project.folder / "data.csv").read_text() == "a,b\n1,2\n3,4\n"
    discarded = answered(front_end, "%sandbox discard", "yes")
    assert "Discarded: 1 added." in discarded.stream()
    assert front_end.run("import os; os.listdir()").result == "['data.csv']"
    assert "changed nothing" in front_end.run("%sandbox diff").stream()


def test_what_was_also_changed_here_is_asked_for_by_itself(project: Project) -> None:
    front_end = project.front_end()
    front_end.run("for name in ('data.csv', 'out.txt'): open(name, 'w').write('cell')")
    (project.folder / "data.csv").write_text("mine")
    assert "~ data.csv  4 bytes  (changed on this machine, too)" in front_end.run("%sandbox diff").stream()
    cell = front_end.cell("%sandbox apply")
    for count, answer in ((1, "y"), (2, "n")):
        front_end.until(lambda count=count: len(cell.questions) == count or cell.done)
        front_end.answer(answer)
    front_end.finish(cell)
    assert "On this machine, too, data.csv changed" in cell.questions[1]["content"]["prompt"]
    assert "Not applied: data.csv: changed on this machine, too." in cell.stream("stderr")
    assert (project.folder / "data.csv").read_text() == "mine"
    assert (project.folder / "out.txt").read_text() == "cell"
    cell = front_end.cell("%sandbox apply")
    for count in (1, 2):
        front_end.until(lambda count=count: len(cell.questions) == count or cell.done)
        front_end.answer("y")
    assert "Applied: 1 changed." in front_end.finish(cell).stream()
    assert (project.folder / "data.csv").read_text() == "cell"


def test_what_a_diff_leaves_out_is_said(project: Project) -> None:
    (project.folder / "tool.sh").write_text("#!/bin/sh\n")
    (project.folder / "tool.sh").chmod(0o755)
    front_end = project.front_end()
    front_end.run("import os; os.chmod('tool.sh', 0o644); open('binary', 'wb').write(b'\\0')")
    front_end.run("open('long', 'w').write('1\\n' * 9000); open('large', 'w').write('1' * 300_000)")
    shown = front_end.run("%sandbox diff").stream()
    for line in (
        "~ tool.sh  10 bytes, cannot be run any more\n",
        "+ binary  1 bytes\n    (it is no text)\n",
        "+ long  17.6 KiB\n    (the lines of files with more than 4000 are not compared)\n",
        "+ large  293.0 KiB\n    (the lines of files beyond 256 KiB are not compared)\n",
    ):
        assert line in shown
    front_end.run("for n in range(20): open(f'{n}.txt', 'w').write('text')")
    shown = front_end.run("%sandbox diff").stream()
    assert "the changed lines of 4 more files are shown if you name them" in shown
    assert "more files" not in front_end.run("%sandbox diff --stat").stream()
    assert "more files" not in front_end.run("%sandbox diff '*.txt'").stream()


def test_a_file_that_became_a_folder_is_applied_in_part(project: Project) -> None:
    front_end = project.front_end()
    front_end.run("import os; os.remove('data.csv'); os.mkdir('data.csv')")
    front_end.run("for name in 'ab': open(f'data.csv/{name}', 'w').write(name)")
    applied = answered(front_end, "%sandbox apply data.csv/a", "y")
    assert "Applied: 2 added, 1 removed." in applied.stream()
    assert [path.name for path in (project.folder / "data.csv").iterdir()] == ["a"]


def test_status_says_what_cells_see(project: Project) -> None:
    (project.folder / ".env").write_text("TOKEN=1")
    front_end = project.front_end()
    assert front_end.run("import os; os.listdir()").result == "['data.csv']"
    (shown,) = front_end.run("%sandbox status").contents("display_data")
    text = shown["data"]["text/plain"]
    assert f"{project.folder}, overlay" in text
    assert "1 by Workspace.hidden" in text


def test_a_sandbox_that_ends_while_a_command_runs_is_told(project: Project) -> None:
    kernel = project.kernel()
    front_end = kernel.front_end()
    front_end.run("x = 1; open('out.txt', 'w')")
    asking = front_end.cell("%sandbox apply")
    front_end.until(lambda: bool(asking.questions))
    (outermost, *_) = [process for process in kernel.descendants() if process.name() == "bwrap"]
    outermost.kill()
    psutil.wait_procs([outermost], timeout=10)
    front_end.until(lambda: not [one for one in kernel.descendants() if one.name() == "bwrap"])
    front_end.answer("n")
    front_end.finish(asking)
    cell = front_end.run("'x' in globals()")
    assert cell.result == "False"
    assert "The sandbox ended: " in cell.stream("stderr")
    assert "the variables of earlier cells are gone" in cell.stream("stderr")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("diff nothing.txt", "Cells changed nothing called 'nothing.txt'"),
        ("apply nothing.txt", "Cells changed nothing called 'nothing.txt'"),
        ("apply --yes", "unrecognized arguments"),
    ],
)
def test_a_mistake_is_told(project: Project, line: str, message: str) -> None:
    front_end = project.front_end()
    front_end.run("open('out.txt', 'w')")
    assert message in front_end.run(f"%sandbox {line}").error["evalue"]


def test_a_cell_cannot_choose_how_the_folder_is_shown(project: Project) -> None:
    front_end = project.front_end("--Workspace.mode=readonly")
    assert "Read-only" in front_end.run("open('out.txt', 'w')").error["evalue"]
    assert "keeps no changes" in front_end.run("%sandbox apply").error["evalue"]
    (project.folder / "beside.txt").write_text("here")
    assert "as in --to /scratch" in front_end.run("%sandbox upload beside.txt").error["evalue"]
    assert front_end.run("%sandbox upload beside.txt --to /scratch").status == "ok"


def test_a_mistake_in_the_configuration_is_told(project: Project) -> None:
    front_end = project.front_end("--Workspace.mode=secret")
    assert "Workspace.mode" in front_end.run("1").error["evalue"]


def test_changes_outlive_a_killed_kernel(project: Project) -> None:
    kernel = project.kernel(notebook="/somewhere/one.ipynb")
    front_end = kernel.front_end()
    front_end.run("for n in range(50): open(f'{n}.txt', 'w').write(str(n))\nimport os; os.remove('data.csv')")
    kernel.process.kill()
    kernel.process.wait()
    again = project.front_end(notebook="/somewhere/one.ipynb")
    first = again.run("import os; len(os.listdir())")
    assert first.result == "50"
    assert "were not applied" in first.stream("stderr")
    assert again.run("1").stream("stderr") == ""
    assert "50 added, 1 removed" in again.run("%sandbox diff --stat").stream()
    # Another notebook in the folder has nothing to do with them.
    other = project.front_end(notebook="/somewhere/two.ipynb")
    assert other.run("import os; os.listdir()").result == "['data.csv']"


def test_changes_outlive_stop_and_restart(project: Project) -> None:
    front_end = project.front_end()
    front_end.run("open('out.txt', 'w').write('kept')")
    front_end.run("%sandbox restart")
    assert front_end.run("open('out.txt').read()").result == "'kept'"
    front_end.run("%sandbox stop")
    assert front_end.run("open('out.txt').read()").result == "'kept'"


def test_a_notebook_that_tells_its_name_late_gets_its_changes(project: Project) -> None:
    hidden = {"store_history": False, "silent": False}
    tell = "# coding\n__vsc_ipynb_file__ = '/somewhere/one.ipynb'\n".format
    kernel = project.kernel()
    front_end = kernel.front_end()
    front_end.run(tell(), **hidden)
    front_end.run("open('out.txt', 'w').write('kept')")
    kernel.process.kill()
    kernel.process.wait()
    again = project.front_end()
    cells = [again.cell(tell(), **hidden), again.cell("%config Completer.use_jedi = False", **hidden)]
    cell = again.cell("open('out.txt').read(), __vsc_ipynb_file__")
    again.finish(cell, *cells)
    assert [one.status for one in cells] == ["ok", "ok"]
    assert cell.result == "('kept', '/somewhere/one.ipynb')"
    assert "were not applied" in cell.stream("stderr")
    cell.assert_ended_once()


def test_a_secret_that_appears_is_hidden_and_told(project: Project) -> None:
    front_end = project.front_end()
    assert front_end.run("import os; os.listdir()").result == "['data.csv']"
    (project.folder / ".env").write_text("TOKEN=1")
    cell = front_end.run("os.listdir()")
    assert cell.result == "['data.csv']"
    assert ".env appeared" in cell.stream("stderr")
    assert front_end.run("os.listdir()").stream("stderr") == ""


def test_a_sandbox_that_saw_a_secret_is_replaced(project: Project) -> None:
    front_end = project.front_end()
    front_end.run("x = 1; open('out.txt', 'w').write('kept')")
    (project.folder / "token.pem").write_text("secret")
    # Read by a cell that runs on, before the next one.
    front_end.run("%sandbox shell cat token.pem")
    cell = front_end.run("print(x)")
    assert "token.pem appeared" in cell.error["evalue"]
    cell.assert_ended_once()
    again = front_end.run("import os; sorted(os.listdir())")
    assert again.result == "['data.csv', 'out.txt']"
    assert "NameError" in front_end.run("x").error["ename"]


def test_the_connection_file_and_jupyters_folders_are_hidden(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    kernel = spawn(folder)
    try:
        front_end = kernel.front_end()
        assert front_end.run("import os; os.listdir()").result == "['connection.stderr']"
    finally:
        kernel.end()
        remove_tree(str(folder / "data"))


def run_notebook(project: Project, *cells: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])  # type: ignore[no-untyped-call]
    resources = {"metadata": {"path": str(project.folder)}}
    NotebookClient(notebook, timeout=60, kernel_name=KERNEL, resources=resources).execute()


def test_nobody_confirms_in_nbclient_unless_the_configuration_does(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in kernel_environment(tmp_path).items():
        if name.startswith("JUPYTER_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("JUPYTER_PATH", f"{sys.prefix}/share/jupyter")
    with pytest.raises(CellExecutionError, match="nobody can be asked here"):
        run_notebook(project, "open('out.txt', 'w').write(open('data.csv').read())", "%sandbox apply")
    assert not (project.folder / "out.txt").exists()
    (tmp_path / "config").mkdir()
    (tmp_path / "config/jupyter_sandbox_config.py").write_text('c.SandboxSession.approvals = {"apply": "allow"}')
    run_notebook(project, "%sandbox apply")
    assert (project.folder / "out.txt").read_text() == "a,b\n1,2\n"


def test_changes_of_a_notebook_that_is_gone_can_be_taken_over(project: Project) -> None:
    kernel = project.kernel(notebook=str(project.folder / "one.ipynb"))
    kernel.front_end().run("open('out.txt', 'w').write('kept')")
    kernel.end()
    front_end = project.front_end(notebook=str(project.folder / "two.ipynb"))
    first = front_end.run("import os; os.listdir()")
    assert first.result == "['data.csv']"
    assert "Changes of one.ipynb were kept" in first.stream("stderr")
    listed = front_end.run("%sandbox kept").stream()
    assert listed.rstrip().endswith(f"ago  {project.folder}/one.ipynb")
    name = listed.split()[0]
    assert "not confirmed" in answered(front_end, f"%sandbox kept {name}", "n").error["evalue"]
    assert "Nothing kept here is called" in front_end.run("%sandbox kept nothing").error["evalue"]
    answered(front_end, f"%sandbox kept {name[:6]}", "y")
    again = front_end.run("open('out.txt').read()")
    assert again.result == "'kept'"
    assert "were not applied" in again.stream("stderr")
    assert "+ out.txt" in front_end.run("%sandbox diff").stream()
    assert "No other changes" in front_end.run("%sandbox kept").stream()


def test_clean_takes_a_notebook_or_a_folder_for_a_name(project: Project) -> None:
    for notebook in ("/somewhere/one.ipynb", ""):
        kernel = project.kernel(notebook=notebook)
        kernel.front_end().run("open('out.txt', 'w').write('kept')")
        kernel.end()
    assert project.cli("clean", "/somewhere/one.ipynb").count("removed") == 1
    assert "removed" in project.cli("clean", str(project.folder))
    assert "Nothing kept is called" in project.cli("clean", str(project.folder), fails=True)


def test_clean_shows_and_removes_what_is_kept(project: Project) -> None:
    kernel = project.kernel(notebook="/somewhere/one.ipynb")
    kernel.front_end().run("open('out.txt', 'w').write('x' * 3_000_000)")
    assert "/somewhere/one.ipynb" in project.cli("clean")
    assert "Used by a kernel" in project.cli("clean", "--all", fails=True)
    assert "/somewhere/one.ipynb" in project.cli("clean"), "it is in use"
    kernel.end()
    shown = project.cli("clean")
    assert "2.9 MiB" in shown
    assert "removed" not in shown
    name = shown.split()[0]
    assert f"removed {name}" in project.cli("clean", name[:5])
    assert "No notebook has changes" in project.cli("clean")
