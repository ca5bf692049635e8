"""All suites once more, with the sandboxes on an executor."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.executor_process import serving

from .conftest import KERNEL

if sys.platform != "linux":
    pytest.skip("the executor runs on Linux", allow_module_level=True)
pytest.importorskip("grpc")

NAME = "sandbox-executor"
# Upstream's tests kill kernel processes, whose sandboxes an executor keeps for them: here not for long.
OPTIONS = {"max_sandboxes": 0, "max_sandboxes_in_total": 0, "idle_timeout": 4, "paused_timeout": 2}
_SECONDS = 900


@pytest.mark.skipif(KERNEL != "sandbox", reason="another kernel is under test")
@pytest.mark.timeout(_SECONDS)
def test_all_suites_pass_through_an_executor(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    with serving(tmp_path / "executor", Executor=OPTIONS) as executor:
        folder = tmp_path / "jupyter" / "kernels" / NAME
        folder.mkdir(parents=True)
        spec = {
            "argv": [sys.executable, "-m", "sandbox_kernel", "-f", "{connection_file}", *executor.arguments()],
            "display_name": "Python (sandbox on an executor)",
            "language": "python",
            "interrupt_mode": "message",
            "metadata": {"debugger": True},
        }
        (folder / "kernel.json").write_text(json.dumps(spec))
        own = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", str(Path(__file__).parent)],
            env={
                **own,
                "JUPYTER_PATH": os.pathsep.join(filter(None, [str(tmp_path / "jupyter"), own.get("JUPYTER_PATH")])),
                "SANDBOX_KERNEL_UNDER_TEST": NAME,
                "SANDBOX_CONFORMANCE_ELSEWHERE": "1",
            },
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    summary = re.search(r"\d+ passed.* in [\d.]+s", done.stdout)
    record_property("summary", summary[0] if summary else "")
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert summary is not None
