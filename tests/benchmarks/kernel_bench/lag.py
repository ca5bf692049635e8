"""How late a printed line reaches the client: flushed, and left to the kernel to flush."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from kernel_bench.plan import Effort, interleaved_blocks
from kernel_bench.process import Contender, Kernel, running
from kernel_bench.results import Row, at_most, percentile
from kernel_bench.wire import Message

LINES = 10
FLUSHED = f"""
import time
for _ in range({LINES}):
    print(time.time(), flush=True)
    time.sleep(0.02)
"""
# The pause is no multiple of ipykernel's flush interval of 200 ms, and longer: each line waits by itself.
UNFLUSHED = f"""
import time
for _ in range({LINES}):
    print(time.time())
    time.sleep(0.33)
"""


def lags(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Compare the time that a cell printed with the time at which it came."""
    with running(contenders) as kernels:
        interleaved_blocks(1, kernels, lambda kernel: _lags(kernel, FLUSHED))
        flushed = interleaved_blocks(effort.count(10, 3), kernels, lambda kernel: _lags(kernel, FLUSHED))
        unflushed = interleaved_blocks(effort.count(3, 1), kernels, lambda kernel: _lags(kernel, UNFLUSHED))
    yield Row("flushed print to client, p50", "ms", flushed)
    yield Row("flushed print to client, p95", "ms", flushed, statistic=percentile(0.95))
    yield Row("unflushed print to client, p50", "ms", unflushed, at_most(50))
    yield Row("unflushed print to client, longest", "ms", unflushed, at_most(50), statistic=max)


def _lags(kernel: Kernel, code: str) -> list[float]:
    found: list[float] = []

    def note(message: Message) -> None:
        # Both ends read the same clock; a message with several lines is as late as its oldest. `print` writes the line
        # and its end apart, and what is not flushed may come in two messages: the end alone has no time in it.
        if printed := message.content["text"].split():
            found.append((time.time() - float(printed[0])) * 1000)

    kernel.wire.execute(code, on_output=note)
    return found
