"""Describes what code that is to be written here could use: variables, packages, and what given code lacks.

Imported by launcher.py, so it imports nothing of ours, and nothing that the kernel does not have anyway. It answers
beside a running cell, on the control thread. Of values it tells types, sizes, columns and names of parameters; texts
and numbers only where it was asked for values.
"""

from __future__ import annotations

import sys
import time
from typing import Any

MAX_VARIABLES = 100
MAX_COLUMNS = 60
MAX_NAME = 80
MAX_VALUE = 400
MAX_TIME = 0.5
"""Seconds of looking at variables; what was not looked at then is told by name and type."""
MAX_ROWS = 3
PACKAGES = (
    "altair bokeh bs4 cv2 dask duckdb geopandas httpx ipywidgets lxml matplotlib networkx nltk numpy openpyxl pandas "
    "PIL plotly polars pyarrow requests scipy seaborn sklearn spacy sqlalchemy statsmodels sympy torch tqdm "
    "transformers xgboost"
).split()
"""What people ask for. That one is there is found without importing it."""
SKIPPED = {"In", "Out", "exit", "quit", "get_ipython", "open"}
FRAMES = {"DataFrame", "GeoDataFrame", "LazyFrame"}
CONTAINERS = (str, bytes, list, tuple, set, frozenset, dict)


def describe(shell: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request: {"code": …} asks for the faults of code, {"values": …} for all that code could use."""
    if "code" in request:
        return examine(shell, str(request["code"]))
    return {
        "python": sys.version.split()[0],
        "packages": [name for name in PACKAGES if is_there(name)],
        "variables": variables(shell, values=bool(request.get("values"))),
    }


# ---- code


def examine(shell: Any, code: str) -> dict[str, Any]:
    """Return why code cannot run ("error", "" if it can), and the modules that it imports and that are not there."""
    import ast
    import warnings

    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cell = shell.input_transformer_manager.transform_cell(code)
            tree = compile(cell, "<cell>", "exec", flags)
            compile(tree, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    except SyntaxError as exc:
        return {"error": f"line {exc.lineno}: {exc.msg}", "missing": []}
    except (ValueError, RecursionError, MemoryError, OverflowError) as exc:
        return {"error": f"{type(exc).__name__}: {str(exc)[:200]}", "missing": []}
    names: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update((alias.name.partition(".")[0], None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names[node.module.partition(".")[0]] = None
    return {"error": "", "missing": [name for name in names if not is_there(name)][:20]}


def is_there(name: str) -> bool:
    """Whether a module of that name could be imported."""
    from importlib.util import find_spec

    try:
        return name in sys.modules or find_spec(name) is not None
    except (ImportError, ValueError, AttributeError):
        return False


# ---- variables


def variables(shell: Any, *, values: bool) -> list[list[str]]:
    """Return [name, type, what else there is to know] of the user's variables, the newest first."""
    hidden = shell.user_ns_hidden
    deadline = time.monotonic() + MAX_TIME
    # In one step: a cell may be adding more meanwhile.
    found = [
        (name, value)
        for name, value in reversed(list(shell.user_ns.items()))
        if isinstance(name, str) and not name.startswith("_") and name not in SKIPPED and hidden.get(name) is not value
    ]
    described = []
    for name, value in found[:MAX_VARIABLES]:
        detail = detail_of(value, values=values) if time.monotonic() < deadline else ""
        described.append([name[:MAX_NAME], type_of(value), detail])
    return described


def type_of(value: Any) -> str:
    """Return the name of a value's type, with its module where that is not built in."""
    kind = type(value)
    module = str(getattr(kind, "__module__", "")).partition(".")[0]
    name = kind.__name__[:MAX_NAME]
    return name if module in ("builtins", "__main__", "") else f"{module[:MAX_NAME]}.{name}"


def detail_of(value: Any, *, values: bool) -> str:
    """Return what else is to be known of a value; "" where its own code fails at that."""
    try:
        detail = shape_of(value)
        shown = value_of(value) if values else ""
    except Exception:  # noqa: BLE001 - the user's own classes may do anything
        return ""
    return "; ".join(part for part in (detail, shown) if part)


def shape_of(value: Any) -> str:  # noqa: PLR0911 - one for each kind of value
    """Return size, columns or parameters of a value."""
    kind = type(value)
    if kind.__name__ in FRAMES and hasattr(value, "columns"):
        return frame_columns(value)
    if kind.__name__ == "Series" and hasattr(value, "dtype"):
        return f"name {str(value.name)[:MAX_NAME]}, {value.dtype}, length {len(value)}"
    if hasattr(kind, "shape") and hasattr(kind, "dtype"):
        return f"shape {tuple(value.shape)}, {value.dtype}"
    if isinstance(value, CONTAINERS):
        return f"length {len(value)}"
    if isinstance(value, type(sys)):
        return f"module {value.__name__[:MAX_NAME]}"
    if isinstance(value, type):
        names = [name for name in vars(value) if not name.startswith("_")]
        return f"class with {', '.join(names[:20])}"[:MAX_VALUE] if names else "class"
    code = getattr(value, "__code__", None)
    if code is not None:
        return f"parameters ({', '.join(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])})"[:MAX_VALUE]
    return ""


def frame_columns(frame: Any) -> str:
    """Return a data frame's shape, and its columns with their types."""
    columns = list(frame.columns)
    types = list(getattr(frame, "dtypes", []))
    if len(types) != len(columns):
        types = [""] * len(columns)
    pairs = [
        f"{str(name)[:MAX_NAME]} ({kind})" if str(kind) else str(name)[:MAX_NAME]
        for name, kind in zip(columns[:MAX_COLUMNS], types)  # noqa: B905 - of one length but for the limit
    ]
    more = f", and {len(columns) - MAX_COLUMNS} more" if len(columns) > MAX_COLUMNS else ""
    shape = f"shape {tuple(frame.shape)}, " if type(frame).__name__ != "LazyFrame" else ""
    return f"{shape}columns: {', '.join(pairs)}{more}"


def value_of(value: Any) -> str:
    """Return the beginning of a value as text, for types whose text is their content."""
    if type(value).__name__ in FRAMES - {"LazyFrame"} and hasattr(value, "head"):
        return f"first rows: {value.head(MAX_ROWS)!r}"[:MAX_VALUE]
    if type(value) in (bool, int, float, complex, str, bytes, type(None)):
        # Cut first: the text of a large one takes long.
        short = value[:MAX_VALUE] if isinstance(value, (str, bytes)) else value
        return f"value {short!r}"[:MAX_VALUE]
    if type(value) in (list, tuple, set, frozenset, dict) and len(value) <= 20:
        return f"value {value!r}"[:MAX_VALUE]
    return ""
