"""Classes by their registered names: found, and what is said where they are not."""

from __future__ import annotations

import pytest

from sandbox_kernel.entry_points import Registered
from sandbox_kernel.errors import UnknownProviderError

TARGETS = {"there": "decimal:Decimal", "absent": "no_such_module:Class", "moved": "decimal:NoSuchClass"}
THINGS = Registered("sandbox_kernel.no_such_group", TARGETS, "thing", "Some.option", UnknownProviderError)


def test_class_is_found_by_its_name() -> None:
    from decimal import Decimal

    assert THINGS.find("there") is Decimal
    assert THINGS.names() == ["absent", "moved", "there"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("their", "There is no thing 'their'; did you mean 'there'? See Some.option."),
        ("x", "There is no thing 'x'; there are: absent, moved, there. See Some.option."),
        ("absent", "needs a package that is not installed (No module named 'no_such_module')"),
        ("moved", "is not where its package says: decimal:NoSuchClass."),
    ],
)
def test_name_without_a_class_is_told(name: str, words: str) -> None:
    with pytest.raises(UnknownProviderError) as caught:
        THINGS.find(name)
    assert words in str(caught.value)
