"""The record file: one row per sandbox that exists, so that none is forgotten. Shared by all kernels of a user."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigurationError, NotFoundError, SessionError
from .processes import host_name, is_same_process

if TYPE_CHECKING:
    import sqlite3

LOCK_TIMEOUT = 10.0
"""Seconds to wait for another process that writes."""

_SCHEMA = (
    """
    CREATE TABLE sandboxes (
        provider TEXT NOT NULL,
        sandbox_id TEXT NOT NULL,
        notebook TEXT NOT NULL,
        directory TEXT NOT NULL,
        state TEXT NOT NULL,
        created REAL NOT NULL,
        last_seen REAL NOT NULL,
        kernel_pid INTEGER NOT NULL,
        kernel_start_time TEXT NOT NULL,
        connection_file TEXT NOT NULL,
        correlation_id TEXT NOT NULL,
        outlives_kernel INTEGER NOT NULL,
        PRIMARY KEY (provider, sandbox_id)
    )
    """,
    "ALTER TABLE sandboxes ADD COLUMN kernel_host TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE sandboxes ADD COLUMN lease_until REAL NOT NULL DEFAULT 0",
    "ALTER TABLE sandboxes ADD COLUMN idle_since REAL NOT NULL DEFAULT 0",
    "ALTER TABLE sandboxes ADD COLUMN hourly_cost REAL NOT NULL DEFAULT 0",
    "ALTER TABLE sandboxes ADD COLUMN ending TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE sandboxes ADD COLUMN place TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE sandboxes ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
)
"""Each statement takes the file from one version to the next; `PRAGMA user_version` counts those that were run."""


DETACHED = "detached"
"""A person left the sandbox running on purpose."""
RESTARTED = "restarted"
"""Its kernel process ended for another to come in its place, with fresh variables."""
DISCARDED = "discarded"
"""It was to be stopped, and its provider has not confirmed its end."""
LEASE = 90.0
"""Seconds for which a kernel process on another machine counts as alive after its last sign."""


@dataclass(frozen=True)
class SessionRecord:
    """One sandbox and the kernel process that uses it. No secrets: the connection file is named, not copied."""

    provider: str
    sandbox_id: str
    notebook: str = ""
    directory: str = ""
    state: str = ""
    created: float = 0.0
    """Seconds since the epoch, as `last_seen`."""
    last_seen: float = 0.0
    kernel_pid: int = 0
    kernel_start_time: str = ""
    """What `processes.start_mark` says of `kernel_pid`."""
    connection_file: str = ""
    correlation_id: str = ""
    outlives_kernel: bool = False
    """Whether the sandbox goes on without its kernel process; else the record is stale when that has gone."""
    kernel_host: str = ""
    """The machine that `kernel_pid` is on; "" for this one."""
    lease_until: float = 0.0
    """When a kernel process that gave no other sign has gone; asked for where its machine is another."""
    idle_since: float = 0.0
    """When its last cell ended; 0 while one runs, or before the first."""
    hourly_cost: float = 0.0
    """US dollars for an hour; 0 if none are known."""
    ending: str = ""
    """How its kernel process left it: `DETACHED`, `RESTARTED`, `DISCARDED`, or "" if it said nothing."""
    place: str = ""
    """Where its provider keeps it, if the provider can be at several places."""
    owner: str = ""
    """Whose it is there, if the provider tells people apart."""

    @property
    def has_owner(self) -> bool:
        """Whether the kernel process that wrote this still runs."""
        if self.kernel_host not in ("", host_name()):
            return self.kernel_pid > 0 and self.lease_until > time.time()
        return is_same_process(self.kernel_pid, self.kernel_start_time)

    @property
    def is_orphan(self) -> bool:
        """Whether the sandbox lives on though its kernel process has gone and nobody meant it to."""
        return self.outlives_kernel and self.ending != DETACHED and not self.has_owner

    @property
    def is_stale(self) -> bool:
        """Whether the sandbox has gone with its kernel process."""
        return not self.outlives_kernel and not self.has_owner


_COLUMNS = ", ".join(field.name for field in fields(SessionRecord))
_PLACES = ", ".join("?" for _ in fields(SessionRecord))
_OWNED = "provider = ? AND sandbox_id = ? AND kernel_pid = ? AND kernel_start_time = ?"
"""Condition: the sandbox of a record, if it is that record's owner's still."""
_LEFT = "kernel_pid = 0, kernel_start_time = '', ending = ?, last_seen = ?, state = ?"
_RELEASE = f"UPDATE sandboxes SET {_LEFT} WHERE {_OWNED}"  # noqa: S608 - its parts are this module's own
_BEAT = f"UPDATE sandboxes SET last_seen = ?, lease_until = ?, idle_since = ?, notebook = ? WHERE {_OWNED}"  # noqa: S608


class RecordFile:
    """The file. Each call opens and closes it, so an instance may be used by any thread and after a fork.

    Raises ConfigurationError where the file cannot be used.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or _default_path()

    def add(self, record: SessionRecord) -> None:
        """Write a sandbox down, in place of an older row about the same one."""
        with self._open() as connection:
            _write(connection, record)

    def claim(self, wanted: SessionRecord, *, force: bool = False) -> SessionRecord | None:
        """Make the kernel process of ``wanted`` the owner of the sandbox that it names, which may have been forgotten.

        Returns the record as it was before; None where there was none. Raises SessionError where another process that
        lives owns it, and it is not to be taken by ``force``; NotFoundError where it is at another place.
        """
        with self._open() as connection:
            found = _find(connection, wanted.provider, wanted.sandbox_id)
            if found is not None:
                if found.has_owner and not force and not _is_same_owner(found, wanted):
                    raise _owned(found)
                check_place(found, wanted.place)
                wanted = replace(wanted, created=found.created, owner=found.owner)
            _write(connection, wanted)
        return found

    def release(self, record: SessionRecord, ending: str) -> None:
        """Note that a sandbox's kernel process leaves it, and how; unless it is another's already."""
        with self._open() as connection:
            connection.execute(_RELEASE, (ending, time.time(), ending or record.state, *_owner(record)))

    def beat(self, record: SessionRecord, *, idle_since: float) -> bool:
        """Note that a sandbox and its kernel process live; return False if it is another's, or was forgotten."""
        now = time.time()
        with self._open() as connection:
            values = (now, now + LEASE, idle_since, record.notebook, *_owner(record))
            changed = connection.execute(_BEAT, values)
            return changed.rowcount > 0

    def update_state(self, provider: str, sandbox_id: str, state: str) -> None:
        """Note a new state, and that the sandbox was seen now."""
        with self._open() as connection:
            connection.execute(
                "UPDATE sandboxes SET state = ?, last_seen = ? WHERE provider = ? AND sandbox_id = ?",
                (state, time.time(), provider, sandbox_id),
            )

    def touch(self, provider: str, sandbox_id: str) -> None:
        """Note that the sandbox was seen now."""
        with self._open() as connection:
            connection.execute(
                "UPDATE sandboxes SET last_seen = ? WHERE provider = ? AND sandbox_id = ?",
                (time.time(), provider, sandbox_id),
            )

    def remove(self, provider: str, sandbox_id: str) -> None:
        """Forget a sandbox that has gone; one that is not recorded is no error."""
        with self._open() as connection:
            connection.execute("DELETE FROM sandboxes WHERE provider = ? AND sandbox_id = ?", (provider, sandbox_id))

    def all(self) -> list[SessionRecord]:
        """Return every record, oldest sandbox first."""
        if not self.path.exists():
            return []
        with self._open() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM sandboxes ORDER BY created, sandbox_id")  # noqa: S608
            return [_record(row) for row in rows]

    def find(self, sandbox_id: str) -> list[SessionRecord]:
        """Return the records with this id, else those whose ids begin with it."""
        records = [record for record in self.all() if record.sandbox_id.startswith(sandbox_id)]
        return [record for record in records if record.sandbox_id == sandbox_id] or records

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Give a connection whose changes are written if the block ends well."""
        import sqlite3

        try:
            self._create()
            connection = sqlite3.connect(self.path, timeout=LOCK_TIMEOUT, isolation_level=None)
            try:
                self._prepare(connection)
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as exc:
            raise ConfigurationError(f"The record file {self.path} cannot be used: {exc}.") from exc

    def _create(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite gives its side files the mode of the database, so that is set before it sees the file.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if _version(connection) < len(_SCHEMA):
            self._migrate(connection)
        if _version(connection) > len(_SCHEMA):
            raise ConfigurationError(f"A newer sandbox-kernel wrote the record file {self.path}; update this one.")
        connection.execute("PRAGMA synchronous = NORMAL")

    def _migrate(self, connection: sqlite3.Connection) -> None:
        _use_write_ahead_log(connection)
        connection.execute("BEGIN IMMEDIATE")
        # Asked again: another process may have done it while this one waited for the lock.
        for number, statement in enumerate(_SCHEMA[_version(connection) :], _version(connection) + 1):
            connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")


def check_place(record: SessionRecord, place: str) -> None:
    """Raise NotFoundError where a sandbox is not at ``place``, which the configuration says."""
    if record.place != place:
        raise NotFoundError(
            f"The sandbox {record.sandbox_id} is at {record.place}; the configuration says {place or 'none'}.",
            provider=record.provider,
            sandbox_id=record.sandbox_id,
        )


def _write(connection: sqlite3.Connection, record: SessionRecord) -> None:
    # The names of the columns are this module's own.
    statement = f"INSERT OR REPLACE INTO sandboxes ({_COLUMNS}) VALUES ({_PLACES})"  # noqa: S608
    connection.execute(statement, astuple(record))


def _find(connection: sqlite3.Connection, provider: str, sandbox_id: str) -> SessionRecord | None:
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM sandboxes WHERE provider = ? AND sandbox_id = ?",  # noqa: S608
        (provider, sandbox_id),
    )
    row = rows.fetchone()
    return None if row is None else _record(row)


def _owner(record: SessionRecord) -> tuple[object, ...]:
    return record.provider, record.sandbox_id, record.kernel_pid, record.kernel_start_time


def _is_same_owner(one: SessionRecord, other: SessionRecord) -> bool:
    return _owner(one) == _owner(other) and one.kernel_host == other.kernel_host


def _owned(record: SessionRecord) -> SessionError:
    where = f" on {record.kernel_host}" if record.kernel_host not in ("", host_name()) else ""
    what = f" for {record.notebook}" if record.notebook else ""
    return SessionError(
        f"The kernel process {record.kernel_pid}{where} uses the sandbox {record.sandbox_id}{what}; end it, or take "
        "the sandbox away from it with --force.",
        provider=record.provider,
        sandbox_id=record.sandbox_id,
        correlation_id=record.correlation_id,
    )


def _default_path() -> Path:
    from jupyter_core.paths import jupyter_data_dir

    return Path(jupyter_data_dir()) / "sandbox" / "sessions.sqlite"


def _record(row: tuple[object, ...]) -> SessionRecord:
    values = dict(zip((field.name for field in fields(SessionRecord)), row, strict=True))
    return SessionRecord(**{**values, "outlives_kernel": bool(values["outlives_kernel"])})  # type: ignore[arg-type]


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Change the journal's kind, for which SQLite does not wait when another process has the file open."""
    import sqlite3

    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
