"""`python tests/benchmarks/agentcore.py`: what a notebook on AgentCore costs in time and calls, by the emulator.

Each call takes 100 ms longer than its work (``--latency``). Beside each figure stands what it may be; of the emulator's
own work, measured by a call that does nothing, nothing is taken off.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.emulators.agentcore import AgentCore, emulating

from sandbox_kernel.library.outputs import InputRequest, Status, Stream
from sandbox_kernel.library.sandbox import Sandbox

ROUNDS = 15
PRINTING = (
    "import time\nbegin = time.time()\nwhile time.time() - begin < {}:\n    print('line', flush=True); time.sleep(0.1)"
)
INTERRUPTED = "import time\nprint('begun', flush=True)\ntime.sleep(100)"
PRINTED = "import time\ntime.sleep(0.5)\nprint(time.time(), flush=True)\ntime.sleep(1)"


def main() -> None:
    """Measure all, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.1, help="seconds that each call takes longer")
    parser.add_argument("--seconds", type=float, default=60.0, help="for which the long cell prints")
    parser.add_argument("--only", choices=list(MEASUREMENTS), action="append")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-agentcore-") as folder,
        emulating(Path(folder), "--latency", str(options.latency)) as emulator,
    ):
        os.environ.update(emulator.environment)
        asyncio.run(measure(emulator, Path(folder), options))


async def measure(emulator: AgentCore, folder: Path, options: argparse.Namespace) -> None:
    """Print a line for each figure."""
    answers: list[float] = []

    def answer(request: InputRequest) -> str:
        answers.append(time.perf_counter())
        return "yes"

    sandbox = Sandbox("agentcore", directory=folder, config=emulator.config(), on_input=answer)
    began = time.perf_counter()
    async with sandbox:
        await sandbox.run("import time")
        print(f"{'first cell, with the start':44} {1000 * (time.perf_counter() - began):7.0f} ms")
        # The first error and the first question load code.
        await interrupt(sandbox, options)
        await sandbox.run("input()")
        bench = Bench(emulator, sandbox, options, answers)
        for name in options.only or list(MEASUREMENTS):
            await MEASUREMENTS[name](bench)


class Bench:
    """What all measurements share."""

    def __init__(
        self, emulator: AgentCore, sandbox: Sandbox, options: argparse.Namespace, answers: list[float]
    ) -> None:
        self.emulator, self.sandbox, self.options, self.answers = emulator, sandbox, options, answers
        self.latency = 1000 * options.latency

    def show(self, what: str, values: list[float], most: float, unit: str = "ms") -> None:
        """Print the median and the largest, beside what the median may be."""
        median = statistics.median(values)
        verdict = "" if median <= most else "  TOO MUCH"
        print(f"{what:44} {median:7.0f} {unit:5} most {max(values):7.0f}   wanted <= {most:.0f}{verdict}", flush=True)


async def floor(bench: Bench) -> None:
    """What the emulator and the SDK take for code that does nothing, without us."""
    sandbox = bench.sandbox.session._sandbox
    assert sandbox is not None
    api = sandbox._api  # type: ignore[attr-defined]
    values = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        await api.invoke(sandbox.sandbox_id, "executeCode", {"code": "pass"})
        values.append(1000 * (time.perf_counter() - began))
    print(f"{'(a call that does nothing, for comparison)':44} {statistics.median(values):7.0f} ms")


async def trivial(bench: Bench) -> None:
    """A cell that does nothing: time and calls."""
    values, calls = [], []
    for _ in range(ROUNDS):
        await asyncio.sleep(0.2)
        before = len(bench.emulator.calls())
        began = time.perf_counter()
        await bench.sandbox.run("1")
        values.append(1000 * (time.perf_counter() - began))
        calls.append(float(len(bench.emulator.calls()) - before))
    bench.show("trivial cell", values, bench.latency + 15)
    bench.show("trivial cell, calls", calls, 1, "calls")


async def first_byte(bench: Bench) -> None:
    """From a print in the sandbox to its text here; both have this machine's clock."""
    values = []
    for _ in range(ROUNDS // 2):
        await asyncio.sleep(1)
        values += [
            1000 * (time.time() - float(output.text))
            async for output in bench.sandbox.stream(PRINTED)
            if isinstance(output, Stream)
        ]
    bench.show("first byte after it was printed", values, bench.latency + 60)


async def printing(bench: Bench) -> None:
    """A cell that prints ten times a second for a minute."""
    await asyncio.sleep(3)
    before = len(bench.emulator.calls())
    await bench.sandbox.run(PRINTING.format(bench.options.seconds))
    calls = len(bench.emulator.calls()) - before
    bench.show(
        f"cell that prints for {bench.options.seconds:g} s", [float(calls)], 1.5 * bench.options.seconds, "calls"
    )


async def interrupt(sandbox: Sandbox, options: argparse.Namespace) -> float:
    """Milliseconds from an interrupt to the cell's end."""
    began = 0.0
    execution = sandbox.stream(INTERRUPTED)
    async for output in execution:
        if isinstance(output, Stream):
            # A poll waits then.
            await asyncio.sleep(0.3 + options.latency)
            began = time.perf_counter()
            sandbox.interrupt()
    assert execution.result.error is not None
    return 1000 * (time.perf_counter() - began)


async def interrupts(bench: Bench) -> None:
    """From an interrupt to the cell's end."""
    values = []
    for _ in range(ROUNDS // 2):
        await asyncio.sleep(1)
        values.append(await interrupt(bench.sandbox, bench.options))
    bench.show("interrupt to the cell's end", values, 2 * bench.latency + 50)


async def inputs(bench: Bench) -> None:
    """From the answer to `input()` to the output behind it."""
    values, whole = [], []
    for _ in range(ROUNDS // 2):
        await asyncio.sleep(1)
        began = time.perf_counter()
        async for output in bench.sandbox.stream("input()"):
            if isinstance(output, Status) and output.state == "idle":
                break
        ended = time.perf_counter()
        values.append(1000 * (ended - bench.answers[-1]))
        whole.append(1000 * (ended - began))
    bench.show("input(), from the answer to the cell's end", values, 3 * bench.latency)
    bench.show("input(), the whole cell", whole, 3 * bench.latency)


async def large(bench: Bench) -> None:
    """Large output, and a file of 100 MB."""
    began = time.perf_counter()
    await bench.sandbox.run("print('x' * 50_000_000)")
    print(f"{'50 MB of output':44} {time.perf_counter() - began:7.1f} s")
    content = os.urandom(1 << 20) * 100
    began = time.perf_counter()
    await bench.sandbox.write("large.bin", content)
    print(f"{'a file of 100 MB goes in':44} {time.perf_counter() - began:7.1f} s")
    began = time.perf_counter()
    size = 0
    async for piece in bench.sandbox.read("large.bin"):
        size += len(piece)
    assert size == len(content)
    print(f"{'and comes out':44} {time.perf_counter() - began:7.1f} s")


MEASUREMENTS: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "floor": floor,
    "trivial": trivial,
    "first-byte": first_byte,
    "interrupt": interrupts,
    "input": inputs,
    "large": large,
    "printing": printing,
}


if __name__ == "__main__":
    main()
