"""The local provider passes the suite."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the local provider runs on Linux", allow_module_level=True)

from sandbox_kernel.providers.local import bubblewrap
from sandbox_kernel.providers.local.provider import LocalProvider
from sandbox_kernel.workspace.layers import remove_tree
from sandbox_kernel.workspace.settings import Workspace

from .suite import ProviderSuite


class TestLocalProvider(ProviderSuite):
    """Sandboxes of this machine."""

    @pytest.fixture
    def provider(self, tmp_path: Path) -> LocalProvider:
        provider = LocalProvider(work_root=str(tmp_path))
        # The suite looks at an empty work folder; the notebook's has tests of its own.
        provider.workspace = Workspace(mode="private")
        return provider

    @pytest.fixture
    def make_with_folder(self, tmp_path: Path) -> Iterator[Callable[[Path], LocalProvider]]:
        if not any(binary.overlays for binary in bubblewrap.find()):
            pytest.skip("needs a bubblewrap that can mount overlays")
        made = []

        def make(layers: Path) -> LocalProvider:
            provider = LocalProvider(work_root=str(tmp_path))
            provider.workspace = Workspace(layers=str(layers))
            made.append((provider, layers))
            return provider

        yield make
        for provider, layers in made:
            provider.notebook.close()
            remove_tree(str(layers))
