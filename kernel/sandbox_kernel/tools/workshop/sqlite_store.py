"""The embedded store: documents in SQLite, artifacts in files named by their content. One writer at a time."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from sandbox_kernel.errors import ToolConflictError, ToolStorageError

from .documents import Document
from .store import ToolStore

BUSY_TIMEOUT = 30.0
"""Seconds that a writer waits for another one."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS tools (
    owner TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, document TEXT NOT NULL,
    PRIMARY KEY (owner, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS uses (
    digest TEXT NOT NULL, owner TEXT NOT NULL, name TEXT NOT NULL, PRIMARY KEY (digest, owner, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counts (digest TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;
"""
_COUNT = "INSERT INTO counts VALUES (?, 1) ON CONFLICT (digest) DO UPDATE SET count = count + 1"
_DIGEST = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


class SqliteStore(ToolStore):
    """A folder with `tools.sqlite` and `artifacts/`. Its work is done in threads, one piece at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "tools.sqlite"
        self._lock = threading.Lock()
        self._opened: sqlite3.Connection | None = None

    async def load(self, owner: str, name: str) -> Document | None:
        def work(database: sqlite3.Connection) -> Document | None:
            row = database.execute("SELECT document FROM tools WHERE owner = ? AND name = ?", (owner, name)).fetchone()
            return Document.from_json(row[0]) if row else None

        return await self._do(work)

    async def documents(self, owner: str | None = None) -> Sequence[Document]:
        if not self._file.exists():
            # Nobody who only looks makes one.
            return []

        def work(database: sqlite3.Connection) -> list[Document]:
            query = "SELECT document FROM tools WHERE ? IS NULL OR owner = ? ORDER BY owner, name"
            return [Document.from_json(row[0]) for row in database.execute(query, (owner, owner))]

        return await self._do(work)

    async def save(self, document: Document, expected: int) -> None:
        def work(database: sqlite3.Connection) -> None:
            with _transaction(database):
                _require_revision(database, document, expected)
                for digest in document.digests:
                    if not self._path(digest).exists():
                        raise ToolConflictError(f"The artifact {digest} is not there (any more); try again.")
                key = (document.owner, document.name)
                database.execute(
                    "INSERT OR REPLACE INTO tools (owner, name, revision, document) VALUES (?, ?, ?, ?)",
                    (*key, document.revision, document.to_json()),
                )
                before = {
                    row[0] for row in database.execute("SELECT digest FROM uses WHERE owner = ? AND name = ?", key)
                }
                for digest in sorted(document.digests - before):
                    database.execute(_COUNT, (digest,))
                database.execute("DELETE FROM uses WHERE owner = ? AND name = ?", key)
                database.executemany(
                    "INSERT INTO uses (digest, owner, name) VALUES (?, ?, ?)",
                    [(digest, *key) for digest in sorted(document.digests)],
                )

        await self._do(work)

    async def delete(self, document: Document) -> None:
        def work(database: sqlite3.Connection) -> None:
            with _transaction(database):
                _require_revision(database, document, document.revision)
                for table in ("tools", "uses"):
                    database.execute(
                        f"DELETE FROM {table} WHERE owner = ? AND name = ?",  # noqa: S608 - its name stands here
                        (document.owner, document.name),
                    )

        await self._do(work)

    async def users(self, digest: str) -> Sequence[tuple[str, str]]:
        def work(database: sqlite3.Connection) -> list[tuple[str, str]]:
            return _users(database, digest)

        return await self._do(work)

    async def put_artifact(self, digest: str, data: bytes) -> bool:
        def work(_: sqlite3.Connection) -> bool:
            path = self._path(digest)
            if path.exists():
                return False
            _write_durably(path, data)
            return True

        return await self._do(work)

    async def get_artifact(self, digest: str) -> bytes | None:
        def work(_: sqlite3.Connection) -> bytes | None:
            try:
                return self._path(digest).read_bytes()
            except FileNotFoundError:
                return None

        return await self._do(work)

    async def drop_artifact(self, digest: str) -> bool:
        def work(database: sqlite3.Connection) -> bool:
            # The file goes while nobody can save a document that names it.
            with _transaction(database):
                if _users(database, digest):
                    return False
                self._path(digest).unlink(missing_ok=True)
                database.execute("DELETE FROM counts WHERE digest = ?", (digest,))
            return True

        return await self._do(work)

    async def artifacts(self) -> Sequence[str]:
        def work(_: sqlite3.Connection) -> list[str]:
            found = (path.stem for path in (self._folder / "artifacts").glob("*.json"))
            return sorted(name for name in found if _DIGEST.fullmatch(name))

        return await self._do(work)

    async def count_use(self, digest: str) -> None:
        def work(database: sqlite3.Connection) -> None:
            with _transaction(database):
                database.execute(_COUNT, (digest,))

        await self._do(work)

    async def uses(self, digest: str) -> int:
        def work(database: sqlite3.Connection) -> int:
            row = database.execute("SELECT count FROM counts WHERE digest = ?", (digest,)).fetchone()
            return int(row[0]) if row else 0

        return await self._do(work)

    async def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise ToolStorageError(f"{digest[:80]!r} is no digest.")
        return self._folder / "artifacts" / f"{digest}.json"

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.to_thread(self._do_now, work)

    def _do_now(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._lock:
            try:
                if self._opened is None:
                    self._opened = self._open()
                return work(self._opened)
            except (sqlite3.Error, OSError) as exc:
                raise ToolStorageError(f"The store of tools in {self._folder} cannot be used: {exc}.") from exc

    def _open(self) -> sqlite3.Connection:
        (self._folder / "artifacts").mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._file
        # Made with its mode, before SQLite would make it readable for others.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600))
        database = sqlite3.connect(path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(_SCHEMA)
        return database


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _require_revision(database: sqlite3.Connection, document: Document, expected: int) -> None:
    query = "SELECT revision FROM tools WHERE owner = ? AND name = ?"
    row = database.execute(query, (document.owner, document.name)).fetchone()
    if (row[0] if row else 0) != expected:
        raise ToolConflictError(f"The tool {document.name!r} was changed by somebody else meanwhile; look at it again.")


def _users(database: sqlite3.Connection, digest: str) -> list[tuple[str, str]]:
    query = "SELECT owner, name FROM uses WHERE digest = ? ORDER BY owner, name"
    return [(row[0], row[1]) for row in database.execute(query, (digest,))]


def _write_durably(path: Path, data: bytes) -> None:
    """Write a file that is whole or absent, also after the machine has lost its power."""
    made = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with made.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    made.replace(path)
    if os.name != "posix":
        # Elsewhere a folder cannot be opened, and its system writes names by itself.
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
