"""ipykernel's own tests, in the installed version, run against the kernel."""

from __future__ import annotations

from collections.abc import Callable

from .upstream import Suite

SUITE = Suite(
    "ipykernel",
    (
        "test_message_spec.py",
        "test_kernel.py",
        "test_async.py",
        "test_debugger.py",
        "test_subshells.py",
        "test_eventloop.py",
    ),
)


def test_kernel_passes_as_ipykernel_does(
    upstream_test: str, assert_passes_as_for_ipykernel: Callable[[str], None]
) -> None:
    assert_passes_as_for_ipykernel(upstream_test)
