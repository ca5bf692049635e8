"""The library: sandboxes for programs, with and without an event loop, with the local provider's real ones."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

import sandbox_kernel
from sandbox_kernel import BlockingSandbox, Sandbox
from sandbox_kernel.errors import (
    CellError,
    CommandError,
    ConfigurationError,
    InvocationError,
    NotFoundError,
    SandboxKernelError,
    SandboxLostError,
    SandboxTimeoutError,
    StateError,
    TransferError,
    UnknownProviderError,
)
from sandbox_kernel.library import Display, Error, ExecuteResult, InputRequest, Notice, Output, Result, Status, Stream
from sandbox_kernel.lifecycle import State

if sys.platform != "linux":
    pytest.skip("there is no provider for this system yet", allow_module_level=True)

PATIENCE = 30.0


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tester's own configuration not count."""
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox.create() as made:
        yield made


async def until(condition: object) -> None:
    """Wait until a function returns something true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


# ---- running


async def test_run_returns_result_output_and_number(sandbox: Sandbox) -> None:
    result = await sandbox.run("import sys\nprint('out')\nprint('err', file=sys.stderr)\n1 + 1")
    assert (result.text, result.stdout, result.stderr) == ("2", "out\n", "err\n")
    assert (result.execution_count, result.error, result.ok) == (1, None, True)
    assert result.duration > 0
    assert result.outputs[-1] == ExecuteResult({"text/plain": "2"}, {}, 1)
    assert (await sandbox.run("_ + 1")).text == "3"


async def test_stream_gives_outputs_while_the_cell_runs(sandbox: Sandbox) -> None:
    outputs: list[Output] = []
    code = "import time\nprint('first')\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print('last')"
    async for output in sandbox.stream(code):
        outputs.append(output)
        if output == Stream("stdout", "first\n"):
            assert sandbox.interrupt()
    assert outputs == [Status("busy"), Stream("stdout", "first\n"), Stream("stdout", "last\n"), Status("idle")]


async def test_displays_and_their_updates(sandbox: Sandbox) -> None:
    execution = sandbox.stream("shown = display('before', display_id='one')\nshown.update('after')")
    displays = [one async for one in execution if isinstance(one, Display)]
    assert [(one.data["text/plain"], one.display_id, one.update) for one in displays] == [
        ("'before'", "one", False),
        ("'after'", "one", True),
    ]
    assert execution.result.outputs == [Display({"text/plain": "'after'"}, {}, "one")]


async def test_clearing_removes_what_was_shown(sandbox: Sandbox) -> None:
    code = "from IPython.display import clear_output\nprint('gone')\nclear_output(wait=True)\nprint('there')"
    assert (await sandbox.run(code)).stdout == "there\n"


async def test_error_in_a_cell_is_data_until_it_is_raised(sandbox: Sandbox) -> None:
    result = await sandbox.run("1 / 0")
    assert isinstance(result.error, Error)
    assert (result.error.name, result.error.value) == ("ZeroDivisionError", "division by zero")
    assert "ZeroDivisionError" in result.error.traceback[-1]
    with pytest.raises(CellError, match="division by zero") as raised:
        result.raise_on_error()
    assert type(raised.value).__name__ == raised.value.name == "ZeroDivisionError"
    assert (await sandbox.run("2")).raise_on_error().text == "2"


async def test_input_is_answered(sandbox: Sandbox) -> None:
    asked: list[InputRequest] = []

    async def answer(request: InputRequest) -> str:
        asked.append(request)
        await asyncio.sleep(0)
        return "Ada"

    code = "import getpass\ninput('Name? ') + getpass.getpass('Word? ')"
    assert (await sandbox.run(code, on_input=answer)).text == "'AdaAda'"
    assert asked == [InputRequest("Name? "), InputRequest("Word? ", password=True)]


async def test_input_without_anybody_is_the_cells_error(sandbox: Sandbox) -> None:
    error = (await sandbox.run("input()")).error
    assert error is not None
    assert error.name == "StdinNotImplementedError"


async def test_error_of_who_answers_is_raised_where_he_waits(sandbox: Sandbox) -> None:
    def answer(request: InputRequest) -> str:
        raise LookupError(request.prompt)

    with pytest.raises(LookupError, match="Name"):
        await sandbox.run("input('Name? ')", on_input=answer)
    assert (await sandbox.run("1")).text == "1"


async def test_cell_cannot_be_run_to_answer_another_ones_question(sandbox: Sandbox) -> None:
    async def answer(request: InputRequest) -> str:
        assert await sandbox.write("beside", b"1") == 1
        return (await sandbox.run("1")).text

    with pytest.raises(StateError, match="waits for this answer"):
        await sandbox.run("input()", on_input=answer)

    async def pull(request: InputRequest) -> str:
        return str(await sandbox.pull("kept"))

    with pytest.raises(StateError, match="waits for this answer"):
        await sandbox.run("kept = 1\ninput()", on_input=pull)
    async with Sandbox() as other:
        result = await sandbox.run("input()", on_input=lambda request: run_text(other, "6 * 7"))
    assert result.text == "'42'"


async def run_text(sandbox: Sandbox, code: str) -> str:
    return (await sandbox.run(code)).text


async def test_cells_run_one_after_the_other(sandbox: Sandbox) -> None:
    results = await asyncio.gather(*(sandbox.run(f"{number}") for number in range(5)))
    assert [result.text for result in results] == ["0", "1", "2", "3", "4"]
    assert [result.execution_count for result in results] == [1, 2, 3, 4, 5]


async def test_failed_cell_does_not_stop_those_behind_it(sandbox: Sandbox) -> None:
    failed, other = await asyncio.gather(sandbox.run("1 / 0"), sandbox.run("1"))
    assert (failed.ok, other.text) == (False, "1")


async def test_correlation_id_is_the_callers_or_a_new_one(sandbox: Sandbox) -> None:
    assert (await sandbox.run("1", correlation_id="order 66")).correlation_id == "order 66"
    first, second = await sandbox.run("1"), await sandbox.run("1")
    assert first.correlation_id != second.correlation_id
    assert any('"order 66"' in line for line in sandbox.session.log.tail(100))
    with pytest.raises(CommandError, match="printable"):
        await sandbox.run("1", correlation_id="a\nb")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"code": None}, "code of a cell is text, and this is NoneType"),
        ({"code": b"1"}, "this is bytes"),
        ({"code": "1", "correlation_id": 5}, "printable text"),
        ({"code": "1", "timeout": "5"}, "number of seconds"),
        ({"code": "1", "timeout": -1}, "number of seconds"),
    ],
)
async def test_wrong_arguments_are_refused_before_anything_starts(arguments: dict[str, Any], reason: str) -> None:
    async with Sandbox() as sandbox:
        with pytest.raises(CommandError, match=reason):
            await sandbox.run(**arguments)
        with pytest.raises(TransferError, match="no name of a variable"):
            await sandbox.pull(5)  # type: ignore[arg-type]
        assert sandbox.state is State.INACTIVE


async def test_timeout_interrupts_the_cell_and_keeps_variables(sandbox: Sandbox) -> None:
    await sandbox.run("import time; kept = 1")
    with pytest.raises(SandboxTimeoutError, match=r"longer than 0\.2 s"):
        await sandbox.run("time.sleep(600)", timeout=0.2)
    assert (await sandbox.run("kept")).text == "1"


async def test_cancelled_run_interrupts_its_cell(sandbox: Sandbox) -> None:
    await sandbox.run("import time; kept = 1")
    for delay in (0.0, 0.2):
        run = asyncio.create_task(sandbox.run("time.sleep(600)"))
        await asyncio.sleep(delay)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert (await sandbox.run("kept")).text == "1"


async def test_who_stops_iterating_interrupts_the_cell(sandbox: Sandbox) -> None:
    async for output in sandbox.stream("import time\nprint(1)\ntime.sleep(600)"):
        if isinstance(output, Stream):
            break
    assert (await sandbox.run("2")).text == "2"


async def test_execution_is_iterated_over_once(sandbox: Sandbox) -> None:
    execution = sandbox.stream("1")
    assert [one async for one in execution][-1] == Status("idle")
    with pytest.raises(StateError, match="once"):
        await execution.__aiter__().__anext__()


async def test_endless_output_fills_no_memory(sandbox: Sandbox) -> None:
    sandbox.max_output = 100_000
    result = await sandbox.run("for _ in range(3000): print('x' * 1000)\n1 / 0")
    assert result.dropped > 0
    assert len(result.stdout) <= 100_000
    assert result.error is not None


async def test_sandbox_waits_for_who_does_not_take_its_output(sandbox: Sandbox) -> None:
    size = 60_000_000
    execution = sandbox.stream(f"import sys\nfor _ in range(60): sys.stdout.write('x' * {size // 60})")
    length = 0
    async for output in execution:
        if isinstance(output, Stream):
            if not length:
                await asyncio.sleep(0.5)
            length += len(output.text)
    assert length == size


# ---- its life


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


# ---- variables


async def test_variables_travel_both_ways_and_leave_nothing_behind(sandbox: Sandbox) -> None:
    names = "sorted(name for name in globals() if not name.startswith('_'))"
    before = (await sandbox.run(names)).text
    await sandbox.push(number=1, text={"a": (1, b"x")})
    assert (await sandbox.run("number, text")).text == "(1, {'a': (1, b'x')})"
    assert await sandbox.pull("text") == {"a": (1, b"x")}
    await sandbox.run("del number, text")
    assert (await sandbox.run(names)).text == before


async def test_frame_of_a_million_rows_comes_back_equal(sandbox: Sandbox) -> None:
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rows = 1_000_000
    random = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "whole": random.integers(0, 100, rows),
            "real": random.random(rows),
            "kind": pd.Categorical.from_codes(random.integers(0, 3, rows), ["z", "b", "a"], ordered=True),
            "moment": pd.date_range("2000", periods=rows, freq="min", tz="Europe/Oslo"),
            "text": random.choice(["a", "bc", "ü"], rows),
        },
        index=pd.date_range("2020", periods=rows, freq="s", tz="UTC", name="when"),
    )
    await sandbox.push(frame=frame)
    assert (await sandbox.run("print(frame.index.name, len(frame), frame.whole.sum())")).stdout == (
        f"when {rows} {frame.whole.sum()}\n"
    )
    came = await sandbox.pull("frame")
    assert came.equals(frame)
    assert list(came.dtypes) == list(frame.dtypes)
    assert came.index.identical(frame.index)
    assert came.index.freq == frame.index.freq


async def test_what_cannot_travel_says_why_on_either_side(sandbox: Sandbox) -> None:
    with pytest.raises(TransferError, match=r"value cannot be pushed: .* type object"):
        await sandbox.push(value=object())
    await sandbox.run("class Money(int): pass\nmoney = Money(3)")
    with pytest.raises(TransferError, match=r"money did not travel: .*would come back as int"):
        await sandbox.pull("money")
    with pytest.raises(TransferError, match="no variable"):
        await sandbox.pull("nothing")
    with pytest.raises(TransferError, match="no name"):
        await sandbox.pull("a; b")


FORGE = """
session = get_ipython().kernel.session
honest = session.send

