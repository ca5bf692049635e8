"""What the provider says and does, beside what every provider does (tests/provider_suite/test_agentcore.py)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from traitlets import TraitError

from sandbox_kernel.errors import (
    AuthenticationError,
    ConfigurationError,
    InvocationError,
    NotFoundError,
    QuotaError,
    SandboxConnectionError,
    SandboxKernelError,
    SandboxLostError,
    SessionError,
)
from sandbox_kernel.library.outputs import Notice, Stream
from sandbox_kernel.library.sandbox import Sandbox
from sandbox_kernel.link.protocol import Buffer
from sandbox_kernel.providers.agentcore.provider import AgentCoreProvider
from sandbox_kernel.providers.base import SandboxSpec
from tests.emulators.agentcore import AgentCore

from .conftest import Make

MB = 1024 * 1024


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(content), MB):
        yield content[begin : begin + MB]


# ---- starting


def test_the_sdk_is_imported_by_the_first_sandbox_and_not_before() -> None:
    import subprocess

    code = (
        "import sys, sandbox_kernel.app, sandbox_kernel.providers.agentcore.provider as p; p.AgentCoreProvider(); "
        "print([name for name in ('boto3', 'botocore', 'urllib3') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_a_start_is_three_calls_and_a_cell_is_one(make: Make, emulator: AgentCore) -> None:
    async with make() as sandbox:
        await sandbox.start()
        assert len(emulator.calls("StartCodeInterpreterSession")) == 1
        # While the start's last call still waits, a cell goes beside it.
        for code, most in (("0", 2), ("1", 1), ("print('x')", 1), ("import os", 1)):
            before = len(emulator.calls())
            assert (await sandbox.run(code)).ok
            assert 1 <= len(emulator.calls()) - before <= most


async def test_calls_carry_a_trace_and_are_logged_without_credentials(
    make: Make, emulator: AgentCore, tmp_path: Path
) -> None:
    async with make() as sandbox:
        await sandbox.run("1")
        assert all(call["trace"].startswith("Root=1-") for call in emulator.calls(""))
        said = repr(sandbox) + repr(sandbox.info) + repr(sandbox.session._provider)
        seen = (await sandbox.run("import os; print(dict(os.environ))")).stdout
        # The record of the sandbox among them.
        kept = b"".join(path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file())
        assert sandbox.info.sandbox_id.encode() in kept
    log = (tmp_path / "log").read_text()
    traces = {json.loads(line).get("traceId") for line in log.splitlines() if '"call"' in line}
    assert emulator.calls()[0]["trace"] in traces
    for text in (said, seen, log, kept.decode("latin-1")):
        assert "emulated-secret-key" not in text
        assert "AKIAEMULATOR" not in text


@pytest.mark.parametrize(
    "option",
    [
        {"session_timeout": 0},
        {"session_timeout": 28801},
        {"mode": "x"},
        {"service_session_name": "x" * 101},
        {"code_interpreter_identifier": "a/b"},
        {"code_interpreter_identifier": ""},
    ],
)
def test_options_are_checked_before_any_call(option: dict[str, object], make: Make, emulator: AgentCore) -> None:
    with pytest.raises((TraitError, ConfigurationError)):
        make(**option)
    assert emulator.calls("") == []


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ("deny", AuthenticationError, "AWS denies bedrock-agentcore:StartCodeInterpreterSession"),
        ("quota", QuotaError, "wait 5 s"),
    ],
)
async def test_what_will_not_get_better_is_told_at_once(
    fault: str, kind: type[Exception], text: str, make: Make, emulator: AgentCore
) -> None:
    emulator.plan(fault, operation="StartCodeInterpreterSession")
    async with make() as sandbox:
        with pytest.raises(kind, match=text):
            await sandbox.start()
        assert len(emulator.calls("StartCodeInterpreterSession")) == 1
        assert (await sandbox.run("1")).text == "1"


async def test_what_may_get_better_is_tried_three_times(make: Make, emulator: AgentCore) -> None:
    emulator.plan("error", operation="StartCodeInterpreterSession", count=3)
    async with make() as sandbox:
        with pytest.raises(SandboxConnectionError, match="AgentCore failed"):
            await sandbox.start()
        assert len(emulator.calls("StartCodeInterpreterSession")) == 3


async def test_a_lost_answer_to_the_start_makes_no_second_session(make: Make, emulator: AgentCore) -> None:
    emulator.plan("drop", operation="StartCodeInterpreterSession")
    async with make() as sandbox:
        await sandbox.run("1")
        provider = sandbox.session._provider
        running = {record.sandbox_id for record in await provider.list()}
        assert sandbox.info.sandbox_id in running
    assert sandbox.info.sandbox_id not in {record.sandbox_id for record in await provider.list()}
    assert len(emulator.calls("StartCodeInterpreterSession")) == 2
    assert len(running) == len({record.sandbox_id for record in await provider.list()}) + 1


async def test_without_credentials_the_notebook_says_what_to_do(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with make() as sandbox:
        with pytest.raises(AuthenticationError, match="aws configure"):
            await sandbox.start()


async def test_an_unknown_interpreter_or_profile_is_named(make: Make) -> None:
    async with make(code_interpreter_identifier="absent-0123456789") as sandbox:
        with pytest.raises(NotFoundError, match="absent-0123456789"):
            await sandbox.start()
    async with make(profile="absent") as sandbox:
        with pytest.raises(ConfigurationError, match="absent"):
            await sandbox.start()


async def test_a_service_that_cannot_be_reached_is_named(make: Make) -> None:
    async with make(endpoint_url="http://127.0.0.1:9") as sandbox:
        with pytest.raises(SandboxConnectionError, match=r"127\.0\.0\.1:9 cannot be reached"):
            await sandbox.start()


# ---- ways into the session


@pytest.mark.parametrize(
    ("behaviour", "way"),
    [
        ({}, "code"),
        ({"code_children": "die"}, "task"),
    ],
)
async def test_the_bridge_is_started_in_the_first_way_that_lasts(
    behaviour: dict[str, object], way: str, make: Make, emulator: AgentCore
) -> None:
    emulator.behave(**behaviour)
    async with make() as sandbox:
        assert (await sandbox.run("1 + 1")).text == "2"
        assert sandbox.info.details["bridge"].startswith(f"started by {way}")


async def test_where_nothing_lasts_cells_run_in_basic_mode_and_say_so(make: Make, emulator: AgentCore) -> None:
    emulator.behave(code_children="die", commands=False)
    async with make() as sandbox:
        result = await sandbox.run("1 + 1")
        assert result.text == "2"
        assert sandbox.info.mode == "basic"
        assert "no process that is started in it lasts" in result.notice


@pytest.mark.parametrize("fault", ["error", "throttle", "drop", "truncate"])
async def test_a_fault_of_the_first_command_costs_no_session_its_commands(
    fault: str, make: Make, emulator: AgentCore
) -> None:
    emulator.plan(fault, operation="InvokeCodeInterpreter", tool="executeCommand", count=2)
    async with make() as sandbox:
        assert (await sandbox.run("1 + 1")).text == "2"
        assert "interrupts wait" not in sandbox.info.details["bridge"]


async def test_a_session_that_refuses_commands_says_that_interrupts_wait(make: Make, emulator: AgentCore) -> None:
    emulator.plan("deny", operation="InvokeCodeInterpreter", tool="executeCommand")
    async with make() as sandbox:
        assert (await sandbox.run("1 + 1")).text == "2"
        assert "interrupts wait" in sandbox.info.details["bridge"]


async def test_without_shell_commands_interrupts_still_come_through(make: Make, emulator: AgentCore) -> None:
    emulator.behave(commands=False)
    async with make() as sandbox:
        result = await interrupted(sandbox, "x = 1; print('begun', flush=True)\nimport time; time.sleep(100)")
        assert result == "KeyboardInterrupt"
        assert (await sandbox.run("x")).text == "1"


async def interrupted(sandbox: Sandbox, code: str) -> str:
    """Interrupt a cell when it has printed something; return its error's name."""
    execution = sandbox.stream(code)
    async for output in execution:
        if isinstance(output, Stream):
            sandbox.interrupt()
    assert execution.result.error is not None
    return execution.result.error.name


