"""The gateway provider passes the suite over real servers, as far as relay mode goes; what it lacks it says."""

from __future__ import annotations

import asyncio
import sys
import urllib.error
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the servers are started and ended as on Linux", allow_module_level=True)
pytest.importorskip("jupyter_server")

from traitlets.config import Config

from sandbox_kernel.errors import InvocationError, SandboxConnectionError, SandboxLostError
from sandbox_kernel.lifecycle import State
from sandbox_kernel.providers.base import Provider
from sandbox_kernel.providers.gateway.provider import GatewayProvider
from tests.gateways import ALL_OR_ONE, KINDS, TOKEN, GatewayProcess, serving

from .notebook import Notebook, opened
from .suite import ProviderSuite, pieces

REFUSED = "in relay mode"


@pytest.fixture(scope="module", params=ALL_OR_ONE)
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One server of each kind for all tests, whose kernels are theirs."""
    with serving(tmp_path_factory.mktemp("gateway"), KINDS[request.param]) as running:
        yield running


class TestGatewayProvider(ProviderSuite):
    """Kernels of a gateway. All of one server share its folder, and the server ends for none of them."""

    @pytest.fixture
    async def provider(
        self, gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch
    ) -> AsyncIterator[GatewayProvider]:
        monkeypatch.setenv("SANDBOX_KERNEL_GATEWAY_TOKEN", TOKEN)
        provider = GatewayProvider(config=Config(GatewayProvider=gateway.options(watch_interval=0.5)))
        yield provider
        await provider.disconnect()

    # ---- files and commands: there is no bridge that would serve them

    async def test_files_go_in_and_come_out_as_they_are(self, notebook: Notebook) -> None:
        with pytest.raises(InvocationError, match=REFUSED):
            await notebook.session.files.write("data.bin", pieces(b"x" * 1000))
        with pytest.raises(InvocationError, match=REFUSED):
            await anext(notebook.session.files.read("data.bin"))

    async def test_files_of_cells_are_seen_and_removed(self, notebook: Notebook) -> None:
        with pytest.raises(InvocationError, match=REFUSED):
            await anext(notebook.session.files.list("a", recursive=True))
        with pytest.raises(InvocationError, match=REFUSED):
            await notebook.session.files.remove("a")

    @pytest.mark.skip("relay mode has no files")
    async def test_an_empty_file_is_one(self, notebook: Notebook) -> None: ...

    @pytest.mark.skip("relay mode has no files")
    async def test_what_is_wrong_with_a_file_is_told(self, notebook: Notebook) -> None: ...

    @pytest.mark.skip("relay mode has no files")
    async def test_a_file_that_was_not_sent_whole_is_not_there(self, notebook: Notebook) -> None: ...

    @pytest.mark.skip("relay mode has no files")
    async def test_a_list_that_is_too_long_says_so(self, notebook: Notebook) -> None: ...

    async def test_commands_tell_output_and_status(self, notebook: Notebook) -> None:
        command = notebook.session.shell("echo out")
        assert REFUSED in b"".join([chunk async for chunk in command]).decode()
        assert command.exit_code == 126

    @pytest.mark.skip("relay mode has no shell commands")
    async def test_commands_end_when_they_are_told(self, notebook: Notebook) -> None: ...

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

    async def test_a_sandbox_that_ends_is_lost_and_the_next_one_starts(
        self, notebook: Notebook, gateway: GatewayProcess
    ) -> None:
        before = notebook.session.info.sandbox_id
        await asyncio.to_thread(gateway.ask, "DELETE", f"/api/kernels/{before}")
        await notebook.until(lambda: notebook.session.state is State.ERROR)
        assert isinstance(notebook.ended[-1], SandboxLostError)
        assert "no such kernel" in str(notebook.ended[-1])
        with pytest.raises(SandboxConnectionError):
            notebook.session.shell("true")
        await notebook.session.start()
        assert notebook.session.info.sandbox_id != before
        assert (await notebook.run("1")).value == "1"

    async def test_interrupt_passes_a_flood_of_output(self, notebook: Notebook) -> None:
        # Flushed, since ipykernel makes messages of hundreds of megabytes of what waits, which are dropped and told.
        cell = notebook.send("print('begun', flush=True)\nwhile True: print('x' * 10_000, flush=True)")
        await notebook.until(lambda: len(cell.printed) > 1_000_000)
        notebook.session.interrupt()
        await notebook.until(lambda: cell.done)
        assert cell.reply["ename"] == "KeyboardInterrupt"

    # ---- whose a kernel is

    async def test_kernels_of_others_are_attached_and_left_as_they_were(
        self, gateway: GatewayProcess, provider: GatewayProvider
    ) -> None:
        body = {"env": dict(gateway.kind.environment)} if gateway.kind.environment else {}
        made = (await asyncio.to_thread(gateway.ask, "POST", "/api/kernels", body))["id"]
        sandbox = await provider.connect(made)
        told: list[str] = []
        sandbox.on_news = told.append
        assert "left running" in sandbox.describe()["at its end"]
        await sandbox.close()
        assert made in gateway.kernel_ids()
        assert "goes on" in told[0]
        await asyncio.to_thread(gateway.ask, "DELETE", f"/api/kernels/{made}")

    async def test_kernels_of_ours_are_known_by_their_ids(
        self, notebook: Notebook, gateway: GatewayProcess, provider: GatewayProvider
    ) -> None:
        sandbox_id = notebook.session.info.sandbox_id
        await notebook.session.detach()
        sandbox = await provider.connect(sandbox_id)
        await sandbox.close()
        with pytest.raises(urllib.error.HTTPError):
            await asyncio.to_thread(gateway.ask, "GET", f"/api/kernels/{sandbox_id}")
