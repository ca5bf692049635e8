"""Maps whose sandboxes die, or that are interrupted."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

import sandbox_kernel
from sandbox_kernel import Sandbox, blocking_map
from sandbox_kernel.errors import ConfigurationError, FanOutError
from sandbox_kernel.library import Failure, FanOut, Results
from sandbox_kernel.library.fan_out.mapping import map_source
from tests.executor_process import serving
from tests.gateways import TOKEN
from tests.gateways import serving as gateway
from tests.waiting import until

from .pools import bubblewraps, busy, deadly, slow, square, told

if sys.platform != "linux":
    pytest.skip("the local provider needs bubblewrap, which only Linux has", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("nothing_left")
MANY = 10_000 if "SANDBOX_FAN_OUT_WHOLE" in os.environ else 1000
"""Inputs of the tests that kill sandboxes."""


def noted(number: int) -> int:
    time.sleep(0.01)
    file = os.open("runs.txt", os.O_WRONLY | os.O_APPEND)
    os.write(file, f"{number}\n".encode())
    os.close(file)
    return -number


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
    assert mapping.replaced >= 3


async def test_idempotent_input_is_tried_again_and_not_for_ever() -> None:
    results = await sandbox_kernel.map(deadly, range(20), sandboxes=2, idempotent=True, retries=2)
    (failure,) = results.failures
    assert (failure.index, failure.kind) == (7, "may have run")
    assert "tried 3 times" in failure.message


class Unlucky(Sandbox):
    """A sandbox whose next start fails as that of one does that is killed meanwhile."""

    fails = False

    async def ensure_started(self) -> None:
        if self.fails:
            self.fails = False
            raise ConfigurationError("it was killed while it started")
        await super().ensure_started()


async def test_sandbox_that_is_killed_while_it_starts_again_is_one_more_loss() -> None:
    async def inputs() -> AsyncIterator[int]:
        yield 0
        await until(lambda: mapping.results)
        pool[0].fails = True
        yield 7
        yield 8

    async with Unlucky() as sandbox:
        pool = [sandbox]
        mapping = sandbox_kernel.map(deadly, inputs(), sandboxes=pool)
        results = await mapping
    assert (results[0], results[1].kind, results[2]) == (0, "may have run", 8)
    assert mapping.replaced == 2


@asynccontextmanager
async def killing(least: float, most: float) -> AsyncIterator[list[int]]:
    """Kill sandboxes of this process and its children, at random, so many seconds apart; give the list of those."""
    chance = random.Random(10)
    killed: list[int] = []

    async def kill() -> None:
        while True:
            await asyncio.sleep(chance.uniform(least, most))
            victims = sorted(bubblewraps())
            if victims:
                killed.append(chance.choice(victims))
                with suppress(ProcessLookupError):
                    os.kill(killed[-1], signal.SIGKILL)

    killer = asyncio.create_task(kill())
    try:
        yield killed
    finally:
        killer.cancel()


async def outcomes_of(mapping: FanOut) -> Results:
    """Return what became of all inputs; of each there has to be one outcome."""
    seen: dict[int, Any] = {}
    async with mapping as outcomes:
        async for one in outcomes:
            assert one.index not in seen
            seen[one.index] = one.value if one.ok else one.failure
    assert sorted(seen) == list(range(len(seen)))
    return Results(seen[index] for index in range(len(seen)))


async def test_killed_sandboxes_lose_no_input_and_run_none_twice(tmp_path: Path) -> None:
    """The function writes down with what it runs, into a folder that all sandboxes see as it is."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    runs = folder / "runs.txt"
    runs.touch()
    runs.chmod(0o666)
    config = Config({"Workspace": {"mode": "readwrite"}})
    mapping = sandbox_kernel.map(noted, range(MANY), sandboxes=8, retries=1000, config=config, directory=folder)
    async with killing(0.05, 0.3) as killed:
        results = await outcomes_of(mapping)
    assert len(results) == MANY
    assert mapping.replaced > 0
    assert all(one == -index for index, one in enumerate(results) if not isinstance(one, Failure))
    assert {one.kind for one in results.failures} <= {"may have run"}
    # Of each sandbox at most the one input that it was at.
    assert len(results.failures) <= len(killed)
    ran = Counter(map(int, runs.read_text().split()))
    assert set(ran.values()) == {1}
    assert {index for index, one in enumerate(results) if not isinstance(one, Failure)} <= set(ran)


async def test_on_an_executor_inputs_that_may_have_run_are_told_and_not_run_again(tmp_path: Path) -> None:
    """There the pipes are the bridge's, and what it has not passed on is lost with it."""
    pytest.importorskip("grpc")
    with serving(tmp_path / "executor") as executor:
        argv = [f"--ExecutorProvider.address={executor.address}", f"--ExecutorProvider.key_file={executor.key_file()}"]
        # Else each sandbox gets a copy of the folder that the tests are run in, with all that was built there.
        argv.append("--Workspace.mode=private")
        np = pytest.importorskip("numpy")
        arrays = [np.arange(500_000)] * 4
        mapping = sandbox_kernel.map(told, arrays, sandboxes=2, provider="executor", argv=argv)
        doubled = await mapping
        # The ends of its own sandboxes are no losses.
        assert mapping.summary == "4 of 4 inputs were done"
        assert all((one == arrays[0]).all() for one in doubled)
        results = await sandbox_kernel.map(deadly, range(60), sandboxes=2, provider="executor", argv=argv)
        # Only Python ended there, so all that it said has come.
        assert [one.index for one in results.failures] == [7, 47]
        mapping = sandbox_kernel.map(busy, range(MANY), sandboxes=2, retries=1000, provider="executor", argv=argv)
        async with killing(0.3, 0.8):
            results = await outcomes_of(mapping)
        assert len(results) == MANY
        assert mapping.replaced > 0
        assert {one.kind for one in results.failures} <= {"may have run"}
        assert all(one == -index for index, one in enumerate(results) if not isinstance(one, Failure))


