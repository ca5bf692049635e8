"""The cell `1`: the whole cost that a kernel adds to a cell that does nothing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from jupyter_client.blocking.client import BlockingKernelClient

from kernel_bench.plan import Effort, Samples, interleaved_blocks, joined
from kernel_bench.process import Contender, Kernel, running
from kernel_bench.results import Row, percentile, ratio_at_most

BLOCK = 10
SESSIONS = 3
"""Pairs of processes: one process may by luck of its memory layout be some percent faster for all its life."""

REST = 6
"""Seconds in which a kernel may finish what it does in the background after its start.

The bounds are held without it: people do not wait. The difference tells whether the relay costs, or the start's rest.
"""


def cells(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Send the cell over bare ZeroMQ: at once when the kernel is there, and again when it has had a rest."""
    sessions = [_session(contenders, blocks=effort.count(14, 4)) for _ in range(SESSIONS)]
    at_once, rested = (joined(session[part] for session in sessions) for part in range(2))
    yield Row("cell `1`, p50", "ms", at_once, ratio_at_most(1.15))
    yield Row("cell `1`, p95", "ms", at_once, ratio_at_most(1.3), statistic=percentile(0.95))
    yield Row(f"cell `1` after {REST} s of rest, p50", "ms", rested)
    yield Row(f"cell `1` after {REST} s of rest, p95", "ms", rested, statistic=percentile(0.95))


def library_cells(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Send it as papermill and nbclient's users do, with jupyter_client's blocking client."""
    with running(contenders) as kernels, _library_clients(kernels) as clients:
        interleaved_blocks(1, clients, _library_block)
        samples = interleaved_blocks(effort.count(15, 4), clients, _library_block)
    yield Row("cell `1` via jupyter_client execute_interactive", "ms", samples)


def _session(contenders: Sequence[Contender], blocks: int) -> tuple[Samples, Samples]:
    with running(contenders) as kernels:
        interleaved_blocks(2, kernels, _block)
        at_once = interleaved_blocks(blocks, kernels, _block)
        time.sleep(REST)
        return at_once, interleaved_blocks(blocks, kernels, _block)


def _block(kernel: Kernel) -> Iterable[float]:
    return [kernel.wire.run("1").seconds * 1000 for _ in range(BLOCK)]


@contextmanager
def _library_clients(kernels: Sequence[Kernel]) -> Iterator[list[BlockingKernelClient]]:
    clients = [BlockingKernelClient(connection_file=str(kernel.connection_file)) for kernel in kernels]
    for client in clients:
        client.load_connection_file()
        client.start_channels()
    try:
        for client in clients:
            client.wait_for_ready(timeout=30)
        yield clients
    finally:
        for client in clients:
            client.stop_channels()


def _library_block(client: BlockingKernelClient) -> Iterable[float]:
    return [_library_cell(client) for _ in range(BLOCK)]


def _library_cell(client: BlockingKernelClient) -> float:
    began = time.perf_counter()
    client.execute_interactive("1", output_hook=lambda _: None, timeout=30)
    return (time.perf_counter() - began) * 1000