async def test_a_sandbox_without_ipykernel_runs_cells_in_basic_mode(make: Make, emulator: AgentCore) -> None:
    emulator.behave(lacks=["ipykernel"])
    async with make() as sandbox:
        result = await sandbox.run("1 + 1")
        assert result.text == "2"
        assert "its Python has no ipykernel" in result.notice
        assert (await sandbox.run("1 + 1")).notice == ""
    async with make(mode="bridge") as sandbox:
        with pytest.raises(SandboxKernelError, match="no ipykernel"):
            await sandbox.start()


async def test_several_result_events_are_read_like_one(make: Make, emulator: AgentCore) -> None:
    emulator.behave(several_events=True)
    async with make() as sandbox:
        assert (await sandbox.run("for n in range(3000): print(n)")).stdout.splitlines()[-1] == "2999"


# ---- while it runs


@pytest.mark.parametrize(
    "begin",
    [
        "def late(): time.sleep(0.5); print('late', flush=True)\nthreading.Thread(target=late).start()",
        "async def late(): await asyncio.sleep(0.5); print('late', flush=True)\ntask = asyncio.create_task(late())",
    ],
    ids=["thread", "task"],
)
async def test_output_comes_behind_its_cell(begin: str, make: Make) -> None:
    async with make() as sandbox:
        await sandbox.run("import asyncio, threading, time")
        heard: list[bytes] = []
        listener = sandbox.session._listener
        take = listener.on_message

        def hear(parts: list[Buffer]) -> None:
            heard.append(bytes(parts[-1]))
            take(parts)

        listener.on_message = hear  # type: ignore[method-assign]
        await sandbox.run(begin)
        deadline = time.monotonic() + 20
        while not any(b"late" in one and b"stdout" in one for one in heard):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)


