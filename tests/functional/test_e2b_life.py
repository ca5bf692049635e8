"""A notebook's sandbox at E2B: paused and resumed, by itself and by others, prolonged, copied, kept, lost."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the emulator runs local sandboxes, on Linux", allow_module_level=True)

from sandbox_kernel.errors import SandboxLostError
from sandbox_kernel.lifecycle import State
from sandbox_kernel.providers.e2b.sandbox import E2BSandbox
from tests.emulators.e2b.process import KEY, EmulatorProcess

from .e2b_notebook import AskedNotebook, opened, provider_of

pytestmark = pytest.mark.usefixtures("e2b_key")


def sandbox_of(notebook: AskedNotebook) -> E2BSandbox:
    sandbox = notebook.session._sandbox
    assert isinstance(sandbox, E2BSandbox)
    return sandbox


def state_at(emulator: EmulatorProcess, notebook: AskedNotebook) -> str:
    states: dict[str, str] = emulator.report()["sandboxes"]
    return states.get(sandbox_of(notebook).sandbox_id, "")


async def test_a_pause_in_the_middle_of_a_streaming_cell_loses_nothing(
    emulator: EmulatorProcess, tmp_path: Path
) -> None:
    async with opened(emulator, tmp_path) as notebook:
        cell = notebook.send("import time\nfor n in range(300):\n    print(n, flush=True); time.sleep(0.01)")
        await notebook.until(lambda: "20\n" in cell.printed)
        await notebook.session.pause()
        assert state_at(emulator, notebook) == "paused"
        before = cell.printed
        await asyncio.sleep(10)
        assert cell.printed == before
        await notebook.session.resume()
        await notebook.until(lambda: cell.done)
        assert [int(line) for line in cell.printed.split()] == list(range(300))
        assert cell.reply["status"] == "ok"


async def test_an_idle_sandbox_is_paused_and_goes_on_with_its_variables(
    emulator: EmulatorProcess, tmp_path: Path
) -> None:
    async with opened(emulator, tmp_path, idle_timeout=1.0) as notebook:
        session = notebook.session
        session.idle_since = lambda: 0.0
        await notebook.run("x = 5")
        await asyncio.sleep(1.5)
        assert session.state is State.ACTIVE, "a cell counts as running"
        idle = time.time()
        session.idle_since = lambda: idle
        await notebook.until(lambda: session.state is State.PAUSED)
        assert state_at(emulator, notebook) == "paused"
        session.idle_since = lambda: 0.0
        await session.resume()
        assert (await notebook.run("x")).value == "5"


async def test_a_sandbox_whose_time_is_over_is_paused_by_the_service_and_the_next_cell_resumes_it(
    emulator: EmulatorProcess, tmp_path: Path
) -> None:
    async with opened(emulator, tmp_path, timeout=3) as notebook:
        session = notebook.session
        idle = time.time()
        session.idle_since = lambda: idle
        await notebook.run("x = 6")
        await notebook.until(lambda: session.state is State.PAUSED)
        assert state_at(emulator, notebook) == "paused"
        await session.resume()
        assert (await notebook.run("x")).value == "6"
        assert "goes on" in session.greeting()


async def test_its_time_is_prolonged_while_a_cell_runs(emulator: EmulatorProcess, tmp_path: Path) -> None:
    async with opened(emulator, tmp_path, timeout=3, auto_pause=False) as notebook:
        notebook.session.idle_since = lambda: 0.0
        cell = await notebook.run("import time\nfor n in range(6):\n    print(n, flush=True); time.sleep(1)")
        assert cell.printed.split() == [str(n) for n in range(6)]
        details = notebook.session.info.details
        assert "s, unless a cell runs" in details["ends by itself in"]


async def test_a_sandbox_that_was_paused_by_another_program_while_a_cell_runs_goes_on(
    emulator: EmulatorProcess, tmp_path: Path
) -> None:
    async with opened(emulator, tmp_path) as notebook:
        notebook.session.idle_since = lambda: 0.0
        cell = notebook.send("import time\nfor n in range(100):\n    print(n, flush=True); time.sleep(0.02)")
        await notebook.until(lambda: "9\n" in cell.printed)
        await sandbox_of(notebook)._client().pause(sandbox_of(notebook).sandbox_id)
        await notebook.until(lambda: cell.done)
        assert [int(line) for line in cell.printed.split()] == list(range(100))


async def test_pausing_what_is_paused_is_no_error(emulator: EmulatorProcess, tmp_path: Path) -> None:
    """The service says 409."""
    async with opened(emulator, tmp_path) as notebook:
        sandbox = sandbox_of(notebook)
        await notebook.run("x = 1")
        await sandbox._client().pause(sandbox.sandbox_id)
        await notebook.session.pause()
        assert notebook.session.state is State.PAUSED
        await notebook.session.resume()
        assert (await notebook.run("x")).value == "1"


async def test_what_is_killed_while_it_is_paused_is_told_and_the_next_cell_starts_afresh(
    emulator: EmulatorProcess, tmp_path: Path
) -> None:
    async with opened(emulator, tmp_path) as notebook:
        await notebook.run("x = 1")
        await notebook.session.pause()
        assert await sandbox_of(notebook)._client().kill(sandbox_of(notebook).sandbox_id)
        with pytest.raises(SandboxLostError, match="ended while it was paused"):
            await notebook.session.resume()
        await notebook.session.stop()
        await notebook.session.start()
        assert (await notebook.run("'x' in dir()")).value == "False"


async def test_a_sandbox_that_ends_in_mid_cell_says_why(emulator: EmulatorProcess, tmp_path: Path) -> None:
    async with opened(emulator, tmp_path, timeout=2, auto_pause=False) as notebook:
        idle = time.time()
        notebook.session.idle_since = lambda: idle
        cell = notebook.send("print('begun', flush=True)\nimport time; time.sleep(1000)")
        await notebook.until(lambda: notebook.session.state is State.ERROR)
        assert cell.printed == "begun\n"
        assert "its time was over" in str(notebook.ended[-1])
        await notebook.session.start()
        assert (await notebook.run("1 + 1")).value == "2"


async def test_another_kernel_process_goes_on_with_a_sandbox(emulator: EmulatorProcess, tmp_path: Path) -> None:
    async with opened(emulator, tmp_path) as notebook:
        await notebook.run("x = 9")
        sandbox_id = await notebook.session.detach()
        provider = provider_of(emulator)
        other = AskedNotebook(provider, tmp_path / "notebook", tmp_path)
        try:
            await other.session.attach(sandbox_id)
            assert (await other.run("x")).value == "9"
            assert [one.sandbox_id for one in await provider.list()] == [sandbox_id]
            assert await provider.owner() == sandbox_of(other).owner
        finally:
            await other.session.close()


async def test_a_copy_has_the_files_and_runs_beside_the_first(emulator: EmulatorProcess, tmp_path: Path) -> None:
    async with opened(emulator, tmp_path) as notebook:
        await notebook.run("open('file.txt', 'w').write('first')")
        copy_id = await sandbox_of(notebook).fork()
        assert copy_id != sandbox_of(notebook).sandbox_id
        other = AskedNotebook(provider_of(emulator), tmp_path / "notebook", tmp_path)
        try:
            await other.session.attach(copy_id)
            assert (await other.run("open('file.txt').read()")).value == "'first'"
            await other.run("open('file.txt', 'w').write('second')")
            assert (await notebook.run("open('file.txt').read()")).value == "'first'"
        finally:
            await other.session.close()


async def test_a_snapshot_is_what_new_sandboxes_are_made_of(emulator: EmulatorProcess, tmp_path: Path) -> None:
    async with opened(emulator, tmp_path) as notebook:
        await notebook.run("open('file.txt', 'w').write('kept')")
        snapshot = await sandbox_of(notebook).snapshot("mine")
        async with opened(emulator, tmp_path, template=snapshot) as other:
            assert (await other.run("open('file.txt').read()")).value == "'kept'"


async def test_status_tells_costs_times_and_template(emulator: EmulatorProcess, tmp_path: Path) -> None:
    async with opened(emulator, tmp_path, hourly_rate=0.1, rates_of="2026-11-01", idle_timeout=60) as notebook:
        details = notebook.session.info.details
        assert details["template"] == "tpl1code"
        assert "$0.1 an hour, rates of 2026-11-01" in details["cost so far"]
        assert "pauses by itself in" in details
        assert details["paused when idle for"]


async def test_no_secret_is_in_the_sandbox_the_log_or_the_metadata(emulator: EmulatorProcess, tmp_path: Path) -> None:
    async with opened(emulator, tmp_path) as notebook:
        code = (
            "import os, subprocess\n"
            "run = subprocess.run('env; cat ~/.sandbox-kernel/log', shell=True, capture_output=True)\n"
            "run.stdout.decode() + str(dict(os.environ))"
        )
        seen = (await notebook.run(code)).value
        assert KEY not in seen
        assert "DOOR_TOKEN" not in seen
        assert KEY not in repr(sandbox_of(notebook).access) + repr(notebook.session)
        detail = await sandbox_of(notebook)._client().get(sandbox_of(notebook).sandbox_id)
        assert KEY not in str(detail.metadata)
    assert KEY not in (tmp_path / "session.log").read_text()
