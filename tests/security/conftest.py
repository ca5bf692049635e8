"""Fixtures: an arena for each kind of user.

Environment: `SANDBOX_KERNEL_UNDER_TEST` names the kernelspec (default `sandbox`), `SANDBOX_USER_PYTHON` a Python with
the project that any user can read (default: one is made).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from .arena.door import Arena, unavailable
from .people import KINDS, NoEnvironmentError, person, remove_environment

KERNEL = os.environ.get("SANDBOX_KERNEL_UNDER_TEST", "sandbox")


@pytest.fixture(scope="session")
def _throw_away_namespaces() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("the local provider's isolation is Linux's")
    if reason := unavailable():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def _environments() -> Iterator[None]:
    yield
    remove_environment()


@pytest.fixture(scope="module", params=KINDS)
def arena(request: pytest.FixtureRequest, _throw_away_namespaces: None, _environments: None) -> Iterator[Arena]:
    """A host to be attacked, with a kernel's user of this kind on it."""
    try:
        somebody = person(request.param)
    except NoEnvironmentError as exc:
        pytest.skip(str(exc))
    with Arena(somebody, KERNEL) as entered:
        yield entered
