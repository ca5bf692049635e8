"""`%sandbox install`: wheels of an index on the loopback address, in a sandbox that has no network."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox_kernel.errors import CommandError, SandboxKernelError
from sandbox_kernel.events import EventLog
from sandbox_kernel.link.protocol import Buffer
from sandbox_kernel.session import SandboxSession
from sandbox_magics.commands import run_line
from tests.unsandboxed import ProcessProvider

from .client import Exchange, FrontEnd, KernelProcess, running
from .package_index import Index, native_wheel, serving, source_distribution, wheel

ALLOWED = "c.SandboxSession.approvals = {'install': 'allow'}\n"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """The index of this module's tests."""
    with serving() as made:
        # Six modules, each of which needs the next; a package with data and a program; one with compiled code.
        made.add(*(wheel(f"link{number}", requires=[f"link{number + 1}>=1"]) for number in range(1, 6)), wheel("link6"))
        program = {"toolbox/__init__.py": b"def main():\n    print('made by the tool')\n", "toolbox/data.txt": b"data"}
        made.add(wheel("toolbox", files=program, scripts={"tool": "toolbox:main"}))
        made.add(native_wheel("nativebox"))
        made.add(wheel("moving", "1.0"), wheel("moving", "2.0"))
        made.add(wheel("needs_source", requires=["onlysource"]))
        made.add(wheel("fromfile", "1.5"), wheel("fromfile", "2.5"), wheel("asked_for"))
        yield made


@pytest.fixture(scope="module")
def kernel(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelProcess]:
    """A kernel that installs without asking."""
    folder = tmp_path_factory.mktemp("install")
    config = folder / "config.py"
    config.write_text(ALLOWED)
    with running(folder / "kernel", f"--config={config}", environment=index.environment) as process:
        yield process


@pytest.fixture(scope="module")
def notebook(kernel: KernelProcess) -> FrontEnd:
    return kernel.front_end()


def test_eight_packages_one_of_them_native_are_installed_without_network(notebook: FrontEnd) -> None:
    failed = notebook.run("import link6", stop_on_error=False)
    assert failed.error["ename"] == "ModuleNotFoundError"
    cell = notebook.run(
        "%sandbox install link1 toolbox nativebox\n"
        "import link1, link2, link3, link4, link5, link6, toolbox, nativebox\n"
        "link6.version, nativebox._escape_inner('<'), nativebox._speedups.__file__"
    )
    assert cell.status == "ok", cell.reply
    assert "Installed 8 packages" in cell.stream()
    assert "Collecting link1" in cell.stream()
    assert cell.of_type("update_display_data")
    version, escaped, place = eval(cell.result)  # noqa: S307
    assert (version, escaped) == ("1.0", "&lt;")
    assert place.startswith("/opt/sandbox-packages/nativebox/")
    assert "made by the tool" in notebook.run("!tool").stream()
    assert notebook.run("from importlib.metadata import version; version('toolbox')").result == "'1.0'"
    assert "made" in notebook.run("import sys\n!{sys.executable} -c 'import toolbox; toolbox.main()'").stream()


def test_packages_outlive_a_restart_and_are_not_fetched_again(notebook: FrontEnd, index: Index) -> None:
    notebook.run("%sandbox install link5")
    assert notebook.run("%sandbox restart").status == "ok"
    assert notebook.run("import link5, link6; link6.version").result == "'1.0'"
    assert "Everything is installed already" in notebook.run("%sandbox install link5").stream()


def test_what_the_environment_has_is_not_fetched(notebook: FrontEnd, index: Index) -> None:
    index.asked.clear()
    assert "Everything is installed already" in notebook.run("%sandbox install ipykernel").stream()
    assert not [path for path in index.asked if path.startswith("/files")]


def test_a_package_that_was_imported_is_named_when_it_is_replaced(notebook: FrontEnd) -> None:
    cell = notebook.run("%sandbox install moving==1.0\nimport moving\nmoving.version")
    assert cell.result == "'1.0'"
    cell = notebook.run("%sandbox install 'moving>=2'\nmoving.version")
    assert cell.result == "'1.0'"
    assert "Imported before, so still the old version: moving." in cell.stream()
    notebook.run("%sandbox restart")
    assert notebook.run("import moving, os; moving.version").result == "'2.0'"
    left = notebook.run("sorted(name for name in os.listdir('/opt/sandbox-packages') if 'moving-' in name)")
    assert left.result == "['moving-2.0.dist-info']"


