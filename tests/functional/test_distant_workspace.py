"""The notebook's folder in sandboxes on an executor: what goes there, what comes back, and what is kept when."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("an executor's sandboxes need bubblewrap, which only Linux has", allow_module_level=True)
pytest.importorskip("grpc")

from traitlets.config import Config

import sandbox_kernel
from sandbox_kernel.errors import CommandError
from sandbox_kernel.lifecycle import State
from sandbox_kernel.providers.executor.provider import ExecutorProvider
from sandbox_kernel.workspace.changes import Change
from sandbox_kernel.workspace.layers import remove_tree
from tests.chaos.faults import NETWORK, Fault
from tests.chaos.proxy import ChaosProxy
from tests.executor_process import ExecutorProcess, serving
from tests.ports import write_connection
from tests.provider_suite.notebook import PATIENCE, Notebook, opened
from tests.waiting import until

from .client import Exchange, FrontEnd, KernelProcess, kernel_environment, spawn_with


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExecutorProcess]:
    """One executor for all tests that do not end it."""
    with serving(tmp_path_factory.mktemp("executor"), Executor={"max_sandboxes": 20}) as made:
        yield made


class Place:
    """A notebook's folder, and where its layers are kept."""

    def __init__(self, executor: ExecutorProcess, path: Path) -> None:
        self.executor = executor
        self.path = path
        self.folder = path / "project"
        (self.folder / "sub").mkdir(parents=True)
        (self.folder / "data.csv").write_text("a,b\n")
        (self.folder / "sub/file").write_text("mine\n")
        self._kernels: list[KernelProcess] = []

    @asynccontextmanager
    async def notebook(self, **options: Any) -> AsyncIterator[Notebook]:
        """Give a session without a kernel process; the options are those of Workspace."""
        config = self.executor.config()
        config.Workspace = Config(layers=str(self.path / "layers"), **options)
        async with opened(ExecutorProvider(config=config), self.folder, self.path) as made:
            yield made

    def kernel(self, *arguments: str, notebook: str = "", **options: Any) -> KernelProcess:
        """Start a kernel process in the folder; the options are the provider's."""
        path = self.path / f"connection-{len(self._kernels)}.json"
        write_connection(path)
        environment = {**kernel_environment(self.path)}
        if notebook:
            environment["JPY_SESSION_NAME"] = notebook
        every = [*self.executor.arguments(**options), *arguments]
        kernel = spawn_with(path, *every, environment=environment, folder=self.folder)
        self._kernels.append(kernel)
        return kernel

    def again(self, kernel: KernelProcess) -> KernelProcess:
        """Start a kernel process in the place of one that was killed, as a server does."""
        made = spawn_with(
            kernel.connection_file,
            *self.executor.arguments(),
            environment=kernel_environment(self.path),
            folder=self.folder,
        )
        self._kernels.append(made)
        return made

    def end(self) -> None:
        for kernel in self._kernels:
            kernel.end()
        remove_tree(str(self.path / "layers"))


@pytest.fixture
def place(executor: ExecutorProcess, tmp_path: Path) -> Iterator[Place]:
    made = Place(executor, tmp_path)
    yield made
    made.end()


async def changes(notebook: Notebook) -> dict[str, Change]:
    """Return what cells changed, by path."""
    assert notebook.session.changes is not None
    return {change.path: change for change in await notebook.session.changes.read()}


async def seen(notebook: Notebook) -> set[str]:
    """Return what is in the sandbox's copy."""
    code = "import os\n[os.path.relpath(os.path.join(a, n)) for a, b, c in os.walk('.') for n in b + c]"
    return set(re.findall(r"'([^']*)'", (await notebook.run(code)).value))


def answered(front_end: FrontEnd, code: str, *answers: str) -> Exchange:
    """Run a cell that asks so many questions."""
    cell = front_end.cell(code)
    for number, answer in enumerate(answers, 1):
        front_end.until(lambda number=number: len(cell.questions) == number or cell.done)  # type: ignore[misc]
        assert len(cell.questions) == number, cell.messages
        front_end.answer(answer)
    return front_end.finish(cell)


# ---- there


