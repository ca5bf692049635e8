"""The executor provider passes the suite, with an executor that is a process of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("an executor's sandboxes need bubblewrap, which only Linux has", allow_module_level=True)
pytest.importorskip("grpc")

from traitlets.config import Config

from sandbox_kernel.providers.executor.provider import ExecutorProvider
from tests.executor_process import ExecutorProcess, serving

from .suite import ProviderSuite


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExecutorProcess]:
    """One executor for all tests, whose sandboxes are theirs."""
    with serving(tmp_path_factory.mktemp("executor")) as running:
        yield running


class TestExecutorProvider(ProviderSuite):
    """Sandboxes of an executor."""

    @pytest.fixture
    def provider(self, executor: ExecutorProcess) -> ExecutorProvider:
        return ExecutorProvider(config=executor.config())

    @pytest.fixture
    def make_with_folder(self, executor: ExecutorProcess) -> Callable[[Path], ExecutorProvider]:
        def make(layers: Path) -> ExecutorProvider:
            config = executor.config()
            config.Workspace = Config(layers=str(layers))
            return ExecutorProvider(config=config)

        return make
