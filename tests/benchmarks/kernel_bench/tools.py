"""Calls of a tool outside the sandbox from a cell in it; only a kernel that has `tools` can do it."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator, Sequence

from kernel_bench.plan import Effort
from kernel_bench.process import Contender, running
from kernel_bench.results import Bound, Quantity, Row, at_most, percentile
from kernel_bench.wire import Cell
from sandbox_kernel.tools.workshop import Workshop, WorkshopSettings

OPTIONS = ("--Tools.tools=node=platform:node", "--Tools.default_policy=allow")
WARM_UP = 50
CODE = '''
def tool(a: int, b: int = 1) -> str:
    """Add two numbers, and something."""
    return str(a + b) + "{}"
'''
MEASURE = """
import asyncio, json, time
def seconds(count):
    for _ in range(count):
        began = time.perf_counter()
        tools.node()
        yield time.perf_counter() - began
list(seconds({warm_up}))
one_by_one = list(seconds({count}))
async def one(tool):
    began = time.perf_counter()
    await tool.arun()
    return time.perf_counter() - began
at_once = [time for _ in range({rounds}) for time in await asyncio.gather(*[one(tools.node) for _ in range(50)])]
print(json.dumps([one_by_one, at_once]))
"""


def tools(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Call one that returns a short text: one call after the other, and fifty at once."""
    subject = contenders[0]
    allowed = Contender(subject.name, (*subject.argv, *OPTIONS), subject.env, subject.folder)
    code = MEASURE.format(warm_up=WARM_UP, count=effort.count(1000, 200), rounds=effort.count(20, 4))
    with running([allowed]) as (kernel,):
        one_by_one, at_once = json.loads(_printed(kernel.wire.run(code)))
    nothing: tuple[tuple[float, ...], ...] = tuple(() for _ in contenders[1:])
    milliseconds = tuple(seconds * 1000 for seconds in one_by_one)
    yield Row("tool call, p50", "ms", (milliseconds, *nothing), at_most(4))
    yield Row("tool call, p95", "ms", (milliseconds, *nothing), statistic=percentile(0.95))
    yield Row("tool call, 50 at once, p50", "ms", (tuple(seconds * 1000 for seconds in at_once), *nothing))
    yield registrations(contenders, effort)


def registrations(contenders: Sequence[Contender], effort: Effort) -> Row:
    """Register tools, each code twice: how many times faster the second is, which is not checked again."""
    ratios = asyncio.run(_ratios(effort.count(250, 25)))
    return Row("registration, fresh / known code", "x", (ratios, *(() for _ in contenders[1:])), _at_least(5))


async def _ratios(count: int) -> tuple[float, ...]:
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(WorkshopSettings(folder=folder, owner="bench"))
        # What is imported and opened once is not part of it.
        await workshop.register("first", CODE.format("first"))
        ratios = []
        for number in range(count):
            fresh, known = [await _register(workshop, f"{kind}{number}", number) for kind in ("fresh", "known")]
            ratios.append(fresh / known)
        await workshop.close()
    return tuple(ratios)


async def _register(workshop: Workshop, name: str, number: int) -> float:
    began = time.perf_counter()
    await workshop.register(name, CODE.format(number))
    return time.perf_counter() - began


def _at_least(limit: float) -> Bound:
    return Bound(Quantity.VALUE, limit, floor=True)


def _printed(cell: Cell) -> str:
    return "".join(output.content["text"] for output in cell.outputs if output.kind == "stream")
