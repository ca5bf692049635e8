"""The suites once more, with the sandboxes on an executor."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.executor_process import serving

from .children import CHOSEN, run_suites, tell_passed
from .conftest import KERNEL

if sys.platform != "linux":
    pytest.skip("an executor's sandboxes need bubblewrap, which only Linux has", allow_module_level=True)
pytest.importorskip("grpc")

# Upstream's tests kill kernel processes, whose sandboxes an executor keeps for them: here not for long.
OPTIONS = {"max_sandboxes": 0, "max_sandboxes_in_total": 0, "idle_timeout": 4, "paused_timeout": 2}
_SECONDS = 900


@pytest.mark.skipif(KERNEL != "sandbox", reason="another kernel is under test")
@pytest.mark.timeout(_SECONDS)
def test_the_suites_pass_through_an_executor(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    with serving(tmp_path / "executor", Executor=OPTIONS) as executor:
        title = "Python (sandbox on an executor)"
        done = run_suites(tmp_path, "sandbox-executor", title, executor.arguments(), str(CHOSEN), timeout=_SECONDS)
    tell_passed(done, "conformance through an executor", record_property)
