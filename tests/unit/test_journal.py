"""The bridge's journal: what is kept, what goes first, and what is read after it was damaged."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox_kernel.bridge.journal import Journal

ALL = range(1 << 32)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(str(tmp_path), bound=4000)
    yield made
    made.close()


def test_it_has_no_file_that_a_cell_could_find(journal: Journal, tmp_path: Path) -> None:
    journal.append([b"x"], 0, essential=False)
    assert list(tmp_path.iterdir()) == []


def test_records_come_back_as_they_were(journal: Journal) -> None:
    parts = [b"", b"one", memoryview(b"two" * 100), bytearray(b"three"), *[b"."] * 600]
    number = journal.append(parts, 7, essential=False)
    assert journal.read(number) == [bytes(part) for part in parts]
    assert list(journal.numbers(0, journal.end, {7})) == [number]
    assert list(journal.numbers(0, journal.end, {8})) == []


def test_the_oldest_go_and_essential_ones_stay(journal: Journal) -> None:
    for index in range(200):
        journal.append([str(index).encode() * 30], index % 3, essential=index % 10 == 0)
    assert 100 < journal.first < 200
    here = list(journal.numbers(0, journal.end, ALL))
    assert here == [*range(0, journal.first, 10), *range(journal.first, 200)]
    assert [journal.read(number) for number in here] == [[str(number).encode() * 30] for number in here]
    assert journal.read(1) is None
    assert journal.essentials_before(15, 45) == [20, 30, 40]


def test_essential_ones_are_read_that_lose_their_neighbours_meanwhile(journal: Journal) -> None:
    numbers = journal.numbers(0, 100, {1})
    for index in range(100):
        journal.append([str(index).encode() * 5], 1, essential=index % 10 == 0)
    assert next(numbers) == 0
    for _ in range(200):
        journal.append([b"later" * 10], 2, essential=False)
    assert journal.first > 100
    assert list(numbers) == list(range(10, 100, 10))


def test_record_that_cannot_be_written_is_not_there_and_the_next_is(journal: Journal) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        lost = journal.append([b"lost" * 100], 0, essential=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = journal.append([b"kept"], 0, essential=False)
    assert (journal.read(lost), journal.read(kept)) == (None, [b"kept"])


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=60))
def test_damaged_record_is_none_or_parts(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    journal = Journal(str(tmp_path_factory.getbasetemp()))
    number = journal.append([b"one", b"two" * 10], 0, essential=False)
    (segment,) = journal._segments
    os.pwrite(segment.fd, data[: segment.size], 0)
    found = journal.read(number)
    assert found is None or sum(map(len, found)) <= segment.size
    journal.close()
