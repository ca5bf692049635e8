"""Bulk output: printed lines, large writes, large images; each counted to be complete."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from kernel_bench.plan import Effort, interleaved
from kernel_bench.process import Contender, Kernel, running
from kernel_bench.results import Bound, Row, ratio_at_least
from kernel_bench.wire import Cell

LINES = 100_000
TEXT_BYTES = 50_000_000
WRITE_BYTES = 64 * 1024
DISPLAYS = 20
DISPLAY_BYTES = 2_000_000
MEGABYTE = 1_000_000

# The data is made before the clock starts. The images have a PNG's signature, and noise that nothing can compress.
PREPARE = f"""
import base64, os, sys
from IPython.display import display
line = "x" * 99 + "\\n"
text = line * ({TEXT_BYTES} // 100)
block = (line * 700)[:{WRITE_BYTES}]
image = base64.b64encode(b"\\x89PNG\\r\\n\\x1a\\n" + os.urandom({DISPLAY_BYTES} * 3 // 4 - 8)).decode()
"""


@dataclass(frozen=True)
class Load:
    """One kind of bulk: its cell, what must arrive, and how a second of it is counted."""

    name: str
    code: str
    unit: str
    amount: float
    characters: int
    bound: Bound


LOADS = (
    Load(
        "100,000 printed lines",
        f"for i in range({LINES}): print(i)",
        "lines/s",
        LINES,
        sum(len(f"{number}\n") for number in range(LINES)),
        ratio_at_least(0.95),
    ),
    Load(
        "50 MB in one write",
        "_ = sys.stdout.write(text)",
        "MB/s",
        TEXT_BYTES / MEGABYTE,
        TEXT_BYTES,
        ratio_at_least(0.7),
    ),
    Load(
        "50 MB in writes of 64 KB",
        f"for _ in range({TEXT_BYTES // WRITE_BYTES}): sys.stdout.write(block)",
        "MB/s",
        TEXT_BYTES // WRITE_BYTES * WRITE_BYTES / MEGABYTE,
        TEXT_BYTES // WRITE_BYTES * WRITE_BYTES,
        ratio_at_least(0.7),
    ),
    Load(
        "20 displays of 2 MB",
        f"for _ in range({DISPLAYS}): display({{'image/png': image}}, raw=True)",
        "MB/s",
        DISPLAYS * DISPLAY_BYTES / MEGABYTE,
        DISPLAYS * DISPLAY_BYTES,
        ratio_at_least(0.7),
    ),
)


def throughput(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Run each load, the data prepared before."""
    with running(contenders) as kernels:
        for kernel in kernels:
            kernel.wire.run(PREPARE)
        for load in LOADS:
            interleaved(1, kernels, partial(rate, load=load))
            samples = interleaved(effort.count(7, 3), kernels, partial(rate, load=load))
            yield Row(load.name, load.unit, samples, load.bound)


def rate(kernel: Kernel, load: Load) -> float:
    """Run a load once; return its amount in a second. RuntimeError if not all of it arrived."""
    cell = kernel.wire.run(load.code, timeout=120)
    arrived = _characters(cell)
    if arrived != load.characters:
        raise RuntimeError(f"{kernel.contender.name}: {arrived} of {load.characters} characters arrived")
    return load.amount / cell.seconds


def _characters(cell: Cell) -> int:
    """Characters of text and image data; decoded after the cell has been timed."""
    return sum(
        len(output.content["text"]) if output.kind == "stream" else len(output.content["data"]["image/png"])
        for output in cell.outputs
    )
