"""The AgentCore provider passes the suite in bridge mode, against the emulator, which is a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the emulator runs on Linux", allow_module_level=True)

from traitlets.config import Config

from sandbox_kernel.providers.agentcore.provider import AgentCoreProvider
from tests.emulators.agentcore import CREDENTIALS, AgentCore, emulating

from .suite import ProviderSuite


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentCore]:
    """One emulator for all tests, whose sessions are theirs."""
    with emulating(tmp_path_factory.mktemp("emulator")) as running:
        yield running


class TestAgentCoreProvider(ProviderSuite):
    """Sessions of the emulated service."""

    beside = (".ipython", "log")

    @pytest.fixture(autouse=True)
    def _credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in CREDENTIALS.items():
            monkeypatch.setenv(name, value)

    @pytest.fixture
    def provider(self, emulator: AgentCore) -> AgentCoreProvider:
        return AgentCoreProvider(config=emulator.config())

    @pytest.fixture
    def make_with_folder(self, emulator: AgentCore) -> Callable[[Path], AgentCoreProvider]:
        def make(layers: Path) -> AgentCoreProvider:
            config = emulator.config()
            config.Workspace = Config(layers=str(layers), mode="overlay")
            return AgentCoreProvider(config=config)

        return make