def test_the_standard_library_cannot_be_shadowed(notebook: FrontEnd, index: Index) -> None:
    index.add(wheel("shadow", files={"colorsys.py": b"evil = True\n"}))
    notebook.run("%sandbox install shadow")
    assert notebook.run("import colorsys; hasattr(colorsys, 'evil')").result == "False"


def test_a_package_cannot_keep_python_from_starting_again(notebook: FrontEnd, index: Index) -> None:
    index.add(wheel("spoiler", files={f"{name}/__init__.py": b"1/0\n" for name in ("ipykernel", "traitlets", "zmq")}))
    assert notebook.run("%sandbox install spoiler").status == "ok"
    assert notebook.run("%sandbox restart").status == "ok"
    assert notebook.run("import ipykernel; ipykernel.__version__ > ''").result == "True"
    code = "for name in ('ipykernel', 'traitlets', 'zmq'): shutil.rmtree(f'/opt/sandbox-packages/{name}')"
    assert notebook.run(f"import shutil\n{code}").status == "ok"


def test_a_source_distribution_is_refused_and_never_built(notebook: FrontEnd, index: Index, tmp_path: Path) -> None:
    marker = tmp_path / "built"
    index.add(source_distribution("onlysource", marker))
    for package in ("onlysource", "needs_source"):
        error = notebook.run(f"%sandbox install {package}", stop_on_error=False).error["evalue"]
        assert error.startswith("onlysource has no wheel that fits the sandbox's Python, only a source distribution")
    assert not marker.exists()


def test_a_package_that_there_is_not_is_an_error_with_its_name(notebook: FrontEnd) -> None:
    assert (
        "The package index has no nothing-like-it" in notebook.run("%sandbox install nothing-like-it").error["evalue"]
    )


@pytest.mark.parametrize(
    "text",
    [
        "--index-url=http://127.0.0.1:1/evil link1",
        "'--extra-index-url http://127.0.0.1:1'",
        "./link1",
        "/etc",
        "link1.whl",
        "http://127.0.0.1:1/link1.whl",
        "git+https://127.0.0.1/link1",
        "'link1 @ file:///etc/passwd'",
        "'link1; import os'",
        "-e .",
        "'link1\u2028link2'",
    ],
)
def test_options_paths_and_addresses_are_refused(notebook: FrontEnd, index: Index, text: str) -> None:
    index.asked.clear()
    cell = notebook.run(f"%sandbox install {text}", stop_on_error=False)
    assert cell.error["ename"] == "CommandError"
    assert index.asked == []


def test_a_file_of_requirements_is_read_as_it_is_on_this_machine(notebook: FrontEnd, kernel: KernelProcess) -> None:
    (kernel.connection_file.parent / "marked.txt").write_bytes(b"\xef\xbb\xbffromfile >= 1, < 2\n")
    cell = notebook.run("%sandbox install -r marked.txt\nopen('marked.txt', 'w').write('nothing')")
    assert (cell.status, "Cells have changed" in cell.stream()) == ("ok", False)
    assert "Cells have changed marked.txt" in notebook.run("%sandbox install -r marked.txt").stream()


def test_a_file_of_requirements_is_read(notebook: FrontEnd, kernel: KernelProcess) -> None:
    folder = kernel.connection_file.parent
    (folder / "requirements.txt").write_text(
        "# ours\nfromfile >= 1, \\\n  < 2  # older\n\nlink6; python_version > '3'\n"
    )
    cell = notebook.run("%sandbox install -r requirements.txt\nimport fromfile; fromfile.version")
    assert cell.result == "'1.5'"
    (folder / "evil.txt").write_text("link6\n--index-url http://127.0.0.1:1\n")
    assert "Line 2 of the requirements" in notebook.run("%sandbox install -r evil.txt").error["evalue"]
    for line, instead in (
        ("-r other.txt", "put the lines of that file into this one"),
        ("-c other.txt", "behind the packages' names"),
        ("link6==1 --hash=sha256:00", "hashes would not be checked"),
        ("--index-url=http://127.0.0.1:1", "pip configuration"),
    ):
        (folder / "options.txt").write_text(line)
        assert instead in notebook.run("%sandbox install -r options.txt", stop_on_error=False).error["evalue"]
    (folder / "away.txt").symlink_to("/etc/hostname")
    for name in ("away.txt", "/etc/hostname", "../config.py"):
        assert (
            "must be one file in the notebook's folder" in notebook.run(f"%sandbox install -r {name}").error["evalue"]
        )


