"""Basic mode: the service's own interpreter runs the cells. docs/e2b.md lists what it can do, and what not."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the emulator runs local sandboxes, on Linux", allow_module_level=True)

from traitlets.config import Config

from sandbox_kernel.errors import InvocationError, NotFoundError, QuotaError, SandboxLostError
from sandbox_kernel.lifecycle import State
from sandbox_kernel.providers.base import GOES_ON
from sandbox_kernel.providers.e2b.basic import BasicSandbox
from sandbox_kernel.providers.e2b.provider import E2BProvider
from tests.emulators.e2b.process import EmulatorProcess
from tests.provider_suite.notebook import Notebook, Ran

Opened = Callable[..., AbstractAsyncContextManager[Notebook]]


@pytest.fixture
def opened(emulator: EmulatorProcess, tmp_path: Path, e2b_key: None) -> Opened:
    @asynccontextmanager
    async def opened(**options: Any) -> AsyncIterator[Notebook]:
        given = {"api_url": emulator.url, "sandbox_url": emulator.url, "mode": "basic", "timeout": 600, **options}
        provider = E2BProvider(config=Config(E2BProvider=given))
        (tmp_path / "folder").mkdir(exist_ok=True)
        notebook = Notebook(provider, tmp_path / "folder", tmp_path)
        try:
            await notebook.session.start()
            yield notebook
        finally:
            await notebook.session.close()

    return opened


def sandbox_of(notebook: Notebook) -> BasicSandbox:
    sandbox = notebook.session._sandbox
    assert isinstance(sandbox, BasicSandbox)
    return sandbox


async def paused(emulator: EmulatorProcess, notebook: Notebook) -> None:
    """Wait until the service has paused it."""
    await notebook.until(lambda: emulator.report()["sandboxes"][notebook.session.info.sandbox_id] == "paused")


async def begun(notebook: Notebook, code: str) -> Ran:
    """Send the cell, and wait until it has said that it began."""
    cell = notebook.send(code)
    await notebook.until(lambda: "begun" in cell.printed)
    return cell


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


async def test_cells_print_show_and_keep_variables(opened: Opened) -> None:
    async with opened() as notebook:
        assert notebook.session.info.mode == "basic"
        first = await notebook.run("import sys\nx = 20\nprint('out')\nprint('err', file=sys.stderr)\nx + 1")
        assert (first.printed, first.value, first.reply["execution_count"]) == ("out\nerr\n", "21", 1)
        second = await notebook.run("from IPython.display import HTML, display\ndisplay(HTML('<b>x</b>'))\nx")
        (shown,) = [content["data"] for kind, content in second.outputs if kind == "display_data"]
        assert shown["text/html"] == "<b>x</b>"
        assert (second.value, second.reply["execution_count"]) == ("20", 2)


async def test_an_error_has_its_name_value_and_traceback(opened: Opened) -> None:
    async with opened() as notebook:
        cell = await notebook.run("1 / 0")
        assert (cell.reply["ename"], cell.reply["evalue"]) == ("ZeroDivisionError", "division by zero")
        (error,) = [content for kind, content in cell.outputs if kind == "error"]
        assert "ZeroDivisionError" in "".join(error["traceback"])
        assert (await notebook.run("2")).value == "2"


async def test_output_comes_while_the_cell_runs(opened: Opened) -> None:
    async with opened() as notebook:
        cell = await begun(notebook, "import time\nprint('begun', flush=True)\ntime.sleep(2)\nprint('done')")
        assert not cell.reply
        await notebook.until(lambda: cell.done)
        assert cell.printed == "begun\ndone\n"


async def test_an_interrupt_leaves_and_keeps_variables(opened: Opened) -> None:
    async with opened() as notebook:
        cell = await begun(notebook, "x = 5\nimport time\nprint('begun', flush=True)\ntime.sleep(1000)\nx = 6")
        notebook.session.interrupt()
        await notebook.until(lambda: cell.done)
        assert cell.reply["ename"] == "KeyboardInterrupt"
        assert (await notebook.run("x")).value == "5"


async def test_pause_and_resume_keep_variables(opened: Opened) -> None:
    async with opened() as notebook:
        await notebook.run("x = 7")
        await notebook.session.pause()
        await notebook.session.resume()
        assert (await notebook.run("x")).value == "7"


async def test_what_the_service_has_paused_goes_on_with_the_next_cell(
    opened: Opened, emulator: EmulatorProcess
) -> None:
    news: list[str] = []
    async with opened(timeout=2) as notebook:
        notebook.session.on_news = news.append
        idle = time.time()
        notebook.session.idle_since = lambda: idle
        await notebook.run("runs = []; x = 7")
        await paused(emulator, notebook)
        cell = await notebook.run("runs.append(1); x, len(runs)")
        assert (cell.reply["status"], cell.value) == ("ok", "(7, 1)")
        assert (news, notebook.session.state) == ([GOES_ON], State.ACTIVE)
        assert (await notebook.run("len(runs)")).value == "1", "it has run once"


@pytest.mark.parametrize("what", ["restart", "shell", "files"])
async def test_whatever_is_asked_of_a_paused_sandbox_lets_it_go_on(
    opened: Opened, emulator: EmulatorProcess, what: str
) -> None:
    async with opened() as notebook:
        session = notebook.session
        await notebook.run("x = 7; open('file.txt', 'w').write('kept')")
        await sandbox_of(notebook)._client().pause(session.info.sandbox_id)
        if what == "restart":
            await session.restart()
            assert (await notebook.run("'x' in dir()")).value == "False"
            return
        if what == "shell":
            command = session.shell("cat file.txt")
            assert b"".join([chunk async for chunk in command]) == b"kept"
        else:
            assert b"".join([piece async for piece in session.files.read("file.txt")]) == b"kept"
        assert (await notebook.run("x")).value == "7"


async def test_cells_that_wait_when_the_session_pauses_it_run_when_it_resumes_it(
    opened: Opened, emulator: EmulatorProcess
) -> None:
    async with opened() as notebook:
        first = await begun(notebook, "print('begun', flush=True)\nimport time; time.sleep(1000)")
        second = notebook.send("1 + 1")
        await notebook.session.pause()
        await notebook.until(lambda: first.done)
        # That the cell which waits does not wake the sandbox can only be seen by waiting.
        await asyncio.sleep(1)
        assert list(emulator.report()["sandboxes"].values()) == ["paused"]
        assert not second.done
        await notebook.session.resume()
        await notebook.until(lambda: second.done)
        assert second.value == "2"


async def test_a_502_of_another_gateway_does_not_run_a_cell_twice(opened: Opened, emulator: EmulatorProcess) -> None:
    """It may have passed the cell on."""
    async with opened() as notebook:
        emulator.fault("status", where="49999", path="/execute", status=502, body={"message": "bad gateway"})
        cell = await notebook.run("x = 1")
        assert (cell.reply["status"], "bad gateway" in cell.reply["evalue"]) == ("error", True)
        assert (await notebook.run("'x' in dir()")).value == "False"


async def test_what_was_ended_elsewhere_is_told_once_and_the_next_cell_runs_in_a_fresh_one(opened: Opened) -> None:
    async with opened() as notebook:
        session = notebook.session
        await notebook.run("x = 1")
        assert await sandbox_of(notebook)._client().kill(session.info.sandbox_id)
        cell = notebook.send("x")
        await notebook.until(lambda: session.state is State.ERROR)
        assert not cell.reply, "the session tells it"
        (error,) = notebook.ended
        assert isinstance(error, SandboxLostError)
        assert "somebody ended it" in str(error)
        await session.start()
        assert (await notebook.run("'x' in dir()")).value == "False"


async def test_restart_forgets_variables(opened: Opened) -> None:
    async with opened() as notebook:
        await notebook.run("x = 1")
        await notebook.session.restart()
        assert (await notebook.run("'x' in dir()")).value == "False"


@pytest.mark.parametrize(
    ("language", "code", "value"),
    [
        ("javascript", "const x = [1, 2]; console.log('out'); x.map(n => n * 2)", "[ 2, 4 ]"),
        ("typescript", "const x: number = 21; console.log('out'); x * 2", "42"),
    ],
)
async def test_other_languages(opened: Opened, language: str, code: str, value: str) -> None:
    async with opened(mode="auto", language=language) as notebook:
        assert notebook.session.info.mode == "basic"
        cell = await notebook.run(code)
        assert (cell.printed, cell.value) == ("out\n", value)
        assert (await notebook.run("throw new RangeError('no')")).reply["ename"] == "RangeError"


async def test_auto_falls_back_where_no_bridge_runs(opened: Opened) -> None:
    # The system's Python has no ipykernel, while the interpreter has one of its own.
    async with opened(mode="auto", python="/bin/false") as notebook:
        assert notebook.session.info.mode == "basic"
        assert (await notebook.run("1 + 1")).value == "2"


async def test_files_and_commands(opened: Opened) -> None:
    async with opened() as notebook:
        files = notebook.session.files
        data = bytes(range(256)) * 2000
        assert await files.write("folder/data.bin", pieces(data), mode=0o640) == len(data)
        assert b"".join([piece async for piece in files.read("folder/data.bin")]) == data
        assert (await notebook.run("len(open('folder/data.bin', 'rb').read())")).value == str(len(data))
        await notebook.run("open('folder/.hidden', 'w').close(); open('top.txt', 'w').close()")
        found = [entry async for entry in files.list("folder/*")]
        assert [(one.path, one.size, one.mode) for one in found] == [("folder/data.bin", len(data), 0o640)]
        below = {one.path: one.kind async for one in files.list("folder", recursive=True)}
        assert below == {"folder": "folder", "folder/data.bin": "file", "folder/.hidden": "file"}
        assert [one.path async for one in files.list("**/*.bin")] == ["folder/data.bin"]
        with pytest.raises(NotFoundError, match="absent"):
            await anext(files.read("absent"))
        with pytest.raises(NotFoundError, match="absent"):
            await anext(files.list("absent*"))
        with pytest.raises(QuotaError, match="are allowed"):
            await anext(files.read("folder/data.bin", limit=10))
        with pytest.raises(InvocationError, match="folder"):
            await files.write("folder", pieces(b"x"))
        with pytest.raises(InvocationError, match="not empty"):
            await files.remove("folder")
        await files.remove("folder", recursive=True)
        command = notebook.session.shell("echo out; ls; exit 3")
        assert b"".join([chunk async for chunk in command]) == b"out\ntop.txt\n"
        assert command.exit_code == 3


async def test_what_basic_mode_lacks_is_said(opened: Opened) -> None:
    async with opened() as notebook:
        cell = await notebook.run("input('name? ')")
        assert cell.reply["ename"] == "StdinNotImplementedError"
        with pytest.raises(InvocationError, match="bridge mode"):
            await notebook.session.describe_packages()
        assert "no completion" in notebook.session.info.details["language"]


async def test_a_connection_that_breaks_ends_the_cell_with_a_plain_word(
    opened: Opened, emulator: EmulatorProcess
) -> None:
    async with opened() as notebook:
        cell = await begun(notebook, "x = 1\nimport time\nprint('begun', flush=True)\ntime.sleep(1000)")
        emulator.cut()
        await notebook.until(lambda: cell.done)
        assert cell.reply["ename"] in ("InvocationError", "SandboxConnectionError")
        assert (await notebook.run("x")).value == "1"
        await asyncio.sleep(0)
