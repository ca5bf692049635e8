"""The vendors' own SDKs, unchanged, work against the emulator: it is faithful enough to be developed against."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the emulator runs local sandboxes, on Linux", allow_module_level=True)
pytest.importorskip("e2b_code_interpreter")
pytest.importorskip("ppio_sandbox")

from tests.emulators.e2b.process import (
    DOMAIN,
    EmulatorProcess,
    certificate_for,
    emulating,
    resolve_locally,
)

# The SDKs leave their clients open, and use what their dependencies are going to change.
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(autouse=True)
def environment(emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    yield
    # Here their open clients are let go of, where warnings are ignored.
    gc.collect()


def test_the_code_interpreter_runs_code_streams_and_keeps_variables() -> None:
    from e2b_code_interpreter import Sandbox

    with Sandbox.create(timeout=60, metadata={"who": "sync"}, envs={"GIVEN": "7"}) as sandbox:
        seen: list[str] = []
        done = sandbox.run_code("x = 20\nprint('hi')\nx + 1", on_stdout=lambda one: seen.append(one.line))
        assert (seen, done.text, done.execution_count) == (["hi\n"], "21", 1)
        assert sandbox.run_code("import os; os.environ['GIVEN']").text == "7"
        failed = sandbox.run_code("1 / 0")
        assert failed.error is not None
        assert (failed.error.name, failed.error.value) == ("ZeroDivisionError", "division by zero")
        plot = sandbox.run_code("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
        assert [bool(result.png) for result in plot.results] == [True]
        assert sandbox.run_code("1 + 1", language="javascript").text == "2"
        assert sandbox.run_code("const a: number = 4; a * 2", language="typescript").text == "8"
        context = sandbox.create_code_context(cwd="/tmp")
        assert sandbox.run_code("import os; os.getcwd()", context=context).text == "/tmp"
        assert sandbox.run_code("'x' in dir()", context=context).text == "False"
        sandbox.restart_code_context(context)
        sandbox.remove_code_context(context)
        found = Sandbox.list().next_items()
        assert sandbox.sandbox_id in [one.sandbox_id for one in found]


def test_code_that_takes_too_long_is_interrupted_by_leaving() -> None:
    from e2b_code_interpreter import Sandbox, TimeoutException

    with Sandbox.create(timeout=60) as sandbox:
        sandbox.run_code("x = 1")
        with pytest.raises(TimeoutException):
            sandbox.run_code("import time\nx = 2\ntime.sleep(1000)\nx = 3", timeout=1)
        assert sandbox.run_code("x").text == "2"


def test_files_and_commands() -> None:
    from e2b_code_interpreter import CommandExitException, Sandbox

    with Sandbox.create(timeout=60) as sandbox:
        sandbox.files.write("a/b.txt", "text")
        sandbox.files.write("a/c.bin", b"\r\n\x00\xff--\r\n")
        assert sandbox.files.read("a/b.txt") == "text"
        assert bytes(sandbox.files.read("a/c.bin", format="bytes")) == b"\r\n\x00\xff--\r\n"
        assert [entry.name for entry in sandbox.files.list("a")] == ["b.txt", "c.bin"]
        sandbox.files.rename("a/b.txt", "d.txt")
        sandbox.files.make_dir("e")
        assert sandbox.files.exists("d.txt")
        sandbox.files.remove("d.txt")
        assert not sandbox.files.exists("d.txt")
        done = sandbox.commands.run("echo out; echo err >&2; pwd")
        assert (done.stdout, done.stderr) == ("out\n/home/user\n", "err\n")
        with pytest.raises(CommandExitException):
            sandbox.commands.run("exit 3")
        handle = sandbox.commands.run("cat", background=True, stdin=True)
        sandbox.commands.send_stdin(handle.pid, "said\n")
        assert next(iter(handle))[0] == "said\n"
        assert handle.kill()


def test_pausing_keeps_variables_and_what_is_paused_does_not_answer() -> None:
    from e2b_code_interpreter import Sandbox

    sandbox = Sandbox.create(timeout=60)
    sandbox.run_code("x = 5")
    assert sandbox.pause()
    assert not sandbox.is_running()
    assert not Sandbox.pause(sandbox.sandbox_id), "409: it is paused already"
    assert sandbox.get_info().state.value == "paused"
    sandbox = Sandbox.connect(sandbox.sandbox_id, timeout=60)
    assert sandbox.run_code("x").text == "5"
    sandbox.set_timeout(100)
    assert sandbox.kill()
    assert not sandbox.kill()


def test_snapshots_and_forks() -> None:
    from e2b_code_interpreter import Sandbox

    with Sandbox.create(timeout=60) as sandbox:
        sandbox.files.write("kept.txt", "kept")
        snapshot = sandbox.create_snapshot()
        (fork,) = sandbox.fork()
        assert not isinstance(fork, Exception)
        assert fork.files.read("kept.txt") == "kept"
        assert fork.kill()
        with Sandbox.create(snapshot.snapshot_id, timeout=60) as other:
            assert other.files.read("kept.txt") == "kept"


async def test_the_asynchronous_sdk() -> None:
    from e2b_code_interpreter import AsyncSandbox

    sandbox = await AsyncSandbox.create(timeout=60)
    try:
        await sandbox.run_code("x = 2")
        runs = [sandbox.run_code("x * 3"), sandbox.run_code("x * 4"), sandbox.commands.run("echo beside")]
        first, second, command = await asyncio.gather(*runs)
        assert (first.text, second.text, command.stdout) == ("6", "8", "beside\n")
        assert await sandbox.pause()
        await sandbox.connect(timeout=60)
        assert (await sandbox.run_code("x")).text == "2"
    finally:
        assert await sandbox.kill()


def test_silence_is_kept_alive() -> None:
    """Lines say every five seconds that there is nothing to say."""
    import httpx
    from e2b_code_interpreter import Sandbox

    with Sandbox.create(timeout=60) as sandbox:
        headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, "E2b-Sandbox-Port": "49999"}
        url = f"{sandbox.connection_config._sandbox_url}/execute"
        with httpx.stream(
            "POST", url, json={"code": "import time; time.sleep(6)"}, headers=headers, timeout=20
        ) as said:
            kinds = [json.loads(line)["type"] for line in said.iter_lines()]
        assert kinds == ["number_of_executions", "keepalive", "end_of_execution"]


@pytest.fixture(scope="module")
def with_tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[EmulatorProcess, Path]]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key, authority = certificate_for(folder, f"*.{DOMAIN}", "127.0.0.1")
    with emulating(folder, certificate=(certificate, key)) as running:
        yield running, authority


@pytest.fixture
def ppio(with_tls: tuple[EmulatorProcess, Path], monkeypatch: pytest.MonkeyPatch) -> EmulatorProcess:
    """PPIO's SDK finds sandboxes by host names, over TLS."""
    emulator, authority = with_tls
    resolve_locally(monkeypatch)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setenv("PPIO_API_KEY", "sk_local")
    monkeypatch.setenv("PPIO_ACCESS_TOKEN", "sk_local")
    monkeypatch.setenv("PPIO_DOMAIN", emulator.domain)
    monkeypatch.setenv("PPIO_API_URL", f"https://api.{emulator.domain}")
    return emulator