def send(stream, msg, content=None, *args, **kwargs):
    if msg != "sandbox_value":
        return honest(stream, msg, content, *args, **kwargs)
    def say(content, *buffers):
        honest(stream, msg, content, *args, **{**kwargs, "buffers": [memoryview(one) for one in buffers]})
    forge(say)

session.send = send
value = 1
"""
ENDLESS = """
def forge(say):
    while True:
        say({}, bytes(100_000))
"""
TRAP = """
def forge(say):
    import io, os, numpy
    class Trap:
        def __reduce__(self):
            return os.mkdir, (PATH,)
    file = io.BytesIO()
    numpy.save(file, numpy.array([Trap()], dtype=object), allow_pickle=True)
    say({"header": {"kind": "npy"}, "size": len(file.getvalue())}, file.getvalue())
"""


async def test_sandbox_that_sends_more_than_allowed_is_stopped(sandbox: Sandbox) -> None:
    sandbox.max_pull = 1_000_000
    await sandbox.run("text = 'x' * 2_000_000")
    with pytest.raises(TransferError, match="limit is 1000000"):
        await sandbox.pull("text")
    assert (await sandbox.run(FORGE + ENDLESS)).ok
    with pytest.raises(TransferError, match="more than 1000000 bytes"):
        await sandbox.pull("value")
    assert (await sandbox.run("1")).text == "1"


LARGE = """
import numpy
value = numpy.zeros(10_000_000, numpy.uint8)
inside = next(held for name, held in vars(get_ipython()).items() if name.startswith("_sandbox_values_"))
"""


async def forge(sandbox: Sandbox, body: str) -> None:
    """Let the sandbox's half of `pull` do something else."""
    assert await sandbox.pull("__name__") == "__main__"
    code = f"def get(shell, buffers, name, path, largest):\n  import os\n  {body}"
    assert (await sandbox.run(f"{LARGE}exec({code!r}, inside)")).ok


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("_tell(shell, {'header': {'kind': 'npy'}, 'size': 10_000_000})", "its size is not"),
        ("_tell(shell, {'header': {'kind': 'npy'}, 'size': 1 << 60})", "the limit is"),
        ("_tell(shell, {'header': {'kind': 'npy'}, 'size': -5})", "broken"),
        ("_tell(shell, {'header': {'kind': 'npy'}, 'size': 1 << 31}); open(path, 'wb').write(b'x')", "its size is not"),
        ("_tell(shell, {'header': {'kind': 'npy'}, 'size': 1 << 21}); open(path, 'wb').write(bytes(1 << 22))", "size"),
        ("open(path, 'wb').write(b'x' * 10_000)", "sent nothing"),
        ("_tell(shell, {'header': {'kind': 'npy'}, 'size': 10_000_000}); os._exit(1)", "ended"),
    ],
)
async def test_pipe_of_a_hostile_sandbox_ends_with_an_error(sandbox: Sandbox, body: str, error: str) -> None:
    pytest.importorskip("numpy")
    await forge(sandbox, body)
    with pytest.raises(SandboxKernelError, match=error):
        await asyncio.wait_for(sandbox.pull("value"), 20)


