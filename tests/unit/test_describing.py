"""What a sandbox tells of its variables and of code: by exact types, so that no code of the user's runs meanwhile."""

from __future__ import annotations

import datetime as dt
import sys
import threading
from collections import Counter
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from sandbox_kernel.bridge import describing
from sandbox_kernel.bridge.known_types import TYPES, Shown

np = pytest.importorskip("numpy")
pd = pytest.importorskip("pandas")

SECRET = "(?i)password"  # noqa: S105 - a pattern


def told(*, values: bool = False, **variables: Any) -> dict[str, str]:
    """Return what is told of variables, by their names."""
    shell = SimpleNamespace(user_ns=variables, user_ns_hidden={})
    found = describing.variables(shell, Shown(values, SECRET))
    return {name: f"{kind}; {detail}" if detail else kind for name, kind, detail in found}


# ---- what runs nothing of the user's


class Trap(BaseException):
    """Raised by the user's own code; nothing catches it but the test."""


def sprung(*_: object, **__: object) -> Any:
    traps.append(sys._getframe(1).f_code.co_name)
    raise Trap


traps: list[str] = []


class Meta(type):
    """A metaclass that answers for its classes."""

    __hash__ = __eq__ = __instancecheck__ = __subclasscheck__ = __getattr__ = sprung  # type: ignore[assignment]
    __name__ = __module__ = property(sprung)  # type: ignore[assignment]

    def __getattribute__(cls, name: str) -> Any:
        return sprung()


METHODS = (
    "__len__ __repr__ __str__ __hash__ __eq__ __iter__ __bool__ __format__ __getattr__ __getattribute__ __getitem__"
)
PROPERTIES = "__class__ shape dtype dtypes columns name head __code__ __name__ __module__ attrs tz tzinfo"


def members() -> dict[str, Any]:
    return {
        **dict.fromkeys(METHODS.split(), sprung),
        **{name: property(sprung) for name in PROPERTIES.split()},
        "__module__": "user",
    }


def traitors() -> dict[str, Any]:
    """Return an object of each kind that does something when it is asked."""
    bases = [object, str, bytes, list, tuple, set, dict, ModuleType, dt.datetime]
    made = {}
    for base in bases:
        own = type("DataFrame", (base,), members())
        arguments = {ModuleType: ("m",), dt.datetime: (2020, 1, 1)}.get(base, ())
        made[f"of_{base.__name__}"] = base.__new__(own, *arguments)
    made["by_metaclass"] = object.__new__(Meta("Series", (), {"__module__": "user"}))
    made["metaclass"] = Meta("Series", (), {"__module__": "user"})
    # What pretends to be pandas'.
    for name in ("DataFrame", "Series"):
        own = type(name, (), {**members(), "__module__": "pandas"})
        made[f"pandas_{name}"] = object.__new__(own)
    late = ModuleType("late")
    late.__getattr__ = sprung  # type: ignore[method-assign]
    del late.__name__
    made["late"] = late
    return made


@pytest.mark.parametrize("values", [False, True])
def test_no_code_of_the_users_own_runs(*, values: bool) -> None:
    traps.clear()
    within = traitors()
    inside = {name: [value] for name, value in within.items()}
    frame = pd.DataFrame({"x": pd.Series([within["of_object"]], dtype=object)})
    found = told(values=values, frame=frame, **{**within, **{f"in_{name}": one for name, one in inside.items()}})
    assert traps == []
    assert found["of_object"] == "user.DataFrame"
    assert found["of_list"] == "user.DataFrame; length 0"
    assert found["by_metaclass"] == "user.Series"
    assert found["metaclass"] == "Meta; class"
    assert found["pandas_DataFrame"] == "pandas.DataFrame"
    assert found["frame"].startswith("pandas.DataFrame; shape (1, 1), columns: x (object)")