async def test_the_folder_is_there_when_the_first_cell_runs(place: Place) -> None:
    (place.folder / ".env").write_text("TOKEN=1")
    (place.folder / "key.pem").write_text("secret")
    os.link(place.folder / "key.pem", place.folder / "innocent.txt")
    (place.folder / "link").symlink_to("sub/file")
    (place.folder / "outwards").symlink_to("/etc/passwd")
    (place.folder / "run.sh").write_text("#!/bin/sh\necho ran")
    (place.folder / "run.sh").chmod(0o750)
    os.mkfifo(place.folder / "fifo")
    content = os.urandom(3_000_001)
    (place.folder / "data.bin").write_bytes(content)
    async with place.notebook() as notebook:
        assert await seen(notebook) == {"data.csv", "sub", "sub/file", "link", "run.sh", "data.bin"}
        assert (await notebook.run("open('link').read(), os.popen('./run.sh').read()")).value == "('mine\\n', 'ran\\n')"
        found = (await notebook.run("import hashlib\nhashlib.sha256(open('data.bin', 'rb').read()).hexdigest()")).value
        import hashlib

        assert found == repr(hashlib.sha256(content).hexdigest())
        assert "outwards (it is a link with an absolute path)" in notebook.session.greeting()
        assert await changes(notebook) == {}


async def test_what_is_too_much_is_left_out_and_told(place: Place) -> None:
    (place.folder / "large").write_bytes(bytes(2000))
    (place.folder / "a").write_bytes(bytes(900))
    (place.folder / "b").write_bytes(bytes(900))
    (place.folder / ".venv").mkdir()
    (place.folder / ".venv/x").touch()
    async with place.notebook(sync_file_size=1000, sync_size=1000) as notebook:
        assert await seen(notebook) == {"a", "data.csv", "sub", "sub/file"}
        said = notebook.session.greeting()
        assert "large (it is larger than Workspace.sync_file_size)" in said
        assert "b (together the files are larger than Workspace.sync_size)" in said
        assert ".venv (Workspace.sync_skipped)" in notebook.session.info.details["not copied"]
        # What the sandbox never got is no change of a cell's; what cells make of that name is.
        assert await changes(notebook) == {}
        await notebook.run("open('large', 'w').write('mine'); os.mkdir('.venv'); open('.venv/y', 'w').close()")
        found = await changes(notebook)
        assert set(found) == {"large"}
        assert found["large"].conflict


async def test_only_what_changed_travels_again(place: Place) -> None:
    (place.folder / "large").write_bytes(os.urandom(5_000_000))
    async with place.notebook() as notebook:
        (place.folder / "sub/file").write_text("yours")
        sent = await notebook.session.folder.synchronise()
        assert sent is not None
        assert set(sent.entries) == {"sub/file"}
        again = await notebook.session.folder.synchronise()
        assert again is not None
        assert again.entries == {}


async def test_a_cell_sees_what_changed_on_this_machine_before_it(place: Place) -> None:
    async with place.notebook() as notebook:
        (place.folder / "data.csv").write_text("new")
        (place.folder / "added").write_text("x")
        (place.folder / "sub/file").unlink()
        (place.folder / "sub").rmdir()
        assert notebook.session.before_cell() == ""
        assert (await notebook.run("open('data.csv').read()")).value == "'new'"
        assert await seen(notebook) == {"data.csv", "added"}
        assert await changes(notebook) == {}


async def test_a_cell_sees_it_some_time_later_in_a_large_folder(place: Place) -> None:
    for number in range(400):
        (place.folder / f"{number}").touch()
    async with place.notebook() as notebook:
        (place.folder / "data.csv").write_text("new")

        content = ""
        while content != "'new'":
            notebook.session.before_cell()
            content = (await notebook.run("import time; time.sleep(0.2)\nopen('data.csv').read()")).value


async def test_what_a_cell_changed_is_not_overwritten(place: Place) -> None:
    async with place.notebook() as notebook:
        await notebook.run("open('data.csv', 'w').write('cell'); os = __import__('os'); os.remove('sub/file')")
        (place.folder / "data.csv").write_text("host")
        (place.folder / "sub/file").write_text("host")
        notebook.session.before_cell()
        assert (await notebook.run("open('data.csv').read(), os.listdir('sub')")).value == "('cell', [])"
        found = await changes(notebook)
        assert {path: change.conflict for path, change in found.items()} == {"data.csv": True, "sub/file": True}


