"""API keys: made here, kept as hashes in a file that only its owner can read, compared in constant time.

A line of the file is an owner's name and the SHA-256 of a key. Keys are 256 random bits, so nobody finds one by trying,
and a slow hash would protect nothing. Each key has one owner; an owner may have several keys.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from sandbox_kernel.errors import AuthenticationError, ConfigurationError

PREFIX = "sbx_"
"""With which keys begin, so that people and programs that look for secrets know one."""
_OWNER = re.compile(r"[A-Za-z0-9][\w.@-]{0,63}", re.ASCII)
_LINE = re.compile(rf"({_OWNER.pattern}) sha256:([0-9a-f]{{64}})", re.ASCII)


class _Entry(NamedTuple):
    owner: str
    digest: str


class KeyFile:
    """The keys of an executor. A file that was changed is read again, so a key that was removed opens nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mark: tuple[int, ...] | None = None
        self._entries: list[_Entry] = []

    def owner_of(self, key: str) -> str:
        """Return whose key it is. Raises AuthenticationError, and ConfigurationError where the file cannot be used."""
        self._refresh()
        digest = _digest(key)
        owner = ""
        # All are compared: how long it takes tells nothing.
        for entry in self._entries:
            if hmac.compare_digest(entry.digest, digest):
                owner = entry.owner
        if not owner:
            raise AuthenticationError("The executor does not know this API key; ask who runs it for another one.")
        return owner

    def owners(self) -> list[str]:
        """Return the owners, once for each of their keys. Raises ConfigurationError."""
        self._refresh()
        return [entry.owner for entry in self._entries]

    def add(self, owner: str) -> str:
        """Make a key and return it: nothing tells it again. Raises ConfigurationError."""
        if not _OWNER.fullmatch(owner):
            raise ConfigurationError(f"{owner!r} is no owner's name: letters, digits, and . _ @ - between them.")
        entries = self._read() if self.path.exists() else []
        key = PREFIX + secrets.token_urlsafe(32)
        self._write([*entries, _Entry(owner, _digest(key))])
        return key

    def remove(self, owner: str) -> int:
        """Remove all keys of an owner; return how many there were. Raises ConfigurationError."""
        entries = self._read() if self.path.exists() else []
        kept = [entry for entry in entries if entry.owner != owner]
        if len(kept) < len(entries):
            self._write(kept)
        return len(entries) - len(kept)

    def _refresh(self) -> None:
        mark = self._status()
        if mark != self._mark:
            self._entries = self._read()
            self._mark = mark

    def _status(self) -> tuple[int, ...]:
        try:
            status = self.path.stat()
        except OSError as exc:
            raise ConfigurationError(
                f"The file with API keys cannot be read ({exc}); `jupyter sandbox key add OWNER` makes it."
            ) from exc
        return status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode

    def _read(self) -> list[_Entry]:
        """Read the file, which nobody else may be able to read or write."""
        try:
            with self.path.open(encoding="utf-8") as file:
                status = os.fstat(file.fileno())
                lines = file.read().splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigurationError(f"The file with API keys cannot be read: {exc}") from exc
        if status.st_mode & 0o077:
            raise ConfigurationError(f"Others can get at the API keys in {self.path}: run `chmod 600 {self.path}`.")
        return [self._parse(number, line) for number, line in enumerate(lines, 1) if _says_something(line)]

    def _parse(self, number: int, line: str) -> _Entry:
        found = _LINE.fullmatch(line.strip())
        if not found:
            raise ConfigurationError(f"{self.path}, line {number}: this is not of the form OWNER sha256:HASH.")
        return _Entry(found[1], found[2])

    def _write(self, entries: list[_Entry]) -> None:
        """Replace the file as a whole, so that a running executor never reads half of it."""
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        text = "".join(f"{entry.owner} sha256:{entry.digest}\n" for entry in entries)
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
        except OSError as exc:
            with suppress(OSError):
                temporary.unlink()
            raise ConfigurationError(f"The file with API keys cannot be written: {exc}") from exc


def _digest(key: str) -> str:
    return sha256(key.encode(errors="replace")).hexdigest()


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")
