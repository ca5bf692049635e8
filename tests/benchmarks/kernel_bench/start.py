"""Start and restart: from the new process to the first answer and the first cell, one kernel and ten at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from kernel_bench.plan import Effort, interleaved
from kernel_bench.process import Contender, Kernel, spawned
from kernel_bench.results import Row, ratio_at_most


def starts(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Start one kernel at a time."""
    rounds = effort.count(15, 5)
    interleaved(1, contenders, _first_cell)  # caches of the file system, bytecode, profile folders
    yield Row("spawn to kernel_info", "ms", interleaved(rounds, contenders, _kernel_info), ratio_at_most(1.0))
    yield Row("spawn to first cell", "ms", interleaved(rounds, contenders, _first_cell), ratio_at_most(1.5))


def ten_at_once(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Start ten kernels together and wait for the slowest."""
    samples = interleaved(effort.count(3, 1), contenders, _ten_first_cells)
    yield Row("ten kernels to first cells", "ms", samples)


def restarts(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Restart a kernel that has run a cell."""
    yield Row("restart to first cell", "ms", interleaved(effort.count(9, 3), contenders, _restart))


def _kernel_info(contender: Contender) -> float:
    with spawned(contender) as kernel:
        kernel.wire.request("shell", "kernel_info_request")
        return _milliseconds_since(kernel.spawned)


def _first_cell(contender: Contender) -> float:
    # Sent before the process can have bound a port: ZeroMQ delivers it when the connection stands.
    with spawned(contender) as kernel:
        kernel.wire.run("1")
        return _milliseconds_since(kernel.spawned)


def _ten_first_cells(contender: Contender) -> float:
    began = time.perf_counter()
    with ExitStack() as stack:
        kernels = [stack.enter_context(spawned(contender)) for _ in range(10)]
        cells = [(kernel, time.perf_counter(), kernel.wire.start("1")) for kernel in kernels]
        for kernel, sent, msg_id in cells:
            kernel.wire.finish(msg_id, timeout=120, sent=sent)
        return _milliseconds_since(began)


def _restart(contender: Contender) -> float:
    with spawned(contender) as kernel:
        kernel.wire.run("1")
        began = time.perf_counter()
        _renew(kernel)
        return _milliseconds_since(began)


def _renew(kernel: Kernel) -> None:
    """What a front end's restart does: shutdown, wait for the end, a new process on the same ports."""
    kernel.shut_down(restart=True)
    kernel.spawn()
    kernel.wire.run("1")


def _milliseconds_since(moment: float) -> float:
    return (time.perf_counter() - moment) * 1000