async def test_what_the_kernel_tells_of_itself_comes_at_once(make: Make, emulator: AgentCore) -> None:
    async with make() as sandbox:
        await sandbox.run("x = 1")
        # The call that waits for more of the cell has ended by then, which nobody is told.
        await asyncio.sleep(0.5)
        for _ in range(3):
            before, began = len(emulator.calls()), time.monotonic()
            assert "variables" in await sandbox.session.describe()
            assert time.monotonic() - began < 2
            assert len(emulator.calls()) - before <= 2
        await rests(sandbox, emulator)


async def test_an_answer_that_never_comes_is_not_waited_for_by_calls(make: Make, emulator: AgentCore) -> None:
    async with make() as sandbox:
        await sandbox.run(
            "async def nothing(*request): pass\n"
            "get_ipython().kernel.control_handlers['sandbox_describe_request'] = nothing"
        )
        with pytest.raises(InvocationError, match="did not say in time"):
            await sandbox.session.describe(patience=0.5)
        await rests(sandbox, emulator)


async def rests(sandbox: Sandbox, emulator: AgentCore) -> None:
    """Check that no call waits for anything: none is made, and the next cell does not go beside one."""
    # What was under way ends first. That nothing follows it can only be seen by waiting, too.
    await asyncio.sleep(1)
    before = len(emulator.calls())
    await asyncio.sleep(1)
    assert len(emulator.calls()) == before
    assert (await sandbox.run("1")).text == "1"
    assert [call["tool"] for call in emulator.calls()[before:]] == ["executeCode"]


async def test_an_attached_session_goes_on(make: Make) -> None:
    async with make() as sandbox:
        await sandbox.run("x = 5")
        sandbox_id = await sandbox.session.detach()
        async with make() as other:
            await other.session.attach(sandbox_id)
            assert (await other.run("x")).text == "5"


async def test_a_session_of_anybodys_can_be_attached(make: Make, emulator: AgentCore) -> None:
    provider = AgentCoreProvider(config=emulator.config())
    api = provider._connected()
    started = await api.call("StartCodeInterpreterSession", name="elsewhere", sessionTimeoutSeconds=300)
    await api.invoke(started["sessionId"], "writeFiles", {"content": [{"path": "data.txt", "text": "theirs"}]})
    async with make() as sandbox:
        await sandbox.session.attach(started["sessionId"])
        assert (await sandbox.run("open('data.txt').read()")).text == "'theirs'"
    provider.close()


async def test_pause_says_what_to_do_instead(make: Make) -> None:
    async with make() as sandbox:
        await sandbox.start()
        with pytest.raises(SessionError, match=r"cannot be paused.*snapshot"):
            await sandbox.pause()


# ---- its lifetime, by the emulator's clock


