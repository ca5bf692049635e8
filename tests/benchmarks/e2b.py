"""`python tests/benchmarks/e2b.py`: cells and streams in bridge mode, 50 ms away from the emulated service."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.cell_times import lag, seconds
from tests.emulators.e2b.kernel import arguments
from tests.emulators.e2b.process import KEY, emulating
from tests.functional.client import running

LATENCY = 50
"""Milliseconds there and back."""


def main() -> None:
    """Measure with that distance, and without."""
    os.environ["E2B_API_KEY"] = KEY
    with tempfile.TemporaryDirectory(prefix="bench-e2b-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for latency in (0, LATENCY):
            measure(folder / str(latency), latency)


def measure(folder: Path, latency: int) -> None:
    """Print what comes of one distance, in milliseconds."""
    with (
        emulating(folder / "e2b", "--latency", str(latency / 1000)) as emulator,
        running(folder / "kernel", *arguments(emulator, mode="bridge", timeout=600)) as kernel,
    ):
        front_end = kernel.front_end()
        began = time.perf_counter()
        front_end.run("1")
        start = 1000 * (time.perf_counter() - began)
        for _ in range(10):
            front_end.run("1")
        cells = [1000 * seconds(front_end) for _ in range(60)]
        lags = [one for _ in range(5) for one in lag(front_end)]
    cell, late = statistics.median(cells), statistics.median(lags)
    print(
        f"latency {latency} ms: start and first cell {start:.0f} ms; trivial cell p50 {cell:.1f} ms "
        f"(latency {cell - latency:+.1f}); stream lag p50 {late:.1f} ms (latency/2 {late - latency / 2:+.1f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
