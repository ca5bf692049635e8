"""Interrupt by control message: from the request to the end of the cell."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from kernel_bench.plan import UNANSWERED, Effort, interleaved
from kernel_bench.process import Contender, Kernel, running
from kernel_bench.results import Bound, Row, at_most, excess_at_most
from kernel_bench.wire import SilentKernelError

UNDER_WAY = 0.2
"""Seconds after the cell's first output until it is surely in the call that is to be interrupted."""

# A call that holds the interpreter's lock keeps even flushed output from leaving: sleep first, so that it goes.
BEFORE = """
import asyncio, re, subprocess, time
print("go", flush=True)
time.sleep(0.05)
"""

PATIENCE = 15


@dataclass(frozen=True)
class Case:
    """One cell to interrupt. `ends_by_itself`: a kernel that cannot interrupt it costs seconds, so it is tried less."""

    name: str
    code: str
    bound: Bound
    ends_by_itself: bool = False


CASES = (
    Case("`while True: pass`", "while True: pass", excess_at_most(30)),
    Case("`time.sleep`", "time.sleep(60)", excess_at_most(30)),
    Case("`subprocess.run`", 'subprocess.run(["sleep", "60"])', at_most(150)),
    Case("one long `await asyncio.sleep`", "await asyncio.sleep(3)", at_most(100), ends_by_itself=True),
    Case("`re` that backtracks for seconds", 're.match(r"(a+)+$", "a" * 26 + "b")', at_most(100), ends_by_itself=True),
)


def interrupts(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Interrupt each case, several times in the same kernel."""
    with running(contenders) as kernels:
        interleaved(1, kernels, lambda kernel: _interrupt(kernel, CASES[0]))  # the first traceback imports modules
        for case in CASES:
            rounds = effort.count(5, 2) if case.ends_by_itself else effort.count(15, 5)
            samples = interleaved(rounds, kernels, partial(_interrupt, case=case))
            yield Row(f"interrupt of {case.name}", "ms", samples, case.bound)


def _interrupt(kernel: Kernel, case: Case) -> float:
    wire = kernel.wire
    msg_id = wire.start_and_await_output(BEFORE + case.code)
    time.sleep(UNDER_WAY)
    sent = time.perf_counter()
    wire.send("control", "interrupt_request")
    try:
        cell = wire.finish(msg_id, PATIENCE, sent=sent)
    except SilentKernelError:
        # ipykernel loses the reply when the signal comes between the cell's end and the reply.
        _recover(kernel)
        return UNANSWERED
    if cell.reply["status"] == "ok" and cell.seconds < UNDER_WAY:
        raise RuntimeError(f"{kernel.contender.name}: {case.name} was over before it could be interrupted")
    _recover(kernel)
    return cell.seconds * 1000


def _recover(kernel: Kernel) -> None:
    """An interrupt that came too late for its cell strikes the next one: let it be one that nobody measures."""
    for _ in range(5):
        if kernel.wire.execute("import time; time.sleep(0.05)").reply["status"] == "ok":
            return
    raise RuntimeError(f"{kernel.contender.name} does not run cells after an interrupt")
