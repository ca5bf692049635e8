"""A real kernel process whose sandbox runs an attacker in place of the bridge goes on serving its front end."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest

from tests.functional.client import FrontEnd, running

if not sys.platform.startswith("linux"):
    pytest.skip("the local provider is Linux's", allow_module_level=True)

REPOSITORY = Path(__file__).parents[2]
MODES = ["garbage", "silence", "lives", "flood", "bombs", "huge", "large"]
MEMORY = 400 * 1024 * 1024
"""Bytes that a kernel process under attack may take: at most a message of the largest size that the guard passes."""

OWN_FILES = {"config", "data", "runtime", "connection.json", "connection.stderr"}


def install(folder: Path) -> str:
    """Make the provider known to kernels that have this folder on their path."""
    info = folder / "hostile_provider-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hostile-provider\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[sandbox_kernel.providers]\nhostile = tests.security.hostile_provider:HostileProvider\n"
    )
    return f"{folder}:{REPOSITORY}"


def is_served(front_end: FrontEnd) -> bool:
    """Whether what needs no sandbox is answered."""
    info = front_end.ask("kernel_info_request", channel="control")
    assert front_end.interrupt() == {"status": "ok"}
    return bool(info["status"] == "ok")


@pytest.mark.parametrize("mode", MODES)
def test_attacked_kernel_serves_its_front_end(tmp_path: Path, mode: str) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    environment = {"PYTHONPATH": install(packages), "HOSTILE_MODE": mode}
    options = ("--SandboxSession.provider=hostile", "--SandboxSession.startup_timeout=5")
    with running(tmp_path / "kernel", *options, environment=environment) as kernel:
        front_end = kernel.front_end()
        for _ in range(20):
            front_end.cell("1", stop_on_error=False)
            assert is_served(front_end)
            assert kernel.memory() < MEMORY
        assert {path.name for path in (tmp_path / "kernel").iterdir()} <= OWN_FILES
        logs = list((tmp_path / "kernel").rglob("*.log"))
        assert sum(path.stat().st_size for path in logs) < 2_000_000
        assert front_end.ask("shutdown_request", {"restart": False}, channel="control")["status"] == "ok"
        psutil.Process(kernel.pid).wait(30)
