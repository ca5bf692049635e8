"""What was asked and what came of it, kept in the record file, in a table of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_kernel.errors import ConfigurationError
from sandbox_kernel.records import LOCK_TIMEOUT, RecordFile

from .chain import Answered

if TYPE_CHECKING:
    import sqlite3

MAX_ENTRIES = 1000
"""Entries that are kept, of all notebooks together."""
MAX_TEXT = 50_000
"""Characters of a prompt, or of code, that are kept."""

_SCHEMA = """
    CREATE TABLE IF NOT EXISTS generations (
        id INTEGER PRIMARY KEY,
        directory TEXT NOT NULL,
        time REAL NOT NULL,
        command TEXT NOT NULL,
        prompt TEXT NOT NULL,
        code TEXT NOT NULL,
        model TEXT NOT NULL,
        seconds REAL NOT NULL,
        input_tokens INTEGER,
        output_tokens INTEGER,
        result TEXT NOT NULL,
        run_seconds REAL
    )
"""


@dataclass(frozen=True)
class Entry:
    """One request. Secrets are taken out before it is made."""

    directory: str
    """The notebook's folder."""
    time: float
    """Seconds since the epoch."""
    command: str
    prompt: str
    code: str
    model: str
    seconds: float
    """Until the answer was complete."""
    input_tokens: int | None = None
    output_tokens: int | None = None
    result: str = ""
    """"ok", the error of the code, or "" if it was not run."""
    run_seconds: float | None = None


_NAMES = [one.name for one in fields(Entry)]
_COLUMNS = ", ".join(_NAMES)
_PLACES = ", ".join("?" for _ in _NAMES)


class History:
    """The entries of one folder's notebooks. Blocks: it is called in threads.

    Raises ConfigurationError where the file cannot be used.
    """

    def __init__(self, directory: Path, path: Path | None = None) -> None:
        self._directory = str(directory)
        self.path = path or RecordFile().path

    def add(self, entry: Entry) -> int:
        """Keep an entry, and let go of the oldest ones; return its number."""
        with self._open() as connection:
            # The names of the columns are this module's own.
            cursor = connection.execute(f"INSERT INTO generations ({_COLUMNS}) VALUES ({_PLACES})", astuple(entry))  # noqa: S608
            connection.execute(
                "DELETE FROM generations WHERE id NOT IN (SELECT id FROM generations ORDER BY id DESC LIMIT ?)",
                (MAX_ENTRIES,),
            )
            return int(cursor.lastrowid or 0)

    def note_run(self, number: int, result: str, seconds: float) -> None:
        """Add what became of the code."""
        with self._open() as connection:
            values = (result, seconds, number)
            connection.execute("UPDATE generations SET result = ?, run_seconds = ? WHERE id = ?", values)

    def last(self, count: int) -> list[tuple[int, Entry]]:
        """Return the last entries with their numbers, oldest first."""
        if not self.path.exists():
            return []
        with self._open() as connection:
            rows = connection.execute(
                f"SELECT id, {_COLUMNS} FROM generations WHERE directory = ? ORDER BY id DESC LIMIT ?",  # noqa: S608
                (self._directory, count),
            ).fetchall()
        return [(int(row[0]), Entry(*row[1:])) for row in reversed(rows)]

    def forget(self) -> int:
        """Remove the entries of this folder; return how many there were."""
        if not self.path.exists():
            return 0
        with self._open() as connection:
            return connection.execute("DELETE FROM generations WHERE directory = ?", (self._directory,)).rowcount

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Give a connection whose changes are written if the block ends well."""
        import sqlite3

        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            connection = sqlite3.connect(self.path, timeout=LOCK_TIMEOUT, isolation_level=None)
            try:
                connection.execute("PRAGMA secure_delete = ON")
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(_SCHEMA)
                yield connection
                connection.execute("COMMIT")
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as exc:
            raise ConfigurationError(f"The record file {self.path} cannot be used: {exc}.") from exc


def entry(directory: Path, command: str, prompt: str, code: str, answered: Answered) -> Entry:
    """Return an entry of now, its texts cut."""
    return Entry(
        str(directory),
        time.time(),
        command,
        prompt[:MAX_TEXT],
        code[:MAX_TEXT],
        answered.model,
        answered.seconds,
        answered.input_tokens,
        answered.output_tokens,
    )
