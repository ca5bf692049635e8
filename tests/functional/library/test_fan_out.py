"""`map`: many inputs in several sandboxes, some of which are lost, some of which lie."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

import sandbox_kernel
from sandbox_kernel import Sandbox, blocking_map
from sandbox_kernel.errors import CellError, CommandError, ConfigurationError, FanOutError, TransferError
from sandbox_kernel.library import Failure, Results
from tests.waiting import until

if sys.platform != "linux":
    pytest.skip("the local provider needs bubblewrap, which only Linux has", allow_module_level=True)

MANY = int(os.environ.get("SANDBOX_FAN_OUT_INPUTS", "1000"))
"""Inputs of the test that kills sandboxes; 10000 on demand."""
OFFSET = 3


def square(number: int) -> int:
    return number * number


def moved(number: int) -> float:
    return math_root(number) + OFFSET


def math_root(number: int) -> float:
    return float(number**0.5)


def picky(number: int) -> int:
    if number == 7:
        raise ValueError("seven")
    return number


def deadly(number: int) -> int:
    if number % 40 == 7:
        os._exit(3)
    return number


def slow(number: int) -> int:
    time.sleep(600)
    return number


def busy(number: int) -> int:
    time.sleep(0.002)
    return -number


def odd_results(kind: str) -> Any:
    return {"object": object(), "lock": sys.stdout, "large": b"x" * 2_000_000}.get(kind, kind)


def told(data: Any) -> Any:
    return data


def bubblewraps() -> set[int]:
    """Return the sandboxes of this process."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            if "bwrap:" in " ".join(child.cmdline()[:1]):
                found.add(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """No map leaves a sandbox behind, whatever it ended by."""
    before = bubblewraps()
    yield
    deadline = time.monotonic() + 10
    while bubblewraps() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert bubblewraps() == before


@pytest.fixture
async def pair() -> AsyncIterator[list[Sandbox]]:
    async with Sandbox.create() as first, Sandbox.create() as second:
        yield [first, second]


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
    with pytest.raises(ConfigurationError, match="did you mean memory"):
        sandbox_kernel.map(square, [1], memroy="1 GiB")


async def test_function_that_fails_where_it_is_made_ends_it() -> None:
    from sandbox_kernel.library.fan_out.mapping import map_source

    with pytest.raises(FanOutError, match="cannot be made in the sandbox: ZeroDivisionError"):
        await map_source("f", "1 / 0", [1], sandboxes=2)
    with pytest.raises(FanOutError, match="defines no function f"):
        await map_source("f", "g = 1", [1], sandboxes=2)


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


# ---- losses


async def test_input_that_ends_its_python_is_a_failure_and_the_others_run_once() -> None:
    mapping = sandbox_kernel.map(deadly, range(100), sandboxes=2)
    results = await mapping
    assert [(one.index, one.kind) for one in results.failures] == [
        (7, "may have run"),
        (47, "may have run"),
        (87, "may have run"),
    ]
    assert "idempotent=True" in results[7].message
    assert [one for one in results if not isinstance(one, Failure)] == [n for n in range(100) if n % 40 != 7]
    assert mapping.replaced == 3


async def test_idempotent_input_is_tried_again_and_not_for_ever() -> None:
    results = await sandbox_kernel.map(deadly, range(20), sandboxes=2, idempotent=True, retries=2)
    (failure,) = results.failures
    assert (failure.index, failure.kind) == (7, "may have run")
    assert "tried 3 times" in failure.message


async def test_killed_sandboxes_lose_no_input_and_run_none_twice(tmp_path: Path) -> None:
    """Of killed sandboxes, every input has one result or a stated failure; those that failed are few."""
    chance = random.Random(10)
    kills = 0

    async def kill() -> None:
        nonlocal kills
        while True:
            await asyncio.sleep(chance.uniform(0.05, 0.3))
            victims = sorted(bubblewraps())
            if victims:
                os.kill(chance.choice(victims), signal.SIGKILL)
                kills += 1

    mapping = sandbox_kernel.map(busy, range(MANY), sandboxes=8)
    killer = asyncio.create_task(kill())
    seen: dict[int, Any] = {}
    try:
        async with aclosing(aiter(mapping)) as outcomes:
            async for one in outcomes:
                assert one.index not in seen
                seen[one.index] = one.value if one.ok else one.failure
    finally:
        killer.cancel()
    results = Results(seen[index] for index in range(MANY))
    assert len(seen) == MANY
    assert mapping.replaced > 0
    assert all(one == -index for index, one in enumerate(results) if not isinstance(one, Failure))
    assert {one.kind for one in results.failures} <= {"may have run"}
    # At most the one input that it was at, of each.
    assert len(results.failures) <= kills


async def test_when_no_sandbox_can_be_had_it_says_so(tmp_path: Path) -> None:
    mapping = sandbox_kernel.map(square, range(10), sandboxes=2, retries=1, python=str(tmp_path / "no-python"))
    with pytest.raises((FanOutError, ConfigurationError)):
        await mapping


# ---- interrupts


async def test_cancelled_map_leaves_no_sandbox_and_says_what_was_done() -> None:
    mapping = sandbox_kernel.map(slow, range(100), sandboxes=2)
    task = asyncio.ensure_future(mapping._collect())
    await until(lambda: mapping.under_way == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert mapping.summary == "0 of 100 inputs were done"


async def test_cancelled_map_leaves_given_sandboxes_usable(pair: list[Sandbox]) -> None:
    await pair[0].run("kept = 1")
    mapping = sandbox_kernel.map(slow, range(100), sandboxes=pair)
    task = asyncio.ensure_future(mapping._collect())
    await until(lambda: mapping.under_way == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await pair[0].run("kept")).text == "1"


SCRIPT = """
import os, signal
from sandbox_kernel import blocking_map

def work(number):
    import time
    time.sleep(600 if number == 5 else 0)
    return number

def look(mapping):
    if mapping.done == 5:
        os.kill(os.getpid(), signal.SIGINT)

try:
    blocking_map(work, range(6), sandboxes=2, on_progress=look)
except KeyboardInterrupt as exc:
    print(exc)
"""


def test_ctrl_c_ends_a_blocking_map_and_says_what_was_done(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.stderr) == ("interrupted: 5 of 6 inputs were done\n", "")


def test_blocking_map_does_the_same() -> None:
    assert blocking_map(square, (number for number in range(20)), sandboxes=2) == [n * n for n in range(20)]


# ---- lies


def writer_of(number: int) -> Any:
    frame: Any = sys._getframe()
    while "writer" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["writer"]


def forge(kind: str) -> str:
    import pickle
    import struct

    def frame(text: bytes, data: bytes = b"", said: int = -1) -> bytes:
        return struct.pack("!IQ", len(text), len(data) if said < 0 else said) + text + data

    writer = writer_of(0)
    index = sys._getframe(1).f_locals["said"]["index"]
    end = b'{"end": %d, "header": {"kind": "json"}}' % index
    bad = pickle.dumps(print)
    forged = {
        "huge": frame(end, said=1 << 60),
        "huge object": struct.pack("!IQ", 1 << 31, 0),
        "negative": struct.pack("!IQ", 0, 0),
        "other index": frame(b'{"end": 999999, "header": {"kind": "json"}}', b"1"),
        "index of no kind": frame(b'{"end": [1], "header": {"kind": "json"}}', b"1"),
        "begun twice": frame(b'{"begin": %d}' % index),
        "no object": frame(b"[1, 2]"),
        "no json": frame(b"\xff\xfe"),
        "deep": frame(b'{"end":' + b"[" * 100_000),
        "no result": frame(b'{"end": %d}' % index),
        "pickle": frame(b'{"end": %d, "header": {"kind": "pickle"}}' % index, bad),
        "pickled array": frame(b'{"end": %d, "header": {"kind": "npy"}}' % index, bad),
        "false error": frame(b'{"end": %d, "error": 3}' % index),
        "failed": frame(b'{"failed": "late"}'),
    }.get(kind, b"")
    if forged:
        writer._write(memoryview(forged))
    return kind


LIES = [
    ("huge", "a result of 1152921504606846976 bytes"),
    ("huge object", "an object of 2147483648 bytes"),
    ("negative", "an object of 0 bytes"),
    ("other index", "999999"),
    ("index of no kind", "where that cannot be"),
    ("begun twice", "where that cannot be"),
    ("no object", "what is no object"),
    ("no json", "what is no object"),
    ("deep", "what is no object"),
    ("no result", "an end without a result"),
    ("false error", "an end without a result"),
    ("failed", "where that cannot be"),
    ("pickle", "kind 'pickle' are not known"),
    ("pickled array", "does not travel"),
]


async def test_forged_results_are_failures_and_nothing_is_unpickled() -> None:
    """One sandbox, so that each lie is the first input of a fresh one; honest inputs go on beside them."""
    inputs = [kind for kind, _ in LIES]
    results: list[Any] = []
    for kind in inputs:
        results += await sandbox_kernel.map(forge, [kind], sandboxes=1)
    for (kind, reason), result in zip(LIES, results, strict=True):
        assert isinstance(result, Failure), kind
        assert reason in result.message, kind
    assert {one.kind for one in results} == {"may have run", "not returned"}


async def test_liar_among_honest_inputs_costs_no_more_than_what_it_had() -> None:
    inputs = ["honest"] * 30
    inputs[10] = "huge"
    results = await sandbox_kernel.map(forge, inputs, sandboxes=2)
    assert len(results) == 30
    assert "honest" in results
    assert {one if isinstance(one, str) else one.kind for one in results} == {"honest", "may have run"}
