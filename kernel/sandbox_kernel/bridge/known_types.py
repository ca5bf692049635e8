"""What there is to tell of a value, by its exact type; of a value of any other type nothing is asked.

Part of describing.py, in the sandbox. A class of the user's can say anything of itself by `__class__`, `__len__`,
`shape`, a metaclass, and do anything while it is asked. So types are compared by `is`, what a class holds is read past
its metaclass, and a method is called only of a type that is Python's own, or one of the data packages' that are loaded.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from itertools import islice
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

MAX_COLUMNS = 60
MAX_NAME = 80
MAX_VALUE = 400
MAX_ROWS = 3
MAX_BITS = 1000
"""Of a number; writing a longer one takes long, or is refused."""
MAX_ITEMS = 20
"""Of a list or a dictionary whose value is told; longer ones are not."""
HIDDEN = "***"
SIZED = (str, bytes, list, tuple, set, frozenset, dict)
"""Subclasses are measured by these types' own methods, too."""
NUMBERS = (bool, int, float, complex, type(None))

_name_of = type.__dict__["__name__"].__get__
_module_of_class = type.__dict__["__module__"].__get__
_contents_of = type.__dict__["__dict__"].__get__


class Shown:
    """What of a value may be told besides its type."""

    def __init__(self, values: bool, secret: str) -> None:
        """``secret`` is a regular expression for names whose values are not told; "" finds none."""
        self.values = values
        self._secret = re.compile(secret) if secret else None

    def hides(self, name: str) -> bool:
        """Whether what has that name is a secret."""
        return self._secret is not None and self._secret.search(name) is not None


def text(said: object, limit: int = MAX_NAME) -> str:
    """Return the beginning of a text that JSON can hold; "" for what is no text."""
    if not issubclass(type(said), str):
        return ""
    # A class after str may have methods of its own.
    beginning: str = str.__getitem__(said, slice(limit))  # type: ignore[index]
    return beginning.encode(errors="replace").decode()


def type_of(value: Any) -> str:
    """Return the name of a value's type, with its package where that is not built in."""
    kind = type(value)
    name = text(_name_of(kind))
    package = _module_of(kind).partition(".")[0]
    return name if package in ("builtins", "__main__", "") else f"{package}.{name}"


def _module_of(kind: type) -> str:
    try:
        return text(_module_of_class(kind))
    except AttributeError:
        return ""


def detail_of(value: Any, shown: Shown) -> str:
    """Return what else is to be known of a value; "" of types that are not known."""
    kind = type(value)
    how = next((how for known, how in _loaded() if known is kind), None)
    try:
        if how is not None:
            return how(value, shown)
        if issubclass(kind, SIZED):
            return _sized(value, shown)
        if issubclass(kind, type):
            return f"class{_members(value)}"
        return f"value {literal(value, shown)}" if shown.values and _is_simple(kind) else ""
    except Exception:  # noqa: BLE001 - a cell may be changing it in this moment, into anything
        return ""


# ---- Python's own


def _sized(value: Any, shown: Shown) -> str:
    base = next(one for one in SIZED if issubclass(type(value), one))
    size = base.__len__(value)
    shape = f"length {size}"
    if not shown.values or type(value) is not base or (size > MAX_ITEMS and base not in (str, bytes)):
        return shape
    return f"{shape}; value {literal(value, shown)}"


def literal(value: Any, shown: Shown, depth: int = 3) -> str:
    """Return a value as Python writes it, cut; of what is not Python's own, the type."""
    kind = type(value)
    if kind is str or kind is bytes:
        # Cut first: the text of a large one takes long.
        return text(repr(value[:MAX_VALUE]), MAX_VALUE)
    if kind is int and value.bit_length() > MAX_BITS:
        return "a large number"
    if _is_simple(kind) and _has_known_zone(value):
        return text(str(value) if any(kind is one for one in _classes(WRITTEN)) else repr(value), MAX_VALUE)
    if not depth or not any(kind is one for one in SIZED):
        return f"<{type_of(value)}>"
    if kind is dict:
        pairs = islice(value.items(), MAX_ITEMS)
        inside = ", ".join(f"{literal(key, shown, depth - 1)}: {_item(key, item, shown, depth)}" for key, item in pairs)
        return f"{{{inside}}}"[:MAX_VALUE]
    inside = ", ".join(literal(item, shown, depth - 1) for item in islice(value, MAX_ITEMS))
    opening, closing = "[]" if kind is list else "()" if kind is tuple else "{}"
    return f"{opening}{inside}{closing}"[:MAX_VALUE]


