"""nbclient's own tests, in the installed version, their notebooks executed by the kernel."""

from __future__ import annotations

from collections.abc import Callable

from .upstream import Suite

SUITE = Suite("nbclient")


def test_nbclient_works_as_with_ipykernel(
    upstream_test: str, assert_passes_as_for_ipykernel: Callable[[str], None]
) -> None:
    assert_passes_as_for_ipykernel(upstream_test)