async def test_the_lifetime_is_counted_down_warned_of_and_ends_the_cell_with_what_it_printed(
    make: Make, emulator: AgentCore
) -> None:
    async with make(session_timeout=600) as sandbox:
        await sandbox.run("x = 1")
        details = sandbox.info.details
        assert details["lifetime left"].endswith("of 10 min 0 s; it cannot be extended")
        assert "$0.2546 an hour at most, rates of 2025-10" in details["cost so far"]
        emulator.tell("clock", advance=545.0)
        await sandbox.run("x")
        execution = sandbox.stream("import time\nfor n in range(1000): print(n, flush=True); time.sleep(0.05)")
        seen: list[object] = []

        async def follow() -> None:
            async for output in execution:
                seen.append(output)
                if len(seen) == 40:
                    emulator.tell("clock", advance=60.0)

        with pytest.raises(SandboxLostError, match="its lifetime of 600 s is over, which AgentCore does not extend"):
            await follow()
        lines = execution.result.stdout.splitlines()
        assert lines == [str(n) for n in range(len(lines))]
        assert len(lines) > 20
        notices = "".join(one.text for one in seen if isinstance(one, Notice))
        assert "AgentCore cannot extend that" in notices
        result = await sandbox.run("'x' in dir()")
        assert result.text == "False"


async def test_one_that_ends_while_nobody_runs_anything_is_noticed(make: Make, emulator: AgentCore) -> None:
    async with make(session_timeout=5) as sandbox:
        await sandbox.run("x = 1")
        deadline = time.monotonic() + 20
        while sandbox.state.value == "active":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        with pytest.raises(SandboxLostError, match="its lifetime of 5 s is over"):
            await sandbox.run("x")
        assert (await sandbox.run("1")).text == "1"


# ---- files


@pytest.mark.parametrize("mode", ["bridge", "basic"])
async def test_a_file_of_100_mb_goes_in_and_comes_out(mode: str, make: Make) -> None:
    content = os.urandom(MB) * 100
    async with make(mode=mode) as sandbox:
        assert await sandbox.write("folder/large.bin", pieces(content)) == len(content)
        digest = hashlib.sha256()
        async with aclosing(sandbox.read("folder/large.bin")) as reading:
            async for piece in reading:
                digest.update(piece)
        assert digest.digest() == hashlib.sha256(content).digest()


async def test_paths_are_relative_on_the_wire_whatever_is_typed(make: Make) -> None:
    async with make(mode="basic") as sandbox:
        folder = (await sandbox.run("import os; print(os.getcwd())")).stdout.strip()
        await sandbox.write(f"{folder}/a/b.txt", b"x")
        assert (await sandbox.run("open('a/b.txt').read()")).text == "'x'"
        assert [entry.path async for entry in sandbox.list("./a/*")] == ["a/b.txt"]
        for path in ("/etc/passwd", "../x", "a/../../x"):
            with pytest.raises(SandboxKernelError, match="lies outside of the session's folder"):
                await sandbox.write(path, b"x")


# ---- basic mode


async def test_basic_mode_shows_what_it_can(make: Make) -> None:
    async with make(mode="basic") as sandbox:
        result = await sandbox.run("import sys; print('a'); print('b', file=sys.stderr); print('c'); 1 + 1")
        assert (result.stdout, result.stderr, result.text) == ("a\nc\n", "b\n", "2")
        result = await sandbox.run("from IPython.display import HTML, display\ndisplay(HTML('<b>x</b>'))")
        assert result.outputs[0].data["text/html"] == "<b>x</b>"  # type: ignore[union-attr]
        result = await sandbox.run("import matplotlib.pyplot as plt\nplt.plot([1, 2]);")
        assert any("image/png" in getattr(output, "data", {}) for output in result.outputs)
        result = await sandbox.run("def f(): raise KeyError('k')\nf()")
        assert result.error is not None
        assert (result.error.name, result.error.value) == ("KeyError", "'k'")
        assert any("f()" in line for line in result.error.traceback)
        assert (await sandbox.run("x = 5")).ok
        assert (await sandbox.run("x")).text == "5"


async def test_basic_mode_interrupts_the_call_and_says_that_the_code_may_run_on(make: Make) -> None:
    async with make(mode="basic") as sandbox:
        await sandbox.start()
        running = asyncio.ensure_future(sandbox.run("import time; time.sleep(3); x = 1"))
        await asyncio.sleep(1)
        sandbox.interrupt()
        result = await running
        assert result.error is not None
        assert result.error.name == "KeyboardInterrupt"
        assert "may still run" in result.error.value
        assert (await sandbox.run("x")).text == "1"