async def test_large_value_that_nobody_reads_to_its_end_is_given_up(sandbox: Sandbox) -> None:
    np = pytest.importorskip("numpy")
    await sandbox.push(value=1)
    stalled = "def put_from(*_):\n  import time\n  time.sleep(600)"
    assert (await sandbox.run(f"{LARGE}exec({stalled!r}, inside)")).ok
    pushing = asyncio.ensure_future(sandbox.push(value=np.zeros(50_000_000, np.uint8)))
    await asyncio.sleep(0.5)
    pushing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pushing
    assert (await asyncio.wait_for(sandbox.run("value.nbytes"), 20)).text == "10000000"


async def test_large_values_of_every_kind_come_back(sandbox: Sandbox) -> None:
    np = pytest.importorskip("numpy")
    text, array = "ü" * 2_000_000, np.arange(3_000_000).reshape(1000, 3000).T
    await sandbox.push(text=text, array=array)
    assert await sandbox.pull("text") == text
    came = await sandbox.pull("array")
    assert np.array_equal(came, array)
    came[0, 0] = 7
    assert (await sandbox.run("array[0, 0] = 9")).ok


async def test_pickle_of_a_hostile_sandbox_is_never_opened(sandbox: Sandbox, tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    trap = tmp_path / "sprung"
    assert (await sandbox.run(f"PATH = {str(trap)!r}\n{FORGE}{TRAP}")).ok
    with pytest.raises(TransferError, match="unpickled"):
        await sandbox.pull("value")
    assert not trap.exists()


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


async def test_directory_is_the_folder_that_cells_see(tmp_path: Path) -> None:
    (tmp_path / "beside.txt").write_text("here")
    async with Sandbox(directory=tmp_path) as sandbox:
        assert (await sandbox.run("print(open('beside.txt').read())")).stdout == "here\n"


def test_directory_that_does_not_exist_is_told_where_the_sandbox_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nowhere is no folder"):
        BlockingSandbox(directory=tmp_path / "nowhere")


# ---- without an event loop


def test_blocking_sandbox_does_the_same() -> None:
    with BlockingSandbox.create() as sandbox:
        assert sandbox.run("1 + 1").text == "2"
        assert [one for one in sandbox.stream("print(1)") if isinstance(one, Stream)] == [Stream("stdout", "1\n")]
        thread = threading.get_ident()
        asked_in: list[int] = []

        def answer(request: InputRequest) -> str:
            asked_in.append(threading.get_ident())
            return request.prompt

        assert sandbox.run("input('Name? ')", on_input=answer).text == "'Name? '"
        assert asked_in == [thread]
        with pytest.raises(StateError, match="waits for this answer"):
            sandbox.run("input()", on_input=lambda request: sandbox.run("1").text)
        assert sandbox.run("1").text == "1"
        sandbox.push(value=[1])
        assert sandbox.pull("value") == [1]
        sandbox.pause()
        sandbox.resume()
        sandbox.restart()
        sandbox.stop()
        assert sandbox.state is State.INACTIVE
        with pytest.raises(CellError):
            sandbox.run("1 / 0").raise_on_error()
    with pytest.raises(StateError, match="closed"):
        sandbox.run("1")
    sandbox.close()


async def test_blocking_sandbox_works_inside_a_running_loop() -> None:
    with BlockingSandbox() as sandbox:
        assert sandbox.run("1 + 1").text == "2"


def test_who_stops_iterating_over_a_blocking_stream_interrupts_the_cell() -> None:
    with BlockingSandbox() as sandbox:
        for output in sandbox.stream("import time\nprint(1)\ntime.sleep(600)"):
            if isinstance(output, Stream):
                break
        gc.collect()
        assert sandbox.run("2").text == "2"


def test_blocking_sandbox_outlives_the_thread_that_used_it_first() -> None:
    with BlockingSandbox() as sandbox:
        results: list[Result] = []
        user = threading.Thread(target=lambda: results.append(sandbox.run("kept = 1; kept")))
        user.start()
        user.join()
        assert results[0].text == "1"
        assert sandbox.run("kept").text == "1"


def test_blocking_sandbox_is_interrupted_from_another_thread() -> None:
    with BlockingSandbox() as sandbox:
        sandbox.start()
        interrupter = threading.Timer(0.3, sandbox.interrupt)
        interrupter.start()
        error = sandbox.run("import time\ntime.sleep(600)").error
        interrupter.join()
        assert error is not None
        assert error.name == "KeyboardInterrupt"


SCRIPT = """
import signal, os, threading
from sandbox_kernel import BlockingSandbox

sandbox = BlockingSandbox()
print(sandbox.run("kept = 40\\nkept + 2").text, flush=True)
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
runs = 0
try:
    while True:
        runs += 1
        sandbox.run("import time\\ntry:\\n    time.sleep(600)\\nexcept KeyboardInterrupt:\\n    ended = True")
except KeyboardInterrupt:
    print("KeyboardInterrupt after", runs, sandbox.run("ended").text, flush=True)
print(sandbox.run("kept").text, sandbox.info.details.get("limits held by") is not None, flush=True)
print(os.getpid(), sandbox.info.sandbox_id)
"""


def test_script_runs_cells_takes_ctrl_c_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    *lines, last = done.stdout.splitlines()
    assert lines == ["42", "KeyboardInterrupt after 1 True", "40 True"]
    sandbox_id = last.split()[1]
    left = [entry.name for entry in os.scandir("/proc") if entry.name.isdigit() and sandbox_id in command(entry.name)]
    assert left == []
    log = next((tmp_path / "runtime").glob("*.log")).read_text()
    assert "record_failed" not in log


def test_interrupted_stream_goes_on_to_the_cells_end_and_raises() -> None:
    with BlockingSandbox() as sandbox:
        outputs: list[Output] = []
        code = "import time\nprint('first')\ntry:\n    time.sleep(600)\nexcept KeyboardInterrupt:\n    print('last')"
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the outputs before it count
            for output in sandbox.stream(code):
                outputs.append(output)
                if output == Stream("stdout", "first\n"):
                    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        assert outputs[-2:] == [Stream("stdout", "last\n"), Status("idle")]
        assert sandbox.run("1").text == "1"


def command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        return ""


def test_importing_the_package_is_light() -> None:
    code = "import sys, sandbox_kernel; print([name for name in sys.modules if name.startswith('sandbox_kernel.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'Sandbocks'"):
        sandbox_kernel.Sandbocks  # type: ignore[attr-defined] # noqa: B018


