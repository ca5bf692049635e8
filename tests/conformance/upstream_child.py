"""Runs an upstream project's tests in a process of its own, and reports each as it ends.

Usage: upstream_child.py FILE_DESCRIPTOR PYTEST_ARGUMENT…; the descriptor is the writing end of a
`multiprocessing.Pipe`. Imports nothing of ours, since it is started as a script, but has the kernels' ports chosen.
"""

from __future__ import annotations

import os
import runpy
import sys
from functools import wraps
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

_DETAIL_CHARACTERS = 6000
_FIRST_CELL_SECONDS = 60


class Reporter:
    """Sends what the other side asks for: the names when only collecting, else one dictionary per finished test."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._collected_only = False
        self._result: dict[str, Any] = {}
        self.launched: list[list[str]] = []

    def pytest_addoption(self, parser: pytest.Parser) -> None:
        # One upstream test asks for this option of pytest-cov without looking whether it is there.
        parser.addoption("--cov", action="store_true", default=False)
        parser.addoption("--after-a-cell", action="append", default=[])

    def pytest_configure(self, config: pytest.Config) -> None:
        _answer_a_cell_first(config.getoption("after_a_cell"))

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._collected_only = session.config.option.collectonly
        if self._collected_only and not session.testsfailed:
            self._connection.send([_name(item.nodeid) for item in session.items])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "setup":
            self._result = {"outcome": "passed", "detail": "", "seconds": 0.0}
        result = self._result
        result["seconds"] += report.duration
        if not report.passed and result["outcome"] != "failed":
            result["outcome"] = report.outcome
            result["detail"] = _skip_reason(report) if report.skipped else _failure(report)
        if report.when == "teardown":
            self._connection.send({"name": _name(report.nodeid), "launched": self.launched, **result})
            self.launched = []


def _name(nodeid: str) -> str:
    return nodeid.removeprefix("tests/")


def _skip_reason(report: pytest.TestReport) -> str:
    return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else report.longreprtext


def _failure(report: pytest.TestReport) -> str:
    sections = "".join(f"\n--- {title} ---\n{text}" for title, text in report.sections)
    return f"({report.when})\n{report.longreprtext[-_DETAIL_CHARACTERS:]}{sections[-_DETAIL_CHARACTERS:]}"


def _record_launches(reporter: Reporter) -> None:
    """Note which kernelspec's command each kernel was started from: the proof that the suite was retargeted."""
    launch = LocalProvisioner.launch_kernel

    @wraps(launch)
    async def launch_and_note(self: LocalProvisioner, cmd: list[str], **kwargs: Any) -> Any:
        reporter.launched.append(list(self.kernel_spec.argv))
        return await launch(self, cmd, **kwargs)

    LocalProvisioner.launch_kernel = launch_and_note  # type: ignore[method-assign]


def _answer_a_cell_first(names: list[str]) -> None:
    """Let the kernels that these tests start answer a cell before they are taken for ready."""
    wait_for_ready = BlockingKernelClient.wait_for_ready

    @wraps(wait_for_ready)
    def wait_and_run(self: BlockingKernelClient, timeout: float | None = None) -> None:
        wait_for_ready(self, timeout=timeout)
        if _name(os.environ["PYTEST_CURRENT_TEST"]).rpartition(" ")[0] in names:
            self.execute_interactive("pass", silent=True, timeout=_FIRST_CELL_SECONDS)

    BlockingKernelClient.wait_for_ready = wait_and_run  # type: ignore[method-assign]


def main() -> int:
    # The folder of this script must not be importable: upstream tests hand their sys.path to kernels.
    del sys.path[0]
    reporter = Reporter(Connection(int(sys.argv[1]), readable=False))
    _record_launches(reporter)
    return pytest.main(sys.argv[2:], plugins=[reporter])


if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).parents[1] / "ports.py"))["choose_for_jupyter_client"]()
    sys.exit(main())
