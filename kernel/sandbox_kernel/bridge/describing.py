"""Describes what code that is to be written here could use: variables, packages, and what given code lacks.

Imported by launcher.py, so it imports nothing of ours, and nothing that the kernel does not have anyway. It answers
beside a running cell, on the control thread, so no code of the user's may run here: what a value is, its type says,
never its `__class__`; only methods of types that known_types.py knows are called. Of values it tells types, sizes,
columns and names of parameters; texts and numbers only where it was asked for values.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from sandbox_kernel.bridge import known_types as known
from sandbox_kernel.bridge import snapshots
from sandbox_kernel.bridge import variables as items
from sandbox_kernel.bridge.imports import is_there, missing_modules

MAX_VARIABLES = 100
MAX_TIME = 1.0
"""Seconds of looking at variables; what was not looked at then is told by name and type."""
MAX_PAUSE = 0.2
"""Seconds for one variable."""
MAX_TOLD = 100_000
"""Characters of what is told of all variables together."""
PACKAGES = (
    "altair bokeh bs4 cv2 dask duckdb geopandas httpx ipywidgets lxml matplotlib networkx nltk numpy openpyxl pandas "
    "PIL plotly polars pyarrow requests scipy seaborn sklearn spacy sqlalchemy statsmodels sympy torch tqdm "
    "transformers xgboost"
).split()
"""What people ask for. That one is there is found without importing it."""
SKIPPED = {"In", "Out", "exit", "quit", "get_ipython", "open"}


def describe(shell: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Answer a request: {"code": …} asks for the faults of code, {"values": …} for all that code could use.

    {"snapshot": PATH} and {"restore": PATH} are for what is saved and brought back (snapshots.py), {"give": NAME, "at":
    PATH} and {"take": NAME, "at": PATH} for variables that are worked with outside (variables.py); no cell runs then.

    With values, the columns and entries whose names the regular expression "secret" finds are told without theirs.
    """
    if "snapshot" in request:
        return snapshots.save(shell, str(request["snapshot"]), files=bool(request.get("files")))
    if "restore" in request:
        return snapshots.restore(shell, str(request["restore"]))
    if "give" in request:
        return items.give(shell, str(request["give"]), str(request["at"]))
    if "take" in request:
        return items.take(shell, str(request["take"]), str(request["at"]), keys=bool(request.get("keys")))
    if "code" in request:
        return examine(shell, str(request["code"]))
    shown = known.Shown(bool(request.get("values")), str(request.get("secret", "")))
    return {
        "python": sys.version.split()[0],
        "packages": [name for name in PACKAGES if is_there(name)],
        "variables": variables(shell, shown),
    }


def examine(shell: Any, code: str) -> dict[str, Any]:
    """Return why code cannot run ("error", "" if it can), and the modules that it needs and that are not there."""
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
    return {"error": "", "missing": missing_modules(tree)[:20]}


def variables(shell: Any, shown: known.Shown) -> list[list[str]]:
    """Return [name, type, what else there is to know] of the user's variables, the newest first."""
    hidden = shell.user_ns_hidden
    # In one step: a cell may be adding more meanwhile.
    found = [
        (name, value)
        for name, value in reversed(list(shell.user_ns.items()))
        if type(name) is str and not name.startswith("_") and name not in SKIPPED and hidden.get(name) is not value
    ][:MAX_VARIABLES]
    told = details([value for _, value in found], shown)
    return [[known.text(name), known.type_of(value), detail] for (name, value), detail in zip(found, told)]  # noqa: B905


def details(found: list[Any], shown: known.Shown) -> list[str]:
    """Return what else is to be known of each value; "" for those at which there was no more time or room."""
    told = [""] * len(found)
    deadline = time.monotonic() + MAX_TIME
    start, room = 0, MAX_TOLD
    while start < len(found):
        worker = Worker(found[start:], shown, room)
        worker.start()
        worker.wait(deadline)
        part = list(worker.told)
        told[start : start + len(part)] = part
        room -= sum(len(one) for one in part)
        if room <= 0 or time.monotonic() >= deadline:
            break
        # Behind the one that takes too long, if one does.
        start += len(part) + 1
    return told


class Worker(threading.Thread):
    """Looks at values, one after the other: in a thread, since nothing else ends a method that takes too long."""

    def __init__(self, found: list[Any], shown: known.Shown, room: int) -> None:
        super().__init__(name="describing", daemon=True)
        # A debugger stops all threads but those that say this, as the control thread does.
        self.pydev_do_not_trace = self.is_pydev_daemon_thread = True
        self.found, self.shown, self.room = found, shown, room
        self.told: list[str] = []
        self.done = threading.Event()
        self.given_up = False

    def run(self) -> None:
        try:
            for value in self.found:
                detail = known.detail_of(value, self.shown)
                self.room -= len(detail)
                if self.given_up or self.room < 0:
                    return
                self.told.append(detail)
        finally:
            self.done.set()

    def wait(self, deadline: float) -> None:
        """Wait for all of it, until then, or until one value takes too long."""
        seen = -1
        while seen < len(self.told) and time.monotonic() < deadline:
            seen = len(self.told)
            if self.done.wait(max(0.0, min(MAX_PAUSE, deadline - time.monotonic()))):
                return
        self.given_up = True
