"""The suites in a pytest of their own, against a kernel whose sandboxes are elsewhere, and what is told of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.conftest import SAID

from .conftest import WHOLE
from .upstream import jupyter_path

SUITES = Path(__file__).parent
SAMPLES = SUITES / "test_jupyter_kernel_test.py"
CHOSEN = SUITES if WHOLE else SAMPLES
"""Those that are run: all take minutes for each kind of sandbox that is elsewhere."""
_REPOSITORY = SUITES.parents[1]


def run_suites(
    folder: Path,
    name: str,
    display_name: str,
    options: Sequence[str],
    *words: str,
    timeout: float,
    env: Mapping[str, str] | None = None,
    spec_env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run pytest with these words against a kernel with these options, whose kernelspec is put into the folder.

    The process has ``env`` in its environment, the kernel ``spec_env``; it may take ``timeout`` seconds.
    """
    kernel = folder / "jupyter" / "kernels" / name
    kernel.mkdir(parents=True)
    spec = {
        "argv": [sys.executable, "-m", "sandbox_kernel", "-f", "{connection_file}", *options],
        "display_name": display_name,
        "language": "python",
        "interrupt_mode": "message",
        "metadata": {"debugger": True},
        "env": dict(spec_env or {}),
    }
    (kernel / "kernel.json").write_text(json.dumps(spec))
    # Where they run is what kernels bring their sandboxes; this repository with what was built in it is too large.
    work = folder / "work"
    work.mkdir()
    pytest_words = ["-q", "--color=no", "-c", str(_REPOSITORY / "pyproject.toml"), "--rootdir", str(_REPOSITORY)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *pytest_words, *words],
        cwd=work,
        env={
            **{variable: value for variable, value in os.environ.items() if variable != "PYTEST_ADDOPTS"},
            **(env or {}),
            "JUPYTER_PATH": jupyter_path(folder / "jupyter"),
            "SANDBOX_KERNEL_UNDER_TEST": name,
            "SANDBOX_CONFORMANCE_ELSEWHERE": "1",
        },
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def tell_passed(done: subprocess.CompletedProcess[str], title: str, record_property: pytest.RecordProperty) -> None:
    """Tell what was compared, and every exception with its reason; nothing may have failed."""
    summary = re.search(r"^\d+ passed.* in [\d.]+s.*$", done.stdout, re.MULTILINE)
    assert done.returncode == 0, _end(done)
    assert summary is not None, _end(done)
    _, _, told = done.stdout[: summary.end()].partition("= conformance of the kernel")
    record_property(SAID, (title, told.partition("\n")[2] or summary[0]))


def tell_exceptions(
    done: subprocess.CompletedProcess[str],
    exceptions: Mapping[str, str],
    title: str,
    record_property: pytest.RecordProperty,
) -> None:
    """Tell how it ended, and every exception with its reason; these and no others must have failed, as `-rf` lists."""
    failed = set(re.findall(r"^(?:SUB)?FAILED.*? \S*?::(\S+)", done.stdout, re.MULTILINE))
    assert failed == set(exceptions), f"not as listed: {sorted(failed ^ set(exceptions))}\n{_end(done)}"
    lines = [done.stdout.rstrip().rpartition("\n")[2], *(f"  {name}: {why}" for name, why in exceptions.items())]
    record_property(SAID, (title, "\n".join(lines)))


def _end(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout[-20_000:] + done.stderr[-2_000:]
