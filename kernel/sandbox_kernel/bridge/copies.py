"""The copy of the notebook's folder in a sandbox that does not share the kernel process's disk.

It is the working folder. The kernel process asks what is in it, has entries put into it, and takes out what cells
changed. Of an entry that is replaced or removed it says what it takes it for: what a cell made of it stays otherwise.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator, Sequence
from typing import Any

from sandbox_kernel.bridge.paths import inside
from sandbox_kernel.link.protocol import FRAME_SIZE, Buffer

CHUNK = FRAME_SIZE - 1024
"""Bytes of a file in one event; with what belongs to them they fill one frame."""
PIECE = 1024 * 1024
"""Bytes that are hashed before the loop may have its turn."""
SETTLED = 100_000_000
"""Nanoseconds after which a second change of a file has another time."""
TOLD = 256 * 1024
"""Bytes that are taken between two reports."""
CLOSED = "closed"
"""What is said of a folder that cannot be looked into."""
ABSENT = "absent"
"""What is expected where nothing is to be replaced."""
_CHANGED = "a cell changed it"
_SHORTER = "it could not be read to its end"


class Digests:
    """The SHA-256 of files, remembered as long as their times and sizes stay."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, ...], str]] = {}

    def remember(self, path: str, status: os.stat_result, digest: str) -> None:
        """Take note of a file's digest."""
        self._known[path] = (_signature(status), digest)

    def recall(self, path: str, status: os.stat_result) -> str:
        """Return a file's digest; "" if it has changed, or was never told."""
        signature, digest = self._known.get(path, ((), ""))
        return digest if signature == _signature(status) else ""

    def compute(self, path: str, status: os.stat_result) -> Iterator[str]:
        """Yield "" while a file is read, then its digest; nothing more where it cannot be read."""
        known = self.recall(path, status)
        if known:
            yield known
            return
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        # Imported here: most bridges never compute any, and OpenSSL takes some milliseconds of their start.
        from hashlib import sha256

        found, now = sha256(), time.time_ns()
        try:
            status = os.fstat(fd)
            while piece := os.read(fd, PIECE):
                found.update(piece)
                yield ""
        except OSError:
            return
        finally:
            os.close(fd)
        if max(status.st_ctime_ns, status.st_mtime_ns) < now - SETTLED:
            self.remember(path, status, found.hexdigest())
        yield found.hexdigest()


