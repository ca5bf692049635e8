"""Faults of the service and the network, each in each situation: no cell twice, no output lost or doubled, plain words.

The run ends with the table of what came of them.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("the emulator runs local sandboxes, on Linux", allow_module_level=True)

from sandbox_kernel.errors import SandboxKernelError
from sandbox_kernel.lifecycle import State
from tests.conftest import SAID
from tests.emulators.e2b.process import KEY, EmulatorProcess, emulating

from .e2b_notebook import AskedNotebook, opened, provider_of

CONTROL, ENVD, BRIDGE = "control", "49983", "49777"


@dataclass(frozen=True)
class Fault:
    """What goes wrong at the start, and while something runs; each is given to `EmulatorProcess.fault`."""

    at_start: dict[str, Any]
    meanwhile: dict[str, Any]
    """Of the connection that is made after the present one was cut."""


FAULTS = {
    "throttled": Fault(
        {"kind": "status", "path": "POST /(v2/)?sandboxes$", "status": 429, "headers": {"Retry-After": "1"}},
        {"kind": "status", "where": BRIDGE, "status": 429},
    ),
    "server error": Fault(
        {"kind": "status", "where": ENVD, "path": "/files", "status": 503},
        {"kind": "status", "where": BRIDGE, "status": 503, "times": 2},
    ),
    "connection refused": Fault(
        {"kind": "drop", "path": "POST /(v2/)?sandboxes$"},
        {"kind": "drop", "where": BRIDGE, "times": 2},
    ),
    "dropped after it was accepted": Fault(
        {"kind": "drop_after", "path": "POST /(v2/)?sandboxes$"},
        {"kind": "drop_after", "where": BRIDGE},
    ),
    "truncated": Fault(
        {"kind": "truncate", "path": "POST /(v2/)?sandboxes$", "size": 20},
        {"kind": "truncate", "where": BRIDGE, "size": 2000},
    ),
    "broken off": Fault(
        {"kind": "cut", "where": BRIDGE, "seconds": 0.05},
        {"kind": "cut", "where": BRIDGE, "seconds": 0.3},
    ),
    "silent": Fault(
        {"kind": "silence", "where": BRIDGE},
        {"kind": "silence", "where": BRIDGE},
    ),
    "slow": Fault(
        {"kind": "delay", "where": BRIDGE, "seconds": 2.0},
        {"kind": "delay", "where": BRIDGE, "seconds": 2.0},
    ),
}
SHORT = "n = globals().get('n', 0) + 1\nn"
LONG = "import time\nfor number in range(150):\n    print(number, flush=True); time.sleep(0.01)"
ASKING = "runs = globals().get('runs', 0) + 1\nanswer = input('well?')\nprint(runs, answer)"

pytestmark = pytest.mark.usefixtures("e2b_key")

TITLE = "faults of E2B in each situation"


@pytest.fixture(scope="module", autouse=True)
def silence(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[list[tuple[str, str]]]]:
    """A minute of silence, at an emulator of its own, beside the other tests."""
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as beside:
        patch.setenv("E2B_API_KEY", KEY)
        yield beside.submit(asyncio.run, be_silent(tmp_path_factory.mktemp("silence")))


async def short_cell(notebook: AskedNotebook, break_it: Callable[[], Awaitable[None]]) -> None:
    await break_it()
    cell = notebook.send(SHORT)
    await notebook.until(lambda: cell.done)
    assert cell.value == "1"
    assert (await notebook.run(SHORT)).value == "2"


async def long_cell(notebook: AskedNotebook, break_it: Callable[[], Awaitable[None]]) -> None:
    cell = notebook.send(LONG)
    await notebook.until(lambda: "20\n" in cell.printed)
    await break_it()
    await notebook.until(lambda: cell.done)
    assert [int(line) for line in cell.printed.split()] == list(range(150))


async def question(notebook: AskedNotebook, break_it: Callable[[], Awaitable[None]]) -> None:
    cell = notebook.send(ASKING)
    await break_it()
    await notebook.until(lambda: cell.done)
    assert cell.printed == "1 well?!\n"
    assert notebook.questions == 1


async def upload(notebook: AskedNotebook, break_it: Callable[[], Awaitable[None]]) -> None:
    data = os.urandom(2_000_000)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 250_000):
            if start == 500_000:
                await break_it()
            yield data[start : start + 250_000]

    assert await notebook.session.files.write("data.bin", pieces()) == len(data)
    read = b"".join([piece async for piece in notebook.session.files.read("data.bin")])
    assert read == data


SITUATIONS = {"short cell": short_cell, "long cell": long_cell, "input()": question, "upload": upload}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_loses_and_doubles_nothing(
    emulator: EmulatorProcess, tmp_path: Path, fault: str, record_property: Callable[[str, object], None]
) -> None:
    before = set(emulator.report()["sandboxes"])
    (tmp_path / "notebook").mkdir()
    notebook = AskedNotebook(provider_of(emulator), tmp_path / "notebook", tmp_path)
    outcomes = {}

    async def break_it() -> None:
        emulator.fault(**FAULTS[fault].meanwhile)
        emulator.cut()
        await asyncio.sleep(0)

    try:
        outcomes["start"] = await start(notebook, emulator, fault, before)
        for situation, do in SITUATIONS.items():
            outcomes[situation] = "FAILS"
            await do(notebook, break_it)
            emulator.clear()
            assert (await notebook.run("1 + 1")).value == "2"
            assert notebook.ended == []
            outcomes[situation] = "complete"
    finally:
        told = ", ".join(f"{situation}: {outcome}" for situation, outcome in outcomes.items())
        record_property(SAID, (TITLE, f"{fault:30} {told}"))
        emulator.clear()
        await notebook.session.close()
    assert set(emulator.report()["sandboxes"]) == before


async def start(notebook: AskedNotebook, emulator: EmulatorProcess, fault: str, before: set[str]) -> str:
    """Start in spite of a fault: one sandbox is made, or there is one plain error and the next start works."""
    emulator.fault(**FAULTS[fault].at_start)
    said = await started(notebook)
    emulator.clear()
    if said is not None:
        assert str(said)
        assert "Traceback" not in str(said)
        assert notebook.session.state is State.ERROR
        await notebook.session.start()
    notebook.ended.clear()
    assert (await notebook.run("1 + 1")).value == "2"
    await notebook.until(lambda: len(set(emulator.report()["sandboxes"]) - before) == 1)
    return "works" if said is None else "one error, then works"


async def started(notebook: AskedNotebook) -> SandboxKernelError | None:
    """Start; return what keeps the sandbox from it."""
    try:
        await notebook.session.start()
    except SandboxKernelError as exc:
        return exc
    return None


async def test_one_that_is_throttled_waits_as_long_as_it_is_told(emulator: EmulatorProcess, tmp_path: Path) -> None:
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    provider = provider_of(emulator)
    client = provider.client()
    client.rest._sleep = wait
    emulator.fault("status", path="GET /templates", status=429, headers={"Retry-After": "7"}, times=2)
    assert await client.templates()
    assert waited == [7, 7]
    await provider.disconnect()


async def test_a_502_of_a_sandbox_that_is_paused_is_understood(emulator: EmulatorProcess, tmp_path: Path) -> None:
    async with opened(emulator, tmp_path) as notebook:
        await notebook.run("x = 3")
        sandbox_id = notebook.session.info.sandbox_id
        assert await provider_and_pause(emulator, sandbox_id)
        notebook.session.idle_since = lambda: 1.0
        await notebook.until(lambda: notebook.session.state is State.PAUSED)
        await notebook.session.resume()
        assert (await notebook.run("x")).value == "3"


async def provider_and_pause(emulator: EmulatorProcess, sandbox_id: str) -> bool:
    provider = provider_of(emulator)
    paused = await provider.client().pause(sandbox_id)
    await provider.disconnect()
    return paused


@pytest.mark.timeout(150)
def test_a_minute_of_silence_is_survived(silence: Future[list[tuple[str, str]]]) -> None:
    """Both in bridge mode, by pings, and in basic mode, by the service's keep-alives."""
    assert silence.result(120) == [("done\n", "ok"), ("done\n", "ok")]


async def be_silent(folder: Path) -> list[tuple[str, str]]:
    """Have cells print nothing for a minute; return what they print then, and how they end."""
    with emulating(folder / "e2b") as emulator:
        for name in ("bridged", "basic"):
            (folder / name).mkdir()
        async with (
            opened(emulator, folder / "bridged", keepalive=5.0, keepalive_timeout=2.0) as bridged,
            opened(emulator, folder / "basic", mode="basic") as basic,
        ):
            notebooks = [bridged, basic]
            cells = [one.send("import time; time.sleep(60); print('done')") for one in notebooks]
            await asyncio.sleep(55)
            for notebook, cell in zip(notebooks, cells, strict=True):
                await notebook.until(lambda cell=cell: cell.done)  # type: ignore[misc]
            return [(cell.printed, cell.reply["status"]) for cell in cells]
