"""The output guard's cost: the kernel under test against itself with trusted output, in one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from kernel_bench.plan import Effort, Samples, interleaved, interleaved_blocks, joined
from kernel_bench.process import Contender, Kernel, running
from kernel_bench.results import Bound, Row, ratio_at_least, ratio_at_most
from kernel_bench.throughput import LOADS, PREPARE, Load, rate

TRUSTED = "--Guard.trusted_output=True"
BLOCK = 10
SESSIONS = 4
"""Pairs of processes: by luck of its memory layout one may be some percent faster for all its life."""
TABLE = """
import pandas, IPython.display as shown
table = pandas.DataFrame([[row * column for column in range(8)] for row in range(10_300)]).to_html()
"""


def guard(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Measure cells, printed lines and large outputs with the guard on, then off."""
    subject = contenders[0]
    without = dataclasses.replace(subject, name=f"{subject.name} trusted", argv=(*subject.argv, TRUSTED))
    pair = (subject, without)
    cells = joined(_cells(pair, effort.count(20, 5)) for _ in range(SESSIONS))
    yield Row("cell `1`, guard on : off", "ms", cells, ratio_at_most(1.03))
    # One session after the other, each with all loads; then by load.
    sessions = [_loads(pair, effort.count(5, 3)) for _ in range(SESSIONS)]
    for load, *samples in zip(LOADS, *sessions, strict=True):
        yield Row(f"{load.name}, guard on : off", load.unit, joined(samples), _bound(load))
    with running(pair) as kernels:
        for kernel in kernels:
            kernel.wire.run(TABLE)
        interleaved(2, kernels, _table)
        yield Row("HTML table of 2 MB, guard on : off", "ms", interleaved(effort.count(15, 5), kernels, _table))


def _loads(pair: Sequence[Contender], rounds: int) -> list[Samples]:
    with running(pair) as kernels:
        for kernel in kernels:
            kernel.wire.run(PREPARE)
        samples = []
        for load in LOADS:
            interleaved(1, kernels, partial(rate, load=load))
            samples.append(interleaved(rounds, kernels, partial(rate, load=load)))
        return samples


def _bound(load: Load) -> Bound:
    # Pictures are no text: what they may cost is what the kernel as a whole may.
    return load.bound if "displays" in load.name else ratio_at_least(0.97)


def _cells(pair: Sequence[Contender], blocks: int) -> Samples:
    with running(pair) as kernels:
        interleaved_blocks(2, kernels, _block)
        return interleaved_blocks(blocks, kernels, _block)


def _block(kernel: Kernel) -> Iterable[float]:
    return [kernel.wire.run("1").seconds * 1000 for _ in range(BLOCK)]


def _table(kernel: Kernel) -> float:
    return kernel.wire.run("shown.display(shown.HTML(table))", timeout=60).seconds * 1000