async def test_files_go_in_and_out() -> None:
    # A file is a first use, too.
    async with Sandbox() as sandbox:
        assert await sandbox.write("data/a.bin", b"x" * 600_000) == 600_000
        assert (await sandbox.run("len(open('data/a.bin').read())")).text == "600000"
        assert b"".join([piece async for piece in sandbox.read("data/a.bin")]) == b"x" * 600_000
        assert [(entry.path, entry.size) async for entry in sandbox.list("data/*")] == [("data/a.bin", 600_000)]
        await sandbox.remove("data", recursive=True)
        with pytest.raises(NotFoundError):
            await anext(sandbox.read("data/a.bin"))


def test_files_without_an_event_loop() -> None:
    with BlockingSandbox() as sandbox:
        assert sandbox.write("a.txt", b"content") == 7
        assert sandbox.read("a.txt") == b"content"
        assert [entry.path for entry in sandbox.list("*.txt")] == ["a.txt"]
        sandbox.remove("a.txt")
        with pytest.raises(NotFoundError):
            sandbox.read("a.txt")


async def test_file_is_written_from_whatever_gives_bytes(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(b"abc" * 200_000)

    async def pieces() -> AsyncIterator[bytes]:
        yield b"a"
        yield bytearray(b"b")

    with (tmp_path / "content").open("rb") as file:
        assert await sandbox.write("a", file) == 600_000
    assert await sandbox.write("a", pieces()) == 2
    assert await sandbox.write("a", (b"xy" for _ in range(3))) == 6
    assert await sandbox.write("a", memoryview(b"xyz")) == 3
    for wrong, reason in (("text", "encode the text"), (["text"], "encode the text"), (7, "this is int")):
        with pytest.raises(InvocationError, match=reason):
            await sandbox.write("a", wrong)  # type: ignore[arg-type]
    with (tmp_path / "content").open() as text, pytest.raises(InvocationError, match="mode 'rb'"):
        await sandbox.write("a", text)  # type: ignore[arg-type]
    assert b"".join([piece async for piece in sandbox.read("a")]) == b"xyz"


def test_files_are_streamed_without_an_event_loop() -> None:
    made: list[int] = []

    def pieces() -> Iterator[bytes]:
        for number in range(40):
            made.append(threading.get_ident())
            yield bytes([number]) * 100_000

    with BlockingSandbox() as sandbox:
        assert sandbox.write("a.bin", pieces(), mode=0o755) == 4_000_000
        assert set(made) == {threading.get_ident()}
        assert sandbox.run("import os; oct(os.stat('a.bin').st_mode & 0o111)").text == "'0o111'"
        read = list(sandbox.read_pieces("a.bin"))
        assert len(read) > 1
        assert b"".join(read) == b"".join(pieces())
        for _ in sandbox.read_pieces("a.bin"):
            break
        with pytest.raises(InvocationError, match="encode the text"):
            sandbox.write("a.bin", "text")  # type: ignore[arg-type]
        with pytest.raises(ZeroDivisionError):
            sandbox.write("a.bin", (b"x" * (1 // n) for n in (1, 0)))
        assert len(sandbox.read("a.bin")) == 4_000_000


async def test_outputs_are_guarded(sandbox: Sandbox) -> None:
    result = await sandbox.run("from IPython.display import HTML\nHTML('<b onclick=\"go()\">text</b>')")
    (output,) = [one for one in result.outputs if isinstance(one, ExecuteResult)]
    assert "onclick" not in output.data["text/html"] or "sandbox=" in output.data["text/html"]
