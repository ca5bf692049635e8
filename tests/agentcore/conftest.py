"""An emulator for each module, and credentials that only it takes."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from sandbox_kernel.library.sandbox import Sandbox
from tests.emulators.agentcore import CREDENTIALS, AgentCore, emulating

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentCore]:
    """One for all tests of a module, whose sessions are theirs."""
    with emulating(tmp_path_factory.mktemp("emulator")) as running:
        yield running
    with warnings.catch_warnings():
        # boto3's clients, those in others' packages too, leave their connections to the garbage collector: not in the
        # tests of another module, which would be blamed for them.
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture(autouse=True)
def _environment(emulator: AgentCore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    emulator.tell("reset")
    yield
    emulator.tell("reset")


Make = Callable[..., Sandbox]


@pytest.fixture
def make(emulator: AgentCore, tmp_path: Path) -> Make:
    """Return what makes sandboxes on the emulator; arguments are the provider's options."""

    def made(on_input: Any = None, **options: object) -> Sandbox:
        config = emulator.config(**options)
        config.SandboxSession = Config(retry_delay=0.05)
        config.EventLog = Config(path=str(tmp_path / "log"), level="debug")
        return Sandbox("agentcore", directory=tmp_path, config=config, on_input=on_input)

    return made
