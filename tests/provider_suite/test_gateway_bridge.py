"""The gateway provider passes the suite over real servers in bridge mode, too: with files and commands."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the servers are started and ended as on Linux", allow_module_level=True)
pytest.importorskip("jupyter_server")

from traitlets.config import Config

from sandbox_kernel.errors import SandboxLostError
from sandbox_kernel.lifecycle import State
from sandbox_kernel.providers.base import Provider
from sandbox_kernel.providers.gateway.provider import GatewayProvider
from tests.gateways import ALL_OR_ONE, KINDS, TOKEN, GatewayProcess, serving

from .notebook import Notebook, opened
from .suite import ProviderSuite


@pytest.fixture(scope="module", params=ALL_OR_ONE)
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One server for all tests, whose kernels are theirs."""
    with serving(tmp_path_factory.mktemp("gateway"), KINDS[request.param]) as running:
        yield running


class TestGatewayBridge(ProviderSuite):
    """The program of this package beside kernels of a gateway. All of one server share its folder and its /tmp."""

    @pytest.fixture
    async def provider(
        self, gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[GatewayProvider]:
        monkeypatch.setenv("SANDBOX_KERNEL_GATEWAY_TOKEN", TOKEN)
        for left in gateway.work.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
        provider = GatewayProvider(config=Config(GatewayProvider=gateway.options(mode="bridge", watch_interval=0.5)))
        yield provider
        await provider.disconnect()

    # ---- the disk is the server's

    async def test_one_that_was_stopped_can_be_started_again_and_is_another(self, notebook: Notebook) -> None:
        before = notebook.session.info.sandbox_id
        await notebook.run("x = 1")
        await notebook.session.stop()
        assert notebook.session.state is State.INACTIVE
        await notebook.session.start()
        assert notebook.session.info.sandbox_id != before
        assert (await notebook.run("'x' in dir()")).value == "False"

    async def test_two_share_nothing(self, notebook: Notebook, provider: Provider, tmp_path: Path) -> None:
        async with opened(provider, tmp_path) as other:
            await notebook.run("x = 1")
            assert (await other.run("'x' in dir()")).value == "False"

    # ---- what is left behind

    async def test_nothing_is_left_where_the_bridge_was(self, notebook: Notebook, gateway: GatewayProcess) -> None:
        assert notebook.session.mode == "bridge"
        ran = await notebook.run("import os\nos.getppid(), os.environ['SANDBOX_PACKAGES']")
        bridge, packages = eval(ran.value)  # noqa: S307 - our own cell's
        folder = Path(packages).parent
        assert folder.exists()
        await notebook.session.stop()
        await notebook.until(lambda: not folder.exists() and not Path(f"/proc/{bridge}").exists())

    async def test_a_kernel_that_somebody_restarts_is_lost_with_its_bridge(
        self, notebook: Notebook, gateway: GatewayProcess
    ) -> None:
        before = notebook.session.info.sandbox_id
        await asyncio.to_thread(gateway.ask, "POST", f"/api/kernels/{before}/restart", {})
        cell = notebook.send("1")
        await notebook.until(lambda: notebook.session.state is State.ERROR)
        assert cell.outputs == []
        assert isinstance(notebook.ended[-1], SandboxLostError)
        assert "restarted" in str(notebook.ended[-1])
        await notebook.session.start()
        assert notebook.session.info.sandbox_id != before
        assert (await notebook.run("1")).value == "1"
