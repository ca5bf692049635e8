"""What lies in deploy/ can be used: systemd takes the unit, and what the files name is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    # The program that it starts is not installed here, which alone is no fault of the unit.
    text = (DEPLOY / "sandbox-executor.service").read_text(encoding="utf-8")
    unit = tmp_path / "sandbox-executor.service"
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False, timeout=60
    )
    complaints = [line for line in done.stderr.splitlines() if "sandbox-executor" in line]
    assert (done.returncode, complaints) == (0, [])


def test_the_dockerfile_copies_what_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    sources = [word for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert sources
    assert [name for name in sources if not (REPOSITORY / name).exists()] == []


def test_both_run_the_program_that_is_installed() -> None:
    for name in ("Dockerfile", "sandbox-executor.service"):
        text = (DEPLOY / name).read_text(encoding="utf-8").replace('", "', " ")
        assert "jupyter-sandbox serve" in text
