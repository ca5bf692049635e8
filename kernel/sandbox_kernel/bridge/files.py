"""Files in the sandbox that the kernel process reads, writes, lists and removes, with the sandbox's own rights.

An operation never waits: the bridge's loop gives it a turn, it does a little, and says what came of it in an event.
So interrupts and outputs pass between two pieces of a file of any size. Fifos, devices and sockets are not opened.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from typing import Any, Union

from sandbox_kernel.bridge.copies import Digests, Packing, Unpacking, contents
from sandbox_kernel.bridge.passage import Passage
from sandbox_kernel.bridge.paths import described, inside, matches, with_insides
from sandbox_kernel.link.protocol import FRAME_SIZE, Buffer

CHUNK = FRAME_SIZE - 1024
"""Bytes of a file in one event; with what belongs to them they fill one frame."""
UNSIZED = 1024 * 1024
"""Bytes that are read at most of a file that says it has none, as those in /proc do."""
TURN = 0.005
"""Seconds for which a search may look at folders before the loop has its turn."""
BATCH = 500
"""Entries in one event."""
MAX_LOOKS = 2_000_000
"""Names that one search looks at; who plants more of them gets an incomplete list, which says so."""

Emit = Callable[[dict[str, Any], bytes], None]


class OperationError(Exception):
    """What an operation failed of: a code (a name of errno, or "SPECIAL"), and a clause for people."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Reading:
    """A regular file on its way out, up to the size it has when it is opened; no faster than credit is given."""

    def __init__(self, path: str, credit: int) -> None:
        self._fd, status = open_regular(path, os.O_RDONLY)
        self._left = status.st_size or UNSIZED
        self._credit = credit
        self.greeting = {"size": status.st_size}
        self.done = False

    @property
    def wants_turn(self) -> bool:
        """Whether another piece may go."""
        return self._credit > 0

    def allow(self, size: int) -> None:
        """Give credit for so many more bytes."""
        self._credit += size

    def turn(self) -> tuple[dict[str, Any], bytes] | None:
        """Return the next piece."""
        data = os.read(self._fd, min(CHUNK, self._left, self._credit))
        self._left -= len(data)
        self._credit -= len(data)
        self.done = not data or not self._left
        return ({}, data) if data else None

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class Writing:
    """A file on its way in, under a name of its own beside the real one, until it is whole."""

    wants_turn = False

    def __init__(self, path: str, mode: int) -> None:
        folder, name = os.path.split(path)
        if name in ("", ".", "..") or (os.path.isdir(path) and not os.path.islink(path)):
            raise OperationError("EISDIR", "it is a folder")
        os.makedirs(folder or ".", exist_ok=True)
        self._path = path
        self._temporary = os.path.join(folder, f".{os.urandom(8).hex()}.part")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self._temporary, flags, mode & 0o777)
        self._taken = 0
        self._committed = False
        self.greeting = {"taken": 0}
        self.done = False

    def take(self, data: Buffer) -> dict[str, Any]:
        """Write a piece; return what to say of it."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._taken += len(data)
        return {"taken": self._taken}

    def commit(self) -> None:
        """Give the file its name; a file of that name is replaced, a link too."""
        os.replace(self._temporary, self._path)
        self._committed = self.done = True

    def turn(self) -> tuple[dict[str, Any], bytes] | None:
        """Do nothing: pieces come by `take`."""
        return None

    def close(self) -> None:
        """Close the file; if it was not committed, remove it."""
        os.close(self._fd)
        if not self._committed:
            try:
                os.unlink(self._temporary)
            except OSError:
                # A cell was quicker.
                pass


class Walking:
    """A list of files, or their removal, as far as it gets in each turn."""

    wants_turn = True

    def __init__(self, steps: Iterator[list[Any] | None]) -> None:
        self._steps = steps
        self.greeting: dict[str, Any] = {}
        self.done = False

    def turn(self) -> tuple[dict[str, Any], bytes] | None:
        """Go on for a moment; return the entries that were found."""
        entries: list[list[Any]] = []
        until = time.monotonic() + TURN
        while len(entries) < BATCH and time.monotonic() < until:
            try:
                entry = next(self._steps)
            except StopIteration:
                self.done = True
                break
            if entry is not None:
                entries.append(entry)
        return ({}, json.dumps(entries).encode()) if entries else None

    def close(self) -> None:
        """Forget it."""


Operation = Union[Reading, Writing, Walking, Passage, Packing, Unpacking]


class FileOperations:
    """The operations under way, by the kernel process's numbers for them."""

    def __init__(self, emit: Emit, digests: Digests | None = None, beside: Sequence[str] = ()) -> None:
        """``digests`` are those of files that were told before; ``beside`` are names that no copy of a folder has."""
        self._emit, self._beside = emit, beside
        self._digests = digests or Digests()
        self._operations: dict[int, Operation] = {}

    @property
    def under_way(self) -> bool:
        """Whether there are any."""
        return bool(self._operations)

    @property
    def want_turn(self) -> bool:
        """Whether there is something to do at once."""
        return any(operation.wants_turn for operation in self._operations.values())

    @property
    def descriptors(self) -> tuple[set[int], set[int]]:
        """The descriptors that have to be readable, and writable, before there is more to do."""
        passages = [one for one in self._operations.values() if isinstance(one, Passage)]
        readable = {one.readable for one in passages if one.readable is not None}
        return readable, {one.writable for one in passages if one.writable is not None}

    def turn(self, ready: Container[int] = ()) -> None:
        """Give each its turn: those that need not wait, and those whose descriptors are ready."""
        for number, operation in list(self._operations.items()):
            waited = isinstance(operation, Passage) and (operation.readable in ready or operation.writable in ready)
            if operation.wants_turn or waited:
                self._guarded(number, partial(self._step, number, operation))

    def command(self, command: dict[str, Any], data: Buffer) -> None:
        """Begin an operation, or go on with one; what is said of one that ended is not heard."""
        number = command["id"]
        if command["op"] == "file":
            self._guarded(number, partial(self._begin, number, command))
        elif number in self._operations:
            operation = self._operations[number]
            self._guarded(number, partial(self._continue, number, operation, command, data))

    def close(self) -> None:
        """End all."""
        for number in list(self._operations):
            self._end(number)

    def _begin(self, number: int, command: dict[str, Any]) -> None:
        operation = started(command, self._digests, self._beside)
        self._operations[number] = operation
        self._emit({"id": number, **operation.greeting}, b"")

    def _continue(self, number: int, operation: Operation, command: dict[str, Any], data: Buffer) -> None:
        op = command["op"]
        if op == "file-cancel":
            self._end(number)
        elif op == "file-credit" and isinstance(operation, (Reading, Passage, Packing)):
            operation.allow(command["size"])
        elif op == "file-data" and isinstance(operation, Unpacking):
            operation.take(command, data)
            self._step(number, operation)
        elif op == "file-data" and isinstance(operation, Passage):
            operation.take(data)
            self._step(number, operation)
        elif op == "file-commit" and isinstance(operation, Passage):
            operation.commit()
        elif op == "file-data" and isinstance(operation, Writing):
            self._emit({"id": number, **operation.take(data)}, b"")
        elif op == "file-commit" and isinstance(operation, Writing):
            operation.commit()
            self._finish(number)

    def _step(self, number: int, operation: Operation) -> None:
        said = operation.turn()
        if said is not None:
            self._emit({"id": number, **said[0]}, said[1])
        if operation.done:
            self._finish(number)

    def _finish(self, number: int) -> None:
        self._end(number)
        self._emit({"id": number, "end": True}, b"")

    def _end(self, number: int) -> None:
        self._operations.pop(number).close()

    def _guarded(self, number: int, work: Callable[[], None]) -> None:
        try:
            work()
        except (OSError, OperationError, ValueError) as exc:
            if number in self._operations:
                self._end(number)
            code, reason = cause(exc)
            self._emit({"id": number, "end": True, "code": code, "reason": reason}, b"")