def _item(key: object, item: object, shown: Shown, depth: int) -> str:
    return HIDDEN if shown.hides(text(key)) else literal(item, shown, depth - 1)


def _is_simple(kind: type) -> bool:
    return any(kind is one for one in (*NUMBERS, *_classes(WRITTEN)))


def _has_known_zone(value: Any) -> bool:
    """Whether no time zone of the user's own is asked where a time is written."""
    zone = type(getattr(value, "tz" if hasattr(value, "tz") else "tzinfo", None))
    return zone is type(None) or any(zone is one for one in _classes(ZONES))


def _members(value: type) -> str:
    names = [text(name) for name in list(_contents_of(value)) if type(name) is str and not name.startswith("_")]
    return f" with {', '.join(names[:20])}"[:MAX_VALUE] if names else ""


def _module(value: ModuleType, shown: Shown) -> str:  # noqa: ARG001
    return f"module {text(value.__dict__.get('__name__'))}"


def _function(value: FunctionType, shown: Shown) -> str:  # noqa: ARG001
    return _parameters(value.__code__)


def _method(value: MethodType, shown: Shown) -> str:  # noqa: ARG001
    return _parameters(value.__func__.__code__) if type(value.__func__) is FunctionType else ""


def _parameters(code: CodeType) -> str:
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return text(f"parameters ({', '.join(names)})", MAX_VALUE)


# ---- data packages


def _array(value: Any, shown: Shown) -> str:  # noqa: ARG001
    return f"shape {tuple(value.shape)}, {text(str(value.dtype))}"


def _pandas_frame(frame: Any, shown: Shown) -> str:
    names = [_label(name) for name in frame.columns[:MAX_COLUMNS]]
    kinds = list(frame.dtypes.iloc[:MAX_COLUMNS])
    columns = _columns(names, kinds, len(frame.columns))
    described = f"shape {tuple(frame.shape)}, columns: {columns}"
    if not shown.values or frame.attrs:
        # A part of a table gets a copy of its attributes, which copy themselves.
        return described
    head = [_cells(frame.iloc[:MAX_ROWS, index], kind) for index, kind in enumerate(kinds)]
    return f"{described}; {_rows(names, head, shown)}"


def _cells(column: Any, kind: Any) -> list[Any]:
    # A type of column that somebody else wrote brings its own code.
    return column.tolist() if _is_known_kind(kind) else [kind] * min(MAX_ROWS, len(column))


def _pandas_series(value: Any, shown: Shown) -> str:  # noqa: ARG001
    return f"name {_label(value.name)}, {_kind(value.dtype)}, length {len(value.index)}"


def _polars_frame(frame: Any, shown: Shown) -> str:
    names, kinds = [text(name) for name in frame.columns[:MAX_COLUMNS]], frame.dtypes[:MAX_COLUMNS]
    columns = _columns(names, kinds, frame.width)
    described = f"shape {tuple(frame.shape)}, columns: {columns}"
    if not shown.values:
        return described
    head = frame.head(MAX_ROWS)
    return f"{described}; {_rows(names, [head.to_series(index).to_list() for index in range(len(names))], shown)}"


def _polars_series(value: Any, shown: Shown) -> str:  # noqa: ARG001
    return f"name {text(value.name)}, {_kind(value.dtype)}, length {value.len()}"


def _columns(names: list[str], kinds: list[Any], count: int) -> str:
    pairs = [f"{name} ({_kind(kind)})" for name, kind in zip(names, kinds)]  # noqa: B905 - of one length
    more = f", and {count - len(names)} more" if count > len(names) else ""
    return f"{', '.join(pairs)}{more}"


