"""Real tools of LangChain and CrewAI register and run, in an environment of their own: they need much, of old versions.

It is made by `python -m venv FOLDER` and `FOLDER/bin/pip install langchain-core crewai traitlets jupyter_core
jsonschema`, and named by SANDBOX_TEST_FRAMEWORKS=FOLDER/bin/python.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PYTHON = os.environ.get("SANDBOX_TEST_FRAMEWORKS", "")


@pytest.mark.skipif(not PYTHON, reason="SANDBOX_TEST_FRAMEWORKS names no environment with LangChain and CrewAI")
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
