"""Completion and inspection: at rest, and beside a cell that runs (where ipykernel has no answer)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from kernel_bench.plan import UNANSWERED, Effort, Samples, interleaved
from kernel_bench.process import Contender, Kernel, running, spawned
from kernel_bench.results import Bound, Row, at_most
from kernel_bench.wire import SilentKernelError

PATIENCE = 4
"""Seconds to wait for an answer beside a running cell before it counts as none."""

SETTLE = 1
"""Seconds between start and first completion, in which a kernel may warm up: a person does not type faster."""

CODE = "json.du"
COMPLETE = "complete_request", {"code": CODE, "cursor_pos": len(CODE)}
INSPECT = "inspect_request", {"code": "print", "cursor_pos": 5, "detail_level": 0}
Question = tuple[str, Mapping[str, Any]]

LOOP = 'import json\nprint("go", flush=True)\nwhile True: pass'
SLEEP = 'import json, time\nprint("go", flush=True)\ntime.sleep(600)'


def at_rest(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Ask while no cell runs."""
    rounds = effort.count(60, 15)
    with running(contenders) as kernels:
        for kernel in kernels:
            kernel.wire.run("import json")
        for name, question in (("completion", COMPLETE), ("inspection", INSPECT)):
            interleaved(3, kernels, partial(_answer, question=question))
            samples = interleaved(rounds, kernels, partial(_answer, question=question))
            yield Row(f"{name} at rest, p50", "ms", samples)


def beside_loop(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Ask beside a cell that holds the interpreter's lock as much as it can."""
    yield from _beside("`while True: pass`", LOOP, at_most(150), contenders, effort)


def beside_sleep(contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    """Ask beside a cell that waits."""
    yield from _beside("`time.sleep`", SLEEP, at_most(30), contenders, effort)


def _beside(name: str, code: str, bound: Bound, contenders: Sequence[Contender], effort: Effort) -> Iterator[Row]:
    firsts = effort.count(5, 2)
    settled = interleaved(firsts, contenders, lambda contender: _first(contender, code, SETTLE))
    yield Row(f"first completion beside {name}", "ms", settled, at_most(300))
    at_once = interleaved(firsts, contenders, lambda contender: _first(contender, code, 0))
    yield Row("the same, cell sent at spawn and no rest", "ms", at_once, at_most(300))
    completions, inspections = _while_running(code, contenders, effort.count(30, 8))
    yield Row(f"completion beside {name}, p50", "ms", completions, bound)
    yield Row(f"inspection beside {name}, p50", "ms", inspections)


def _first(contender: Contender, code: str, rest: float) -> float:
    with spawned(contender) as kernel:
        if rest:
            kernel.wire.run("1")
            time.sleep(rest)
        with _busy(kernel, code):
            return _answer_if_any(kernel, COMPLETE)


def _while_running(code: str, contenders: Sequence[Contender], count: int) -> tuple[Samples, Samples]:
    # One kernel after the other: two busy loops at once would measure the number of cores.
    pairs = [_series(contender, code, count) for contender in contenders]
    return tuple(first for first, _ in pairs), tuple(second for _, second in pairs)


def _series(contender: Contender, code: str, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    with running([contender]) as [kernel], _busy(kernel, code):
        if _answer_if_any(kernel, COMPLETE) == UNANSWERED:
            return (UNANSWERED,), (UNANSWERED,)
        _answer(kernel, INSPECT)
        pairs = [(_answer(kernel, COMPLETE), _answer(kernel, INSPECT)) for _ in range(count)]
    return tuple(first for first, _ in pairs), tuple(second for _, second in pairs)


@contextmanager
def _busy(kernel: Kernel, code: str) -> Iterator[None]:
    kernel.wire.start_and_await_output(code)
    try:
        yield
    finally:
        kernel.wire.request("control", "interrupt_request")


def _answer(kernel: Kernel, question: Question, timeout: float = 30) -> float:
    began = time.perf_counter()
    reply = kernel.wire.request("shell", *question, timeout)
    seconds = time.perf_counter() - began
    # An empty answer at once would be no answer.
    if not (reply.content.get("matches") or reply.content.get("found")):
        raise RuntimeError(f"{question[0]} was answered with nothing: {reply.content}")
    return seconds * 1000


def _answer_if_any(kernel: Kernel, question: Question) -> float:
    try:
        return _answer(kernel, question, PATIENCE)
    except SilentKernelError:
        return UNANSWERED
