"""The library for each kind of user: a script of theirs runs a cell, isolated, and leaves nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from .people import KINDS, NoEnvironmentError, person

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the local provider's isolation is Linux's")

SCRIPT = """
import os
from sandbox_kernel import BlockingSandbox

with BlockingSandbox() as sandbox:
    print(sandbox.run("1 + 1").text)
    print(sandbox.run("import os; os.path.exists('/etc/shadow'), os.listdir()").text)
    sandbox.push(value=(1, {2}))
    print(sandbox.pull("value"))
print(os.listdir(os.environ["TMPDIR"]))
"""


@pytest.mark.usefixtures("_environments")
@pytest.mark.parametrize("kind", KINDS)
def test_script_of_any_user_runs_cells_in_a_sandbox(kind: str) -> None:
    try:
        somebody = person(kind)
    except NoEnvironmentError as exc:
        pytest.skip(str(exc))
    done = run(somebody.python, somebody.user)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["2", "(False, [])", "(1, {2})", "[]"]


def run(python: str, uid: int) -> subprocess.CompletedProcess[str]:
    """Run the script with a home folder, and a folder for its sandboxes, that are its user's own."""
    folder = Path(tempfile.mkdtemp(prefix="library-", dir="/var/tmp"))
    try:
        work = folder / "work"
        work.mkdir()
        for path in (folder, work):
            os.chown(path, uid, uid)
        # Those who run inside for root must get through it.
        folder.chmod(0o755)
        work.chmod(0o755)
        identity = [] if uid == os.getuid() else ["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(work)}
        command = [*identity, "env", python, "-c", SCRIPT]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
    finally:
        shutil.rmtree(folder)
