"""A notebook on an executor while the network is away, or the kernel process is killed."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("an executor's sandboxes need bubblewrap, which only Linux has", allow_module_level=True)
pytest.importorskip("grpc")

from sandbox_kernel.errors import SandboxConnectionError
from sandbox_kernel.providers.base import SandboxSpec
from sandbox_kernel.providers.executor import calls
from sandbox_kernel.providers.executor.provider import ExecutorProvider
from tests.chaos.proxy import ChaosProxy
from tests.executor_process import ExecutorProcess, serving

from .client import PATIENCE, FrontEnd, KernelProcess, spawn, spawn_with

LINES = 60
SLOW = f"import time\nfor n in range({LINES}):\n    print(n, flush=True); time.sleep(0.1)"
WHOLE = "".join(f"{n}\n" for n in range(LINES))


@dataclass
class Distant:
    """A kernel process whose executor is behind a proxy."""

    executor: ExecutorProcess
    proxy: ChaosProxy
    kernel: KernelProcess
    front_end: FrontEnd
    arguments: list[str]


@pytest.fixture
def distant(tmp_path: Path) -> Iterator[Distant]:
    """One of each."""
    with serving(tmp_path / "executor") as executor:
        proxy = ChaosProxy(lambda: ("127.0.0.1", executor.port))
        options = {"address": f"localhost:{proxy.port}", "keepalive": 1.0, "keepalive_timeout": 0.5}
        arguments = ["--SandboxSession.reconnect_longest_delay=0.5", *executor.arguments(**options)]
        kernel = spawn(tmp_path / "kernel", *arguments)
        made = Distant(executor, proxy, kernel, kernel.front_end(), arguments)
        try:
            yield made
        finally:
            made.kernel.end()
            proxy.close()


def test_a_cell_goes_on_while_the_network_is_away_and_its_output_is_whole(distant: Distant) -> None:
    front_end = distant.front_end
    front_end.run("x = 1")
    cell = front_end.cell(SLOW)
    front_end.until(lambda: "5\n" in cell.stream())
    distant.proxy.cut_off()
    time.sleep(3)
    before = cell.stream()
    assert before != WHOLE
    distant.proxy.go_on()
    front_end.finish(cell)
    cell.assert_ended_once()
    assert cell.stream() == WHOLE
    assert front_end.run("x").result == "1"
    assert len(distant.executor.events("sandbox_created")) == 1


def test_cells_that_are_run_without_a_network_run_once_when_it_is_back(distant: Distant) -> None:
    front_end = distant.front_end
    front_end.run("x = 0")
    distant.proxy.cut_off()
    cells = [front_end.cell("x += 1\nx") for _ in range(5)]
    time.sleep(2.5)
    distant.proxy.go_on()
    front_end.finish(*cells)
    assert [cell.result for cell in cells] == ["1", "2", "3", "4", "5"]


def test_an_interrupt_without_a_network_takes_effect_when_it_is_back(distant: Distant) -> None:
    front_end = distant.front_end
    cell = front_end.cell("x = 'kept'\nprint('begun', flush=True)\nimport time\ntime.sleep(1000)")
    front_end.until(lambda: "begun" in cell.stream())
    distant.proxy.cut_off()
    assert front_end.interrupt()["status"] == "ok"
    time.sleep(2)
    distant.proxy.go_on()
    assert front_end.finish(cell).error["ename"] == "KeyboardInterrupt"
    assert front_end.run("x").result == "'kept'"


def test_a_killed_kernel_process_comes_back_to_its_sandbox_and_shows_what_it_missed(distant: Distant) -> None:
    front_end = distant.front_end
    cell = front_end.cell(f"x = 'kept'\n{SLOW}")
    front_end.until(lambda: "5\n" in cell.stream())
    distant.kernel.process.send_signal(signal.SIGKILL)
    distant.kernel.process.wait()
    front_ends = distant.kernel.front_ends
    distant.kernel = spawn_with(distant.kernel.connection_file, *distant.arguments)
    distant.kernel.front_ends = front_ends
    front_end.ready()
    after = front_end.run("x")
    assert after.result == "'kept'"
    shown = "".join(line for line in after.stream().splitlines(keepends=True) if line.strip().isdigit())
    assert WHOLE in (shown, cell.stream() + shown)
    assert len(distant.executor.events("sandbox_created")) == 1


def test_an_executor_that_was_restarted_is_told_by_the_cell_and_the_next_one_starts_afresh(distant: Distant) -> None:
    front_end = distant.front_end
    cell = front_end.cell("x = 1\nprint('begun', flush=True)\nimport time\ntime.sleep(1000)")
    front_end.until(lambda: "begun" in cell.stream())
    distant.executor.kill()
    distant.executor.start()
    front_end.finish(cell)
    assert cell.error["ename"] == "SandboxLostError"
    assert "restarted" in cell.error["evalue"]
    fresh = front_end.run("'x' in dir()")
    assert fresh.result == "False"
    assert "gone" in fresh.stream("stderr")


@pytest.mark.parametrize("way", ["shutdown_request", "SIGTERM"])
def test_a_kernel_ends_quietly_also_without_its_executor(distant: Distant, way: str) -> None:
    distant.front_end.run("1")
    distant.executor.kill()
    if way == "SIGTERM":
        distant.kernel.process.send_signal(signal.SIGTERM)
    else:
        distant.front_end.send(way, {"restart": False}, channel="control")
    assert distant.kernel.process.wait(PATIENCE) == 0
    assert distant.kernel.complaints() == ""


def test_a_stop_without_the_executor_is_told_and_the_kernel_goes_on(distant: Distant) -> None:
    front_end = distant.front_end
    front_end.run("1")
    distant.executor.kill()
    # The proxy takes the connection, and has nowhere to lead it.
    stopped = front_end.run("%sandbox stop")
    assert stopped.error["ename"] in ("SandboxConnectionError", "SandboxTimeoutError")
    assert "executor" in stopped.error["evalue"].lower()
    distant.executor.start()
    assert front_end.run("1").result == "1"


async def test_a_quiet_command_may_take_its_time_and_a_connection_that_is_gone_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "GONE_AFTER", 1.0)
    with serving(tmp_path / "executor") as executor:
        proxy = ChaosProxy(lambda: ("127.0.0.1", executor.port))
        options = {"address": f"localhost:{proxy.port}", "keepalive": 1.0, "request_timeout": 1.0}
        provider = ExecutorProvider(config=executor.config(**options))
        try:
            sandbox = await provider.create(SandboxSpec("sk-test"))
            command = sandbox.run("sleep 5; echo once; sleep 1000")
            assert await anext(command) == b"once\n"
            proxy.cut_off()
            with pytest.raises(SandboxConnectionError):
                await asyncio.wait_for(anext(command), PATIENCE)
            proxy.go_on()
            await sandbox.close()
        finally:
            proxy.close()