async def test_gateway_in_relay_mode_is_refused_at_once_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SANDBOX_KERNEL_GATEWAY_TOKEN", TOKEN)
    refused = pytest.raises(FanOutError, match=r"cannot take part in a map: .*relay mode")
    with gateway(tmp_path / "gateway") as server, refused:
        await sandbox_kernel.map(square, [1, 2, 3], sandboxes=1, argv=server.arguments())


async def test_when_no_sandbox_can_be_had_it_says_so(tmp_path: Path) -> None:
    mapping = sandbox_kernel.map(square, range(10), sandboxes=2, retries=1, python=str(tmp_path / "no-python"))
    with pytest.raises((FanOutError, ConfigurationError)):
        await mapping


ONCE = """
import os

if os.path.exists("left"):
    raise RuntimeError("not again")

def once(number):
    if number == 1:
        open("left", "w").close()
        os._exit(3)
    return -number
"""


async def test_error_of_the_map_has_the_results_so_far() -> None:
    mapping = map_source("once", ONCE, [0, 1, 2], sandboxes=1)
    with pytest.raises(FanOutError, match="not again") as raised:
        await mapping
    results = raised.value.results
    assert results == mapping.results
    assert results[0] == 0
    assert isinstance(results[1], Failure)
    assert 2 not in results


async def test_whatever_ends_a_map_its_results_so_far_are_not_lost(pair: list[Sandbox]) -> None:
    async def inputs() -> AsyncIterator[int]:
        yield 3
        await until(lambda: mapping.results)
        raise LookupError("the inputs' own")

    mapping = sandbox_kernel.map(square, inputs(), sandboxes=pair)
    with pytest.raises(LookupError):
        await mapping
    assert mapping.results == {0: 9}


# ---- interrupts


async def test_break_ends_the_sandboxes() -> None:
    before = bubblewraps()
    mapping = sandbox_kernel.map(busy, range(100_000), sandboxes=2)
    async for _ in mapping:
        assert bubblewraps() > before
        break
    await until(lambda: mapping._closing is not None and mapping._closing.done())
    assert bubblewraps() == before


async def test_after_break_they_have_ended_when_the_context_is_left() -> None:
    before = bubblewraps()
    async with sandbox_kernel.map(busy, range(100_000), sandboxes=2) as mapping:
        async for _ in mapping:
            break
    assert bubblewraps() == before
    assert all(task.done() for task in mapping._tasks)


def test_break_at_the_end_of_a_program_ends_the_sandboxes() -> None:
    async def program() -> None:
        async for _ in sandbox_kernel.map(busy, range(100_000), sandboxes=2):
            break

    before = bubblewraps()
    asyncio.run(program())
    assert bubblewraps() == before


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


def test_interrupt_of_a_quick_map_that_shows_its_progress_is_never_lost() -> None:
    """Its outcomes come all the time, so most cancellations arrive together with one."""

    async def program() -> None:
        for _ in range(8):
            mapping = sandbox_kernel.map(square, itertools.count(), sandboxes=pool, on_progress=lambda _: None)
            task = asyncio.ensure_future(mapping._collect())
            await until(lambda mapping=mapping: mapping.done > 1000)
            task.cancel()
            await asyncio.wait([task], timeout=20)
            assert task.cancelled()

    async def with_pool() -> None:
        async with Sandbox.create() as first, Sandbox.create() as second:
            pool.extend([first, second])
            await program()

    pool: list[Sandbox] = []
    asyncio.run(with_pool())


# ---- time


def lazy(number: int) -> int:
    if number == 2:
        time.sleep(60)
    if number == 5:
        os.kill(os.getpid(), signal.SIGSTOP)
    return -number


async def test_limit_of_cells_holds_for_each_input_and_also_for_a_python_that_does_not_answer() -> None:
    mapping = sandbox_kernel.map(lazy, range(40), sandboxes=2, execution_timeout=1)
    results = await mapping
    assert [(one.index, one.kind) for one in results.failures] == [(2, "timed out"), (5, "timed out")]
    assert "the function ran longer than 1 s" in results[2].message
    assert "SandboxSession.execution_timeout" in results[5].message
    assert [one for one in results if not isinstance(one, Failure)] == [-n for n in range(40) if n not in (2, 5)]
    # The first one only had to be interrupted.
    assert mapping.replaced <= 1


async def test_code_around_the_function_has_no_more_time_than_a_cell() -> None:
    with pytest.raises(FanOutError, match="its code ran longer than 1 s"):
        await map_source("f", "import time\ntime.sleep(60)\ndef f(number): pass", [1], sandboxes=1, execution_timeout=1)