async def test_much_that_changed_waits_for_the_command(place: Place) -> None:
    async with place.notebook() as notebook:
        (place.folder / "large").write_bytes(bytes(9_000_000))
        assert "large changed on this machine; `%sandbox sync`" in notebook.session.before_cell()
        assert notebook.session.before_cell() == ""
        assert "large" not in await seen(notebook)
        await notebook.session.folder.synchronise()
        assert "large" in await seen(notebook)


async def test_a_secret_that_appears_later_is_never_sent(place: Place) -> None:
    async with place.notebook() as notebook:
        (place.folder / ".env").write_text("TOKEN=1")
        (place.folder / "sub/id_rsa").write_text("key")
        os.link(place.folder / "sub/id_rsa", place.folder / "harmless")
        notebook.session.before_cell()
        await notebook.session.folder.synchronise()
        assert await seen(notebook) == {"data.csv", "sub", "sub/file"}
        # A file that becomes another name of a secret is taken away from the sandbox.
        (place.folder / "data.csv").unlink()
        os.link(place.folder / "sub/id_rsa", place.folder / "data.csv")
        notebook.session.before_cell()
        assert await seen(notebook) == {"sub", "sub/file"}


async def test_a_private_workspace_is_empty(place: Place) -> None:
    async with place.notebook(mode="private") as notebook:
        assert await seen(notebook) == set()
        assert notebook.session.changes is None
        assert "private" in notebook.session.info.details["workspace"]


async def test_a_read_only_one_is_a_copy_that_is_not_compared(place: Place) -> None:
    async with place.notebook(mode="readonly") as notebook:
        await notebook.run("open('data.csv', 'w').write('cell')")
        assert notebook.session.changes is None
        assert "goes with the sandbox" in notebook.session.info.details["workspace"]
    assert (place.folder / "data.csv").read_text() == "a,b\n"


async def test_readwrite_is_not_to_be_had_and_says_so(place: Place) -> None:
    async with place.notebook(mode="readwrite") as notebook:
        await notebook.run("open('data.csv', 'w').write('cell')")
        assert "cannot write to the folder itself" in notebook.session.info.details["workspace"]
        assert set(await changes(notebook)) == {"data.csv"}
    assert (place.folder / "data.csv").read_text() == "a,b\n"


# ---- back


async def test_changes_are_shown_applied_and_discarded(place: Place) -> None:
    async with place.notebook() as notebook:
        await notebook.run(
            "import os\nopen('data.csv', 'a').write('1,2\\n'); os.chmod('data.csv', 0o755); os.makedirs('out/deep')\n"
            "open('out/deep/new', 'w').write('n'); os.remove('sub/file')\n"
            "os.symlink('data.csv', 'link'); os.symlink('/etc/passwd', 'bad')"
        )
        found = await changes(notebook)
        told = {path: (change.action.value, change.kind.value, bool(change.refused)) for path, change in found.items()}
        assert told == {
            "data.csv": ("changed", "file", False),
            "out": ("added", "folder", False),
            "out/deep": ("added", "folder", False),
            "out/deep/new": ("added", "file", False),
            "sub/file": ("removed", "file", False),
            "link": ("added", "link", False),
            "bad": ("added", "link", True),
        }
        workspace = notebook.session.changes
        assert workspace is not None
        assert await workspace.texts(found["data.csv"]) == (b"a,b\n", b"a,b\n1,2\n")
        outcome = await workspace.discard([found["sub/file"], found["link"], found["bad"]])
        assert outcome.refused == []
        assert (await notebook.run("open('sub/file').read(), os.path.lexists('bad')")).value == "('mine\\n', False)"
        outcome = await workspace.apply([change for path, change in (await changes(notebook)).items()])
        assert outcome.refused == []
        assert (place.folder / "data.csv").read_text() == "a,b\n1,2\n"
        assert (place.folder / "data.csv").stat().st_mode & 0o100
        assert (place.folder / "out/deep/new").read_text() == "n"
        assert await changes(notebook) == {}
        # From now on it is the folder's, so what changes on this machine goes there again.
        (place.folder / "data.csv").write_text("again")
        notebook.session.before_cell()
        assert (await notebook.run("open('data.csv').read()")).value == "'again'"