def test_value_that_takes_too_long_costs_only_its_own_description(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    slow = type("Slow", (), {"__module__": "slow_module"})
    module = ModuleType("slow_module")
    module.Slow = slow  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slow_module", module)
    waits = ("slow_module", "Slow", lambda value, shown: str(ended.wait(30)))
    monkeypatch.setattr("sandbox_kernel.bridge.known_types.TYPES", (*TYPES, waits))
    try:
        found = told(first=[1], slow=slow(), last=[1, 2])
        assert found == {"first": "list; length 1", "slow": "slow_module.Slow", "last": "list; length 2"}
        # Many of them: what could be told in time is told, and not each of them is waited for.
        found = told(oldest=[1], **{f"slow_{number}": slow() for number in range(90)}, newest=[1])
        assert (found["newest"], found["oldest"], len(found)) == ("list; length 1", "list", 92)
    finally:
        ended.set()


def test_what_is_told_fits_into_an_answer() -> None:
    wide = pd.DataFrame({f"{number:03}{'x' * 500}": [1] for number in range(60)})
    found = told(**{f"frame_{number}": wide for number in range(100)}, small=[1])
    assert sum(len(text) for text in found.values()) < 200_000
    assert found["small"] == "list; length 1"
    assert len(found) == 100


# ---- what is told


def test_known_types_are_described() -> None:
    found = told(
        frame=pd.DataFrame({"a": [1], ("b", 1): ["x"], pd.Timestamp("2020-01-01"): [1.5]}),
        series=pd.Series([1, 2], name="s"),
        array=np.zeros((2, 3)),
        function=lambda first, *, second: None,
        method=describing.Worker.wait.__get__(object()),
        cls=Shown,
        module=np,
        counted=Counter("abc"),
        number=4711,
    )
    assert "pandas.DataFrame; shape (1, 3), columns: a (int64), ('b', 1) (" in found["frame"]
    assert "2020-01-01 00:00:00 (float64)" in found["frame"]
    assert found["series"] == "pandas.Series; name s, int64, length 2"
    assert found["array"] == "numpy.ndarray; shape (2, 3), float64"
    assert found["function"] == "function; parameters (first, second)"
    assert found["method"] == "method; parameters (self, deadline)"
    assert found["cls"] == "type; class with hides"
    assert found["module"] == "module; module numpy"
    assert found["counted"] == "collections.Counter; length 3"
    assert found["number"] == "int"


def test_values_are_told_where_they_are_wanted_and_no_secrets() -> None:
    zone = dt.timezone.utc
    found = told(
        values=True,
        number=4711,
        large=1 << 100_000,
        text="abc",
        items=[1, "a", None, {"password": "hunter2"}],
        when=dt.datetime(2020, 1, 1, tzinfo=zone),
        frame=pd.DataFrame({"user": ["me"], "db_password": ["hunter2"], "day": pd.to_datetime(["2020-01-01"])}),
        labelled=pd.DataFrame({"a": [1]}),
    )
    assert found["number"] == "int; value 4711"
    assert found["large"] == "int; value a large number"
    assert found["text"] == "str; length 3; value 'abc'"
    assert found["items"] == "list; length 4; value [1, 'a', None, {'password': ***}]"
    assert found["when"] == "datetime.datetime; value 2020-01-01 00:00:00+00:00"
    assert "first rows: ['me', ***, 2020-01-01 00:00:00]" in found["frame"]
    assert not [text for text in found.values() if "hunter2" in text]


def test_names_that_json_cannot_hold_do_not_lose_the_rest() -> None:
    found = told(values=True, **{"a\ud800": 1}, b={"\udc00": "\ud800"}, c=[1])
    assert "".join(found.values()).encode()
    assert "".join(found).encode()
    assert found["c"] == "list; length 1; value [1]"


# ---- code


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        ("import absent_a, sys\nfrom absent_b.part import x\nfrom . import y", ["absent_a", "absent_b"]),
        ("try:\n    import absent_a\nexcept ImportError:\n    absent_a = None", []),
        ("try:\n    import absent_a\nexcept (ValueError, ModuleNotFoundError):\n    import absent_b", ["absent_b"]),
        ("try:\n    import sys\nexcept ImportError:\n    import absent_b", []),
        (
            "try:\n    import absent_a\nexcept:\n    pass\nelse:\n    import absent_b\nfinally:\n    import absent_c",
            ["absent_c"],
        ),
        ("try:\n    import absent_a\nexcept KeyError:\n    pass", ["absent_a"]),
        ("import contextlib\nwith contextlib.suppress(ImportError):\n    import absent_a", []),
        ("if TYPE_CHECKING:\n    import absent_a", []),
        ("def f():\n    import absent_a", ["absent_a"]),
    ],
)
def test_modules_are_missing_only_where_code_cannot_do_without_them(code: str, missing: list[str]) -> None:
    from IPython.core.inputtransformer2 import TransformerManager

    shell = SimpleNamespace(input_transformer_manager=TransformerManager())
    assert describing.examine(shell, code) == {"error": "", "missing": missing}
