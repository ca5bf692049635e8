"""The table that a person reads, a line as soon as its row is there, and the JSON that a script reads."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kernel_bench.results import Quantity, Row

NAME_WIDTH = 58
FIGURE_WIDTH = 17
COLUMNS = ("ratio", "95 %", "bound", "holds", "n")
WIDTHS = (8, 15, 12, 14, 13)


def machine() -> str:
    """One line on what the figures were taken with; the load says how busy the machine was besides."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("ipykernel", "pyzmq", "jupyter_client"))
    load = os.getloadavg()[0]
    return f"Python {platform.python_version()}, {packages}; {os.cpu_count()} cores, load {load:.2f} at the start"


def heading(names: Sequence[str]) -> str:
    """Render the first line."""
    return _line("", list(names), COLUMNS)


def line(row: Row) -> str:
    """Render one row."""
    figures = [f"{_number(figure)} {row.unit}" if math.isfinite(figure) else "-" for figure in row.figures()]
    ratio = row.quantity(Quantity.RATIO)
    interval = row.interval(Quantity.RATIO)
    cells = (
        "-" if ratio is None or not math.isfinite(ratio) else f"{ratio:.2f}",
        "" if interval is None or not math.isfinite(interval[1]) else "{:.2f} to {:.2f}".format(*interval),
        row.bound.text(row.unit) if row.bound else "",
        row.verdict(),
        "/".join(str(len(one)) for one in row.samples),
    )
    return _line(row.name, figures, cells)


def summary(rows: Sequence[Row], failures: Sequence[str]) -> str:
    """The rows whose bound does not hold, or not surely, and what could not be measured."""
    verdicts = [(row.name, row.verdict()) for row in rows if row.bound]
    open_ones = [f"  {name}: {verdict}" for name, verdict in verdicts if verdict != "yes"]
    held = len(verdicts) - len(open_ones)
    lost = [f"  could not measure {failure}" for failure in failures]
    remarks = open_ones + lost
    return "\n".join([f"{held} of {len(verdicts)} bounds hold" + (":" if remarks else "."), *remarks])


def write_json(file: Path, names: Sequence[str], rows: Sequence[Row], failures: Sequence[str]) -> None:
    """Write all rows with all their samples."""
    content = {
        "machine": machine(),
        "kernels": list(names),
        "rows": [_record(row) for row in rows],
        "failures": list(failures),
    }
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _record(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "unit": row.unit,
        "figures": _finite(row.figures()),
        "ratio": _finite([row.quantity(Quantity.RATIO)])[0],
        "interval": _finite(row.interval(Quantity.RATIO) or ()),
        "bound": row.bound.text(row.unit) if row.bound else None,
        "holds": row.verdict(),
        "samples": [_finite(one) for one in row.samples],
    }


def _finite(figures: Sequence[float | None]) -> list[float | None]:
    """JSON has no infinity: null is what was not done."""
    return [figure if figure is not None and math.isfinite(figure) else None for figure in figures]


def _line(name: str, figures: Sequence[str], cells: Sequence[str]) -> str:
    left = name.ljust(NAME_WIDTH) + "".join(figure.rjust(FIGURE_WIDTH) for figure in figures)
    return (left + "".join(cell.rjust(width) for cell, width in zip(cells, WIDTHS, strict=True))).rstrip()


def _number(figure: float) -> str:
    whole_digits = len(str(int(abs(figure))))
    return f"{figure:,.{max(0, 3 - whole_digits)}f}"
