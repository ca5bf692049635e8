"""Sandboxes that send what no worker sends, in place of results."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

import sandbox_kernel
from sandbox_kernel.library import Failure
from tests.waiting import until

if sys.platform != "linux":
    pytest.skip("the local provider needs bubblewrap, which only Linux has", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---- lies


def writer_of(number: int) -> Any:
    frame: Any = sys._getframe()
    while "writer" not in frame.f_locals:
        frame = frame.f_back
    return frame.f_locals["writer"]


def forge(kind: str) -> str:
    import pickle
    import struct

    def frame(text: bytes, data: bytes = b"", said: int = -1) -> bytes:
        return struct.pack("!IQ", len(text), len(data) if said < 0 else said) + text + data

    writer = writer_of(0)
    index = sys._getframe(1).f_locals["said"]["index"]
    end = b'{"end": %d, "header": {"kind": "json"}}' % index
    bad = pickle.dumps(print)
    forged = {
        "huge": frame(end, said=1 << 60),
        "huge object": struct.pack("!IQ", 1 << 31, 0),
        "negative": struct.pack("!IQ", 0, 0),
        "other index": frame(b'{"end": 999999, "header": {"kind": "json"}}', b"1"),
        "index of no kind": frame(b'{"end": [1], "header": {"kind": "json"}}', b"1"),
        "begun twice": frame(b'{"begin": %d}' % index),
        "no object": frame(b"[1, 2]"),
        "no json": frame(b"\xff\xfe"),
        "deep": frame(b'{"end":' + b"[" * 100_000),
        "no result": frame(b'{"end": %d}' % index),
        "pickle": frame(b'{"end": %d, "header": {"kind": "pickle"}}' % index, bad),
        "pickled array": frame(b'{"end": %d, "header": {"kind": "npy"}}' % index, bad),
        "false error": frame(b'{"end": %d, "error": 3}' % index),
        "failed": frame(b'{"failed": "late"}'),
        "kind of no kind": frame(b'{"end": %d, "header": {"kind": ["json"]}}' % index),
    }.get(kind, b"")
    if forged:
        writer._write(memoryview(forged))
    return kind


LIES = [
    ("huge", "a result of 1152921504606846976 bytes"),
    ("huge object", "an object of 2147483648 bytes"),
    ("negative", "an object of 0 bytes"),
    ("other index", "999999"),
    ("index of no kind", "where that cannot be"),
    ("begun twice", "where that cannot be"),
    ("no object", "what is no object"),
    ("no json", "what is no object"),
    ("deep", "what is no object"),
    ("no result", "an end without a result"),
    ("false error", "an end without a result"),
    ("failed", "where that cannot be"),
    ("kind of no kind", "are not known"),
    ("pickle", "kind 'pickle' are not known"),
    ("pickled array", "does not travel"),
]


async def test_forged_results_are_failures_and_nothing_is_unpickled() -> None:
    """One sandbox, so that each lie is the first input of a fresh one; honest inputs go on beside them."""
    inputs = [kind for kind, _ in LIES]
    results: list[Any] = []
    for kind in inputs:
        results += await sandbox_kernel.map(forge, [kind], sandboxes=1)
    for (kind, reason), result in zip(LIES, results, strict=True):
        assert isinstance(result, Failure), kind
        assert reason in result.message, kind
    assert {one.kind for one in results} == {"may have run", "not returned"}


async def test_liar_among_honest_inputs_costs_no_more_than_what_it_had() -> None:
    inputs = ["honest"] * 30
    inputs[10] = "huge"
    results = await sandbox_kernel.map(forge, inputs, sandboxes=2)
    assert len(results) == 30
    assert "honest" in results
    assert {one if isinstance(one, str) else one.kind for one in results} == {"honest", "may have run"}


def leaving(number: int) -> int:
    """Have the sandbox's half of the map end well after the first input, as if there were no more."""
    if number == 0:
        frame: Any = sys._getframe()
        while "reader" not in frame.f_locals:
            frame = frame.f_back
        frame.f_locals["reader"].next = lambda flush: None
    return number


async def test_sandbox_that_leaves_before_the_end_is_replaced() -> None:
    async def inputs() -> AsyncIterator[int]:
        yield 0
        # When it leaves it has nothing, and there is more to do.
        await until(lambda: mapping.replaced == 1)
        yield 1
        yield 2

    mapping = sandbox_kernel.map(leaving, inputs(), sandboxes=1)
    assert await mapping == [0, 1, 2]