async def test_a_file_that_became_a_folder_and_the_other_way_round(place: Place) -> None:
    async with place.notebook() as notebook:
        await notebook.run(
            "import os, shutil\nos.remove('data.csv'); os.mkdir('data.csv'); open('data.csv/in', 'w').write('i')\n"
            "shutil.rmtree('sub'); open('sub', 'w').write('file')"
        )
        workspace = notebook.session.changes
        assert workspace is not None
        outcome = await workspace.apply(await workspace.read())
        assert outcome.refused == []
        assert (place.folder / "data.csv/in").read_text() == "i"
        assert (place.folder / "sub").read_text() == "file"
        assert await changes(notebook) == {}
        (place.folder / "sub").unlink()
        (place.folder / "sub").mkdir()
        (place.folder / "sub/x").write_text("x")
        notebook.session.before_cell()
        assert await seen(notebook) == {"data.csv", "data.csv/in", "sub", "sub/x"}


async def test_what_is_too_large_to_come_back_is_shown_and_not_applied(place: Place) -> None:
    async with place.notebook(sync_file_size=1_000_000) as notebook:
        await notebook.run("open('big', 'wb').write(bytes(1_000_001)); f = open('sparse', 'wb'); f.truncate(1 << 32)")
        found = await changes(notebook)
        assert {path: bool(change.refused) for path, change in found.items()} == {"big": True, "sparse": True}
    async with place.notebook() as notebook:
        assert "Not kept of what cells made in the sandbox before this one: big, sparse" in notebook.session.greeting()


# ---- kept


async def test_changes_outlive_the_sandbox(place: Place) -> None:
    async with place.notebook() as notebook:
        await notebook.run("import os\nopen('data.csv', 'w').write('cell'); os.remove('sub/file'); os.mkdir('empty')")
    assert (place.folder / "data.csv").read_text() == "a,b\n"
    async with place.notebook() as notebook:
        assert "were not applied are here again" in notebook.session.greeting()
        assert await seen(notebook) == {"data.csv", "sub", "empty"}
        assert (await notebook.run("open('data.csv').read()")).value == "'cell'"
        assert set(await changes(notebook)) == {"data.csv", "sub/file", "empty"}
        # What this machine changed meanwhile is not hidden by that.
        await notebook.session.stop()
        (place.folder / "data.csv").write_text("host")
        await notebook.session.start()
        found = await changes(notebook)
        assert {path for path, change in found.items() if change.conflict} == {"data.csv"}