def started(command: dict[str, Any], digests: Digests, beside: Sequence[str] = ()) -> Operation:
    """Return the operation that a command asks for. Raises OSError or OperationError."""
    match command["do"]:
        case "pass":
            return Passage(command["credit"])
        case "contents":
            return Walking(contents(digests, command["limit"], command["largest"], beside))
        case "pack":
            return Packing(command["paths"], command["credit"])
        case "unpack":
            return Unpacking(digests)
        case _:
            return _started_at(os.path.expanduser(command["path"]), command)


def _started_at(path: str, command: dict[str, Any]) -> Operation:
    match command["do"]:
        case "read":
            return Reading(path, command["credit"])
        case "write":
            return Writing(path, command["mode"])
        case "remove":
            return Walking(removed(path, recursive=command["recursive"]))
        case _:
            return Walking(found(path, recursive=command["recursive"], limit=command["limit"]))


def open_regular(path: str, flags: int) -> tuple[int, os.stat_result]:
    """Open a regular file without waiting for anybody. Raises OSError, or OperationError if it is something else."""
    # Looked at before it is opened, because opening can have effects; and after, because it may be another one then.
    check_regular(os.stat(path))
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        check_regular(status)
    except BaseException:
        os.close(fd)
        raise
    return fd, status


def check_regular(status: os.stat_result) -> None:
    """Raise OperationError if this is no regular file."""
    if stat.S_ISDIR(status.st_mode):
        raise OperationError("EISDIR", "it is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise OperationError("SPECIAL", "it is no regular file")


def cause(exc: Exception) -> tuple[str, str]:
    """Return code and clause for what an operation failed of."""
    if isinstance(exc, OperationError):
        return exc.code, str(exc)
    if isinstance(exc, OSError) and exc.errno:
        return errno.errorcode.get(exc.errno, ""), os.strerror(exc.errno)
    # A zero byte, or a name that cannot be encoded.
    return "EINVAL", str(exc)


# ---- lists


def found(pattern: str, *, recursive: bool, limit: int) -> Iterator[list[Any] | None]:
    """Yield an entry for each path that matches, None where only time has passed, and [] if there would be more.

    ``recursive`` adds what is in folders, hidden names too. Raises OperationError where nothing has been found.
    """
    count = 0
    paths = with_insides(matches(pattern)) if recursive else matches(pattern)
    for looks, path in enumerate(paths):
        entry = described(path) if path is not None else None
        if entry is not None:
            count += 1
        if count > limit or looks > MAX_LOOKS:
            yield []
            return
        yield entry
    if not count:
        raise OperationError("ENOENT", "there is no such file")


# ---- removal


def removed(path: str, *, recursive: bool) -> Iterator[list[Any] | None]:
    """Remove a file or an empty folder, or with ``recursive`` what is in it, too. Links are not followed."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    folders = [path]
    for below in inside(path) if recursive else ():
        if below is not None and stat.S_ISDIR(os.lstat(below).st_mode):
            folders.append(below)
        elif below is not None:
            os.unlink(below)
        yield None
    while folders:
        os.rmdir(folders.pop())
        yield None
