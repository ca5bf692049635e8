"""`python tests/benchmarks/executor.py`: what an executor adds to a cell, near, far away and with many at once.

Local and executor are measured in turns, so that what else the machine does strikes both.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.benchmarks.cell_times import lag, seconds
from tests.executor_process import ExecutorProcess, serving
from tests.functional.client import FrontEnd, running
from tests.provider_suite.notebook import Notebook

from sandbox_kernel.providers.executor.provider import ExecutorProvider

FLOOD = "import sys\nline = 'x' * 999 + '\\n'\nfor n in range(40): sys.stdout.write(line * 1000)"
INTERRUPTED = """\
import signal, time
def note(*signal):
    global there
    there = time.time()
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, note)
print('begun', flush=True)
{code}
"""


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(MEASUREMENTS), action="append")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-executor-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for one in options.only or list(MEASUREMENTS):
            MEASUREMENTS[one](folder / one)


@contextmanager
def both(folder: Path) -> Iterator[tuple[FrontEnd, FrontEnd]]:
    """Give a front end of a local kernel, and one of a kernel with an executor."""
    with ExitStack() as stack:
        executor = stack.enter_context(serving(folder / "executor"))
        local = stack.enter_context(running(folder / "local"))
        far = stack.enter_context(running(folder / "far", *executor.arguments()))
        yield local.front_end(), far.front_end()


def near(folder: Path) -> None:
    """Cells, lag, output and interrupts on the loopback, beside the local provider."""
    with both(folder) as pair:
        for front_end in pair:
            for _ in range(30):
                front_end.run("1")
        blocks = [[[seconds(front_end) for _ in range(50)] for front_end in pair] for _ in range(8)]
        local, far = ([1000 * one for block in blocks for one in block[index]] for index in (0, 1))
        show("cell", "ms", local, far)
        show("lag of a flushed line", "ms", *([one for _ in range(5) for one in lag(front_end)] for front_end in pair))
        rates = [[rate(front_end) for front_end in pair] for _ in range(5)]
        show("output", "MB/s", *([row[index] for row in rates] for index in (0, 1)))
        for name, code in (("sleep", "time.sleep(60)"), ("a flood", "while True: print('x' * 1000)")):
            times = [[interrupt(one, code) for one in pair] for _ in range(8)]
            show(f"interrupt of {name}: until it is there", "ms", *([row[one][0] for row in times] for one in (0, 1)))
            show("  until all is shown", "ms", *([row[one][1] for row in times] for one in (0, 1)))


def rate(front_end: FrontEnd) -> float:
    """Return how fast output comes, in megabytes a second."""
    began = time.perf_counter()
    front_end.run(FLOOD)
    return 40 / (time.perf_counter() - began)


def interrupt(front_end: FrontEnd, code: str) -> tuple[float, float]:
    """Return how long an interrupt takes to reach a cell, and the cell's last output the front end, in milliseconds.

    What a flood had printed before the interrupt is still to be shown then: that takes as long as it takes.
    """
    cell = front_end.cell(INTERRUPTED.format(code=code))
    front_end.until(lambda: "begun" in cell.stream())
    time.sleep(0.3)
    began = time.time()
    front_end.send("interrupt_request", channel="control")
    front_end.finish(cell)
    ended = time.time()
    return 1000 * (float(front_end.run("there").result) - began), 1000 * (ended - began)


def far_away(folder: Path) -> None:
    """A cell over a line on which each way takes 25 ms."""
    with ExitStack() as stack:
        executor = stack.enter_context(serving(folder / "executor"))
        port = stack.enter_context(distance(executor, 0.025))
        kernel = stack.enter_context(running(folder / "kernel", *executor.arguments(address=f"localhost:{port}")))
        front_end = kernel.front_end()
        for _ in range(5):
            front_end.run("1")
        times = [1000 * seconds(front_end) for _ in range(50)]
    print(f"cell with 50 ms of latency: p50 {statistics.median(times):.1f} ms", flush=True)


@contextmanager
def distance(executor: ExecutorProcess, delay: float) -> Iterator[int]:
    """Give the port of a line to an executor on which everything is under way for DELAY seconds."""
    loop = asyncio.new_event_loop()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            loop.call_later(delay, writer.write, data)
        loop.call_later(delay, writer.close)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", executor.port)
        await asyncio.gather(carry(reader, back), carry(there, writer))

    async def end() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    server = loop.run_until_complete(asyncio.start_server(connect, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(end())
        server.close()


def many(folder: Path) -> None:
    """Fifty sandboxes on one executor, in each of which a cell runs every second."""
    options = {"max_sandboxes": 0}
    with serving(folder / "executor", Executor=options, LocalProvider={"memory": "1 GiB"}) as executor:
        times = asyncio.run(fifty(executor, folder))
    times.sort()
    p50, p95 = (1000 * times[int(len(times) * share)] for share in (0.5, 0.95))
    print(f"{len(times)} cells in 50 sandboxes: p50 {p50:.1f} ms, p95 {p95:.1f} ms, longest {1000 * times[-1]:.0f} ms")


async def fifty(executor: ExecutorProcess, folder: Path) -> list[float]:
    """Return how long cells took."""
    provider = ExecutorProvider(config=executor.config())
    notebooks = [Notebook(provider, folder, folder) for _ in range(50)]
    for begin in range(0, 50, 5):
        await asyncio.gather(*(notebook.session.start() for notebook in notebooks[begin : begin + 5]))
    # They warm up when they have been idle for a while: that comes once, and is measured with the rest.
    found = await asyncio.gather(*(one_a_second(notebook, index) for index, notebook in enumerate(notebooks)))
    await asyncio.gather(*(notebook.session.close() for notebook in notebooks))
    return [one for row in found for one in row]


async def one_a_second(notebook: Notebook, index: int) -> list[float]:
    """Run twenty cells, one a second, and return how long they took."""
    times = []
    await asyncio.sleep(index / 50)
    begin = time.perf_counter()
    for number in range(20):
        await asyncio.sleep(max(0.0, begin + number - time.perf_counter()))
        began = time.perf_counter()
        assert (await notebook.run("1")).value == "1"
        times.append(time.perf_counter() - began)
    return times


def show(name: str, unit: str, local: list[float], far: list[float]) -> None:
    """Print a row."""
    ours, theirs = statistics.median(far), statistics.median(local)
    print(
        f"{name}: executor {ours:.2f}, local {theirs:.2f} {unit}: {ours - theirs:+.2f}, x {ours / theirs:.2f}",
        flush=True,
    )


MEASUREMENTS: dict[str, Callable[[Path], None]] = {"near": near, "far": far_away, "many": many}

if __name__ == "__main__":
    main()
