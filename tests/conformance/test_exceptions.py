"""What is left out of the suites is little, has a reason each, and names tests that exist."""

from __future__ import annotations

from collections.abc import Callable

from . import test_ipykernel_suite, test_nbclient_suite
from .exceptions import (
    ABOUT_IPYKERNELS_PROCESS,
    AFTER_A_CELL,
    AT_A_GATEWAY,
    AT_MOST,
    AT_MOST_ON_A_SERVICE,
    ELSEWHERE,
    EXCEPTIONS,
    GUARD_DIFFERENCES,
    IN_RELAY_MODE,
    NOT_ISOLATED,
    SLOW_START,
    of_place,
)
from .upstream import Suite

_TABLES = (
    EXCEPTIONS,
    ABOUT_IPYKERNELS_PROCESS,
    AFTER_A_CELL,
    GUARD_DIFFERENCES,
    ELSEWHERE,
    SLOW_START,
    AT_A_GATEWAY,
    IN_RELAY_MODE,
)


def test_there_are_at_most_five_exceptions() -> None:
    assert len(EXCEPTIONS) <= AT_MOST


def test_there_are_at_most_ten_on_a_service_that_starts_slowly() -> None:
    assert len(EXCEPTIONS) + len(ELSEWHERE) + len(SLOW_START) <= AT_MOST_ON_A_SERVICE


def test_there_are_at_most_ten_at_a_gateway() -> None:
    assert len(of_place(elsewhere=True, gateway_mode="relay")) <= AT_MOST_ON_A_SERVICE
    assert set(EXCEPTIONS) >= NOT_ISOLATED


def test_no_test_is_in_two_tables() -> None:
    assert len({name for table in _TABLES for name in table}) == sum(map(len, _TABLES))


def test_every_name_left_out_is_an_upstream_test(names_of: Callable[[Suite], tuple[str, ...]]) -> None:
    names = [*names_of(test_ipykernel_suite.SUITE), *names_of(test_nbclient_suite.SUITE)]
    known = {*names, *(name.split("[", 1)[0] for name in names)}
    assert {name for table in _TABLES for name in table} - known == set()