def _signature(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def contents(digests: Digests, limit: int, largest: int, beside: Sequence[str] = ()) -> Iterator[list[Any] | None]:
    """Yield path, kind, size, mode, time of change in ns, and digest or target of all entries; None between.

    [] stands for those beyond ``limit``. Files with more than ``largest`` bytes, and those that cannot be read, have no
    digest. What is in the working folder under the names ``beside`` is nobody's copy.
    """
    count = 0
    for path in inside(""):
        if path is None or path.partition("/")[0] in beside:
            yield None
            continue
        try:
            status = os.lstat(path)
            target = os.readlink(path) if stat.S_ISLNK(status.st_mode) else ""
        except OSError:
            continue
        count += 1
        if count > limit:
            yield []
            return
        kind, said = _kind(status), target
        if kind == "file" and status.st_size <= largest:
            for digest in digests.compute(path, status):
                said = digest
                yield None
        elif kind == "folder" and not os.access(path, os.R_OK | os.X_OK):
            said = CLOSED
        size = status.st_size if kind == "file" else 0
        yield [path, kind, size, stat.S_IMODE(status.st_mode), status.st_mtime_ns, said]


def _kind(status: os.stat_result) -> str:
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
    return kinds.get(stat.S_IFMT(status.st_mode), "special")


class Packing:
    """Several files on their way out, one after the other, no faster than credit is given."""

    def __init__(self, paths: list[str], credit: int) -> None:
        self._paths = list(enumerate(paths))
        self._credit = credit
        self._fd = -1
        self._index = 0
        self.greeting: dict[str, Any] = {}
        self.done = not paths

    @property
    def wants_turn(self) -> bool:
        """Whether another piece may go."""
        return self._credit > 0

    def allow(self, size: int) -> None:
        """Give credit for so many more bytes."""
        self._credit += size

    def turn(self) -> tuple[dict[str, Any], bytes] | None:
        """Return the next piece of a file, the beginning of the next one, or that it cannot be read."""
        if self._fd >= 0:
            data = os.read(self._fd, min(CHUNK, self._credit))
            self._credit -= len(data)
            if not data:
                self.close()
                self.done = not self._paths
                return {"file": self._index, "whole": True}, b""
            return {"file": self._index}, data
        if not self._paths:
            self.done = True
            return None
        self._index, path = self._paths.pop(0)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                self.close()
        except OSError:
            self._fd = -1
        if self._fd < 0:
            self.done = not self._paths
            return {"file": self._index, "gone": True}, b""
        return None

    def close(self) -> None:
        """Close the file that is under way."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Unpacking:
    """Entries on their way in. Each takes its place when it is whole, if what it replaces is what is expected there.

    Each piece comes with "path" and "kind" (file, folder, link or removed); "expected" is `ABSENT`, the digest of a
    file, the target of a link behind "->", "folder", or None where it does not matter. Pieces of a file that are
    followed by others have "more"; the last one has its "digest", "mode" and "modified", or "abort" where the rest will
    not come. "last" ends it all.
    """

    wants_turn = False

    def __init__(self, digests: Digests) -> None:
        self._digests = digests
        self._fd = -1
        self._temporary = ""
        self._failed = ""
        self._taken = self._told = 0
        self._refused: list[list[str]] = []
        self.greeting: dict[str, Any] = {}
        self.done = False

    def take(self, piece: dict[str, Any], data: Buffer) -> None:
        """Put one piece where it belongs. What cannot be is told with the next report."""
        self._taken += len(data)
        if piece.get("last"):
            self.done = True
            return
        path = piece["path"]
        try:
            if piece.get("abort"):
                self._failed = _SHORTER
            if not self._failed:
                self._put(path, piece, data)
        except OSError as exc:
            self._failed = os.strerror(exc.errno) if exc.errno else str(exc)
        except ValueError as exc:
            self._failed = str(exc)
        if self._failed and not piece.get("more"):
            self._refused.append([path, self._failed])
            self._failed = ""
        if not piece.get("more"):
            self.close()

    def turn(self) -> tuple[dict[str, Any], bytes] | None:
        """Return a report, if one is due."""
        if not (self.done or self._refused or self._taken - self._told >= TOLD):
            return None
        said = {"taken": self._taken, "refused": self._refused}
        self._told, self._refused = self._taken, []
        return said, b""

    def close(self) -> None:
        """Forget the file that is under way."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._temporary:
            try:
                os.unlink(self._temporary)
            except OSError:
                # It has its name now, or a cell was quicker.
                pass
            self._temporary = ""

    def _put(self, path: str, piece: dict[str, Any], data: Buffer) -> None:
        expected = piece["expected"]
        match piece["kind"]:
            case "removed":
                self._remove(path, expected)
            case "folder":
                if self._found(path) != "folder":
                    self._check(path, expected)
                    _make_room(path)
                    os.mkdir(path)
            case "link":
                self._check(path, expected)
                _make_room(path)
                os.symlink(piece["target"], path)
            case _:
                self._write(path, piece, data)

    def _remove(self, path: str, expected: str | None) -> None:
        try:
            self._check(path, expected)
            if stat.S_ISDIR(os.lstat(path).st_mode):
                os.rmdir(path)
            else:
                os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as exc:
            # What cells put into a folder stays, and so does the folder.
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise

    def _write(self, path: str, piece: dict[str, Any], data: Buffer) -> None:
        if self._fd < 0:
            folder = os.path.dirname(path)
            os.makedirs(folder or ".", exist_ok=True)
            self._temporary = os.path.join(folder, f".{os.urandom(8).hex()}.part")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self._temporary, flags, 0o600)
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        if piece.get("more"):
            return
        self._check(path, piece["expected"])
        os.fchmod(self._fd, piece["mode"] & 0o777)
        os.utime(self._fd, ns=(piece["modified"], piece["modified"]))
        _clear(path)
        os.replace(self._temporary, path)
        self._temporary = ""
        if piece["digest"]:
            self._digests.remember(path, os.fstat(self._fd), piece["digest"])

    def _check(self, path: str, expected: str | None) -> None:
        """Raise ValueError unless what is there is what the kernel process takes it for."""
        if expected is not None and self._found(path) != expected:
            raise ValueError(_CHANGED)

    def _found(self, path: str) -> str:
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return ABSENT
        if stat.S_ISLNK(status.st_mode):
            return f"->{os.readlink(path)}"
        if stat.S_ISDIR(status.st_mode):
            return "folder"
        if not stat.S_ISREG(status.st_mode):
            return "special"
        digest = ""
        for digest in self._digests.compute(path, status):  # noqa: B007 - the last one counts
            pass
        return digest


def _clear(path: str) -> None:
    """Remove what a new file or folder cannot take the place of: of a folder, only an empty one. Raises OSError."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(status.st_mode):
        os.rmdir(path)
    elif not stat.S_ISREG(status.st_mode):
        os.unlink(path)


def _make_room(path: str) -> None:
    """Have nothing at a path, in a folder that is there. Raises OSError."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    _clear(path)
    if os.path.lexists(path):
        os.unlink(path)
