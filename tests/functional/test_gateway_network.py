"""Notebooks whose gateway is cut off: cells go on, none runs twice, and what was lost is said."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the servers are started and ended as on Linux", allow_module_level=True)
pytest.importorskip("jupyter_server")

from tests.chaos.faults import Fault
from tests.chaos.proxy import ChaosProxy
from tests.gateways import ALL_OR_ONE, KINDS, TOKEN, GatewayProcess, serving

from .client import FrontEnd, running

LINES = 40
SLOW = f"import time\nfor n in range({LINES}):\n    print(n, flush=True); time.sleep(0.1)"


@dataclass
class Distant:
    """A kernel process whose gateway is behind a proxy."""

    gateway: GatewayProcess
    proxy: ChaosProxy
    front_end: FrontEnd


@pytest.fixture(params=KINDS)
def distant(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Distant]:
    """One of each."""
    with serving(tmp_path / "gateway", KINDS[request.param]) as gateway:
        proxy = ChaosProxy(lambda: ("127.0.0.1", gateway.port))
        options = {"keepalive": 1.0, "keepalive_timeout": 0.5, "watch_interval": 1.0, "request_timeout": 5.0}
        words = gateway.arguments(url=f"http://127.0.0.1:{proxy.port}", **options)
        words += ["--SandboxSession.reconnect_longest_delay=0.5"]
        try:
            with running(tmp_path / "kernel", *words, environment={"SANDBOX_KERNEL_GATEWAY_TOKEN": TOKEN}) as kernel:
                front_end = kernel.front_end()
                front_end.run("x = 0")
                yield Distant(gateway, proxy, front_end)
                proxy.go_on()
                front_end.ask("shutdown_request", {"restart": False}, channel="control")
        finally:
            proxy.close()


def printed(text: str) -> list[int]:
    return [int(line) for line in text.splitlines() if line.strip().isdigit()]


def test_a_cell_goes_on_while_the_connection_is_cut_and_says_so(distant: Distant) -> None:
    front_end = distant.front_end
    cell = front_end.cell(SLOW)
    front_end.until(lambda: "5\n" in cell.stream())
    distant.proxy.break_off(refuse=True)
    time.sleep(1)
    distant.proxy.go_on()
    front_end.finish(cell)
    cell.assert_ended_once()
    assert "was lost for" in cell.stream("stderr")
    lines = printed(cell.stream())
    # The gateway keeps what comes while nobody is connected, but not what it had sent into the void.
    assert lines == sorted(set(lines))
    assert lines[-1] == LINES - 1
    assert len(lines) > LINES / 2
    assert front_end.run("n").result == str(LINES - 1)


@pytest.mark.parametrize("distant", ALL_OR_ONE, indirect=True)
def test_cells_that_are_run_without_a_connection_run_once_when_it_is_back(distant: Distant) -> None:
    front_end = distant.front_end
    distant.proxy.break_off(refuse=True)
    time.sleep(0.5)
    cells = [front_end.cell("x += 1\nx") for _ in range(5)]
    time.sleep(1.5)
    distant.proxy.go_on()
    front_end.finish(*cells)
    assert [cell.result for cell in cells] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("distant", ALL_OR_ONE, indirect=True)
def test_a_cell_whose_end_was_lost_says_so_and_is_not_run_again(distant: Distant) -> None:
    front_end = distant.front_end
    # From now on nothing comes back over the connection that there is, and nobody is told.
    distant.proxy.arm(Fault("half-open", upstream=False, after=0, seconds=0.0, fraction=0.0))
    cell = front_end.cell("x += 1\nprint('ran')")
    front_end.finish(cell)
    assert "not run again" in cell.error["evalue"]
    cell.assert_ended_once()
    assert front_end.run("x").result == "1"


def test_a_gateway_that_was_restarted_is_told_by_the_cell_and_the_next_one_starts_afresh(distant: Distant) -> None:
    front_end = distant.front_end
    cell = front_end.cell("print('begun', flush=True)\nimport time\ntime.sleep(1000)")
    front_end.until(lambda: "begun" in cell.stream())
    distant.gateway.kill()
    distant.gateway.begin()
    front_end.finish(cell)
    assert cell.error["ename"] == "SandboxLostError"
    assert "no such kernel" in cell.error["evalue"]
    fresh = front_end.run("'x' in dir()")
    assert fresh.result == "False"
    assert "a fresh one" in fresh.stream("stderr")


@pytest.mark.parametrize("distant", ALL_OR_ONE, indirect=True)
def test_an_interrupt_ends_a_cell_that_had_left_for_a_gateway_that_is_silent(distant: Distant) -> None:
    front_end = distant.front_end
    distant.gateway.process.send_signal(signal.SIGSTOP)
    try:
        cell = front_end.cell("x += 1\nx")
        deadline = time.monotonic() + 30
        while not cell.done and time.monotonic() < deadline:
            time.sleep(0.5)
            front_end.interrupt()
            front_end.until(lambda: True)
    finally:
        distant.gateway.process.send_signal(signal.SIGCONT)
    assert cell.done
    assert cell.error["ename"] == "KeyboardInterrupt"
    assert "may run there yet" in cell.error["evalue"]
    assert front_end.run("x in (0, 1)").result == "True"
    cell.assert_ended_once()