def test_ppios_sdk_works_by_host_names_over_tls(ppio: EmulatorProcess) -> None:
    from ppio_sandbox.code_interpreter import Sandbox

    with Sandbox.create(timeout=60) as sandbox:
        assert sandbox.run_code("x = 3\nx + 1").text == "4"
        sandbox.files.write("file.txt", "text")
        assert sandbox.files.read("file.txt") == "text"
        assert sandbox.commands.run("echo said").stdout == "said\n"


async def test_ppios_asynchronous_sdk(ppio: EmulatorProcess) -> None:
    from ppio_sandbox.code_interpreter import AsyncSandbox

    sandbox = await AsyncSandbox.create(timeout=60)
    assert (await sandbox.run_code("6 * 7")).text == "42"
    assert await sandbox.kill()


async def test_ppios_agent_client_works_when_its_template_manager_is_mended(ppio: EmulatorProcess) -> None:
    """Its release gives an argument to a client that has none; with that mended, it finds the emulator in order."""
    from ppio_sandbox.agent_runtime.client import AgentRuntimeClient
    from ppio_sandbox.core.api import AsyncApiClient

    client = AgentRuntimeClient(api_key="sk_local")
    manager = client.template_manager
    manager._client = AsyncApiClient(manager.connection_config, require_api_key=False, require_access_token=True)
    began = time.monotonic()
    said = await client.invoke_agent_runtime("echo-tpl2echo", json.dumps({"prompt": "hello", "other": 1}).encode())
    assert said["response"]["response"] == "You said: hello"
    assert said["response"]["received"] == {"prompt": "hello", "other": 1}
    stream = await client.invoke_agent_runtime(
        "echo-tpl2echo", json.dumps({"prompt": "a b c", "stream": "sse"}).encode(), said["runtimeSessionId"]
    )
    chunks = [json.loads(one["chunk"])["chunk"] async for one in stream]
    assert chunks == ["a", "b", "c"], time.monotonic() - began
    await client.close_all_sessions()