def _rows(names: list[str], columns: list[list[Any]], shown: Shown) -> str:
    """Return the first rows, a list each, without what columns of secrets hold."""
    told = [
        [HIDDEN] * len(cells) if shown.hides(name) else [_cell(cell, shown) for cell in cells]
        for name, cells in zip(names, columns)  # noqa: B905 - of one length
    ]
    rows = ", ".join(f"[{', '.join(row)}]" for row in zip(*told))  # noqa: B905
    return f"first rows: {rows}"[: 2 * MAX_VALUE]


def _cell(value: Any, shown: Shown) -> str:
    return literal(value, shown, 2)[:MAX_NAME]


def _label(name: Any) -> str:
    """Return a column's name; pandas lets any value be one."""
    return text(name) if issubclass(type(name), str) else literal(name, Shown(False, ""))[:MAX_NAME]


def _kind(kind: Any) -> str:
    """Return the name of a column's type."""
    return text(str(kind)) if _is_known_kind(kind) else type_of(kind)


def _is_known_kind(kind: Any) -> bool:
    """Whether a type of column is one of the data packages', down to what its name is made of."""
    # polars gives classes themselves, and numpy makes one for each type.
    own = kind if issubclass(type(kind), type) else type(kind)
    numpy = _class("numpy", "dtype")
    if numpy is not None and issubclass(own, numpy):
        return True
    if own is _class("pandas", "ArrowDtype"):
        return _is_from_package(type(kind.pyarrow_dtype), {"pyarrow"})
    return own is not _class("pandas", "SparseDtype") and _is_from_package(own, DATA_PACKAGES) and _has_known_zone(kind)


def _is_from_package(kind: type, packages: set[str]) -> bool:
    """Whether a class is what its package's module holds under its name, and does not only say so."""
    module = _module_of(kind)
    return module.partition(".")[0] in packages and _class(module, text(_name_of(kind))) is kind


DATA_PACKAGES = {"numpy", "pandas", "polars", "geopandas"}
WRITTEN = (
    ("datetime", "datetime"),
    ("datetime", "date"),
    ("datetime", "time"),
    ("datetime", "timedelta"),
    ("decimal", "Decimal"),
    ("pandas", "Timestamp"),
    ("pandas", "Timedelta"),
    ("pandas", "Period"),
    ("numpy", "bool"),
    ("numpy", "int64"),
    ("numpy", "float32"),
    ("numpy", "float64"),
)
"""Types whose values are told as their own text, and not as Python would write them."""
ZONES = (("datetime", "timezone"), ("zoneinfo", "ZoneInfo"))
TYPES: tuple[tuple[str, str, Callable[[Any, Shown], str]], ...] = (
    ("types", "ModuleType", _module),
    ("types", "FunctionType", _function),
    ("types", "MethodType", _method),
    ("numpy", "ndarray", _array),
    ("numpy", "matrix", _array),
    ("numpy.ma", "MaskedArray", _array),
    ("torch", "Tensor", _array),
    ("scipy.sparse", "csr_matrix", _array),
    ("scipy.sparse", "csr_array", _array),
    ("pandas", "DataFrame", _pandas_frame),
    ("geopandas", "GeoDataFrame", _pandas_frame),
    ("pandas", "Series", _pandas_series),
    ("geopandas", "GeoSeries", _pandas_series),
    ("polars", "DataFrame", _polars_frame),
    ("polars", "Series", _polars_series),
)
"""Module, name, and how a value of exactly that type is described."""


def _loaded() -> list[tuple[type, Callable[[Any, Shown], str]]]:
    found = ((_class(module, name), how) for module, name, how in TYPES)
    return [(kind, how) for kind, how in found if kind is not None]


def _classes(names: tuple[tuple[str, str], ...]) -> list[type]:
    return [kind for module, name in names if (kind := _class(module, name)) is not None]


def _class(module: str, name: str) -> type | None:
    """Return a class of a module that is loaded; None if there is none. A module may give its names by its own code."""
    loaded = sys.modules.get(module)
    found = loaded.__dict__.get(name) if type(loaded) is ModuleType else None
    return found if issubclass(type(found), type) else None
