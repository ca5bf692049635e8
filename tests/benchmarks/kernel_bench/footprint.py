"""What a kernel takes while it does nothing: memory and processor time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from kernel_bench.plan import Effort, turns
from kernel_bench.proc import processor_seconds, proportional, resident, tree
from kernel_bench.process import Contender, Kernel, running
from kernel_bench.results import Row, at_most

SETTLE = 2
IDLE = 10
BULK = "print('x' * 50_000_000)"


def memory(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Read the memory of fresh kernels, then after one large output."""
    found: list[list[tuple[float, ...]]] = [[] for _ in contenders]
    for place, contender in turns(effort.count(3, 1), contenders):
        found[place].append(_memory(contender))
    alone, whole, after = (tuple(tuple(one[part] for one in per) for per in found) for part in range(3))
    yield Row("resident memory of the kernel process alone", "MB", alone, at_most(40))
    yield Row("memory of the whole tree (PSS)", "MB", whole)
    yield Row("resident memory of the kernel process after 50 MB", "MB", after)


def _memory(contender: Contender) -> tuple[float, ...]:
    # One kernel at a time: PSS divides a library by the number of its users.
    with running([contender]) as [kernel]:
        time.sleep(SETTLE)
        alone, whole = resident(kernel.pid), proportional(kernel.pid)
        kernel.wire.run(BULK)
        return alone, whole, resident(kernel.pid)


def idle(contenders: Sequence[Contender], _effort: Effort) -> Iterator[Row]:
    """Let both kernels do nothing for 10 s."""
    with running(contenders) as kernels:
        time.sleep(SETTLE)
        before = [_spent(kernel) for kernel in kernels]
        time.sleep(IDLE)
        after = [_spent(kernel) for kernel in kernels]
    shares = [
        [(late - early) / IDLE * 100 for early, late in zip(*pair, strict=True)]
        for pair in zip(before, after, strict=True)
    ]
    yield Row("idle processor use of the kernel process", "%", tuple((share[0],) for share in shares), at_most(0.5))
    yield Row("idle processor use of the whole tree", "%", tuple((share[1],) for share in shares))


def _spent(kernel: Kernel) -> tuple[float, float]:
    return processor_seconds(kernel.pid), sum(processor_seconds(pid) for pid in tree(kernel.pid))
