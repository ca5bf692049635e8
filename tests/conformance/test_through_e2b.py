"""The suites once more, with the sandboxes at a stand-in for E2B: the bridge in them, or basic mode.

Those of ipykernel and nbclient take four minutes, and pass through an executor, too, by the same bridge: they are run
here where `SANDBOX_CONFORMANCE_WHOLE=1` is in the environment.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.emulators.e2b.kernel import arguments
from tests.emulators.e2b.process import KEY, EmulatorProcess, emulating

from .children import CHOSEN, SAMPLES, run_suites, tell_exceptions, tell_passed
from .conftest import KERNEL
from .exceptions import E2B_BASIC_MODE

if sys.platform != "linux":
    pytest.skip("the emulator runs local sandboxes, on Linux", allow_module_level=True)

_SECONDS = 1200

pytestmark = pytest.mark.skipif(KERNEL != "sandbox", reason="another kernel is under test")


def suites_through(emulator: EmulatorProcess, folder: Path, mode: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run pytest against a kernel on the emulator."""
    # Some tests begin with the debugger or a subshell, for which no sandbox is made where that costs money by surprise.
    # Others kill kernel processes, whose sandboxes would be kept for them: here not for long.
    options = arguments(emulator, mode=mode, timeout=20, auto_pause=False, start_with_kernel=True)
    key = {"E2B_API_KEY": KEY}
    title = "Python (sandbox at E2B)"
    return run_suites(folder, "sandbox-e2b", title, options, *words, timeout=_SECONDS, spec_env=key)


@pytest.mark.timeout(_SECONDS)
def test_the_suites_pass_through_e2b(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    with emulating(tmp_path / "e2b", "--max-sandboxes", "200") as emulator:
        done = suites_through(emulator, tmp_path, "bridge", str(CHOSEN))
    tell_passed(done, "conformance through E2B, in bridge mode", record_property)


@pytest.mark.timeout(_SECONDS)
def test_basic_mode_answers_most_messages_as_ipykernel_does(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    with emulating(tmp_path / "e2b") as emulator:
        done = suites_through(emulator, tmp_path, "basic", "-rf", "--tb=short", str(SAMPLES))
    tell_exceptions(done, E2B_BASIC_MODE, "conformance through E2B, in basic mode", record_property)
