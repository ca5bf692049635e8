"""Variables to the sandbox and back, beside their Arrow bytes written to a file in memory and read back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from kernel_bench.plan import Effort, Samples, interleaved
from kernel_bench.process import Contender, Kernel, running
from kernel_bench.results import Row, at_least

MEGABYTE = 1_000_000
ROWS = 1_000_000
MEMORY = Path("/dev/shm")
FLOOR = at_least(300)
PREPARE = f"""
import numpy, pandas
random, rows = numpy.random.default_rng(0), {ROWS}
floats = pandas.DataFrame(random.random((rows, 8)))
mixed = pandas.DataFrame({{
    "id": random.integers(0, 1 << 40, rows),
    "count": random.integers(0, 100, rows).astype("int32"),
    "price": random.random(rows),
    "weight": random.random(rows),
    "when": pandas.date_range("2024", periods=rows, freq="s", tz="Europe/Berlin"),
    "kind": pandas.Categorical(random.choice(["red", "green", "blue"], rows)),
    "name": [f"name {{number}}" for number in random.integers(0, rows, rows)],
}})
"""
FRAMES = {"floats": "8 columns of floats", "mixed": "mixed columns"}


def transfer(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Push and pull two frames, with the library, and with `%sandbox` in a notebook of the last kernel."""
    from sandbox_kernel import BlockingSandbox

    frames: dict[str, Any] = {}
    exec(PREPARE, frames)  # noqa: S102 - the same text as in the notebook
    with ExitStack() as stack:
        sandbox = stack.enter_context(BlockingSandbox.create())
        sandbox.run("import numpy, pandas, pyarrow")
        (kernel,) = stack.enter_context(running(contenders[-1:]))
        kernel.wire.run(f"{PREPARE}\n%load_ext sandbox_magics", timeout=60)
        for name, what in FRAMES.items():
            frame = frames[name]
            content = _arrow(frame)
            measures: dict[str, Callable[[], object]] = {
                "push, library": partial(sandbox.push, **{name: frame}),
                "pull, library": partial(sandbox.pull, name),
                "push, notebook": partial(_run, kernel, f"%sandbox push {name}"),
                "pull, notebook": partial(_run, kernel, f"%sandbox pull {name}"),
            }
            for how, measure in measures.items():
                measure()
                both = [measure, partial(_through_memory, content)]
                samples = interleaved(effort.count(9, 3), both, partial(_rate, len(content)))
                title = f"{how}: {what} (reference: a file)"
                yield Row(title, "MB/s", _per_contender(samples, contenders), FLOOR)


def _per_contender(samples: Samples, contenders: Sequence[Contender]) -> Samples:
    """The subject's figures first and those of the reference last, with nothing for contenders between."""
    return (samples[0], *(() for _ in contenders[2:]), samples[1])


def _arrow(frame: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.ipc

    table = pa.Table.from_pandas(frame)
    sink = pa.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _rate(size: int, measure: Callable[[], object]) -> float:
    began = time.perf_counter()
    measure()
    return size / MEGABYTE / (time.perf_counter() - began)


def _run(kernel: Kernel, code: str) -> None:
    cell = kernel.wire.run(code, timeout=60)
    if any(output.kind == "error" for output in cell.outputs):
        raise RuntimeError(f"{code} failed")


def _through_memory(content: bytes) -> None:
    path = MEMORY / "kernel-bench.arrow"
    try:
        path.write_bytes(content)
        path.read_bytes()
    finally:
        path.unlink(missing_ok=True)
