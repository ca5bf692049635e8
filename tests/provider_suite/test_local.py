"""The local provider passes the suite."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the local provider runs on Linux", allow_module_level=True)

from sandbox_kernel.providers.local.provider import LocalProvider
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
