"""The provider ray passes the suite, over a real cluster of two nodes, from this machine and as a Ray client."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

if sys.platform != "linux":
    pytest.skip("the sandboxes of a node need bubblewrap, which only Linux has", allow_module_level=True)
pytest.importorskip("ray", reason="ray is not installed: there is no wheel for this Python")

from traitlets.config import Config

from sandbox_kernel.errors import ConfigurationError, NotFoundError, SandboxConnectionError, SandboxLostError
from sandbox_kernel.lifecycle import State
from sandbox_kernel.providers.base import Provider, Resources
from sandbox_kernel.providers.ray.provider import RayProvider
from tests.ray_cluster import RayCluster, clustered

from .notebook import Notebook, opened
from .suite import ProviderSuite


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """One cluster for all tests, whose sandboxes are theirs."""
    with clustered(tmp_path_factory.mktemp("ray")) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def direct(cluster: RayCluster) -> AsyncIterator[RayProvider]:
    """One provider, and so one connection to the cluster, which takes seconds to be made."""
    provider = Kept(config=configured(cluster.options()))
    yield provider
    await provider.end()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(cluster: RayCluster) -> AsyncIterator[RayProvider]:
    """The same as a Ray client."""
    provider = Kept(config=configured(cluster.options(address=cluster.client_address)))
    yield provider
    await provider.end()


class Kept(RayProvider):
    """Keeps its connection when a session is closed."""

    async def disconnect(self) -> None:
        """Wait for `end`."""

    def close(self) -> None:
        """Likewise."""

    async def end(self) -> None:
        """Let go of the cluster."""
        await super().disconnect()


def configured(options: dict[str, object], **sections: dict[str, object]) -> Config:
    """Return a configuration in which the work folder is empty, as most tests expect it."""
    return Config(RayProvider=options, **{"Workspace": {"mode": "private"}, **sections})


@pytest.mark.asyncio(loop_scope="module")
class TestRayProvider(ProviderSuite):
    """Sandboxes of a cluster that this machine is a node of."""

    @pytest.fixture
    def provider(self, direct: RayProvider) -> RayProvider:
        direct.choose_resources(Resources())
        return direct

    @pytest_asyncio.fixture(loop_scope="module")
    async def notebook(self, provider: Provider, tmp_path: Path) -> AsyncIterator[Notebook]:
        async with opened(provider, tmp_path) as made:
            yield made

    @pytest.fixture
    def make_with_folder(self, cluster: RayCluster) -> Callable[[Path], RayProvider]:
        def make(layers: Path) -> RayProvider:
            options = {"mode": "overlay", "layers": str(layers)}
            return RayProvider(config=configured(cluster.options(), Workspace=options))

        return make

    # ---- the cluster

    async def test_the_cluster_shows_what_its_nodes_hold(self, notebook: Notebook, provider: RayProvider) -> None:
        view = await provider.cluster()
        assert sorted(node.name for node in view.nodes) == ["head", "node2"]
        (holder,) = [node for node in view.nodes if node.sandboxes]
        assert holder.sandboxes == (notebook.session.info.sandbox_id,)
        assert holder.total["CPU"] - holder.free["CPU"] == 1
        assert (view.waiting, view.others_waiting) == ((), 0)

    async def test_a_sandbox_gets_what_was_asked_for(self, provider: RayProvider, tmp_path: Path) -> None:
        provider.choose_resources(Resources(cpus=2, memory=512 * 1024**2))
        async with opened(provider, tmp_path) as notebook:
            assert notebook.session.info.details["holds"] == "2 CPUs, 512 MiB of memory"
            assert notebook.session.info.details["memory"].endswith("of 512 MiB")
            (holder,) = [node for node in (await provider.cluster()).nodes if node.sandboxes]
            assert holder.total["CPU"] - holder.free["CPU"] == 2
            assert holder.total["memory"] - holder.free["memory"] == 512 * 1024**2

    async def test_no_gpu_is_seen_that_was_not_granted(self, notebook: Notebook) -> None:
        code = "import os\nos.environ['CUDA_VISIBLE_DEVICES'], [one for one in os.listdir('/dev') if 'nvidia' in one]"
        assert (await notebook.run(code)).value == "('', [])"

    async def test_what_others_made_is_not_found(self, notebook: Notebook, cluster: RayCluster) -> None:
        other = RayProvider(config=configured(cluster.options(owner_name="somebody-else")))
        try:
            with pytest.raises(NotFoundError):
                await other.connect(notebook.session.info.sandbox_id)
            assert await other.list() == []
            assert [node.others for node in (await other.cluster()).nodes if node.others] == [1]
        finally:
            await other.disconnect()

    async def test_one_that_nobody_uses_ends(self, cluster: RayCluster, tmp_path: Path) -> None:
        provider = RayProvider(config=configured(cluster.options(unused_timeout=1.0)))
        async with opened(provider, tmp_path) as notebook:
            sandbox_id = await notebook.session.detach()
            while sandbox_id in {one.sandbox_id for one in await provider.list()}:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.2)
            with pytest.raises(SandboxLostError, match="nobody had used it for 1 s"):
                await provider.connect(sandbox_id)
            # What it held is soon there for others.
            while any(node.free["CPU"] < cluster.cpus for node in (await provider.cluster()).nodes):  # noqa: ASYNC110
                await asyncio.sleep(0.2)

    # ---- room

    async def test_a_wait_for_room_is_told_and_given_up(
        self, provider: RayProvider, cluster: RayCluster, tmp_path: Path
    ) -> None:
        provider.choose_resources(Resources(cpus=cluster.cpus + 1))
        async with opened(provider, tmp_path, start=False) as notebook:
            told: list[str] = []
            notebook.session.on_waiting = told.append
            starting = notebook.session.begin_start()
            await notebook.until(lambda: bool(told))
            assert f"asked for {cluster.cpus + 1} CPUs" in told[0]
            assert f"of {2 * cluster.cpus} CPUs free; first in the queue. No node has that much" in told[0]
            assert len((await provider.cluster()).waiting) == 1
            notebook.session.stop_waiting()
            await starting
            assert "given up" in str(notebook.ended[-1])
            assert (await provider.cluster()).waiting == ()
            assert await provider.list() == []
            provider.choose_resources(Resources())
            await notebook.session.start()
            assert (await notebook.run("1")).value == "1"

    # ---- what is wrong is told

    async def test_nobody_at_the_address_is_told_at_once(self) -> None:
        provider = RayProvider(address="127.0.0.1:9")
        with pytest.raises(SandboxConnectionError, match=r"No Ray cluster answers at 127\.0\.0\.1:9 .*ray start"):
            await provider.list()
        with pytest.raises(ConfigurationError, match="no address of a Ray cluster"):
            await RayProvider(address="http://somewhere").list()

    async def test_options_of_the_local_provider_that_are_wrong_are_told(
        self, cluster: RayCluster, tmp_path: Path
    ) -> None:
        provider = RayProvider(config=configured(cluster.options(local={"processes": "many"})))
        async with opened(provider, tmp_path, start=False) as notebook:
            with pytest.raises(ConfigurationError, match=r"RayProvider\.local .*processes"):
                await notebook.session.start()
            assert await provider.list() == []

    async def test_a_node_without_the_package_is_told(self, cluster: RayCluster, tmp_path: Path) -> None:
        (tmp_path / "sitecustomize.py").write_text(WITHOUT_PACKAGE)
        environment = {"env_vars": {"PYTHONPATH": str(tmp_path)}}
        provider = RayProvider(config=configured(cluster.options(runtime_env=environment)))
        async with opened(provider, tmp_path, start=False) as notebook:
            with pytest.raises(ConfigurationError, match=r"no package sandbox-kernel: install it .*runtime_env"):
                await notebook.session.start()
            assert await provider.list() == []


@pytest.mark.asyncio(loop_scope="module")
class TestRayClient:
    """The same from a machine that is none of the cluster's nodes: what goes another way there."""

    async def test_output_and_interrupts_pass(self, client: RayProvider, tmp_path: Path) -> None:
        async with opened(client, tmp_path) as notebook:
            cell = await notebook.run("for n in range(50_000): print(n, 'x' * 50)")
            assert [int(line.split()[0]) for line in cell.printed.splitlines()] == list(range(50_000))
            text = "y" * 3_000_000
            assert (await notebook.run(f"len({text!r})")).value == "3000000"
            cell = notebook.send("print('begun', flush=True)\nimport time\ntime.sleep(1000)")
            await notebook.until(lambda: "begun" in cell.printed)
            notebook.session.interrupt()
            await notebook.until(lambda: cell.done)
            assert cell.reply["ename"] == "KeyboardInterrupt"
            assert [one.sandbox_id for one in await client.list()] == [notebook.session.info.sandbox_id]
            (holder,) = [node for node in (await client.cluster()).nodes if node.sandboxes]
            assert holder.total["CPU"] - holder.free["CPU"] == 1
        assert await client.list() == []

    async def test_what_ends_is_told(self, client: RayProvider, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError):
            await client.connect("no-such-sandbox")
        async with opened(client, tmp_path) as notebook:
            notebook.send("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)")
            await notebook.until(lambda: notebook.session.state is State.ERROR)
            assert "bridge" in str(notebook.ended[-1])


WITHOUT_PACKAGE = """\
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sandbox_kernel":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
