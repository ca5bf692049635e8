"""What somebody else than the notebook does to a gateway's kernel in relay mode: each loss is told, and once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the servers are started and ended as on Linux", allow_module_level=True)
pytest.importorskip("jupyter_server")

from sandbox_kernel.providers.gateway.words import BEGINNING_LOST, swallowed
from tests.gateways import TOKEN, GatewayProcess, serving

from .client import Exchange, FrontEnd, running

ENDLESS = "import time\nfor n in range(1000):\n    print(n, flush=True); time.sleep(0.1)"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with serving(tmp_path_factory.mktemp("gateway")) as made:
        yield made


@pytest.fixture
def front_end(gateway: GatewayProcess, tmp_path: Path) -> Iterator[FrontEnd]:
    with running(tmp_path, *gateway.arguments(), environment={"SANDBOX_KERNEL_GATEWAY_TOKEN": TOKEN}) as kernel:
        opened = kernel.front_end()
        opened.run("x = 1")
        yield opened
        opened.ask("shutdown_request", {"restart": False}, channel="control")


def own(gateway: GatewayProcess) -> str:
    """The kernel that runs."""
    (kernel_id,) = gateway.kernel_ids()
    return f"/api/kernels/{kernel_id}"


def in_mid_cell(front_end: FrontEnd) -> Exchange:
    cell = front_end.cell(ENDLESS)
    front_end.until(lambda: "1\n" in cell.stream())
    return cell


def errors(cell: Exchange) -> list[str]:
    return [str(error["ename"]) for error in cell.contents("error")]


def assert_fresh(front_end: FrontEnd) -> None:
    """The kernel is another one, which is told once; a gateway may hear it late, which a cell tells then."""
    cell = front_end.run("'x' in dir()")
    told = cell.stream("stderr")
    while not cell.contents("execute_result"):
        assert swallowed(begun=True) in told or BEGINNING_LOST in told
        cell = front_end.run("'x' in dir()")
        told = told.replace(swallowed(begun=True), "").replace(BEGINNING_LOST, "") + cell.stream("stderr")
    assert cell.result == "False"
    assert told.count("a fresh one") == 1


def test_a_restart_by_others_is_told_by_the_next_cell_once(gateway: GatewayProcess, front_end: FrontEnd) -> None:
    gateway.ask("POST", f"{own(gateway)}/restart")
    assert_fresh(front_end)
    assert front_end.run("1").stream("stderr") == ""


def test_a_restart_by_others_in_mid_cell_is_one_error_and_a_notice(
    gateway: GatewayProcess, front_end: FrontEnd
) -> None:
    cell = in_mid_cell(front_end)
    gateway.ask("POST", f"{own(gateway)}/restart")
    front_end.finish(cell)
    cell.assert_ended_once()
    assert len(errors(cell)) == 1
    assert_fresh(front_end)


def test_a_kernel_that_others_end_in_mid_cell_is_one_error_and_a_notice(
    gateway: GatewayProcess, front_end: FrontEnd
) -> None:
    cell = in_mid_cell(front_end)
    gateway.ask("DELETE", own(gateway))
    front_end.finish(cell)
    cell.assert_ended_once()
    assert len(errors(cell)) == 1
    assert_fresh(front_end)


def test_the_doctor_starts_no_kernel(gateway: GatewayProcess, tmp_path: Path) -> None:
    before = gateway.log.read_text().count("Kernel started")
    command = [sys.executable, "-m", "sandbox_kernel.cli", "doctor", "--provider", "gateway"]
    settings = {"SANDBOX_KERNEL_GATEWAY_URL": gateway.url, "JUPYTER_CONFIG_DIR": str(tmp_path)}
    for token, code in ((TOKEN, 0), ("another-than-that", 1)):
        environment = {**os.environ, **settings, "SANDBOX_KERNEL_GATEWAY_TOKEN": token}
        told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert told.returncode == code, told
        assert "not tried" in told.stdout
        assert told.stdout.count("SANDBOX_KERNEL_GATEWAY_TOKEN is wrong") <= 1
    assert gateway.log.read_text().count("Kernel started") == before


def test_a_kernel_of_others_is_listed_attached_and_restarted_only_when_that_is_confirmed(
    gateway: GatewayProcess, front_end: FrontEnd
) -> None:
    foreign = gateway.ask("POST", "/api/kernels", {})["id"]
    try:
        assert foreign in front_end.run("%sandbox list").stream()
        front_end.run("%sandbox stop")
        assert foreign in front_end.run(f"%sandbox attach {foreign[:8]}").stream()
        front_end.run("theirs = 1")
        cell = front_end.cell("%sandbox restart")
        front_end.until(lambda: bool(cell.questions) or cell.done)
        front_end.answer("n")
        front_end.finish(cell)
        assert "not confirmed" in cell.error["evalue"]
        assert front_end.run("theirs").result == "1"
        assert "goes on" in front_end.run("%sandbox stop").stream()
        assert foreign in gateway.kernel_ids()
    finally:
        gateway.ask("DELETE", f"/api/kernels/{foreign}")
