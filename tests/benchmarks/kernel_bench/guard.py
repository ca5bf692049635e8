"""The output guard's cost: one process of the kernel under test with its guard on, and off, in turns.

Two processes would not do: by luck of its memory layout one is some percent faster than another for all its life.
Where even turns differ by more than what is asked about, the guard's own use of the processor tells more.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from kernel_bench.plan import Effort, Samples, interleaved, interleaved_blocks, joined
from kernel_bench.process import Contender, Kernel, running
from kernel_bench.results import Bound, Row, at_most, ratio_at_least, ratio_at_most
from kernel_bench.throughput import LOADS, PREPARE, Load, rate

SWITCHED = Path(__file__).with_name("switched.py")
MODULE = ("-m", "sandbox_kernel")
SPENT = "guard-spent"
"""The file in a kernel's temporary folder that tells what its guard has used."""
TURN = 2
"""Cells between two changes of the guard: what drifts on the machine within a tenth of a second falls on both sides."""
SHARED = 10
"""Cells over which the guard's own time is added up."""
SESSIONS = 4
"""Processes, one after the other."""
TABLE = """
import pandas, IPython.display as shown
table = pandas.DataFrame([[row * column for column in range(8)] for row in range(10_300)]).to_html()
"""


@dataclasses.dataclass(frozen=True)
class Side:
    """A kernel with its guard on, or off."""

    kernel: Kernel
    trusted: bool

    def turn(self) -> Kernel:
        """Switch the kernel to this side, and return it when it has changed."""
        os.kill(self.kernel.pid, signal.SIGUSR1 if self.trusted else signal.SIGUSR2)
        self.kernel.wire.run("None")
        return self.kernel

    def spent(self) -> float:
        """Return the seconds of the processor that the guard has used up to the last turn."""
        return float((self.kernel.connection_file.parent / "tmp" / SPENT).read_text())


def guard(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Measure cells, printed lines and large outputs with the guard on, then off."""
    subject = _switched(contenders[0])
    cells = joined(_cells(subject, effort.count(200, 60)) for _ in range(SESSIONS))
    yield Row("cell `1`, guard on : off", "ms", cells, ratio_at_most(1.03))
    # One session after the other, each with all loads; then by load.
    sessions = [_loads(subject, effort.count(6, 3)) for _ in range(SESSIONS)]
    for load, *samples in zip(LOADS, *sessions, strict=True):
        yield Row(f"{load.name}, guard on : off", load.unit, joined(samples), _bound(load))
    with _sides(subject) as sides:
        sides[0].kernel.wire.run(PREPARE)
        for name, code, count in (("cell `1`", "1", SHARED), *((load.name, load.code, 1) for load in LOADS)):
            shares = [_share(sides, code, count) for _ in range(effort.count(15, 5))]
            yield Row(f"{name}, the guard's own time", "%", (tuple(shares),), _share_bound(name))
    with _sides(subject) as sides:
        sides[0].kernel.wire.run(TABLE)
        interleaved(2, sides, _table)
        yield Row("HTML table of 2 MB, guard on : off", "ms", interleaved(effort.count(15, 5), sides, _table))


def _switched(subject: Contender) -> Contender:
    interpreter, *argv = subject.argv
    if tuple(argv[:2]) != MODULE:
        raise ValueError(f"{subject.name} is not started by {' '.join(MODULE)}, so its guard cannot be switched")
    env = (*subject.env, ("GUARD_SPENT", SPENT))
    return dataclasses.replace(subject, argv=(interpreter, str(SWITCHED), *argv[2:]), env=env)


@contextmanager
def _sides(subject: Contender) -> Iterator[list[Side]]:
    with running([subject]) as (kernel,):
        yield [Side(kernel, trusted=False), Side(kernel, trusted=True)]


def _loads(subject: Contender, rounds: int) -> list[Samples]:
    with _sides(subject) as sides:
        sides[0].kernel.wire.run(PREPARE)
        samples = []
        for load in LOADS:
            measure: Callable[[Side], float] = partial(_rate, load=load)
            interleaved(1, sides, measure)
            samples.append(interleaved(rounds, sides, measure))
        return samples


def _rate(side: Side, load: Load) -> float:
    return rate(side.turn(), load)


def _bound(load: Load) -> Bound:
    # Pictures are no text: what they may cost is what the kernel as a whole may.
    return load.bound if "displays" in load.name else ratio_at_least(0.97)


def _share(sides: Sequence[Side], code: str, count: int) -> float:
    """Return which part of these cells' time the guard used, in percent."""
    on, off = sides
    kernel = on.turn()
    before = on.spent()
    seconds = sum(kernel.wire.run(code, timeout=60).seconds for _ in range(count))
    off.turn()
    return 100 * (on.spent() - before) / seconds


def _share_bound(name: str) -> Bound | None:
    return None if "displays" in name else at_most(3)


def _cells(subject: Contender, turns: int) -> Samples:
    with _sides(subject) as sides:
        interleaved_blocks(2, sides, _turn)
        return interleaved_blocks(turns, sides, _turn)


def _turn(side: Side) -> Iterable[float]:
    kernel = side.turn()
    return [kernel.wire.run("1").seconds * 1000 for _ in range(TURN)]


def _table(side: Side) -> float:
    return side.turn().wire.run("shown.display(shown.HTML(table))", timeout=60).seconds * 1000
