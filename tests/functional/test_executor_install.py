"""`%sandbox install` where the sandbox is on an executor: this machine fetches what fits the Python there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("an executor's sandboxes need bubblewrap, which only Linux has", allow_module_level=True)
pytest.importorskip("grpc")

from tests.executor_process import serving as executor_serving

from .client import FrontEnd, running
from .package_index import Index, native_wheel, serving, source_distribution, wheel


@pytest.fixture(scope="module")
def index() -> Iterator[Index]:
    """Packages of which one needs another, one has compiled code, and one would have to be built."""
    with serving() as made:
        made.add(wheel("link1", requires=["link2>=1"]), wheel("link2"), native_wheel("nativebox"))
        made.add(wheel("moving", "1.0"), wheel("moving", "2.0"))
        yield made


@pytest.fixture(scope="module")
def notebook(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontEnd]:
    """A front end of a kernel that installs without asking."""
    folder = tmp_path_factory.mktemp("install")
    config = folder / "config.py"
    config.write_text("c.SandboxSession.approvals = {'install': 'allow'}\n")
    with executor_serving(folder / "executor") as executor:
        options = [f"--config={config}", *executor.arguments()]
        with running(folder / "kernel", *options, environment=index.environment) as kernel:
            yield kernel.front_end()


def test_packages_and_what_they_need_are_installed(notebook: FrontEnd) -> None:
    cell = notebook.run(
        "%sandbox install link1 nativebox\nimport link1, link2, nativebox\nnativebox._escape_inner('<'), link2.version"
    )
    assert cell.status == "ok", cell.reply
    assert "Installed 3 packages" in cell.stream()
    assert cell.result == "('&lt;', '1.0')"


def test_packages_outlive_a_restart_and_are_not_sent_again(notebook: FrontEnd) -> None:
    notebook.run("%sandbox install link2")
    assert notebook.run("%sandbox restart").status == "ok"
    assert notebook.run("import link2; link2.version").result == "'1.0'"
    assert "Everything is installed already" in notebook.run("%sandbox install link2").stream()


def test_a_package_that_was_imported_is_named_when_it_is_replaced(notebook: FrontEnd) -> None:
    assert notebook.run("%sandbox install moving==1.0\nimport moving\nmoving.version").result == "'1.0'"
    cell = notebook.run("%sandbox install 'moving>=2'\nmoving.version")
    assert cell.result == "'1.0'"
    assert "Imported before, so still the old version: moving." in cell.stream()


def test_a_source_distribution_is_refused_and_built_nowhere(notebook: FrontEnd, index: Index, tmp_path: Path) -> None:
    index.add(source_distribution("onlysource", tmp_path / "built"))
    error = notebook.run("%sandbox install onlysource").error["evalue"]
    assert error.startswith("onlysource has no wheel that fits the sandbox's Python")
    assert not (tmp_path / "built").exists()


def test_an_interrupted_install_leaves_nothing(notebook: FrontEnd, index: Index) -> None:
    index.add(wheel("large", files={"large.py": b"", "large.bin": b"\x01\x02" * 1_000_000}))
    cell = notebook.cell("%sandbox install large")
    notebook.until(lambda: "Collecting large" in cell.stream())
    notebook.interrupt()
    assert notebook.finish(cell).status == "error"
    left = notebook.run("import os; [name for name in os.listdir('/opt/sandbox-packages') if 'wheels' in name]")
    assert left.result == "[]"
