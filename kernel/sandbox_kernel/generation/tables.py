"""The first lines of data files, without what their columns of passwords and the like hold."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence

from .redaction import HIDDEN, is_secret_column


def first_lines(text: str, rows: int, delimiter: str = "") -> list[str]:
    """Return the first line of a table's text, which names its columns, and so many rows, without secrets.

    ``delimiter`` "" is to be found out.
    """
    lines = text.splitlines(keepends=True)
    first = lines[0] if lines else ""
    delimiter = delimiter or max(",;\t|", key=first.count)
    reader = csv.reader(lines, delimiter=delimiter)
    found: list[list[str]] = []
    secret: set[int] = set()
    try:
        names = next(reader, [])
        secret = {index for index, name in enumerate(names) if is_secret_column(name)}
        while len(found) < rows and (row := next(reader, None)) is not None:
            found.append(_without(row, secret, len(names)))
    except csv.Error:
        # What belongs to which column cannot be told.
        return [first.rstrip("\r\n")]
    if not secret:
        return [line.rstrip("\r\n") for line in lines[: rows + 1]]
    return [first.rstrip("\r\n"), *(_line(row, delimiter) for row in found)]


def _without(row: Sequence[str], secret: Collection[int], width: int) -> list[str]:
    # In a row of another width no cell can be told from others.
    return [HIDDEN if index in secret or (secret and len(row) != width) else cell for index, cell in enumerate(row)]


def _line(row: Sequence[str], delimiter: str) -> str:
    """Return a row as it is written in a file, on one line."""
    cells = (" ".join(cell.split("\n")) for cell in row)
    return delimiter.join(f'"{cell}"' if delimiter in cell else cell for cell in cells)
