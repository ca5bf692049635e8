"""Real kernel processes whose sandboxes are on an executor."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("an executor's sandboxes need bubblewrap, which only Linux has", allow_module_level=True)
pytest.importorskip("grpc")

from tests.executor_process import ExecutorProcess, serving

from .client import FrontEnd, SharedKernel, running


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExecutorProcess]:
    """One executor for all tests of the module."""
    with serving(tmp_path_factory.mktemp("executor"), Executor={"upload_size": "5 MiB"}) as made:
        yield made


@pytest.fixture(scope="module")
def shared(executor: ExecutorProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedKernel]:
    """A kernel for all tests after which the next cell works."""
    # The notebook's folder across the distance has tests of its own.
    options = ["--Workspace.mode=private", *executor.arguments()]
    kernel = SharedKernel(lambda: tmp_path_factory.mktemp("kernel"), *options)
    yield kernel
    kernel.end()


@pytest.fixture
def notebook(shared: SharedKernel) -> Iterator[FrontEnd]:
    """Its front end."""
    assert shared.front_end.run("import os, time, sys").status == "ok"
    yield shared.front_end
    shared.check()


def shown(front_end: FrontEnd, line: str) -> str:
    """Return everything that a command shows, as text."""
    cell = front_end.run(line)
    assert cell.status == "ok"
    return cell.stream() + "".join(content["data"]["text/plain"] for content in cell.contents("display_data"))


def test_cells_run_elsewhere(notebook: FrontEnd) -> None:
    cell = notebook.run("print('out', flush=True); print('err', file=sys.stderr)\nos.listdir('.')")
    cell.assert_ended_once()
    assert (cell.stream(), cell.stream("stderr"), cell.result) == ("out\n", "err\n", "[]")
    assert notebook.run("1/0").error["ename"] == "ZeroDivisionError"


def test_input_completion_and_inspection_work(notebook: FrontEnd) -> None:
    cell = notebook.cell("name = input('who? ')\nprint('hello', name)")
    notebook.until(lambda: bool(cell.questions))
    notebook.answer("you")
    assert notebook.finish(cell).stream() == "hello you\n"
    assert "name" in notebook.ask("complete_request", {"code": "nam", "cursor_pos": 3})["matches"]
    assert notebook.ask("inspect_request", {"code": "name", "cursor_pos": 4, "detail_level": 0})["found"]


def test_front_ends_are_told_the_versions_in_the_sandbox(notebook: FrontEnd) -> None:
    notebook.run("import IPython, platform")
    told = notebook.ask("kernel_info_request")
    assert notebook.run("platform.python_version()").result == repr(told["language_info"]["version"])
    assert notebook.run("IPython.__version__").result == repr(told["implementation_version"])


def test_status_says_where_it_is(notebook: FrontEnd, executor: ExecutorProcess) -> None:
    said = shown(notebook, "%sandbox status")
    assert "executor" in said
    assert executor.address in said
    assert "isolated process" in said
    (created, *_) = executor.events("sandbox_created")
    assert created["correlation_id"] in said


def test_interrupt_passes_a_flood(notebook: FrontEnd) -> None:
    cell = notebook.cell("x = 'kept'\nwhile True: print('y' * 1000)")
    notebook.until(lambda: len(cell.messages) > 50)
    assert notebook.interrupt()["status"] == "ok"
    assert notebook.finish(cell).error["ename"] == "KeyboardInterrupt"
    assert notebook.run("x").result == "'kept'"


def test_pause_and_resume(notebook: FrontEnd) -> None:
    notebook.run("x = 'before'")
    assert notebook.run("%sandbox pause").status == "ok"
    assert notebook.run("x").result == "'before'"


def test_files_go_up_and_what_is_too_much_is_told(notebook: FrontEnd, shared: SharedKernel) -> None:
    folder = shared.process.connection_file.parent
    (folder / "small.txt").write_text("here")
    (folder / "large.bin").write_bytes(bytes(6 * 1024**2))
    assert notebook.run("%sandbox upload small.txt").status == "ok"
    assert notebook.run("open('small.txt').read()").result == "'here'"
    refused = notebook.run("%sandbox upload large.bin")
    assert refused.error["ename"] == "QuotaError"
    assert notebook.run("os.remove('small.txt')\nos.path.exists('large.bin')").result == "False"


def test_restart_by_command_renews_python_and_keeps_files(notebook: FrontEnd) -> None:
    notebook.run("x = 1\nopen('file', 'w').close()")
    assert notebook.run("%sandbox restart").status == "ok"
    assert notebook.run("import os, sys, time\n'x' in dir(), os.path.exists('file')").result == "(False, True)"
    notebook.run("os.remove('file')")


def test_a_refused_key_is_told_by_each_cell_and_the_kernel_lives_on(executor: ExecutorProcess, tmp_path: Path) -> None:
    environment = {"SANDBOX_KERNEL_EXECUTOR_KEY": "sbx_wrong"}
    with running(tmp_path, *executor.arguments(key_file=""), environment=environment) as kernel:
        front_end = kernel.front_end()
        for _ in range(2):
            cell = front_end.run("1")
            cell.assert_ended_once()
            assert cell.error["ename"] == "AuthenticationError"
            assert "sbx_wrong" not in str(cell.messages)
        assert front_end.run("%sandbox status").status == "ok"
        assert "sbx_wrong" not in shown(front_end, "%sandbox status --log")


def test_an_executor_that_is_not_there_is_told_and_found_when_it_is(executor: ExecutorProcess, tmp_path: Path) -> None:
    with serving(tmp_path / "executor") as own:
        own.kill()
        options = ("--SandboxSession.retry_delay=0.1", *own.arguments())
        with running(tmp_path / "kernel", *options) as kernel:
            front_end = kernel.front_end()
            assert front_end.run("1").error["ename"] == "SandboxConnectionError"
            own.start()
            assert front_end.run("1").result == "1"


def test_file_whose_name_is_no_text_keeps_nobody_from_the_others(executor: ExecutorProcess, tmp_path: Path) -> None:
    approvals = '--SandboxSession.approvals={"download": "allow", "upload": "allow"}'
    with running(tmp_path, approvals, "--Workspace.mode=private", *executor.arguments()) as kernel:
        front_end = kernel.front_end()
        front_end.run("for name in (b'odd\\xfe', b'odd.txt'): open(name, 'w').write('from there')")
        listed = shown(front_end, "%sandbox files")
        assert ("odd.txt" in listed, "udcfe" in listed) == (True, True)
        assert "1 file" in shown(front_end, "%sandbox download odd* --to fetched")
        assert [path.name for path in (tmp_path / "fetched").iterdir()] == ["odd.txt"]
        (tmp_path / os.fsdecode(b"odd\xfe")).write_text("from here")
        assert front_end.run("%sandbox upload odd*").status == "ok"
        assert front_end.run("open(b'odd\\xfe').read()").result == "'from here'"
