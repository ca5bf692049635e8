"""Who the tests run kernels as, and the Python environment that each of them can read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from .arena.door import Person

REPOSITORY = Path(__file__).parents[2]
SYSTEM_PYTHON = "/usr/bin/python3"
UNPRIVILEGED_USER = 54321
"""Nobody's number, and not the one that stands for unmapped users."""
READY_ENVIRONMENT = "SANDBOX_USER_PYTHON"
"""Names a Python that everybody can read and that has the project, so that none need be made for each run."""
INSTALL_TIMEOUT = 120

_ROOT = os.getuid() == 0
KINDS = ("root", "user") if _ROOT else ("user",)


class NoEnvironmentError(Exception):
    """No environment that an unprivileged user can read could be made; the message says why."""


@cache
def person(kind: str) -> Person:
    """Return root, or a user without privileges: who runs the tests, unless that is root."""
    if kind == "root" or not _ROOT:
        return Person(kind, os.getuid(), sys.executable)
    return Person(kind, UNPRIVILEGED_USER, _readable_python())


def _readable_python() -> str:
    for python in filter(None, (os.environ.get(READY_ENVIRONMENT), sys.executable)):
        if _works_for_everybody(python):
            return python
    return _new_environment()


def _works_for_everybody(python: str) -> bool:
    identity = ["--reuid", str(UNPRIVILEGED_USER), "--regid", str(UNPRIVILEGED_USER), "--clear-groups"]
    # By way of `env`: setpriv itself can still run what only root can reach.
    command = ["setpriv", *identity, "env", python, "-c", "import jupyter_client, sandbox_kernel"]
    return subprocess.run(command, check=False, cwd="/", capture_output=True).returncode == 0


def _new_environment() -> str:
    """Install the project for everybody, from the system's Python. `remove_environment` takes it away again."""
    folder = Path(tempfile.mkdtemp(prefix="environment-", dir="/var/tmp"))
    _made.append(folder)
    folder.chmod(0o755)
    python = str(folder / "bin/python")
    _run([SYSTEM_PYTHON, "-m", "venv", str(folder)])
    _run([python, "-m", "pip", "install", "--quiet", "--no-compile", str(REPOSITORY)])
    # Theirs, as the environments of people are: also bubblewrap's program, if it came with the packages.
    _run(["chown", "--recursive", "--no-dereference", str(UNPRIVILEGED_USER), str(folder)])
    return python


_made: list[Path] = []


def remove_environment() -> None:
    while _made:
        shutil.rmtree(_made.pop(), ignore_errors=True)


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, umask=0o022
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NoEnvironmentError(f"no environment for an unprivileged user: {exc}") from exc
    if done.returncode:
        reason = (done.stderr or done.stdout).strip()[-500:]
        raise NoEnvironmentError(f"no environment for an unprivileged user: {' '.join(command[:4])}: {reason}")