async def test_basic_mode_says_that_its_session_was_stopped_and_begins_another(make: Make) -> None:
    async with make(mode="basic") as sandbox:
        await sandbox.run("x = 1")
        await sandbox.session._provider._connected().call(
            "StopCodeInterpreterSession", sessionId=sandbox.info.sandbox_id
        )
        with pytest.raises(SandboxLostError, match="it was stopped by somebody else"):
            await sandbox.run("x")
        assert (await sandbox.run("'x' in dir()")).text == "False"


async def test_basic_mode_never_runs_a_cell_twice(make: Make, emulator: AgentCore) -> None:
    async with make(mode="basic") as sandbox:
        await sandbox.run("n = 0")
        for fault in ("error-after", "drop", "truncate", "empty", "exception"):
            emulator.plan(fault, operation="InvokeCodeInterpreter")
            result = await sandbox.run("n += 1")
            assert result.error is not None
            assert "Whether the cell ran is not known" in result.error.value
        assert (await sandbox.run("n")).text == "5"


@pytest.mark.parametrize("several", [False, True])
async def test_basic_mode_knows_whether_a_cell_began(several: bool, make: Make, emulator: AgentCore) -> None:
    emulator.behave(several_events=several)
    async with make(mode="basic") as sandbox:
        await sandbox.run("n = 0")
        result = await sandbox.run("n += 1; print(\"KeyError: '_sandbox_shim'\")")
        assert (result.ok, result.stdout) == (True, "KeyError: '_sandbox_shim'\n")
        result = await sandbox.run("n += 1; raise KeyError('_sandbox_shim')")
        assert result.error is not None
        assert (await sandbox.run("n")).text == "2"
        # Somebody clears the interpreter.
        await sandbox.run("import sys; del sys.modules['_sandbox_shim']")
        result = await sandbox.run("n += 1; print('once'); n")
        assert (result.stdout, result.text, result.stderr) == ("once\n", "3", "")
        await sandbox.run("import sys; del sys.modules['_sandbox_shim']")
        result = await sandbox.run("1 / 0")
        assert result.error is not None
        assert result.error.name == "ZeroDivisionError"


async def test_other_languages_run_in_cells_of_their_own_and_as_the_notebooks(make: Make) -> None:
    async with make() as sandbox:
        await sandbox.start()
        outcome = await sandbox.session.run_code("const a: number = 6; console.log(a * 7)", "typescript")
        assert (outcome.stdout, outcome.failed) == ("42", False)
        assert (await sandbox.session.run_code("throw new Error('x')", "javascript")).failed
        with pytest.raises(SandboxKernelError, match="runs no cobol"):
            await sandbox.session.run_code("", "cobol")
    async with make(language="typescript") as sandbox:
        assert (await sandbox.run("console.log(1 as number)")).stdout.strip() == "1"
        result = await sandbox.run("throw new TypeError('no')")
        assert result.error is not None
        assert (result.error.name, result.error.value) == ("TypeError", "no")


async def test_shell_commands_of_basic_mode_tell_output_and_status(make: Make) -> None:
    async with make(mode="basic") as sandbox:
        await sandbox.start()
        command = sandbox.session.shell("echo out; echo err >&2; sleep 0.3; echo later; exit 7")
        assert b"".join([chunk async for chunk in command]) == b"out\nerr\nlater\n"
        assert command.exit_code == 7
        command = sandbox.session.shell("echo begun; sleep 1000")
        stream = aiter(command)
        assert (await anext(stream)).startswith(b"begun")
        command.kill()
        assert [chunk async for chunk in stream] == []


# ---- leaving


async def test_a_session_that_cannot_be_made_ready_is_given_back(emulator: AgentCore) -> None:
    emulator.plan("deny", operation="InvokeCodeInterpreter")
    provider = AgentCoreProvider(config=emulator.config())
    before = {record.sandbox_id for record in await provider.list()}
    with pytest.raises(AuthenticationError, match="InvokeCodeInterpreter"):
        await provider.create(SandboxSpec("sk-test"))
    assert {record.sandbox_id for record in await provider.list()} == before
    provider.close()