def test_pip_in_a_cell_names_the_command(notebook: FrontEnd) -> None:
    cell = notebook.run("%pip install link1-that-there-is-not")
    assert "`%sandbox install PACKAGE …`" in cell.stream("stderr")
    assert "%sandbox install" not in notebook.run("%pip --version").stream("stderr")


def test_an_interrupted_install_leaves_nothing(notebook: FrontEnd, index: Index) -> None:
    index.add(wheel("large", files={"large.py": b"", "large.bin": b"\x01\x02" * 1_000_000}))
    cell = notebook.cell("%sandbox install large")
    notebook.until(lambda: "Collecting large" in cell.stream())
    notebook.interrupt()
    assert notebook.finish(cell).status == "error"
    left = notebook.run("import os; [name for name in os.listdir('/opt/sandbox-packages') if 'wheels' in name]")
    assert left.result == "[]"


def question(cell: Exchange) -> str:
    (msg,) = cell.questions
    return str(msg["content"]["prompt"])


def test_it_asks_first_and_is_denied_where_nobody_can_answer(index: Index, tmp_path: Path) -> None:
    with running(tmp_path, environment=index.environment) as process:
        notebook = process.front_end()
        index.asked.clear()
        error = notebook.run("%sandbox install asked_for", allow_stdin=False).error["evalue"]
        assert 'approvals = {"install": "allow"}' in error
        for answer, status in (("n", "error"), ("y", "ok")):
            assert index.asked == []
            cell = notebook.cell("%sandbox install asked_for")
            notebook.until(lambda cell=cell: bool(cell.questions))  # type: ignore[misc]
            assert "asked_for" in question(cell)
            notebook.answer(answer)
            assert notebook.finish(cell).status == status, cell.reply
        assert notebook.run("import asked_for; asked_for.version").result == "'1.0'"


# ---- a sandbox whose environment is not on this machine


class Context:
    """A CommandContext that allows everything and keeps what is written."""

    def __init__(self, session: SandboxSession) -> None:
        self.session = session
        self.text = ""

    def write(self, text: str, *, error: bool = False) -> None:
        self.text += text

    def display(
        self,
        data: dict[str, Any],
        metadata: dict[str, Any] | None = None,
        *,
        display_id: str = "",
        update: bool = False,
    ) -> None:
        assert display_id

    async def ask(self, prompt: str) -> str:
        return "y"


class Deaf:
    """A listener that is told nothing."""

    def on_message(self, parts: list[Buffer]) -> None:
        pass

    def on_excess(self, parts: list[Buffer], size: int) -> None:
        pass

    def on_ready(self) -> None:
        pass

    def on_ended(self, error: SandboxKernelError) -> None:
        pass


@pytest.fixture
async def elsewhere(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SandboxSession]:
    """A session whose provider does not say which interpreter of this machine its cells see."""
    for name, value in {**index.environment, "SANDBOX_PACKAGES": str(tmp_path / "packages")}.items():
        monkeypatch.setenv(name, value)
    log = EventLog(path=str(tmp_path / "log"))
    session = SandboxSession(Deaf(), provider=ProcessProvider(), log=log, directory=tmp_path)
    yield session
    await session.close()


async def test_a_sandbox_elsewhere_says_which_wheels_fit(elsewhere: SandboxSession, tmp_path: Path) -> None:
    context = Context(elsewhere)
    await run_line("install link5 nativebox", context)
    assert "Installed 3 packages" in context.text
    assert "imported before" not in context.text.lower()
    assert {"link5.py", "link6.py", "nativebox"} < {path.name for path in (tmp_path / "packages").iterdir()}
    assert not list((tmp_path / "packages").glob(".wheels-*"))


async def test_what_a_sandbox_says_of_its_python_is_not_an_option_of_pip(
    elsewhere: SandboxSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lying() -> dict[str, Any]:
        return {"version": "3.11", "implementation": "cp", "abi": "", "platforms": ["--index-url=http://127.0.0.1:1"]}

    monkeypatch.setattr(elsewhere, "describe_packages", lying)
    with pytest.raises(CommandError, match="does not say which Python"):
        await run_line("install link5", Context(elsewhere))
