"""Functions that go as source: what they compute there is what they compute here, or they do not go as source."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from sandbox_kernel.errors import TransferError
from sandbox_kernel.library import values
from sandbox_kernel.library.fan_out.shipping import of_function

NUMBERS = count()
Load = Callable[..., Any]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Write modules, by their names, and give the function f of the one that is named main."""
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    monkeypatch.syspath_prepend(tmp_path)

    def make(**texts: str) -> Any:
        number = next(NUMBERS)
        for name, text in texts.items():
            (tmp_path / f"{name}_{number}.py").write_text(text.replace("NUMBER", str(number)))
        importlib.invalidate_caches()
        return importlib.import_module(f"main_{number}").f

    return make


def there(function: Any) -> Any:
    """Return the function as it is made where only its source is."""
    header, (source,) = of_function(function)
    assert header["kind"] == "source"
    space: dict[str, Any] = {"_decode": values.decode}
    exec(compile(bytes(source).decode(), "<there>", "exec", dont_inherit=True), space)  # noqa: S102 - as the sandbox does
    return space[header["name"]]


@pytest.mark.parametrize(
    ("main", "other"),
    [
        ("SCALE = 3\ndef f(x):\n    return SCALE, g(x)\n", "SCALE = 2\ndef g(x):\n    return SCALE\n"),
        ("def h(x):\n    return 1\ndef f(x):\n    return h(x), g(x)\n", "h = 2\ndef g(x):\n    return h\n"),
        ("def f(x):\n    return sum([x]), g(x)\n", "sum = 2\ndef g(x):\n    return sum\n"),
        ("def f(x):\n    return g(x), sum([x])\n", "sum = 2\ndef g(x):\n    return sum\n"),
        ("sum = 2\ndef f(x):\n    return sum, g(x)\n", "def g(x):\n    return sum([x])\n"),
    ],
)
def test_name_with_two_meanings_is_refused(load: Load, main: str, other: str) -> None:
    function = load(main="from other_NUMBER import g\n" + main, other=other)
    with pytest.raises(TransferError, match=r"the name (SCALE|h|sum) means one thing in one function and another"):
        of_function(function)


def test_name_with_one_meaning_in_two_modules_goes_along(load: Load) -> None:
    text = "SCALE = 30_000 + {0}\nimport math\n"
    function = load(
        main="from other_NUMBER import g\n" + text.format(5) + "def f(x):\n    return math.sqrt(x) * SCALE, g(x)\n",
        other=text.format(5) + "def g(x):\n    return math.floor(x) * SCALE\n",
    )
    assert there(function)(4) == function(4) == (60_010.0, 120_020)


@pytest.mark.parametrize(
    "head",
    [
        "from pathlib import Path\ndef f(x: Path) -> Path:\n",
        "import decimal as d\ndef f(x: d.Decimal, *more: d.Decimal, key: d.Decimal = None):\n",
        "class Own: pass\ndef f(x: Own) -> list[Own]:\n",
        "from __future__ import annotations\ndef f(x: Nowhere):\n",
    ],
)
def test_names_in_annotations_are_not_needed_there(load: Load, head: str) -> None:
    function = load(main=head + "    return x + 1\n")
    assert there(function)(1) == function(1) == 2


def test_literal_default_values_go_along(load: Load) -> None:
    function = load(main="def f(x, n=-3, *, names=('a', 'b'), none=None):\n    return x, n, names, none\n")
    assert there(function)(1) == function(1) == (1, -3, ("a", "b"), None)


@pytest.mark.parametrize(
    "text",
    [
        "LIMIT = 5\ndef f(x, n=LIMIT):\n    return n\n",
        "LIMIT = 5\ndef f(x, *, n=LIMIT):\n    return n\n",
        "def f(x, n=1):\n    return n\nf.__defaults__ = (2,)\n",
    ],
)
def test_default_values_that_are_computed_are_refused(load: Load, text: str) -> None:
    with pytest.raises(TransferError, match="a default value of its arguments is computed"):
        of_function(load(main=text))
