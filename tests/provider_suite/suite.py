"""The suite itself. Subclass it, and give the fixture `provider`."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from sandbox_kernel.errors import (
    InvocationError,
    NotFoundError,
    QuotaError,
    SandboxConnectionError,
    SandboxError,
    SandboxLostError,
)
from sandbox_kernel.lifecycle import State
from sandbox_kernel.providers.base import FileEntry, IsolationLevel, Provider

from .notebook import Notebook, opened


async def pieces(content: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    """Give a content as it comes from a file."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def found_after(entries: AsyncIterator[FileEntry], count: int) -> AsyncIterator[FileEntry]:
    """Give what comes after so many entries."""
    async for entry in entries:
        count -= 1
        if count <= 0:
            yield entry


class ProviderSuite:
    """Tests that every provider passes."""

    beside: Sequence[str] = ()
    """Names of what is in the working folder of each new sandbox, sorted."""

    @pytest.fixture
    async def notebook(self, provider: Provider, tmp_path: Path) -> AsyncIterator[Notebook]:
        """A notebook whose sandbox runs."""
        folder = tmp_path / "notebook"
        folder.mkdir()
        async with opened(provider, folder) as made:
            yield made

    @pytest.fixture
    def make_with_folder(self) -> Callable[[Path], Provider]:
        """Return what makes a provider whose sandboxes show the notebook's folder, with layers in the folder given."""
        pytest.skip("this provider's sandboxes do not show the notebook's folder")

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A notebook's folder, which is the working directory."""
        path = tmp_path / "project"
        (path / "sub").mkdir(parents=True)
        (path / "data.csv").write_text("a,b\n")
        (path / "sub/file").write_text("mine")
        (path / ".env").write_text("TOKEN=1")
        monkeypatch.chdir(path)
        return path

    # ---- lifecycle

    async def test_cells_run_and_keep_their_variables(self, notebook: Notebook) -> None:
        assert (await notebook.run("x = 20")).reply["status"] == "ok"
        assert (await notebook.run("x + 1")).value == "21"
        assert (await notebook.run("1/0")).reply["ename"] == "ZeroDivisionError"
        assert (await notebook.run("x")).value == "20"

    async def test_what_it_is_is_told(self, notebook: Notebook, provider: Provider) -> None:
        info = notebook.session.info
        assert info.provider == provider.name
        assert info.sandbox_id
        assert info.isolation in {level.value for level in IsolationLevel}
        assert re.fullmatch(r"\d+\.\d+\..+", info.python)
        assert all(isinstance(text, str) for row in info.details.items() for text in row)

    async def test_it_is_listed_as_long_as_it_lives(self, notebook: Notebook, provider: Provider) -> None:
        sandbox_id = notebook.session.info.sandbox_id
        assert sandbox_id in {record.sandbox_id for record in await provider.list()}
        await notebook.session.stop()
        assert sandbox_id not in {record.sandbox_id for record in await provider.list()}

    async def test_one_that_was_stopped_can_be_started_again_and_is_another(self, notebook: Notebook) -> None:
        before = notebook.session.info.sandbox_id
        await notebook.run("x = 1; open('file', 'w').close()")
        await notebook.session.stop()
        assert notebook.session.state is State.INACTIVE
        await notebook.session.start()
        assert notebook.session.info.sandbox_id != before
        assert (await notebook.run("import os\n'x' in dir(), os.path.exists('file')")).value == "(False, False)"

    async def test_closing_is_idempotent(self, provider: Provider, tmp_path: Path) -> None:
        async with opened(provider, tmp_path) as notebook:
            sandbox = notebook.session._sandbox
            assert sandbox is not None
        await sandbox.close()
        await sandbox.close()

    async def test_restart_renews_python_and_keeps_files(self, notebook: Notebook) -> None:
        before = notebook.session.info.sandbox_id
        await notebook.run("x = 1; open('file', 'w').close()")
        await notebook.session.restart()
        assert notebook.session.info.sandbox_id == before
        assert (await notebook.run("import os\n'x' in dir(), os.path.exists('file')")).value == "(False, True)"

    async def test_two_share_nothing(self, notebook: Notebook, provider: Provider, tmp_path: Path) -> None:
        async with opened(provider, tmp_path) as other:
            await notebook.run("x = 1; open('/tmp/file', 'w').write('mine')")
            seen = await other.run("import os\n'x' in dir(), os.path.exists('/tmp/file')")
            assert seen.value == "(False, False)"

    # ---- pausing

    async def test_pause_stops_what_runs_and_keeps_variables(self, notebook: Notebook, provider: Provider) -> None:
        if not provider.capabilities.pause:
            pytest.skip("this provider's sandboxes cannot be paused")
        cell = notebook.send("import time\nfor n in range(10_000):\n    print(n, flush=True); time.sleep(0.01)")
        await notebook.until(lambda: "5\n" in cell.printed)
        await notebook.session.pause()
        await asyncio.sleep(0.3)
        before = cell.printed
        await asyncio.sleep(0.5)
        assert cell.printed == before
        await notebook.session.resume()
        await notebook.until(lambda: len(cell.printed) > len(before))
        notebook.session.interrupt()
        await notebook.until(lambda: cell.done)
        assert cell.reply["ename"] == "KeyboardInterrupt"
        assert int((await notebook.run("n")).value) > 5

    # ---- files

    async def test_files_go_in_and_come_out_as_they_are(self, notebook: Notebook) -> None:
        content = os.urandom(3_000_001)
        files = notebook.session.files
        assert await files.write("folder/data.bin", pieces(content), mode=0o640) == len(content)
        assert b"".join([chunk async for chunk in files.read("folder/data.bin")]) == content
        (entry,) = [entry async for entry in files.list("folder/*")]
        assert (entry.path, entry.kind, entry.size, entry.mode) == ("folder/data.bin", "file", len(content), 0o640)
        code = "import hashlib\nhashlib.sha256(open('folder/data.bin', 'rb').read()).hexdigest()[:8]"
        import hashlib

        assert (await notebook.run(code)).value == repr(hashlib.sha256(content).hexdigest()[:8])

    async def test_files_of_cells_are_seen_and_removed(self, notebook: Notebook) -> None:
        files = notebook.session.files
        await notebook.run("import os\nos.makedirs('a/b')\nopen('a/b/c', 'w').write('text')\nopen('a/.hidden', 'w')")
        found = {entry.path: entry.kind async for entry in files.list("a", recursive=True)}
        assert found == {"a": "folder", "a/b": "folder", "a/b/c": "file", "a/.hidden": "file"}
        await files.remove("a/b/c")
        await files.remove("a", recursive=True)
        assert (await notebook.run("sorted(os.listdir('.'))")).value == repr([*self.beside])

    async def test_an_empty_file_is_one(self, notebook: Notebook) -> None:
        assert await notebook.session.files.write("empty", pieces(b"")) == 0
        assert [chunk async for chunk in notebook.session.files.read("empty")] == []

    async def test_what_is_wrong_with_a_file_is_told(self, notebook: Notebook) -> None:
        files = notebook.session.files
        await notebook.run("import os\nos.mkdir('folder')\nos.mkfifo('fifo')\nopen('large', 'wb').write(bytes(1000))")
        with pytest.raises(NotFoundError, match="absent"):
            await anext(files.read("absent"))
        with pytest.raises(NotFoundError, match="absent"):
            await anext(files.list("absent*"))
        with pytest.raises(NotFoundError, match="absent"):
            await files.remove("absent")
        with pytest.raises(InvocationError, match="folder"):
            await anext(files.read("folder"))
        with pytest.raises(InvocationError, match="fifo"):
            await anext(files.read("fifo"))
        with pytest.raises(InvocationError, match="folder"):
            await files.write("folder", pieces(b"x"))
        with pytest.raises(QuotaError, match="large"):
            await anext(files.read("large", limit=999))
        assert (await notebook.run("1")).value == "1"

    async def test_a_file_that_was_not_sent_whole_is_not_there(self, notebook: Notebook) -> None:
        async def broken() -> AsyncIterator[bytes]:
            yield bytes(100_000)
            raise OSError("the disk is gone")

        with pytest.raises(OSError, match="the disk is gone"):
            await notebook.session.files.write("file", broken())
        await asyncio.sleep(0.2)
        assert (await notebook.run("import os\nsorted(os.listdir('.'))")).value == repr([*self.beside])

    async def test_a_list_that_is_too_long_says_so(self, notebook: Notebook) -> None:
        await notebook.run("for n in range(20): open(f'file{n}', 'w').close()")
        found = notebook.session.files.list("*", limit=10)
        with pytest.raises(QuotaError, match="more than 10"):
            await anext(found_after(found, 11))

    # ---- the notebook's folder

    async def test_cells_read_beside_the_notebook_and_see_no_secrets(
        self, make_with_folder: Callable[[Path], Provider], folder: Path, tmp_path: Path
    ) -> None:
        async with opened(make_with_folder(tmp_path / "layers"), folder, tmp_path) as notebook:
            cell = await notebook.run(
                "import os\nopen('data.csv').read(), open('sub/file').read(), sorted(os.listdir())"
            )
            found = sorted(["data.csv", "sub", *self.beside])
            assert cell.value == repr(("a,b\n", "mine", found))
            (folder / "later.txt").write_text("later")
            (folder / "id_rsa").write_text("key")
            notebook.session.before_cell()
            found = sorted(["data.csv", "later.txt", "sub", *self.beside])
            assert (await notebook.run("sorted(os.listdir())")).value == repr(found)

    async def test_changes_wait_for_the_user(
        self, make_with_folder: Callable[[Path], Provider], folder: Path, tmp_path: Path
    ) -> None:
        async with opened(make_with_folder(tmp_path / "layers"), folder, tmp_path) as notebook:
            await notebook.run(
                "import os\nopen('data.csv', 'a').write('1,2\\n'); os.remove('sub/file'); os.mkdir('new')\n"
                "open('new/file', 'w').write('n'); open('.env', 'w').write('mine'); os.mkfifo('fifo')"
            )
            assert (folder / "data.csv").read_text() == "a,b\n"
            workspace = notebook.session.changes
            assert workspace is not None
            found = {change.path: change for change in await workspace.read()}
            assert {path: (one.action.value, one.kind.value, bool(one.refused)) for path, one in found.items()} == {
                "data.csv": ("changed", "file", False),
                "sub/file": ("removed", "file", False),
                "new": ("added", "folder", False),
                "new/file": ("added", "file", False),
                ".env": ("added", "file", True),
                "fifo": ("added", "other", True),
            }
            assert await workspace.texts(found["data.csv"]) == (b"a,b\n", b"a,b\n1,2\n")
            outcome = await workspace.discard([found["sub/file"]])
            assert outcome.refused == []
            assert (await notebook.run("open('sub/file').read()")).value == "'mine'"
            wanted = ("data.csv", "new", "new/file")
            outcome = await workspace.apply([one for one in await workspace.read() if one.path in wanted])
            assert outcome.refused == []
            assert (folder / "data.csv").read_text() == "a,b\n1,2\n"
            assert (folder / "new/file").read_text() == "n"
            assert (folder / ".env").read_text() == "TOKEN=1"
            assert {change.path for change in await workspace.read()} == {".env", "fifo"}

    async def test_what_was_not_applied_is_there_in_the_next_sandbox(
        self, make_with_folder: Callable[[Path], Provider], folder: Path, tmp_path: Path
    ) -> None:
        async with opened(make_with_folder(tmp_path / "layers"), folder, tmp_path) as notebook:
            await notebook.run("import os\nopen('data.csv', 'w').write('cell'); os.remove('sub/file')")
            await notebook.session.stop()
            await notebook.session.start()
            assert (await notebook.run("import os\nopen('data.csv').read(), os.listdir('sub')")).value == "('cell', [])"
            workspace = notebook.session.changes
            assert workspace is not None
            assert {change.path for change in await workspace.read()} == {"data.csv", "sub/file"}
            assert (folder / "data.csv").read_text() == "a,b\n"

    # ---- commands

    async def test_commands_tell_output_and_status(self, notebook: Notebook) -> None:
        command = notebook.session.shell("echo out; echo err >&2; cat absent; exit 7")
        said = b"".join([chunk async for chunk in command]).decode()
        assert said.startswith("out\nerr\n")
        assert "absent" in said
        assert command.exit_code == 7

    async def test_commands_end_when_they_are_told(self, notebook: Notebook) -> None:
        command = notebook.session.shell("echo begun; sleep 1000")
        stream = aiter(command)
        assert await anext(stream) == b"begun\n"
        command.kill()
        assert [chunk async for chunk in stream] == []
        assert command.exit_code == -9

    # ---- the link

    async def test_interrupt_ends_a_cell_and_keeps_variables(self, notebook: Notebook) -> None:
        cell = notebook.send("x = 5\nimport time\nprint('begun', flush=True)\ntime.sleep(1000)")
        await notebook.until(lambda: "begun" in cell.printed)
        notebook.session.interrupt()
        await notebook.until(lambda: cell.done)
        assert cell.reply["ename"] == "KeyboardInterrupt"
        assert (await notebook.run("x")).value == "5"

    async def test_interrupt_passes_a_flood_of_output(self, notebook: Notebook) -> None:
        cell = notebook.send("print('begun', flush=True)\nwhile True: print('x' * 10_000)")
        await notebook.until(lambda: len(cell.printed) > 1_000_000)
        notebook.session.interrupt()
        await notebook.until(lambda: cell.done)
        assert cell.reply["ename"] == "KeyboardInterrupt"

    async def test_output_is_whole_and_in_order(self, notebook: Notebook) -> None:
        cell = await notebook.run("for n in range(50_000): print(n, 'x' * 50)")
        lines = cell.printed.splitlines()
        assert [int(line.split()[0]) for line in lines] == list(range(50_000))

    async def test_large_messages_come_through(self, notebook: Notebook) -> None:
        cell = await notebook.run("from IPython.display import HTML\nHTML('<p>' + 'x' * 20_000_000)")
        (data,) = [content["data"] for kind, content in cell.outputs if kind == "execute_result"]
        assert len(data["text/html"]) == 20_000_003
        text = "y" * 5_000_000
        assert (await notebook.run(f"len({text!r})")).value == "5000000"

    # ---- errors

    async def test_an_unknown_sandbox_is_told(self, provider: Provider) -> None:
        with pytest.raises(SandboxError) as caught:
            await provider.connect("no-such-sandbox")
        assert not caught.value.retryable

    async def test_python_that_dies_is_renewed(self, notebook: Notebook) -> None:
        notebook.send("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
        await notebook.until(lambda: bool(notebook.ended))
        await notebook.until(lambda: notebook.session.ready)
        assert (await notebook.run("'os' in dir()")).value == "False"

    async def test_a_sandbox_that_ends_is_lost_and_the_next_one_starts(self, notebook: Notebook) -> None:
        before = notebook.session.info.sandbox_id
        notebook.send("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)")
        await notebook.until(lambda: notebook.session.state is State.ERROR)
        assert isinstance(notebook.ended[-1], SandboxLostError)
        assert "bridge" in str(notebook.ended[-1])
        with pytest.raises(SandboxConnectionError):
            notebook.session.shell("true")
        await notebook.session.start()
        assert notebook.session.info.sandbox_id != before
        assert (await notebook.run("1")).value == "1"
