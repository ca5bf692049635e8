"""`python tests/benchmarks/ray_cluster.py`: what a Ray cluster adds to a cell, and many sandboxes in it at once.

Local and cluster are measured in turns, so that what else the machine does strikes both.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.cell_times import seconds
from tests.benchmarks.executor import rate
from tests.functional.client import running
from tests.provider_suite.notebook import Notebook, opened
from tests.ray_cluster import RayCluster, clustered
from traitlets.config import Config

from sandbox_kernel.providers.ray.provider import RayProvider

ROUNDS, CELLS, FLOODS = 8, 40, 5
MOST_MORE, LEAST_SHARE = 6.0, 0.5
"""Milliseconds that a cell may take longer than a local one, and the share of its rate of output."""
STARTS = 4
"""Sandboxes that are started at one time."""


def main() -> None:
    """Measure what is asked for; fail where a bound is passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["near", "client", "many"], action="append")
    parser.add_argument("--sandboxes", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0, help="for which each sandbox runs a cell a second")
    options = parser.parse_args()
    chosen = options.only or ["near", "client", "many"]
    good = True
    with tempfile.TemporaryDirectory(prefix="bench-ray-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with clustered(folder / "cluster", cpus=40) as cluster:
            if "near" in chosen:
                good &= compare(folder / "near", cluster, cluster.address, "ray", bound=True)
            if "client" in chosen:
                good &= compare(folder / "client", cluster, cluster.client_address, "ray://", bound=False)
            if "many" in chosen:
                good &= asyncio.run(many(folder, cluster, options.sandboxes, options.seconds))
    sys.exit(0 if good else 1)


def compare(folder: Path, cluster: RayCluster, address: str, name: str, *, bound: bool) -> bool:
    """Measure cells and output beside the local provider; return whether they are within the bounds, if there are."""
    # With as many processors as the local one may use.
    arguments = cluster.arguments(address=address, cpus=2)
    with running(folder / "local") as local, running(folder / "far", *arguments) as far:
        pair = (local.front_end(), far.front_end())
        for front_end in pair:
            front_end.run("1", timeout=120)
            for _ in range(30):
                front_end.run("1")
        blocks = [[[seconds(one) for _ in range(CELLS)] for one in pair] for _ in range(ROUNDS)]
        rates = [[rate(one) for one in pair] for _ in range(FLOODS)]
        memory = far.memory() / 2**20
    here, there = ([1000 * one for block in blocks for one in block[index]] for index in (0, 1))
    slow, quick = (statistics.median(row[index] for row in rates) for index in (1, 0))
    more = statistics.median(there) - statistics.median(here)
    limits = (f"; bound {MOST_MORE:+g}", f"; bound {LEAST_SHARE:g}") if bound else ("", "")
    print(
        f"trivial cell p50: local {statistics.median(here):.1f} ms, {name} {statistics.median(there):.1f} ms "
        f"({more:+.1f} ms{limits[0]}), p90 {statistics.quantiles(there, n=10)[-1]:.1f} ms; "
        f"output: local {quick:.0f} MB/s, {name} {slow:.0f} MB/s (ratio {slow / quick:.2f}{limits[1]}); "
        f"kernel process {memory:.0f} MiB",
        flush=True,
    )
    return not bound or (more <= MOST_MORE and slow >= LEAST_SHARE * quick)


async def many(folder: Path, cluster: RayCluster, count: int, lasting: float) -> bool:
    """Run a cell a second in each of many sandboxes; return whether all came back right."""
    provider = _Kept(config=Config(RayProvider=cluster.options(), Workspace={"mode": "private"}))
    places = asyncio.Semaphore(STARTS)

    async def start(number: int) -> Notebook:
        place = folder / f"notebook{number}"
        place.mkdir()
        async with places:
            return await stack.enter_async_context(opened(provider, place))

    async with AsyncExitStack() as stack:
        began = time.monotonic()
        notebooks = await asyncio.gather(*(start(number) for number in range(count)))
        started = time.monotonic() - began
        print(f"{count} sandboxes started in {started:.0f} s", flush=True)
        view = await provider.cluster()
        began = time.monotonic()
        results = await asyncio.gather(*(_cells(one, number, lasting) for number, one in enumerate(notebooks)))
        lasted = time.monotonic() - began
    await provider.end()
    times = [1000 * one for row, _ in results for one in row]
    wrong = sum(errors for _, errors in results)
    held = ", ".join(f"{node.name} {len(node.sandboxes)}" for node in view.nodes)
    print(
        f"{held}; {len(times)} cells in {lasted:.0f} s, {wrong} wrong; "
        f"p50 {statistics.median(times):.0f} ms, p99 {statistics.quantiles(times, n=100)[-1]:.0f} ms",
        flush=True,
    )
    return wrong == 0


class _Kept(RayProvider):
    """Keeps its connection when one of the sessions is closed."""

    async def disconnect(self) -> None:
        """Wait for `end`."""

    def close(self) -> None:
        """Likewise."""

    async def end(self) -> None:
        """Let go of the cluster."""
        await super().disconnect()


async def _cells(notebook: Notebook, number: int, lasting: float) -> tuple[list[float], int]:
    times, wrong = [], 0
    # Not all in the same instant.
    await asyncio.sleep(number % 16 / 16)
    for turn in range(int(lasting)):
        began = time.perf_counter()
        ran = await notebook.run(f"{number} * 1000 + {turn}")
        took = time.perf_counter() - began
        wrong += ran.value != str(number * 1000 + turn)
        times.append(took)
        await asyncio.sleep(max(0.0, 1.0 - took))
    return times, wrong


if __name__ == "__main__":
    main()
