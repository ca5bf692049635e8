"""Cells of a sandbox for a program: outputs, questions, errors, time-outs."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from sandbox_kernel import Sandbox
from sandbox_kernel.errors import (
    CellError,
    CommandError,
    SandboxTimeoutError,
    StateError,
    TransferError,
)
from sandbox_kernel.library import Display, Error, ExecuteResult, InputRequest, Output, Status, Stream
from sandbox_kernel.lifecycle import State

if sys.platform != "linux":
    pytest.skip("the local provider needs bubblewrap, which only Linux has", allow_module_level=True)


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


async def test_outputs_are_guarded(sandbox: Sandbox) -> None:
    result = await sandbox.run("from IPython.display import HTML\nHTML('<b onclick=\"go()\">text</b>')")
    (output,) = [one for one in result.outputs if isinstance(one, ExecuteResult)]
    assert "onclick" not in output.data["text/html"] or "sandbox=" in output.data["text/html"]
