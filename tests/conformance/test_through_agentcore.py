"""The suites once more, through the emulator of AgentCore's Code Interpreter: in bridge mode, and a part in basic mode.

Those of ipykernel and nbclient take six minutes there: as at E2B they are run where `SANDBOX_CONFORMANCE_WHOLE=1` is in
the environment.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.emulators.agentcore import AgentCore, emulating

from .children import CHOSEN, SAMPLES, run_suites, tell_exceptions, tell_passed
from .conftest import KERNEL
from .exceptions import BASIC_MODE

if sys.platform != "linux":
    pytest.skip("the emulator runs on Linux", allow_module_level=True)

# Upstream's tests kill kernel processes, whose sessions nobody stops then: here they do not live long.
SESSION_TIMEOUT = 400
_SECONDS = 1500

pytestmark = pytest.mark.skipif(KERNEL != "sandbox", reason="another kernel is under test")


def suites_through(emulator: AgentCore, folder: Path, mode: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run pytest against a kernel on the emulator."""
    # Upstream's tests debug, and ask for subshells, before the first cell: a session that is billed is not started
    # for that, so here none is.
    options = [
        "--AgentCoreProvider.hourly_rate=0",
        "--provider=agentcore",
        f"--AgentCoreProvider.mode={mode}",
        f"--AgentCoreProvider.session_timeout={SESSION_TIMEOUT}",
        f"--AgentCoreProvider.endpoint_url={emulator.url}",
    ]
    environment = {**emulator.environment, "SANDBOX_CONFORMANCE_SLOW_START": "1"}
    title = "Python (sandbox on AgentCore)"
    return run_suites(folder, "sandbox-agentcore", title, options, *words, timeout=_SECONDS, env=environment)


@pytest.mark.timeout(_SECONDS)
def test_the_suites_pass_through_agentcore(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    with emulating(tmp_path / "emulator") as emulator:
        done = suites_through(emulator, tmp_path, "bridge", str(CHOSEN))
    tell_passed(done, "conformance through AgentCore, in bridge mode", record_property)


@pytest.mark.timeout(_SECONDS)
def test_basic_mode_answers_most_messages_as_ipykernel_does(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    with emulating(tmp_path / "emulator") as emulator:
        done = suites_through(emulator, tmp_path, "basic", "-rf", "--tb=short", str(SAMPLES))
    tell_exceptions(done, BASIC_MODE, "conformance through AgentCore, in basic mode", record_property)
