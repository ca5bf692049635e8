"""The providers of E2B's protocol pass the suite, with an emulator that is a process of its own."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the emulator runs local sandboxes, on Linux", allow_module_level=True)

from traitlets.config import Config

from sandbox_kernel.providers.e2b.provider import E2BProvider
from tests.emulators.e2b.process import KEY, EmulatorProcess, emulating

from .suite import ProviderSuite


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    """One emulator for all tests, whose sandboxes are theirs."""
    with emulating(tmp_path_factory.mktemp("e2b")) as running:
        yield running


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2B_API_KEY", KEY)


class TestE2BProvider(ProviderSuite):
    """Sandboxes of an emulator."""

    @pytest.fixture
    def config(self, emulator: EmulatorProcess) -> Config:
        options = {"api_url": emulator.url, "sandbox_url": emulator.url, "mode": "bridge", "timeout": 600}
        return Config(E2BProvider=options, Workspace={"mode": "private"})

    @pytest.fixture
    async def provider(self, config: Config) -> AsyncIterator[E2BProvider]:
        provider = E2BProvider(config=config)
        yield provider
        await provider.disconnect()

    @pytest.fixture
    def make_with_folder(self, config: Config) -> Callable[[Path], E2BProvider]:
        def make(layers: Path) -> E2BProvider:
            config.Workspace = Config(layers=str(layers))
            return E2BProvider(config=config)

        return make
