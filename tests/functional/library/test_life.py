"""How a sandbox for a program is configured, starts and ends, and what it does with the folder."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from traitlets.config import Config

import sandbox_kernel
from sandbox_kernel import BlockingSandbox, Sandbox
from sandbox_kernel.errors import (
    ConfigurationError,
    SandboxLostError,
    StateError,
    UnknownProviderError,
)
from sandbox_kernel.library import Notice
from sandbox_kernel.lifecycle import State
from tests.waiting import until

if sys.platform != "linux":
    pytest.skip("the local provider needs bubblewrap, which only Linux has", allow_module_level=True)


async def test_sandbox_starts_with_its_first_use() -> None:
    async with Sandbox() as sandbox:
        assert sandbox.state is State.INACTIVE
        assert (await sandbox.run("1")).text == "1"
        assert sandbox.state is State.ACTIVE
        assert sandbox.info.provider in repr(sandbox)
    assert sandbox.state is State.CLOSED
    with pytest.raises(StateError, match="closed"):
        await sandbox.run("1")
    await sandbox.close()


async def test_without_auto_start_a_first_use_is_an_error() -> None:
    async with Sandbox(auto_start=False) as sandbox:
        with pytest.raises(StateError, match=r"call start\(\)"):
            await sandbox.run("1")
        await sandbox.start()
        assert (await sandbox.run("1")).text == "1"


async def test_create_starts_at_once() -> None:
    sandbox = await Sandbox.create()
    assert sandbox.state is State.ACTIVE
    await sandbox.close()


async def test_restart_stop_pause_and_resume(sandbox: Sandbox) -> None:
    await sandbox.run("name = 1")
    await sandbox.pause()
    assert sandbox.state is State.PAUSED
    await sandbox.resume()
    assert (await sandbox.run("name")).text == "1"
    await sandbox.pause()
    assert (await sandbox.run("name")).text == "1"
    for renew in (sandbox.restart, sandbox.stop):
        await renew()
        assert (await sandbox.run("'name' in globals()")).text == "False"
        await sandbox.run("name = 1")


async def test_cell_that_ends_its_python_is_told_and_the_next_runs_in_a_fresh_one(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxLostError, match="status 3"):
        await sandbox.run("import os; os._exit(3)")
    assert (await sandbox.run("1")).text == "1"


async def test_loss_between_two_cells_is_told_once(sandbox: Sandbox) -> None:
    await sandbox.run("import os, threading; threading.Timer(0.1, os._exit, [3]).start()")
    await until(lambda: sandbox.client.loss)
    with pytest.raises(SandboxLostError, match="variables are gone"):
        await sandbox.run("1")
    assert (await sandbox.run("1")).text == "1"


async def test_closing_ends_who_waits(sandbox: Sandbox) -> None:
    run = asyncio.create_task(sandbox.run("import time; time.sleep(600)"))
    await until(lambda: sandbox.client._current)
    await sandbox.close()
    with pytest.raises(StateError, match="closed"):
        await run


def test_sandbox_belongs_to_one_loop() -> None:
    async def use(sandbox: Sandbox) -> None:
        with pytest.raises(StateError, match="another event loop"):
            await sandbox.run("1")

    async def make() -> Sandbox:
        sandbox = await Sandbox.create()
        await sandbox.close()
        return sandbox

    asyncio.run(use(asyncio.run(make())))


# ---- configuration


def test_arguments_win_over_command_line_file_and_default(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/jupyter_sandbox_config.json").write_text(
        '{"LocalProvider": {"memory": "1 GiB", "processes": 100, "open_files": 128}}'
    )
    argv = ["--LocalProvider.memory=2 GiB", "--LocalProvider.processes=200"]
    with BlockingSandbox(memory="3 GiB", argv=argv, startup_timeout=50) as sandbox:
        code = "import resource\nresource.getrlimit(resource.RLIMIT_NOFILE)[0]"
        assert sandbox.run(code).text == "128"
        details = sandbox.info.details
    assert details["memory"].endswith("of 3 GiB")
    assert details["processes"].endswith("of 200")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"memroy": 1}, "did you mean memory"),
        ({"memory": "much"}, "memory"),
        ({"argv": ["--bogus"]}, "no option --bogus"),
        ({"argv": ["--config", "nowhere.py"]}, "no configuration file"),
    ],
)
def test_mistakes_are_told_where_the_sandbox_is_made(arguments: dict[str, object], reason: str) -> None:
    for kind in (Sandbox, BlockingSandbox):
        with pytest.raises(ConfigurationError, match=reason):
            kind(**arguments)  # type: ignore[arg-type]


def test_too_little_memory_is_told_where_the_sandbox_is_made_and_the_least_is_enough() -> None:
    with pytest.raises(ConfigurationError, match=r"memory.*no Python starts; give at least 64 MiB"):
        BlockingSandbox(memory="10 MiB")
    with BlockingSandbox(memory="64 MiB") as sandbox:
        assert sandbox.run("1 + 1").text == "2"


def test_unknown_provider_is_told_with_the_nearest() -> None:
    with pytest.raises(UnknownProviderError, match="did you mean 'local'"):
        Sandbox("locla")


# ---- the notebook's folder


async def told(sandbox: Sandbox) -> str:
    """Return what the next cell is told; an error where nothing can be hidden in a sandbox that runs."""
    try:
        return (await sandbox.run("1")).notice
    except SandboxLostError as exc:
        return str(exc)


async def test_secret_that_appears_is_hidden_before_the_next_cell(tmp_path: Path) -> None:
    async with Sandbox(directory=tmp_path) as sandbox:
        await sandbox.run("1")
        (tmp_path / "server.key").write_text("SECRET")
        assert "server.key appeared" in await told(sandbox)
        result = await sandbox.run("import os; print(os.path.exists('server.key'))")
        assert (result.stdout, result.stderr, result.notice) == ("False\n", "", "")


async def test_sandbox_that_cannot_hide_a_secret_is_given_up_with_one_error(tmp_path: Path) -> None:
    config = Config({"Workspace": {"mode": "readwrite"}})
    folder = tmp_path / "notebook"
    # Shown as it is, it must be readable by the sandbox's user.
    folder.mkdir(mode=0o755)
    async with Sandbox(directory=folder, config=config) as sandbox:
        await sandbox.run("kept = 1")
        (folder / "server.key").write_text("SECRET")
        with pytest.raises(SandboxLostError, match=r"server\.key appeared"):
            await sandbox.run("1")
        code = "print('kept' in dir(), 'SECRET' in open('server.key').read())"
        assert (await sandbox.run(code)).stdout == "False False\n"


async def test_kept_changes_are_told_once_and_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with Sandbox() as sandbox:
        assert (await sandbox.run("open('made', 'w').close()")).notice == ""
        if sandbox.session.changes is None:
            pytest.skip("no overlay can be had here")
    async with Sandbox() as sandbox:
        await sandbox.push(value=1)
        first = await anext(aiter(sandbox.stream("1")))
        assert isinstance(first, Notice)
        assert "not applied" in first.text
        assert (await sandbox.run("1")).notice == ""
    log = next((tmp_path / "runtime").glob("*.log")).read_text()
    assert "not applied" in log


async def test_a_programs_changes_are_not_the_notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = "import os; print(*sorted(name for name in os.listdir() if name[0] == '_'))"
    for name, before in [("_first", ""), ("_second", "_first")]:
        async with Sandbox() as notebook:
            # As `%%sandbox` and the kernel "Python (sandbox)" call those of a notebook.
            notebook.session.be_called("")
            assert (await notebook.run(names)).stdout.strip() == before
            if notebook.session.changes is None:
                pytest.skip("no overlay can be had here")
            await notebook.run(f"open({name!r}, 'w').close()")
        async with Sandbox() as program:
            assert (await program.run(names)).stdout.strip() == before.replace("first", "program")
            await program.run("open('_program', 'w').close()")


async def test_without_keep_changes_each_sandbox_begins_with_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    hidden = tmp_path / "hidden"
    hidden.write_text("not theirs")
    with pytest.raises(ConfigurationError, match="list of paths"):
        Sandbox(private_paths=str(hidden))
    code = "import os; print('new' in os.listdir(), 'hidden' in os.listdir(), open('file').read())"
    change = "open('file', 'w').write('changed'); open('new', 'w').close()"
    async with Sandbox(directory=tmp_path, keep_changes=False, private_paths=[str(hidden)]) as sandbox:
        for _ in range(2):
            result = await sandbox.run(code)
            assert (result.stdout, result.notice) == ("False False mine\n", "")
            if sandbox.session.changes is None:
                pytest.skip("no overlay can be had here")
            await sandbox.run(change)
            assert "end with the sandbox" in str(sandbox.info)
            await sandbox.stop()
    async with Sandbox(directory=tmp_path) as sandbox:
        assert (await sandbox.run(code)).stdout == "False True mine\n"


async def test_directory_is_the_folder_that_cells_see(tmp_path: Path) -> None:
    (tmp_path / "beside.txt").write_text("here")
    async with Sandbox(directory=tmp_path) as sandbox:
        assert (await sandbox.run("print(open('beside.txt').read())")).stdout == "here\n"


def test_directory_that_does_not_exist_is_told_where_the_sandbox_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere is no folder"):
        BlockingSandbox(directory=tmp_path / "nowhere")


def test_importing_the_package_is_light() -> None:
    code = "import sys, sandbox_kernel; print([name for name in sys.modules if name.startswith('sandbox_kernel.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'Sandbocks'"):
        sandbox_kernel.Sandbocks  # type: ignore[attr-defined] # noqa: B018
