"""`python tests/benchmarks/fan_out.py [PYTHON]`: `map` over many short inputs, beside plain Ray tasks in one run.

PYTHON is the interpreter of an environment with Ray (`pip install ray`), by default this one. Both have their workers
before the time begins: sandboxes that run, processes of Ray's that have done a task.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sandbox_kernel
from sandbox_kernel import Sandbox

INPUTS, WORKERS, ROUNDS = 10_000, 8, 5

RAY = """
import json, sys, time
import ray

ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

@ray.remote
def square(number):
    return number * number

@ray.remote
def wait(number):
    import time
    time.sleep(0.5)

ray.get([wait.remote(number) for number in range(WORKERS)])
ray.get([square.remote(number) for number in range(INPUTS)])
print("ready", flush=True)
for _ in sys.stdin:
    began = time.perf_counter()
    results = ray.get([square.remote(number) for number in range(INPUTS)])
    took = time.perf_counter() - began
    assert results == [number * number for number in range(INPUTS)]
    print(json.dumps(took), flush=True)
"""


def square(number: int) -> int:
    """Do next to nothing."""
    return number * number


def main() -> None:
    """Measure in turns, so that both have the same machine."""
    python = sys.argv[1] if len(sys.argv) > 1 else sys.executable
    code = RAY.replace("WORKERS", str(WORKERS)).replace("INPUTS", str(INPUTS))
    with (
        tempfile.TemporaryDirectory(prefix="fan-out-") as folder,
        subprocess.Popen([python, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ray,
    ):
        Path(folder).chmod(0o755)
        ours, theirs = asyncio.run(measured(ray, folder))
        assert ray.stdin is not None
        ray.stdin.close()
        ray.wait(60)
    mine, base = INPUTS / statistics.median(ours), INPUTS / statistics.median(theirs)
    print(
        f"{INPUTS:,} inputs, {WORKERS} workers, median of {ROUNDS}: map {mine:,.0f}/s, Ray tasks {base:,.0f}/s, "
        f"ratio {mine / base:.2f}",
        flush=True,
    )


async def measured(ray: subprocess.Popen[str], folder: str) -> tuple[list[float], list[float]]:
    """Return the seconds of each round, ours and Ray's."""
    ours, theirs = [], []
    assert await asyncio.to_thread(line_of, ray) == "ready"
    pool = [Sandbox(directory=folder) for _ in range(WORKERS)]
    try:
        await asyncio.gather(*(one.start() for one in pool))
        for round_number in range(ROUNDS + 1):
            began = time.perf_counter()
            results = await sandbox_kernel.map(square, range(INPUTS), sandboxes=pool)
            took = time.perf_counter() - began
            assert results == [number * number for number in range(INPUTS)]
            assert ray.stdin is not None
            ray.stdin.write("go\n")
            ray.stdin.flush()
            their: Any = json.loads(await asyncio.to_thread(line_of, ray))
            # The first one warms both up.
            if round_number:
                ours.append(took)
                theirs.append(their)
    finally:
        await asyncio.gather(*(one.close() for one in pool))
    return ours, theirs


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


if __name__ == "__main__":
    main()