async def test_what_a_maps_workers_change_ends_with_them(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in kernel_environment(place.path).items():
        if name.startswith("JUPYTER_"):
            monkeypatch.setenv(name, value)
    config = place.executor.config()
    config.Workspace = Config(layers=str(place.path / "layers"))
    # The notebook's own would go on.
    config.SandboxSession = Config(provider="executor", on_shutdown={"executor": "detach"})
    settings: dict[str, Any] = {"config": config, "directory": place.folder}

    def change(_: int) -> list[str]:
        from pathlib import Path

        found = sorted(str(path) for path in Path().rglob("*"))
        Path("new").write_text("a worker's")
        Path("data.csv").unlink(missing_ok=True)
        return found

    provider = ExecutorProvider(config=config)
    before = {one.sandbox_id for one in await provider.list()}
    for _ in range(2):
        assert await sandbox_kernel.map(change, [1], sandboxes=1, **settings) == [["data.csv", "sub", "sub/file"]]
    assert {one.sandbox_id for one in await provider.list()} == before
    await provider.disconnect()
    assert not list(place.path.glob("layers/**/layer.json"))
    async with place.notebook() as notebook:
        assert notebook.session.greeting() == ""
        assert await seen(notebook) == {"data.csv", "sub", "sub/file"}


async def test_changes_are_fetched_while_nothing_runs_and_outlive_a_lost_sandbox(place: Place, tmp_path: Path) -> None:
    with serving(tmp_path / "own") as own:
        place.executor = own
        async with place.notebook(sync_interval=0.2) as notebook:
            notebook.session.idle_since = lambda: 1.0
            await notebook.run("open('early', 'w').write('x')")
            notebook.session.before_cell()
            layers = place.path / "layers"
            await until(lambda: bool(list(layers.glob("*/data/upper/early"))), PATIENCE)
            own.kill()
            own.start()
            await notebook.until(lambda: notebook.session.state is State.ERROR)
            assert "is kept; what they changed later" in str(notebook.ended[-1])
            await notebook.session.start()
            assert "early" in await seen(notebook)


async def test_what_is_lost_with_a_sandbox_is_told(place: Place) -> None:
    async with place.notebook() as notebook:
        notebook.send("open('early', 'w').write('x')\nimport os, signal\nos.kill(os.getppid(), signal.SIGKILL)")
        await notebook.until(lambda: notebook.session.state is State.ERROR)
        assert "What its cells changed in the notebook's folder and was not applied is gone, too." in str(
            notebook.ended[-1]
        )


async def test_a_notebook_that_is_told_late_gets_what_was_kept_of_it(place: Place) -> None:
    async with place.notebook() as notebook:
        assert not notebook.session.belongs_to("/somewhere/one.ipynb")
        await notebook.run("open('one', 'w').close()")
    async with place.notebook() as notebook:
        assert await seen(notebook) == {"data.csv", "sub", "sub/file"}
        assert notebook.session.belongs_to("/somewhere/one.ipynb")
        await notebook.session.stop()
        await notebook.session.start()
        assert await seen(notebook) == {"data.csv", "sub", "sub/file", "one"}
        assert set(await changes(notebook)) == {"one"}


async def test_two_sandboxes_of_a_notebook_do_not_share_changes(place: Place) -> None:
    async with place.notebook() as notebook:
        await notebook.run("open('first', 'w').close()")
        first = await notebook.session.detach()
        await notebook.session.start()
        assert "first" in await seen(notebook)
        await notebook.run("open('second', 'w').close()")
        await notebook.session.stop()
        await notebook.session.attach(first)
        assert await seen(notebook) == {"data.csv", "sub", "sub/file", "first"}
        assert set(await changes(notebook)) == {"first"}
        await notebook.session.stop()
    kept = {path.name for path in (place.path / "layers").glob("*/data/upper/*")}
    assert kept == {"first", "second"}


async def test_a_paused_sandbox_is_woken_for_its_changes(place: Place) -> None:
    async with place.notebook() as notebook:
        await notebook.run("open('early', 'w').write('x')")
        await notebook.session.pause()
    assert list((place.path / "layers").glob("*/data/upper/early"))


# ---- cells that are up to something


async def test_many_files_are_told_and_do_no_harm(place: Place) -> None:
    async with place.notebook() as notebook:
        await notebook.run("import os\nos.mkdir('many')\nfor n in range(100_001): open(f'many/{n}', 'w').close()")
        with pytest.raises(CommandError, match="more than 100000 files"):
            await changes(notebook)
        await notebook.run("import shutil; shutil.rmtree('many')")
        assert await changes(notebook) == {}


async def test_odd_entries_do_no_harm(place: Place) -> None:
    (place.path / "outside").write_text("outside")
    async with place.notebook() as notebook:
        await notebook.run(
            "import os, socket\nopen('new\\nline', 'w').write('x'); open(b'\\xff\\xfe', 'w').write('y')\n"
            "os.mkfifo('fifo'); s = socket.socket(socket.AF_UNIX); s.bind('sock'); os.symlink('../outside', 'out')\n"
            "os.mkdir('shut'); open('shut/in', 'w').close(); os.chmod('shut', 0); os.symlink('sub', 'way')\n"
            "os.rename('sub', 'moved'); os.symlink('/etc', 'sub')"
        )
        found = await changes(notebook)
        refused = {path for path, change in found.items() if change.refused}
        assert {"fifo", "sock", "out", "shut", "sub"} <= refused
        workspace = notebook.session.changes
        assert workspace is not None
        outcome = await workspace.apply([change for change in found.values() if not change.refused])
        assert outcome.refused == []
        assert (place.folder / "new\nline").read_text() == "x"
        assert (place.folder / os.fsdecode(b"\xff\xfe")).read_text() == "y"
        assert (place.path / "outside").read_text() == "outside"
        # A link that is not applied takes nobody's place.
        assert (place.folder / "sub/file").read_text() == "mine\n"


async def test_folders_that_are_nested_too_deep_are_told(place: Place) -> None:
    async with place.notebook() as notebook:
        await notebook.run(
            "import os\nhere = os.getcwd()\nfor n in range(300): os.mkdir('d'); os.chdir('d')\nos.chdir(here)"
        )
        with pytest.raises(CommandError, match="more than 200 deep"):
            await changes(notebook)


async def test_a_fetch_that_is_interrupted_leaves_nothing_wrong(place: Place) -> None:
    async with place.notebook() as notebook:
        await notebook.run("import os\nfor n in range(50): open(f'{n}', 'wb').write(os.urandom(500_000))")
        workspace = notebook.session.changes
        assert workspace is not None
        copy = notebook.session.folder._copy
        assert copy is not None
        pieces: list[str] = []

        def moved(path: str, size: int) -> None:
            pieces.append(path)
            if len(set(pieces)) == 20:
                reading.cancel()

        copy.step = lambda label, size: moved
        reading = asyncio.ensure_future(workspace.read())
        await asyncio.wait([reading])
        assert reading.cancelled()
        assert len(list((place.path / "layers").glob("*/data/upper/*"))) >= 10
        await notebook.run("for n in range(49): os.remove(str(n))")
        assert set(await changes(notebook)) == {"49"}


async def test_a_sandbox_without_room_gets_what_fits_and_the_rest_is_named(place: Place, tmp_path: Path) -> None:
    (place.folder / "large").write_bytes(bytes(3 * 1024**2))
    limits = {"file_size": 1024**2}
    with serving(tmp_path / "own", LocalProvider=limits) as own:
        place.executor = own
        async with place.notebook() as notebook:
            assert "large (File too large)" in notebook.session.greeting()
            assert await seen(notebook) == {"data.csv", "sub", "sub/file"}
            # That it is not there is no change of a cell's.
            assert await changes(notebook) == {}


# ---- connections that fail


async def test_a_copy_is_whole_whatever_happens_to_connections(place: Place) -> None:
    content = {f"file{number}": os.urandom(20_000) for number in range(100)} | {"large": os.urandom(5_000_000)}
    for name, data in content.items():
        (place.folder / name).write_bytes(data)
    proxy = ChaosProxy(lambda: ("127.0.0.1", place.executor.port))
    config = place.executor.config(address=f"localhost:{proxy.port}", keepalive=1.0, keepalive_timeout=0.5)
    config.Workspace = Config(layers=str(place.path / "layers"))
    try:
        for kind in NETWORK:
            proxy.arm(Fault(kind, upstream=True, after=300_000, seconds=0.2, fraction=0.5))
        async with opened(ExecutorProvider(config=config), place.folder, place.path) as notebook:
            assert proxy.waiting == 0
            for kind in NETWORK:
                proxy.arm(Fault(kind, upstream=False, after=300_000, seconds=0.2, fraction=0.5))
            await notebook.run(
                "import os\nfor name in os.listdir():\n"
                "    if os.path.isfile(name): open(f'out-{name}', 'wb').write(open(name, 'rb').read())"
            )
            workspace = notebook.session.changes
            assert workspace is not None
            outcome = await workspace.apply(await workspace.read())
            assert proxy.waiting == 0
            assert outcome.refused == []
    finally:
        proxy.close()
    assert {name: (place.folder / f"out-{name}").read_bytes() for name in content} == content


# ---- in whole kernels


def test_the_first_cell_shows_how_far_a_long_copy_has_come(place: Place) -> None:
    (place.folder / "large").write_bytes(os.urandom(10_000_000))
    proxy = ChaosProxy(lambda: ("127.0.0.1", place.executor.port))
    try:
        for number in range(3):
            proxy.arm(Fault("stall", upstream=True, after=2_000_000 * (number + 1), seconds=0.5, fraction=1.0))
        kernel = place.kernel(address=f"localhost:{proxy.port}")
        cell = kernel.front_end().run("import os; os.path.getsize('large')")
        cell.assert_ended_once()
        assert cell.result == "10000000"
        first, *_ = [content["data"]["text/plain"] for content in cell.contents("display_data")]
        *_, last = [content["data"]["text/plain"] for content in cell.contents("update_display_data")]
        assert first.startswith("Upload ")
        assert "100%, 10 MB of 10 MB" in last
    finally:
        proxy.close()


def test_commands_show_ask_and_apply(place: Place) -> None:
    front_end = place.kernel().front_end()
    assert front_end.run("open('data.csv').read()").result == "'a,b\\n'"
    front_end.run("open('data.csv', 'a').write('1,2\\n'); open('out.txt', 'w').write('new\\n')")
    diff = front_end.run("%sandbox diff").stream()
    assert "~ data.csv  8 bytes" in diff
    assert "    +1,2" in diff
    assert "1 added, 1 changed" in diff
    (place.folder / "data.csv").write_text("mine\n")
    assert "changed on this machine, too" in front_end.run("%sandbox diff --stat").stream()
    kept = answered(front_end, "%sandbox apply", "y", "n")
    assert "lose yours" in kept.questions[-1]["content"]["prompt"]
    assert "Not applied: data.csv: changed on this machine, too" in kept.stream("stderr")
    assert (place.folder / "data.csv").read_text() == "mine\n"
    assert (place.folder / "out.txt").read_text() == "new\n"
    applied = answered(front_end, "%sandbox apply data.csv", "y", "y")
    assert "Applied: 1 changed." in applied.stream()
    assert (place.folder / "data.csv").read_text() == "a,b\n1,2\n"
    (place.folder / "large").write_bytes(bytes(9_000_000))
    assert "Copied to the sandbox: 1 change, 9 MB" in front_end.run("%sandbox sync").stream()
    (shown,) = front_end.run("%sandbox status").contents("display_data")
    assert "copied to the sandbox: 5 entries" in shown["data"]["text/plain"]


def test_a_conflict_is_never_decided_by_the_configuration(place: Place) -> None:
    front_end = place.kernel("--SandboxSession.approvals=apply=allow").front_end()
    front_end.run("open('data.csv', 'w').write('cell')")
    (place.folder / "data.csv").write_text("mine")
    cell = front_end.run("%sandbox apply", allow_stdin=False)
    assert "Not applied: data.csv" in cell.stream("stderr")
    assert (place.folder / "data.csv").read_text() == "mine"


def test_a_kernel_process_that_was_killed_finds_the_copy_as_it_was(place: Place) -> None:
    kernel = place.kernel()
    front_end = kernel.front_end()
    front_end.run("import os\nx = 1\nopen('cell', 'w').write('c'); os.remove('sub/file')")
    kernel.process.kill()
    kernel.process.wait()
    (place.folder / "data.csv").write_text("host")
    again = place.again(kernel).front_end()
    assert again.run("x, open('data.csv').read()").result == "(1, 'host')"
    assert again.run("sorted(os.listdir())").result == "['cell', 'data.csv', 'sub']"
    diff = again.run("%sandbox diff --stat").stream()
    assert "1 added, 1 removed" in diff
    assert "data.csv" not in diff


def test_a_shut_down_kernel_leaves_its_changes_and_no_sandbox(place: Place) -> None:
    kernel = place.kernel(notebook="/somewhere/one.ipynb")
    front_end = kernel.front_end()
    front_end.run("open('cell', 'w').write('c')")
    assert front_end.ask("shutdown_request", {"restart": False}, channel="control")["status"] == "ok"
    kernel.process.wait(10)
    again = place.kernel(notebook="/somewhere/one.ipynb").front_end()
    first = again.run("open('cell').read()")
    assert first.result == "'c'"
    assert "were not applied" in first.stream("stderr")
