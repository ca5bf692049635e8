"""`map`: a function with many inputs in several sandboxes."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import sandbox_kernel
from sandbox_kernel import Sandbox
from sandbox_kernel.errors import CellError, CommandError, ConfigurationError, FanOutError, TransferError
from sandbox_kernel.library import Failure

from .pools import square, told

if sys.platform != "linux":
    pytest.skip("the local provider needs bubblewrap, which only Linux has", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("nothing_left")
OFFSET = 3


def moved(number: int) -> float:
    return math_root(number) + OFFSET


def math_root(number: int) -> float:
    return float(number**0.5)


def picky(number: int) -> int:
    if number == 7:
        raise ValueError("seven")
    return number


def odd_results(kind: str) -> Any:
    return {"object": object(), "lock": sys.stdout, "large": b"x" * 2_000_000}.get(kind, kind)


# ---- what becomes of inputs


async def test_results_are_in_the_order_of_the_inputs() -> None:
    mapping = sandbox_kernel.map(square, range(500), sandboxes=3)
    results = await mapping
    assert results == [number * number for number in range(500)]
    assert (mapping.done, mapping.failed, mapping.total, mapping.under_way) == (500, 0, 500, 0)
    assert mapping.summary == "500 of 500 inputs were done"


async def test_function_takes_along_what_it_uses(pair: list[Sandbox]) -> None:
    assert await sandbox_kernel.map(moved, [4, 9], sandboxes=pair) == [5.0, 6.0]
    assert (await pair[0].run("'moved' in globals(), 'OFFSET' in globals()")).text == "(False, False)"


async def test_exception_is_the_failure_of_its_input_alone(pair: list[Sandbox]) -> None:
    results = await sandbox_kernel.map(picky, range(20), sandboxes=pair)
    (failure,) = results.failures
    assert (failure.index, failure.kind, failure.name, failure.message) == (7, "raised", "ValueError", "seven")
    assert 'raise ValueError("seven")' in failure.traceback
    assert "serve" not in failure.traceback
    assert [one for one in results if not isinstance(one, Failure)] == [*range(7), *range(8, 20)]
    with pytest.raises(CellError, match="input 7: seven") as raised:
        results.raise_on_failure()
    assert type(raised.value).__name__ == "ValueError"


async def test_first_failure_can_end_it() -> None:
    with pytest.raises(CellError, match="input 7: seven"):
        await sandbox_kernel.map(picky, range(100_000), sandboxes=2, stop_on_failure=True)


async def test_arrays_and_tables_travel_both_ways(pair: list[Sandbox]) -> None:
    np, pd = pytest.importorskip("numpy"), pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    inputs = [np.arange(400_000), pd.DataFrame({"a": [1, 2]}), (1, {2}), None, "ü"]
    results = await sandbox_kernel.map(told, inputs, sandboxes=pair)
    assert (results[0] == inputs[0]).all()
    assert results[1].equals(inputs[1])
    assert results[2:] == inputs[2:]


async def test_result_that_cannot_travel_is_told_with_what_to_do(pair: list[Sandbox]) -> None:
    inputs = ["object", "good", "lock", "large"]
    results = await sandbox_kernel.map(odd_results, inputs, sandboxes=pair, max_result=1_000_000)
    assert results[1] == "good"
    assert [one.kind for one in results.failures] == ["not returned"] * 3
    assert all("return data frames, arrays, or what JSON holds" in one.message for one in results.failures)
    assert "the limit is 1000000 (max_result)" in results[3].message


async def test_no_inputs_are_no_results() -> None:
    assert await sandbox_kernel.map(square, []) == []


async def test_outcomes_come_as_they_are_ready(pair: list[Sandbox]) -> None:
    seen = {one.index: one.value async for one in sandbox_kernel.map(square, range(50), sandboxes=pair)}
    assert seen == {number: number * number for number in range(50)}


def with_loop(number: int) -> int:
    async def later() -> int:
        await asyncio.sleep(0)
        return -number

    return asyncio.run(later())


async def test_function_may_run_a_loop_of_its_own(pair: list[Sandbox]) -> None:
    assert await sandbox_kernel.map(with_loop, [1, 2, 3], sandboxes=pair) == [-1, -2, -3]
    # That of the kernel there goes on.
    assert (await pair[0].run("import asyncio\nawait asyncio.sleep(0.01)\n5")).text == "5"


def forking(number: int) -> int:
    child = os.fork()
    if not child:
        if number % 2:
            raise SystemExit(number)
        return 1000
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def test_children_that_a_function_forks_have_no_outcome(pair: list[Sandbox]) -> None:
    mapping = sandbox_kernel.map(forking, range(6), sandboxes=pair)
    assert await mapping == [0, 1, 0, 3, 0, 5]
    assert mapping.replaced == 0


def interrupting(number: int) -> int:
    if number % 3 == 1:
        raise KeyboardInterrupt
    return number


async def test_keyboard_interrupt_of_a_function_is_its_failure_and_no_loss(pair: list[Sandbox]) -> None:
    mapping = sandbox_kernel.map(interrupting, range(9), sandboxes=pair)
    results = await mapping
    assert [(one.index, one.kind, one.name) for one in results.failures] == [
        (index, "raised", "KeyboardInterrupt") for index in (1, 4, 7)
    ]
    assert mapping.replaced == 0


def blob(size: int) -> bytes:
    return b"z" * size


async def test_bytes_have_the_size_that_they_have(pair: list[Sandbox]) -> None:
    results = await sandbox_kernel.map(blob, [1_000_000, 1_000_001], sandboxes=pair, max_result=1_000_000)
    assert results[0] == b"z" * 1_000_000
    assert "1000001 bytes" in results[1].message


# ---- what cannot be


def test_closure_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    factor = 3

    def times(number: int) -> int:
        return factor * number

    with pytest.raises(TransferError, match=r"a closure over factor; pass it with each input.*cloudpickle"):
        sandbox_kernel.map(times, [1])


@pytest.mark.parametrize(
    ("function", "reason"), [(lambda n: n, "lambda"), (len, "builtin_function"), (3, "map takes a function")]
)
def test_what_is_no_function_with_a_source_is_refused(
    function: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(TransferError, match=reason):
        sandbox_kernel.map(function, [1])


async def test_with_cloudpickle_closures_and_objects_go_in(pair: list[Sandbox]) -> None:
    pytest.importorskip("cloudpickle")

    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    factor = 3
    points = [Point(1), Point(2)]
    assert await sandbox_kernel.map(lambda point: factor * point.x, points, sandboxes=pair) == [3, 6]


class Adder:
    def __call__(self, number: int) -> int:
        return number + 1


@functools.cache
def cached(number: int) -> int:
    return number


async def test_callable_objects_travel_by_cloudpickle_or_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TransferError, match=r"pass cached\.__wrapped__"):
        sandbox_kernel.map(cached, [1])
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    for function in (functools.partial(pow, 2), Adder()):
        with pytest.raises(TransferError, match="no function that was written in Python"):
            sandbox_kernel.map(function, [1])
    monkeypatch.undo()
    pytest.importorskip("cloudpickle")
    assert await sandbox_kernel.map(functools.partial(pow, 2), [1, 3], sandboxes=1) == [2, 8]


async def test_input_that_cannot_travel_is_a_failure(pair: list[Sandbox], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    results = await sandbox_kernel.map(square, [2, object(), 3], sandboxes=pair)
    assert [results[0], results[2]] == [4, 9]
    assert (results[1].kind, results[1].name) == ("not sent", "TransferError")


async def test_arguments_that_cannot_be_are_refused() -> None:
    with pytest.raises(CommandError, match="1 sandbox at least"):
        sandbox_kernel.map(square, [1], sandboxes=0)
    with pytest.raises(CommandError, match="an iterable"):
        await sandbox_kernel.map(square, 3, sandboxes=1)  # type: ignore[arg-type]
    for arguments in ({"sandboxes": 1.5}, {"sandboxes": None}, {"retries": "x"}, {"max_result": -1}):
        with pytest.raises(CommandError, match=next(iter(arguments))):
            sandbox_kernel.map(square, [1], **arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="did you mean memory"):
        sandbox_kernel.map(square, [1], memroy="1 GiB")


def write(number: int) -> list[str]:
    found = sorted(path.name for path in Path().glob("_*"))
    Path(f"_{number}").write_text("a worker's")
    return found


def test_what_workers_write_ends_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "_mine").write_text("")
    for _ in range(2):
        results = sandbox_kernel.blocking_map(write, [1, 2], sandboxes=1)
        assert results[0] == ["_mine"]
    with sandbox_kernel.BlockingSandbox() as sandbox:
        assert sandbox.run("import os; [name for name in os.listdir() if name[0] == '_']").text == "['_mine']"
    assert {path.name for path in tmp_path.iterdir() if path.name[0] == "_"} == {"_mine"}
    with pytest.raises(CommandError, match="keep_changes: nothing is kept"):
        sandbox_kernel.blocking_map(write, [1], keep_changes=True)


async def test_function_that_fails_where_it_is_made_ends_it() -> None:
    from sandbox_kernel.library.fan_out.mapping import map_source

    with pytest.raises(FanOutError, match="cannot be made in the sandbox: ZeroDivisionError"):
        await map_source("f", "1 / 0", [1], sandboxes=2)
    with pytest.raises(FanOutError, match="defines no function f"):
        await map_source("f", "g = 1", [1], sandboxes=2)
    with pytest.raises(FanOutError, match="cannot be made in the sandbox: SystemExit"):
        await map_source("f", "raise SystemExit", [1, 2], sandboxes=2)
    mapping = map_source("f", "import os\nos._exit(1)", range(9), sandboxes=4, retries=1)
    with pytest.raises(FanOutError, match="its code ends Python"):
        await mapping
    assert mapping.replaced <= 4


async def test_error_of_the_inputs_is_raised_as_it_is() -> None:
    def inputs() -> Iterator[int]:
        yield 1
        raise LookupError("the inputs' own")

    with pytest.raises(LookupError, match="the inputs' own"):
        await sandbox_kernel.map(square, inputs(), sandboxes=2)


# ---- back-pressure


async def test_endless_inputs_are_taken_no_faster_than_outcomes() -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    async with sandbox_kernel.map(square, endless(), sandboxes=2) as mapping:
        outcomes = aiter(mapping)
        for _ in range(20):
            await anext(outcomes)
        # Nobody takes outcomes now.
        last = -1
        while taken != last:
            last = taken
            await asyncio.sleep(0.3)
        assert taken < 10_000
        for _ in range(2 * taken):
            await anext(outcomes)
        assert taken > last


async def test_inputs_may_come_one_by_one_from_a_coroutine() -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(10):
            await asyncio.sleep(0.001)
            yield number

    assert await sandbox_kernel.map(square, numbers(), sandboxes=2) == [number**2 for number in range(10)]
