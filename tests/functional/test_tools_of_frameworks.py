"""Real tools of LangChain and CrewAI register and run, in an environment of their own: they need much, of old versions.

`make frameworks` makes it, and names it by SANDBOX_TEST_FRAMEWORKS=FOLDER/bin/python.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PYTHON = os.environ.get("SANDBOX_TEST_FRAMEWORKS", "")


@pytest.mark.skipif(not PYTHON, reason="needs 1 GB of packages: `make frameworks` runs it")
def test_real_tools_of_langchain_and_crewai_register_and_run(tmp_path: Path) -> None:
    # Neither sends anything anywhere, nor writes into the tester's home.
    quiet = {"CREWAI_DISABLE_TELEMETRY": "true", "OTEL_SDK_DISABLED": "true", "HOME": str(tmp_path)}
    environment = {**os.environ, **quiet, "PYTHONPATH": str(REPOSITORY / "kernel")}
    command = [PYTHON, str(Path(__file__).with_name("framework_tools.py"))]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=environment, cwd=tmp_path, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {name: [5, ["a"]] for name in ("decorated", "only_async", "langchain", "crew", "crew_function")}
