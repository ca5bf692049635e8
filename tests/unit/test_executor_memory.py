"""What an executor and its clients take for the pieces of a link stays theirs."""

from __future__ import annotations

import subprocess
import sys

import pytest

if sys.platform != "linux":
    pytest.skip("only glibc's malloc is told anything", allow_module_level=True)

FAULTS = """
import resource, sys
from sandbox_kernel.executor_api.memory import keep_blocks
from sandbox_kernel.executor_api.protocol import LINK_CHUNK
if sys.argv[1] == "kept":
    if not keep_blocks():
        sys.exit("not glibc")
def turn():
    blocks = [bytes(LINK_CHUNK) + b"." for _ in range(8)]
turn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    turn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=False, timeout=60)
    if done.stderr == "not glibc\n":
        pytest.skip("this C library is not glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_of_pieces_is_taken_once() -> None:
    assert faults("kept") < faults("as it is") / 10
